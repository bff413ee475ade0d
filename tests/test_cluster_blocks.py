"""Blocks of one exploration expanded elsewhere: all is found as one machine alone would find it.

Here tasks are run in this process, in whatever order, and some of them twice; on real workers, one
of which dies, in `test_cluster.py`.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from smpmmu.cluster import blocks, tasks
from smpmmu.cluster.blocks import helper
from smpmmu.cluster.tasks import thinned
from smpmmu.engine import explore, frontier
from smpmmu.engine.answer import Answer
from smpmmu.engine.errors import ModelError
from smpmmu.engine.program import Role
from smpmmu.engine.reading import Block
from smpmmu.engine.successors import gathered
from smpmmu.engine.verdict import Budget
from smpmmu.engine.visited import first_of_each
from smpmmu.targets import one
from tests.shell import DEFECT, REPAIR

if TYPE_CHECKING:
    from collections.abc import Callable

    from smpmmu.cluster.blocks import Elsewhere
    from smpmmu.engine.explore import Search

NAMES = (
    REPAIR,
    DEFECT,
    "shootdown_deadlocks/flush_irqs_off_meets_flush",  # a deadlock
    "litmus/sb",
)


class Pretended:
    """A cluster that does one task when it is asked for one: the last, the first, by turns."""

    def __init__(self) -> None:
        self.workers = 3
        self.waiting: list[tuple[int, Any]] = []
        self.asked = 0

    def submit(self, number: int, function: Callable[..., Any], *arguments: Any) -> None:
        self.waiting.append((number, pickle.dumps((function, arguments))))

    def next(self) -> tuple[int, Any]:
        self.asked += 1
        number, data = self.waiting.pop(-(self.asked % 2))
        function, arguments = pickle.loads(data)
        function(*arguments)  # a worker died after it had done everything
        return number, pickle.loads(pickle.dumps(function(*arguments)))

    def cancel(self) -> None:
        self.waiting = []


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontier, "ROWS", 40)
    monkeypatch.setattr(blocks, "LEAST", 1)
    monkeypatch.setattr(explore, "FEW_EDGES", 0)
    monkeypatch.setattr(tasks, "begin", lambda order: lambda: None)


def ended(question: Answer) -> dict[str, Any]:
    search, result = question.search, question.result
    assert result is not None
    return {
        "answer": replace(result, nbytes=0, peak_nbytes=0),
        "found": [(f.name, f.depth, f.ids.tolist()) for f in search.found],
        "choices": [search.choices_to(int(f.ids[0])) for f in search.found],
        "ways": [part.tolist() for part in search.kept()["_parents"]],
    }


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_all_is_found_as_on_one_machine(
    name: str, *, every: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = one(name)
    monkeypatch.setattr(frontier, "ROWS", {REPAIR: 40, DEFECT: 120}.get(name, 6))
    alone = Answer(target.system(), Budget(cores=1), every=every)
    for _ in alone.work():
        pass
    helpers: list[Elsewhere] = []

    def helped(search: Search) -> Elsewhere:
        helpers.append(helper(Pretended(), target)(search))  # type: ignore[arg-type]
        return helpers[-1]

    question = Answer(target.system(), Budget(cores=1), every=every, helped=helped)
    for _ in question.work():
        pass
    (first,) = helpers
    assert first.sent >= first.used > 5 or not every
    assert ended(question) == ended(alone)


def test_what_is_not_known_there_is_found_out_here() -> None:
    """Blocks go out before those before them have let the automata grow."""
    target = one(REPAIR)
    helpers: list[Elsewhere] = []

    def helped(search: Search) -> Elsewhere:
        helpers.append(helper(Pretended(), target)(search))  # type: ignore[arg-type]
        return helpers[-1]

    question = Answer(target.system(), Budget(cores=1), helped=helped)
    for _ in question.work():
        pass
    (first,) = helpers
    blocks_expanded = sum(-(-n // 40) for n in question.search.levels)
    assert 0 < first.used < first.sent
    assert first.used < blocks_expanded


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_out_changes_nothing(name: str) -> None:
    """The same fingerprints, rows that progress, rows that move, and all moves of the others."""
    target = one(name)
    question = Answer(target.system(), Budget(cores=1), every=True)
    for _ in question.work():
        pass
    search, kernel = question.search, question.kernel
    lanes = np.concatenate([part.lanes for part in search.whole], axis=1)
    fps = np.concatenate([part.fps for part in search.whole])
    whole = gathered(kernel, Block(lanes, fps))
    obligatory = np.array([c.role is not Role.DAEMON for c in kernel.system.contexts])
    thin = thinned(lanes, whole, obligatory)
    assert thin.transitions == len(whole) > thin.fps.size
    order, distinct = first_of_each(whole.fps)
    assert thin.fps[thin.order].tolist() == distinct.tolist()
    assert thin.rows[thin.order].tolist() == whole.rows[order].tolist()
    assert thin.contexts[thin.order].tolist() == whole.contexts[order].tolist()
    made = lanes.take(thin.rows, axis=1) ^ thin.changes
    assert (
        made[:, thin.order].tolist()
        == whole.made(lanes, np.sort(order))[:, np.argsort(np.argsort(order))].tolist()
    )
    for all_of, some in (
        (whole.rows[whole.progress], thin.rows[thin.progress]),
        (whole.rows, thin.rows),
        (whole.rows[obligatory[whole.contexts]], thin.rows[obligatory[thin.contexts]]),
    ):
        assert set(some.tolist()) == set(all_of.tolist())
    still = set(range(fps.size)) - set(whole.rows[whole.progress].tolist())
    moves = [np.isin(rows, list(still)) for rows in (whole.rows, thin.rows)]
    assert thin.fps[moves[1]].tolist() == whole.fps[moves[0]].tolist()


def test_an_error_of_the_model_is_raised_when_its_turn_is() -> None:
    class Broken(Pretended):
        def next(self) -> tuple[int, Any]:
            number, _ = super().next()
            return number, ModelError("there")

    target = one(REPAIR)
    question = Answer(
        target.system(),
        Budget(cores=1),
        helped=helper(Broken(), target),  # type: ignore[arg-type]
    )
    with pytest.raises(ModelError, match="there"):
        for _ in question.work():
            pass
