"""Successors found one machine at a time are those that the columns give, in the same order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given

from smpmmu.engine import few as few_machines
from smpmmu.engine import successors
from smpmmu.engine.answer import answer
from smpmmu.engine.batch import Kernel
from smpmmu.engine.closure import Collision
from smpmmu.engine.errors import ModelError
from smpmmu.engine.few import Few
from smpmmu.engine.local import call
from smpmmu.engine.reading import Block
from smpmmu.engine.routines import indivisible
from smpmmu.engine.steps import Step, Word, load, store
from smpmmu.engine.successors import gathered
from smpmmu.engine.verdict import Verdict
from tests.engine.programs import counting, hypothetically, main, system
from tests.engine.test_random_programs import searched, systems

if TYPE_CHECKING:
    from smpmmu.engine.explore import Search
    from smpmmu.engine.moves import Successors
    from smpmmu.engine.system import System


def same(block: Block, one: Successors, other: Successors) -> bool:
    assert one.bugs == other.bugs
    names = ("rows", "contexts", "progress", "fps")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    pairs.append((one.made(block.lanes), other.made(block.lanes)))
    some = np.arange(0, len(one), 3)
    pairs.append((one.made(block.lanes, some), pairs[-1][1][:, some]))
    pairs.append((pairs[-1][0], other.made(block.lanes, some)))
    assert [a.dtype for a, _ in pairs] == [b.dtype for _, b in pairs]
    return all(np.array_equal(a, b) for a, b in pairs)


def alive(search: Search) -> Block:
    """Return all states of a search in which something can happen."""
    lanes = np.concatenate([part.lanes for part in search.whole], axis=1)
    block = Block(lanes, np.concatenate([part.fps for part in search.whole]))
    kernel = search.kernel
    bugs = [kernel.lookup(block, number, "bug") for number in range(len(kernel.automata))]
    kept = ~np.logical_or.reduce(bugs)
    return Block(block.lanes[:, kept], block.fps[kept])


@hypothetically(200)
@given(systems(bugs=True))
def test_one_by_one_and_in_columns_are_the_same(system: System) -> None:
    for packed in (True, False):
        try:
            search = searched(system, packed=packed)
        except ModelError:
            assume(False)  # noqa: FBT003
        block = alive(search)
        few = Few(search.kernel)
        first = few.successors(block)
        assert len(first) == search.transitions
        assert same(block, first, gathered(search.kernel, block))
        assert same(block, few.successors(block), first)  # from memory


def test_none_have_none() -> None:
    kernel = Kernel(system(main("a", counting("a", 1))))
    block = kernel.initial()
    nothing = Block(block.lanes[:, :0], block.fps[:0])
    assert len(Few(kernel).successors(nothing)) == 0
    assert same(nothing, Few(kernel).successors(nothing), gathered(kernel, nothing))


def test_forgetting_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = system(main("a", counting("a", 9)), main("b", counting("b", 9)))
    whole = answer(grid)
    monkeypatch.setattr(few_machines, "MOST_OUTCOMES", 3)
    assert answer(grid) == whole


@pytest.mark.parametrize("few", [-1, 1, 3, 7])
def test_large_and_small_blocks_may_take_turns(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    grid = system(main("a", counting("a", 9)), main("b", counting("b", 9)))
    whole = answer(grid)
    monkeypatch.setattr(successors, "FEW", few)
    assert answer(grid) == whole


@pytest.mark.parametrize("few", [-1, successors.FEW])
def test_an_indivisible_action_ends(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(successors, "FEW", few)
    monkeypatch.setattr("smpmmu.engine.automaton.LONGEST_ACTION", 10)
    word = Word("word", 1)

    @indivisible("so that it can go on")
    async def goes_on() -> None:
        for number in range(20):
            await store(word, number & 1)

    with pytest.raises(ModelError, match="of a has over 10 steps; it may never end"):
        answer(system(main("a", call(goes_on))))


def test_the_certificate_expands_in_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only one of the two gets wrong is noticed at the end."""
    word = Word("word", 2)

    async def stores() -> None:
        await load(word)
        await store(word, 2)

    asked = system(main("a", call(stores)))
    assert answer(asked).verdict is Verdict.HOLDS

    def wrong(step: Step, value: int) -> int:
        return 3

    monkeypatch.setattr(few_machines, "updated", wrong)
    with pytest.raises(Collision):
        answer(asked)
