"""A search that is left between two blocks, and gone on with by another one, ends the same."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from smpmmu.engine import frontier
from smpmmu.engine.batch import Kernel
from smpmmu.engine.explore import KEPT, Search
from smpmmu.engine.growth import grow, growth
from smpmmu.engine.verdict import Budget
from smpmmu.targets import one

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smpmmu.engine.system import System

NAMES = (
    "reliant_flusher/deferred_after_unlock",
    "reliant_flusher/native_under_ptl",
    "shootdown_deadlocks/flush_irqs_off_meets_flush",
    "litmus/sb",
)


def ended(search: Search) -> dict[str, object]:
    """Return everything that an answer is made from."""
    return {
        "found": [(f.name, f.depth, f.ids.tolist(), f.fps.tolist()) for f in search.found],
        "choices": [search.choices_to(int(f.ids[0])) for f in search.found],
        "counts": (search.states, search.transitions, search.levels, search.exact),
        "reached": search.reached,
        "stopped": search.stopped,
        "edges": [[part.tolist() for part in edge] for edge in search.edges or ()],
        "edges_from": search.edges_from,
        "level_fps": [fps.tolist() for fps in search.level_fps],
        "visited": sorted(search.kept()["visited"].tolist()),
    }


def left(asked: System, some: int, **how: bool) -> Iterator[Search]:
    """Search to the end; yield searches that go on from every so many blocks, then the whole."""
    search = Search(Kernel(asked), Budget(), **how)
    for number, _ in enumerate(search.depths()):
        if number % some == 0:
            other = Search(Kernel(asked), Budget(), **how)
            grow(other.kernel, growth(search.kernel))
            other.go_on(copy.deepcopy(search.kept()))
            yield other
    yield search


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_from_any_block_on(name: str, *, every: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontier, "ROWS", 100)
    *others, whole = left(one(name).system(), 37, every=every)
    assert len(others) > 0
    for other in others:
        for _ in other.depths():
            pass
        assert ended(other) == ended(whole)


def test_a_budget_leaves_what_can_be_gone_on_with() -> None:
    asked = one(NAMES[1]).system()
    whole = Search(Kernel(asked), Budget())
    for _ in whole.depths():
        pass
    kept: dict[str, Any] = {}
    so_far, stops = None, 0
    for states in (40, 200, 1_000, None):
        kernel = Kernel(asked)
        search = Search(kernel, Budget(states=states))
        if so_far is not None:
            grow(kernel, so_far)
            search.go_on(kept)
        for _ in search.depths():
            kept, so_far = copy.deepcopy(search.kept()), growth(kernel)
        stops += bool(search.stopped)
    assert stops == 3
    assert ended(search) == ended(whole)


def test_everything_that_changes_is_kept() -> None:
    """An attribute that a search changes on its way is one of `KEPT`, or one of these."""
    apart = {"kernel", "budget", "stopped", "_visited", "_judge", "expander", "_started"}
    apart |= {"_now", "_next", "_at", "_room", "_most", "_ahead"}
    search = Search(Kernel(one(NAMES[0]).system()), Budget(), every=True)
    before = {name: repr(copy.copy(value)) for name, value in vars(search).items()}
    for _ in search.depths():
        pass
    changed = {name for name, value in vars(search).items() if repr(value) != before[name]}
    assert changed <= {*KEPT, *apart}
    assert set(KEPT) <= vars(search).keys()
