"""With several cores everything is found as with one, whenever threads come to their blocks."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from smpmmu.engine import cores, frontier, successors
from smpmmu.engine.batch import Kernel
from smpmmu.engine.explore import Search
from smpmmu.engine.growth import growth
from smpmmu.engine.reduction import Reduction
from smpmmu.engine.verdict import Budget
from smpmmu.targets import one
from tests.engine.programs import Never

if TYPE_CHECKING:
    from smpmmu.engine.frontier import Frontier
    from smpmmu.engine.successors import Expander, Peek
    from smpmmu.engine.system import System

NAMES = (
    "reliant_flusher/deferred_after_unlock",
    "reliant_flusher/native_under_ptl",
    "shootdown_deadlocks/flush_irqs_off_meets_flush",
)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontier, "ROWS", 100)
    monkeypatch.setattr(cores, "LEAST", 1)
    monkeypatch.setattr(successors, "FEW", 10)


def searched(asked: System, many: int, *, reduced: bool = False) -> Search:
    kernel = Kernel(asked)
    reduction = Reduction(kernel) if reduced else None
    search = Search(kernel, Budget(cores=many), every=True, keep_edges=True, reduction=reduction)
    for _ in search.depths():
        pass
    if reduction is not None:
        reduction.settle()
        relied = sorted((c, rest) for c, rest, _ in reduction._reliance.alone)
        assert everything(search)  # also what it relies on must be the same
        search.level_fps.append(
            np.array([*sum(relied, ()), reduction._words.reset, reduction.valid])
        )
    return search


def everything(search: Search) -> dict[str, object]:
    return {
        "found": [(f.name, f.depth, f.ids.tolist(), f.fps.tolist()) for f in search.found],
        "counts": (search.states, search.transitions, search.levels, search.reached),
        "edges": [[part.tolist() for part in edge] for edge in search.edges or ()],
        "level_fps": [fps.tolist() for fps in search.level_fps],
        "growth": growth(search.kernel),
    }


@pytest.mark.parametrize("name", NAMES[:1])
@pytest.mark.parametrize("many", [2, 5])
def test_they_find_the_same_of_what_is_left_by_reduction(
    name: str, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = one(name).system()
    monkeypatch.setattr(successors, "Recall", Never)  # which would leave nothing to do ahead
    accepted = []
    real = successors.Expander.accepts

    def watched(self: Expander, peek: Peek, states: int) -> bool:
        accepted.append(real(self, peek, states))
        return accepted[-1]

    whole = everything(searched(asked, 1, reduced=True))
    monkeypatch.setattr(successors.Expander, "accepts", watched)
    assert everything(searched(asked, many, reduced=True)) == whole
    assert True in accepted


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("many", [2, 5])
def test_more_cores_find_the_same(name: str, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = one(name).system()
    by_threads = []
    real = cores._expanded

    def watched(peek: Peek, part: Frontier) -> cores.Expanded | None:
        found = real(peek, part)
        by_threads.append((threading.current_thread().name.startswith("smpmmu"), found is None))
        if len(by_threads) % 7 == 0:
            time.sleep(0.002)
        return found

    whole = everything(searched(asked, 1))
    monkeypatch.setattr(cores, "_expanded", watched)
    assert everything(searched(asked, many)) == whole
    if name == NAMES[0]:
        assert (True, False) in by_threads  # threads found something,
        assert (True, True) in by_threads  # and gave up where modelled code had to be run


def test_threads_end_with_the_search() -> None:
    asked = one(NAMES[0]).system()
    search = Search(Kernel(asked), Budget(cores=3))
    depths = search.depths()
    for _ in depths:
        if any(t.name.startswith("smpmmu") for t in threading.enumerate()):
            break
    else:
        pytest.fail("there never was a thread")
    depths.close()
    assert not any(t.name.startswith("smpmmu") for t in threading.enumerate())


def test_there_is_a_processor() -> None:
    assert cores.processors() >= 1
