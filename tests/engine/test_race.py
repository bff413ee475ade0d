"""The critical race, on programs small enough to know it by thought."""

from __future__ import annotations

import pytest

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.program import Context, Role
from smpmmu.engine.race import LONGEST_JUDGED, critical_race
from smpmmu.engine.steps import Step, Word, acquire, load, release, store
from smpmmu.engine.system import NO_DEADLOCK, System, always, at_quiescence
from tests.live.systems import LOCK, OTHER, X, Y, increment, main, running, steps, system

FREED = Word("freed", 1)


def found(asked: System, choices: str, name: str) -> tuple[int, int, str] | None:
    """Return the race's steps and word; contexts are written as digits."""
    names = [asked.contexts[int(c)].name for c in choices]
    race = critical_race(asked, names, name)
    return None if race is None else (race.first, race.second, race.word)


def test_a_use_after_free() -> None:
    async def use() -> None:
        await load(X)
        await store(Y, 1)

    # cpu1 looks, cpu0 frees, cpu1 uses: with the free and the use reversed nothing is wrong.
    never = always("no_use_after_free", ~((value(FREED) == 1) & (value(Y) == 1)))
    asked = system(main(0, store(FREED, 1), store(Y, 0)), running(1, call(use)), holds=(never,))
    # 0 frees; 1 looks; 1 stores Y while freed. Reversed: 0's store of Y comes after 1's.
    assert found(asked, "0110", "no_use_after_free") is None


def test_a_lost_update() -> None:
    # Both load, both store. Each load races with the other's store, the stores with each other.
    asked = system(
        running(0, call(increment)), running(1, call(increment)),
        holds=(at_quiescence("both_count", value(X) == 2),),
    )  # fmt: skip
    # The stores (3, 4) are reversed in vain: both still loaded 0. That cpu0 loads before the
    # last store (1, 4) follows from its own store between; so it is the later load, which
    # should have come after the other's store.
    assert found(asked, "0101", "both_count") == (2, 3, "x")
    # Here the first load comes before both of cpu1's, whose store is the one it should follow.
    assert found(asked, "0110", "both_count") == (1, 3, "x")


def test_the_later_pair_is_the_critical_one() -> None:
    # Whoever reads y = 1 after x = 1 breaks it; y's store comes later than x's.
    never = always("never_both", ~(finished("cpu1") & (value(FREED) == 1)))

    async def look() -> None:
        if await load(X) and await load(Y):
            await store(FREED, 1)

    asked = system(main(0, store(X, 1), store(Y, 1)), running(1, call(look)), holds=(never,))
    assert found(asked, "00111", "never_both") == (2, 4, "y")


def test_what_comes_of_another_pair_is_no_race_by_itself() -> None:
    # y of cpu0 and of cpu1 are ordered by x between them, whose load is what cpu1 waits by.
    async def look() -> None:
        if await load(X):
            await store(FREED, await load(Y))

    never = always("never_freed", value(FREED) == 0)
    asked = system(main(0, store(Y, 1), store(X, 1)), running(1, call(look)), holds=(never,))
    # Reversing y would leave cpu0's store of x out of the way, too; but x is what they race for.
    assert found(asked, "00111", "never_freed") == (2, 3, "x")


def test_a_deadlock_is_of_locks_taken_and_waited_for() -> None:
    one = main(0, acquire(LOCK), acquire(OTHER), release(OTHER), release(LOCK))
    two = main(1, acquire(OTHER), acquire(LOCK), release(LOCK), release(OTHER))
    asked = system(one, two)
    race = critical_race(asked, ("cpu0", "cpu1"), NO_DEADLOCK)
    assert race is not None
    # cpu1 waits for ever for what cpu0 took: the other way round it has both.
    assert (race.first, race.second, race.word) == (1, 3, "lock")
    assert race.contexts == ("cpu0", "cpu1")
    assert race.texts == ("lock lock", "lock lock")


def test_between_two_that_take_one_lock_the_release_does_not_count() -> None:
    # cpu0 changes under the lock, cpu1 judges under it: the order of their turns is the race.
    async def judge() -> None:
        await acquire(LOCK)
        if await load(X):
            await store(FREED, 1)
        await release(LOCK)

    never = always("never_freed", value(FREED) == 0)
    changes = main(0, acquire(LOCK), store(X, 1), release(LOCK))
    asked = system(changes, running(1, call(judge)), holds=(never,))
    assert found(asked, "000111", "never_freed") == (1, 4, "lock")


def test_interrupts_and_hardware_race_too() -> None:
    walker = Context("cpu0.hw", "cpu0", (call(steps, load(X)),), Role.DAEMON)
    never = always("never_one", value(X) != 1)
    asked = System((main(0, store(X, 1)), walker), (never,))
    # The load of the hardware changes nothing: whatever the order, cpu0 stores 1.
    assert found(asked, "10", "never_one") is None


@pytest.mark.parametrize("count", [LONGEST_JUDGED - 1, LONGEST_JUDGED + 1])
def test_in_too_long_a_run_it_is_not_looked_for(count: int) -> None:
    private: tuple[Step, ...] = (store(Y, 1),) * (count - 2)
    never = always("never_looked", value(FREED) == 0)

    async def look() -> None:
        await store(FREED, await load(X))

    asked = system(main(0, store(X, 1), *private), running(1, call(look)), holds=(never,))
    choices = "0" * (count - 1) + "11"
    assert (found(asked, choices, "never_looked") is None) == (count > LONGEST_JUDGED)
