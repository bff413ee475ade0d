"""Which stuck states can never come to rest, against plain reachability."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpmmu.engine.liveness import Stuck
from tests.engine.programs import hypothetically

Moves = list[tuple[int, int, bool]]
"""Moves from a state to a state, and whether something obligatory moves."""


def column(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def note(stuck: Stuck, states: list[int], moves: Moves) -> None:
    stuck.note(
        column(states),
        column([source for source, _, _ in moves]),
        column([target for _, target, _ in moves]),
        np.array([obligatory for _, _, obligatory in moves], dtype=np.bool_),
    )


def judged(states: list[int], moves: Moves) -> tuple[set[int], set[int]]:
    stuck = Stuck()
    note(stuck, states, moves)
    dead, endless = stuck.hopeless()
    return set(dead.tolist()), set(endless.tolist())


def expected(states: list[int], moves: Moves) -> tuple[set[int], set[int]]:
    """Return the same by looking, from every state, at all that can be reached from it."""
    dead, endless = set(), set()
    for start in states:
        seen, todo, out, alive = {start}, [start], False, False
        while todo:
            here = todo.pop()
            for source, target, obligatory in moves:
                if source == here and target not in states:
                    out = True
                elif source == here and target not in seen:
                    seen.add(target)
                    todo.append(target)
                alive |= source == here and obligatory
        if not out:
            (endless if alive else dead).add(start)
    return dead, endless


def test_nothing_is_stuck_at_first() -> None:
    dead, endless = Stuck().hopeless()
    assert (dead.size, endless.size) == (0, 0)


@pytest.mark.parametrize(
    ("moves", "dead", "endless"),
    [
        ([], {1, 2}, set()),
        ([(1, 2, True), (2, 1, True)], set(), {1, 2}),
        ([(1, 2, False), (2, 1, False)], {1, 2}, set()),
        ([(1, 2, False), (2, 2, True)], set(), {1, 2}),
        ([(1, 2, True), (2, 2, False)], {2}, {1}),
        ([(1, 2, True), (2, 9, True)], set(), set()),
        ([(1, 1, True), (2, 9, False)], set(), {1}),
    ],
)
def test_small_cases(moves: Moves, dead: set[int], endless: set[int]) -> None:
    assert judged([1, 2], moves) == (dead, endless)


graphs = st.lists(
    st.tuples(st.integers(1, 8), st.integers(1, 12), st.booleans()), min_size=0, max_size=24
)


@hypothetically(150)
@given(st.sets(st.integers(1, 8), min_size=1), graphs)
def test_what_is_hopeless_is_what_cannot_get_out(states: set[int], graph: Moves) -> None:
    moves = [move for move in graph if move[0] in states]
    assert judged(sorted(states), moves) == expected(sorted(states), moves)


@hypothetically(60)
@given(st.sets(st.integers(1, 8), min_size=1), graphs, st.integers(1, 4))
def test_noting_block_by_block_changes_nothing(states: set[int], graph: Moves, blocks: int) -> None:
    moves = [move for move in graph if move[0] in states]
    stuck = Stuck()
    for block in range(blocks):
        part = sorted(s for s in states if s % blocks == block)
        note(stuck, part, [m for m in moves if m[0] in part])
        known = {s for s in states if s % blocks <= block}
        stuck._peel(column(sorted({t for _, t, _ in moves} - known))) if known else None
    dead, endless = stuck.hopeless()
    assert (set(dead.tolist()), set(endless.tolist())) == expected(sorted(states), moves)


def test_states_with_a_way_out_are_soon_forgotten() -> None:
    many = 300_000
    states = np.arange(1, many + 1, dtype=np.uint64)
    stuck = Stuck()
    # Each leads to the next; the last but one into itself, the last to the frontier.
    targets = states + np.uint64(1)
    targets[-2] = many - 1
    targets[-1] = 999_999_999
    stuck.note(states, states, targets, np.ones(many, dtype=np.bool_))
    full = stuck.nbytes
    stuck.settle(column([999_999_999]))
    assert stuck.nbytes == full  # none is surely out: the frontier is not known yet
    stuck = Stuck()
    targets[:-2] = 888_888_888
    stuck.note(states, states, targets, np.ones(many, dtype=np.bool_))
    stuck.settle(column([999_999_999]))
    assert stuck.nbytes == 2 * (8 + 8 + 8 + 1)
    dead, endless = stuck.hopeless()
    assert (dead.tolist(), endless.tolist()) == ([], [many - 1])


def test_few_states_are_not_worth_settling() -> None:
    stuck = Stuck()
    note(stuck, [1], [(1, 9, True)])
    full = stuck.nbytes
    stuck.settle(column([]))
    assert stuck.nbytes == full == 25
    assert [c.size for c in stuck.hopeless()] == [0, 0]
