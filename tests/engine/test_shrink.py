"""Shrinking against all schedules one by one, and where the least cannot be proven."""

from __future__ import annotations

from itertools import groupby, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smpmmu.engine.batch import Kernel
from smpmmu.engine.cheapest import Cheapest, Goal
from smpmmu.engine.errors import ModelError, UsageError
from smpmmu.engine.expressions import value
from smpmmu.engine.local import call
from smpmmu.engine.reduced import without
from smpmmu.engine.run import Ending
from smpmmu.engine.shrink import Shrunk, shrink
from smpmmu.engine.steps import Step, Word, acquire, fetch_add, load, release, store
from smpmmu.engine.stress import stress
from smpmmu.engine.system import NO_DEADLOCK, System, always, at_quiescence
from smpmmu.engine.walk import Cost, Walk, cost
from tests.live.systems import LOCK, OTHER, X, Y, increment, main, running, system


def lost_update(cpus: int = 2) -> System:
    counts = (at_quiescence("all_count", value(X) == cpus),)
    return system(*(running(n, call(increment)) for n in range(cpus)), holds=counts)


def crossed_locks() -> System:
    one = main(0, acquire(LOCK), acquire(OTHER), release(OTHER), release(LOCK))
    return system(one, main(1, acquire(OTHER), acquire(LOCK), release(LOCK), release(OTHER)))


def cheapest_of_all(asked: System, name: str) -> Cost | None:
    """Return the least cost of every schedule that ends in violating `name`, one by one."""
    best: Cost | None = None
    stack: list[tuple[int, ...]] = [()]
    while stack:
        choices = stack.pop()
        with Walk(asked) as walk:
            for number in choices:
                walk.take(number)
            ending = walk.ending()
            if ending is not None:
                broken = NO_DEADLOCK if ending[0] is Ending.STUCK else ending[1]
                if broken == name and (best is None or walk.cost < best):
                    best = walk.cost
                continue
            stack += [(*choices, number) for number in walk.able]
    return best


def failing(asked: System, name: str) -> tuple[str, ...]:
    """Return the first random schedule that violates `name`."""
    for part in stress(Kernel(asked), range(500)):
        for run in part:
            broken = NO_DEADLOCK if run.ending is Ending.STUCK else run.violated
            if broken == name:
                return tuple(asked.contexts[n].name for n in run.choices)
    raise AssertionError


@pytest.mark.parametrize(
    ("asked", "name"),
    [(lost_update(), "all_count"), (lost_update(3), "all_count"), (crossed_locks(), NO_DEADLOCK)],
    ids=["two", "three", "locks"],
)
@pytest.mark.parametrize("most", [100_000, 1])
def test_it_is_the_least_of_all_schedules(asked: System, name: str, most: int) -> None:
    found = shrink(asked, failing(asked, name), name, most=most, smaller=False)
    assert found.least == (most > 1)
    assert found.cost == cost(asked, found.choices)
    if found.least:
        assert found.cost == cheapest_of_all(asked, name)
    else:
        assert found.cost <= found.before


WORDS = (X, Y, Word("z", 3))
STEPS = st.sampled_from(
    [load(X), store(X, 1), store(Y, 1), load(Y), fetch_add(WORDS[2], 1), store(X, 2)]
)
PROGRAMS = st.lists(st.lists(STEPS, min_size=1, max_size=3), min_size=2, max_size=3)


@settings(max_examples=40, deadline=None)
@given(PROGRAMS)
def test_the_search_is_right_on_any_small_programs(programs: list[list[Step]]) -> None:
    never = always("never_all", ~((value(X) == 2) & (value(Y) == 1) & (value(WORDS[2]) > 0)))
    asked = system(*(main(n, *steps) for n, steps in enumerate(programs)), holds=(never,))
    found = Cheapest(Kernel(asked), Goal("never_all")).run(100_000)
    least = cheapest_of_all(asked, "never_all")
    assert (found.choices is None) == (least is None)
    assert found.complete
    if least is not None:
        assert found.cost == least


