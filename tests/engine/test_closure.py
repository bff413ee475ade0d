"""The certificate of a HOLDS: forced collisions of fingerprints are caught."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from smpmmu.engine import fingerprints
from smpmmu.engine.answer import Answer, answer
from smpmmu.engine.closure import Collision, certify
from smpmmu.engine.errors import InternalError
from smpmmu.engine.expressions import value
from smpmmu.engine.frontier import Frontier
from smpmmu.engine.local import call
from smpmmu.engine.routines import bug_on
from smpmmu.engine.steps import Word, load, store
from smpmmu.engine.system import System, always
from smpmmu.engine.verdict import Verdict
from tests.engine.programs import asked, counting, main, steps, system

if TYPE_CHECKING:
    from smpmmu.engine.batch import Kernel

SQUARE = system(main("cpu0", counting("a", 4)), main("cpu1", counting("b", 4)))
"""5 * 5 states."""


def weaken(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """Let every fingerprint key have a few bits only, so that states collide."""
    strong = fingerprints.key_table

    def few_bits(name: str, size: int) -> np.ndarray:
        return strong(name, size) & np.uint64((1 << bits) - 1)

    monkeypatch.setattr(fingerprints, "key_table", few_bits)


def test_collisions_are_errors_of_ours() -> None:
    assert issubclass(Collision, InternalError)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_a_forced_collision_never_passes_for_a_hold(
    monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    # Fewer fingerprints than states: some state must be taken for another one.
    weaken(monkeypatch, bits)
    question = Answer(SQUARE)
    with pytest.raises(Collision, match="share a fingerprint"):
        for _ in question.work():
            pass
    assert question.search.states < 25
    assert not question.search.found
    assert question.result is None


def test_whatever_the_keys_a_hold_has_seen_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {}
    for bits in range(1, 25):
        with monkeypatch.context() as weakened:
            weaken(weakened, bits)
            try:
                found = answer(SQUARE)
            except Collision:
                outcomes[bits] = 0
            else:
                assert found.verdict is Verdict.HOLDS
                outcomes[bits] = found.states
    assert set(outcomes.values()) == {0, 25}


def test_a_violation_behind_a_collision_is_not_called_a_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    last = always("last_store_missing", (value(Word("a3", 1)) & value(Word("b3", 1))) == 0)
    judged = System(SQUARE.contexts, (last,))
    assert answer(judged).verdict is Verdict.VIOLATED
    weaken(monkeypatch, 2)
    with pytest.raises(Collision):
        answer(judged)


def finished_search() -> tuple[Kernel, list[Frontier]]:
    """Return a complete search's kernel and its states, each a part of its own."""
    question = asked(SQUARE)
    return question.kernel, [
        Frontier(part.lanes[:, row : row + 1], part.fps[row : row + 1], part.ids[row : row + 1])
        for part in question.search.whole
        for row in range(part.fps.size)
    ]


def test_a_complete_set_of_states_is_certified() -> None:
    kernel, states = finished_search()
    assert sum(part.fps.size for part in states) == 25
    certify(kernel, states)


def test_nothing_need_follow_a_bug() -> None:
    word = Word("word", 2)

    async def fails() -> None:
        got = await load(word)
        bug_on(got == 1, "word_is_not_1")

    sets = call(steps, store(word, 1), store(word, 2))
    question = asked(system(main("cpu0", call(fails)), main("cpu1", sets)), every=True)
    assert question.result is not None
    assert [v.name for v in question.result.violations] == ["word_is_not_1"]
    # Two programs of one and two steps, and one state that met the bug and is not left.
    assert question.result.states == 2 * 3 + 1
    certify(question.kernel, question.search.whole)


@pytest.mark.parametrize("lost", range(1, 25))
def test_a_lost_state_is_missed(lost: int) -> None:
    kernel, states = finished_search()
    del states[lost]
    with pytest.raises(Collision, match="a state was lost"):
        certify(kernel, states)


def test_a_state_stored_twice_is_noticed() -> None:
    kernel, states = finished_search()
    with pytest.raises(Collision, match="stored twice"):
        certify(kernel, [*states, states[3]])


def test_a_state_that_differs_in_one_bit_is_noticed() -> None:
    kernel, states = finished_search()
    states[5].lanes[0, 0] ^= np.uint64(1)
    with pytest.raises(Collision):
        certify(kernel, states)


def test_a_large_space_is_not_certified_but_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smpmmu.engine.explore.EXACT_STATES", 24)
    question = asked(SQUARE)
    assert question.result is not None
    assert question.result.verdict is Verdict.HOLDS
    assert not question.result.exact
    assert question.search.whole == []
    assert question.result.collision_bound == 25**2 / 2**65


def test_a_small_space_has_no_doubt_left() -> None:
    found = answer(SQUARE)
    assert found.exact
    assert found.collision_bound == 0.0
