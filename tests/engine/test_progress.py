"""What is said to be left of a search, against what is."""

from __future__ import annotations

from math import comb

import pytest

from smpmmu.engine.answer import Answer
from smpmmu.engine.progress import Left, left
from smpmmu.engine.verdict import Exploration, Verdict
from smpmmu.report.progress import so_far
from smpmmu.targets import one
from tests.engine.programs import counting, main, system
from tests.progress import at, judged
from tests.shell import REPAIR


def grid(n: int, m: int) -> list[int]:
    """Return the level sizes of two programs of n and m independent steps."""
    return [min(d, n, m, n + m - d) + 1 for d in range(n + m + 1)]


def test_before_the_peak_only_what_is_found_is_sure() -> None:
    assert left([1], 0) == Left(1, None)
    assert left([1, 2], 1) == Left(2, None)
    assert left([1, 2, 4, 8, 3], 8) == Left(10, None)
    assert left([10, 10, 10, 10, 10], 45) == Left(5, None)


def test_a_level_half_found_is_no_sign_of_the_end() -> None:
    rising = [1, 10, 100, 1_000, 10_000]
    assert left([*rising, 12], sum(rising[:4]) + 20).most is None


def test_geometric_shrinking_is_foretold() -> None:
    levels = [2**n for n in range(12)] + [2 ** (12 - n) for n in range(13)]
    for depth in range(16, 22):
        found = levels[: depth + 1]
        ahead = left(found, sum(found[:-1]))
        truth = sum(levels[depth:])
        assert ahead.most is not None
        assert truth / 3 <= ahead.least <= truth <= ahead.most <= 3 * truth


@pytest.mark.parametrize("n", [20, 40, 60])
def test_binomials_are_foretold(n: int) -> None:
    """The levels of n programs of one step each."""
    levels = [comb(n, k) for k in range(n + 1)]
    for share in (0.25, 0.5):
        assert at(levels, share)[1].most is None
    for share in (0.75, 0.9):
        truth, ahead = at(levels, share)
        assert ahead.most is not None
        assert ahead.least <= truth <= ahead.most <= 12 * truth


@pytest.mark.parametrize(("n", "m"), [(30, 30), (30, 90)])
def test_what_is_sure_is_true_of_grids_too(n: int, m: int) -> None:
    for share in (0.25, 0.5, 0.75, 0.9):
        truth, ahead = at(grid(n, m), share)
        assert ahead.least <= truth
        assert ahead.most is None or truth <= ahead.most


def test_a_search_tells_what_it_has_expanded() -> None:
    question = Answer(system(main("a", counting("a", 6)), main("b", counting("b", 4))))
    told = []
    for _ in question.work():
        found = question.so_far()
        assert left(found.levels, found.expanded).least <= 35 - found.expanded
        told.append(found.expanded)
    assert list(question.so_far().levels) == grid(6, 4)
    assert told[0] == 0
    assert told == sorted(told)
    assert told[-1] == question.so_far().expanded == sum(grid(6, 4)) == 35


def test_the_judgement_counts_what_came_out() -> None:
    shapes = [grid(30, 90), [comb(40, k) for k in range(41)]]
    table = judged(shapes)
    assert [row.share for row in table] == [0.25, 0.5, 0.75, 0.9]
    for row in table:
        assert row.bounds + row.held + row.more + row.less == 2
    assert (table[0].bounds, table[3].bounds, table[3].held) == (2, 1, 1)
    assert table[0].false_bounds == 0


def test_most_estimates_of_a_real_search_hold() -> None:
    question = Answer(one(REPAIR).system())
    seen = []
    for _ in question.work():
        found = question.so_far()
        seen.append((found.expanded, left(found.levels, found.expanded)))
    total = question.so_far().states
    sure = [(done, ahead) for done, ahead in seen if ahead.most is None]
    rough = [(done, ahead) for done, ahead in seen if ahead.most is not None]
    assert all(done + ahead.least <= total for done, ahead in sure)
    assert len(rough) > 20
    assert max(done + (a.most or 0) for done, a in rough) < 5 * total
    held = [a.least <= total - done <= (a.most or 0) for done, a in rough]
    assert sum(held) / len(held) > 0.6


def told(levels: tuple[int, ...], expanded: int, seconds: float = 2.0) -> str:
    found = Exploration(
        Verdict.UNDECIDED, (), sum(levels), 0, len(levels) - 1, levels, expanded=expanded
    )
    return so_far(found, seconds, 1, 0)


def test_it_is_said_how_rough_that_is() -> None:
    assert told((1, 2, 4, 8), 7) == (
        "depth 3, 15 states (8 waiting), 7 states/s; at least 8 to go, 2 s"
    )
    assert told((1,), 0) == "depth 0, 1 states (1 waiting), 0 states/s; at least 1 to go"
    levels = tuple([2**n for n in range(12)] + [2 ** (12 - n) for n in range(8)])
    text = told(levels, sum(levels[:-1]), 1000.0)
    assert text == (
        "depth 19, 12,255 states (32 waiting), 12 states/s; roughly 99 % done, 3 s to 8 s to go"
    )
    slow = told(levels, sum(levels[:16]), 40_000.0)
    assert slow.endswith("roughly 94 to 96 % done, 27 min to 43 min to go")