def test_what_it_costs() -> None:
    # cpu0 is left while it could go on, then cpu1 at its end: two switches, one preemption.
    asked = lost_update()
    assert cost(asked, ("cpu0", "cpu1", "cpu1", "cpu0")) == Cost(2, 1, 4)
    assert cost(asked, ("cpu0", "cpu0", "cpu1", "cpu1")) == Cost(1, 0, 4)


def test_what_makes_it_easier_is_not_left_out() -> None:
    # Without one of them the sum is missed by no race at all; that would be another violation.
    found = shrink(lost_update(3), failing(lost_update(3), "all_count"), "all_count")
    assert found.left_out == ()
    assert found.cost == Cost(3, 1, 6)


def busy_and_idle() -> System:
    idle = call(increment_other)
    return system(
        running(0, idle, call(increment), idle),
        running(1, call(increment), idle),
        running(2, idle),
        holds=(always("x_stays_low", value(X) != 2),),
    )


async def increment_other() -> None:
    await fetch_add(Word("other counter", 4), 1)


def test_what_is_not_needed_is_left_out() -> None:
    asked = busy_and_idle()
    found = shrink(asked, failing(asked, "x_stays_low"), "x_stays_low")
    assert set(found.left_out) == {"cpu2", "cpu1[1]", "cpu0[2]", "cpu0[0]"}
    # One increment after the other.
    assert found.cost == Cost(1, 0, 4)
    small = without(asked, found.left_out)
    assert cost(small, found.choices) == found.cost
    assert [len(c.calls) for c in small.contexts] == [1, 1]


@pytest.mark.parametrize("others", [3, 6])
def test_a_run_guides_where_the_least_cannot_be_proven(others: int) -> None:
    # Each bystander multiplies the states by 9; the budget does not even reach one switch.
    bystanders = [
        main(n, *(store(Word(f"cpu{n} {i}", 1), 1) for i in range(8))) for n in range(2, 2 + others)
    ]
    early = (always("both_count", ~((value(X) == 1) & (value(Y) == 1))),)
    one = main(0, load(X), store(X, 1), store(Y, 0))
    two = main(1, load(Y), store(Y, 1), store(X, 0))
    asked = System((one, two, *bystanders), early)
    given_run = failing(asked, "both_count")
    found = shrink(asked, given_run, "both_count", most=5)
    assert not found.least
    # One of them to its end, then two steps of the other: nobody is held up.
    assert found.cost == Cost(1, 0, 5)
    assert set(found.left_out) == {f"cpu{n}" for n in range(2, 2 + others)}
    assert found == shrink(asked, given_run, "both_count", most=5)


def test_a_deadlock_too_large_to_know_all_of_keeps_its_last_state() -> None:
    asked = crossed_locks()
    given_run = failing(asked, NO_DEADLOCK)
    found = shrink(asked, given_run, NO_DEADLOCK, most=2)
    assert not found.least
    assert found.cost <= found.before
    with Walk(asked) as walk:
        for choice in found.choices:
            walk.take(walk.machine.numbers[choice])
        ending = walk.ending()
    assert ending is not None
    assert ending[0] is Ending.STUCK


def test_a_run_that_violates_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="the 4 choices do not violate all_count"):
        shrink(lost_update(), ("cpu0", "cpu0", "cpu1", "cpu1"), "all_count")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("cpu7", "there is no 'cpu7' to leave out; there are: cpu0, cpu1"),
        ("cpu0[1]", r"cpu0 has 1 calls; there is no 'cpu0\[1\]' to leave out"),
    ],
)
def test_what_is_not_there_cannot_be_left_out(part: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        without(lost_update(), [part])


def test_nothing_of_it_is_random() -> None:
    asked = lost_update(3)
    runs = {shrink(asked, failing(asked, "all_count"), "all_count") for _ in range(2)}
    assert len(runs) == 1
    (found,) = runs
    assert isinstance(found, Shrunk)
    assert sum(a != b for a, b in pairwise(found.choices)) == found.cost.switches
    assert len(list(groupby(found.choices))) == found.cost.switches + 1
