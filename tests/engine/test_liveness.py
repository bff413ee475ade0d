"""Which stuck states can never come to rest, against plain reachability."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpmmu.engine.liveness import PEEL_AT, Stuck
from smpmmu.engine.numbers import mix64
from tests.engine.programs import hypothetically

Moves = list[tuple[int, int, bool]]
"""Moves from a state to a state, and whether something obligatory moves."""


def column(states: list[int]) -> np.ndarray:
    """Return fingerprints of states; neighbours share their high bits, others do not."""
    return np.array([mix64(s // 2) & ~1 | s & 1 for s in states], dtype=np.uint64)


def note(stuck: Stuck, states: list[int], moves: Moves) -> None:
    stuck.note(
        column(states),
        np.array(states, dtype=np.int64),
        np.array([states.index(source) for source, _, _ in moves], dtype=np.int64),
        column([target for _, target, _ in moves]),
        np.array([obligatory for _, _, obligatory in moves], dtype=np.bool_),
    )


def hopeless(stuck: Stuck) -> tuple[set[int], set[int]]:
    """Return the numbers of (deadlocked, endless) states; their fingerprints must be theirs."""
    for ids, fps in (judged := stuck.hopeless()):
        assert fps.tolist() == column(ids.tolist()).tolist()
    dead, endless = judged
    return set(dead[0].tolist()), set(endless[0].tolist())


def judged(states: list[int], moves: Moves) -> tuple[set[int], set[int]]:
    stuck = Stuck()
    note(stuck, states, moves)
    return hopeless(stuck)


def expected(states: list[int], moves: Moves) -> tuple[set[int], set[int]]:
    """Return the same by looking, from every state, at all that can be reached from it."""
    reach = {s: reachable(s, moves) for s in states}
    hopeless = {s for s in states if reach[s] <= set(states)}
    obligatory = {(s, t) for s, t, flag in moves if flag and s in hopeless}
    dead = {s for s in hopeless if not any(source in reach[s] for source, _ in obligatory)}
    cycling = {source for source, target in obligatory if source in reach[target]}
    return dead, {s for s in hopeless if reach[s] & cycling}


def reachable(start: int, moves: Moves) -> set[int]:
    seen, todo = {start}, [start]
    while todo:
        here = todo.pop()
        for source, target, _ in moves:
            if source == here and target not in seen:
                seen.add(target)
                todo.append(target)
    return seen


def test_nothing_is_stuck_at_first() -> None:
    assert hopeless(Stuck()) == (set(), set())
    assert Stuck().nbytes == 0


@pytest.mark.parametrize(
    ("moves", "dead", "endless"),
    [
        ([], {1, 2}, set()),
        ([(1, 2, True), (2, 1, True)], set(), {1, 2}),
        ([(1, 2, False), (2, 1, False)], {1, 2}, set()),
        ([(1, 2, False), (2, 2, True)], set(), {1, 2}),
        ([(1, 2, True), (2, 2, False)], {2}, set()),
        ([(1, 1, True), (1, 2, False)], {2}, {1}),
        ([(1, 2, True), (2, 9, True)], set(), set()),
        ([(1, 1, True), (2, 9, False)], set(), {1}),
        ([(1, 3, True), (2, 1, True)], set(), set()),
        ([(1, 2, False), (2, 1, False), (1, 9, False)], set(), set()),
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


@hypothetically(80)
@given(st.sets(st.integers(1, 8), min_size=1), graphs, st.integers(1, 4))
def test_noting_block_by_block_changes_nothing(states: set[int], graph: Moves, blocks: int) -> None:
    moves = [move for move in graph if move[0] in states]
    stuck = Stuck()
    for block in range(blocks):
        part = sorted(s for s in states if s % blocks == block)
        note(stuck, part, [m for m in moves if m[0] in part])
        known = {s for s in states if s % blocks <= block}
        if known:
            stuck._peel(column(sorted({t for _, t, _ in moves} - known)))
    assert hopeless(stuck) == expected(sorted(states), moves)


def chain(many: int, *, way_out: int) -> Stuck:
    """Return states 1 to `many`: the last but one leads into itself, all others to `way_out`."""
    states = np.arange(1, many + 1)
    targets = np.full(many, way_out, dtype=np.uint64)
    targets[-2] = many - 1
    stuck = Stuck()
    fps = states.astype(np.uint64)
    stuck.note(fps, states, np.arange(many), targets, np.ones(many, dtype=np.bool_))
    return stuck


def test_states_with_a_way_out_are_soon_forgotten() -> None:
    many = PEEL_AT + 1000
    frontier = [np.array([777], dtype=np.uint64), np.array([999_999_999], dtype=np.uint64)]
    kept = chain(many, way_out=999_999_999)
    full = kept.nbytes
    kept.settle(frontier)
    assert (kept.count, kept.nbytes) == (many, full)  # nobody knows yet where the frontier leads
    stuck = chain(many, way_out=888_888_888)
    stuck.settle(frontier)
    assert stuck.count == 1
    assert stuck.nbytes < 100
    (dead, _), (endless, fps) = stuck.hopeless()
    assert (dead.tolist(), endless.tolist(), fps.tolist()) == ([], [many - 1], [many - 1])


def test_few_states_are_not_worth_settling() -> None:
    stuck = Stuck()
    note(stuck, [1], [(1, 9, True)])
    assert not stuck.many
    assert hopeless(stuck) == (set(), set())
    assert stuck.count == 0
