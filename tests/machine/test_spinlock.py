"""Spinlocks: they exclude, they let interrupts land or not while waiting, they restore flags."""

from __future__ import annotations

import enum
import itertools

import pytest

import smpmmu
from smpmmu.engine.live import Stray, in_trio, replay
from smpmmu.engine.program import Context, Role
from smpmmu.engine.routines import bug_on, holds, irqs_enabled
from smpmmu.engine.steps import (
    TAKEN,
    Step,
    Wait,
    Word,
    fetch_add,
    load,
    local_irq_disable,
    local_irq_enable,
    release,
    store,
    try_acquire,
    wait_until,
)
from smpmmu.engine.system import NO_DEADLOCK, System, at_quiescence
from smpmmu.machine.spinlock import (
    spin_lock,
    spin_lock_irq,
    spin_lock_irqsave,
    spin_unlock,
    spin_unlock_irq,
    spin_unlock_irqrestore,
    spinlock,
)

LOCK = spinlock("lock")
INSIDE, COUNT, TOLD = Word("inside", 2), Word("count", 2), Word("told", 1)
VECTOR = Word("cpu1.vector", 1)
ENGINES = ["batch", "live"]
NOT_ITS_HOLDER = "lock_unlocked_only_by_its_holder"


class Kind(enum.Enum):
    PLAIN = "plain"
    IRQ = "irq"
    IRQSAVE = "irqsave"
    LOCKDEP = "lockdep"
    FROM_OFF = "from_off"
    """spin_lock_irqsave while interrupts are off already."""


async def take(kind: Kind) -> bool:
    if kind is Kind.PLAIN:
        await spin_lock(LOCK)
        return True
    if kind is Kind.IRQ:
        await spin_lock_irq(LOCK)
        return True
    return await spin_lock_irqsave(LOCK, lockdep=kind is Kind.LOCKDEP)


async def give(kind: Kind, *, flags: bool) -> None:
    if kind is Kind.PLAIN:
        await spin_unlock(LOCK)
    elif kind is Kind.IRQ:
        await spin_unlock_irq(LOCK)
    else:
        await spin_unlock_irqrestore(LOCK, flags)


async def count(kind: Kind) -> None:
    """Count to one more under the lock, which takes two steps, and look at the flag all along."""
    before = kind is not Kind.FROM_OFF
    if not before:
        await local_irq_disable()
    flags = await take(kind)
    bug_on(await irqs_enabled() != (kind is Kind.PLAIN), "interrupts_as_they_must_be_inside")
    bug_on(flags != before, "flags_say_how_it_was")
    bug_on(not await holds(LOCK), "lock_is_held")
    bug_on(await fetch_add(INSIDE, 1, INSIDE.mask) != 0, "one_at_a_time")
    seen = await load(COUNT)
    await store(COUNT, seen + 1)
    await fetch_add(INSIDE, -1)
    await give(kind, flags=flags)
    bug_on(await irqs_enabled() != before, "flags_are_restored")
    bug_on(await holds(LOCK), "lock_is_given_back")
    if not before:
        await local_irq_enable()


def contended(*kinds: Kind) -> System:
    contexts = tuple(
        Context(f"cpu{n}", f"cpu{n}", (smpmmu.call(count, kind),)) for n, kind in enumerate(kinds)
    )
    return System(contexts, (at_quiescence("all_count", smpmmu.value(COUNT) == len(kinds)),))


def mixes(cpus: int) -> list[tuple[Kind, ...]]:
    return list(itertools.combinations_with_replacement(Kind, cpus))


def names(mix: tuple[Kind, ...]) -> str:
    return "-".join(kind.value for kind in mix)


@pytest.mark.parametrize("mix", [(kind,) for kind in Kind] + mixes(2) + mixes(3), ids=names)
def test_locks_exclude_each_other_and_restore_flags(mix: tuple[Kind, ...]) -> None:
    answered = smpmmu.explore(contended(*mix), live_runs=2)
    assert answered.exploration.verdict is smpmmu.Verdict.HOLDS
    assert answered.exploration.exact


@pytest.mark.parametrize("mix", mixes(2), ids=names)
def test_they_do_on_live_vcpus(mix: tuple[Kind, ...]) -> None:
    answered = smpmmu.explore(contended(*mix), engine="live")
    assert answered.exploration.verdict is smpmmu.Verdict.HOLDS


def test_a_race_without_the_lock_would_be_seen() -> None:
    async def careless() -> None:
        seen = await load(COUNT)
        await store(COUNT, seen + 1)

    cpus = tuple(Context(f"cpu{n}", f"cpu{n}", (smpmmu.call(careless),)) for n in range(2))
    asked = System(cpus, (at_quiescence("all_count", smpmmu.value(COUNT) == 2),))
    assert smpmmu.explore(asked).exploration.verdict is smpmmu.Verdict.VIOLATED


# What lands while a CPU waits for the lock.


async def hold_until_answered() -> None:
    await spin_lock(LOCK)
    await store(VECTOR, 1)
    await wait_until(TOLD, 1)
    await spin_unlock(LOCK)


async def answer() -> None:
    await Step("take vector", VECTOR, wait=Wait(1, 1), and_mask=0)
    await store(TOLD, 1)


def spinning(kind: Kind) -> System:
    """cpu0 keeps the lock until cpu1's handler has run; cpu1 wants the lock."""
    return System(
        (
            Context("cpu0", "cpu0", (smpmmu.call(hold_until_answered),)),
            Context("cpu1", "cpu1", (smpmmu.call(count, kind),)),
            Context("cpu1.irq", "cpu1", (smpmmu.call(answer),), Role.IRQ),
        ),
        (),
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)
def test_who_answers_while_spinning(kind: Kind, engine: str) -> None:
    found = smpmmu.explore(spinning(kind), engine=engine).exploration
    if kind in (Kind.PLAIN, Kind.IRQSAVE):
        assert found.verdict is smpmmu.Verdict.HOLDS
    else:
        assert [v.name for v in found.violations] == [NO_DEADLOCK]


# cpu0 has the lock and has told cpu1, which saves flags, finds the lock held, and spins.
CAUGHT = ("cpu0", "cpu0", "cpu1", "cpu1", "cpu1")


def test_irqsave_answers_between_its_tries() -> None:
    rest = ("cpu1.irq", "cpu1.irq", "cpu0", "cpu0", *["cpu1"] * 9)
    run = in_trio(lambda: replay(spinning(Kind.IRQSAVE), (*CAUGHT, *rest)))
    told = [(action.context, action.text) for action in run.actions]
    assert told[2:] == [
        ("cpu1", "cli"),
        ("cpu1", "try to lock lock (not taken)"),
        ("cpu1", "sti"),
        ("cpu1.irq", "take vector"),
        ("cpu1.irq", "store told = 1"),
        ("cpu0", "wait until told is 1"),
        ("cpu0", "unlock lock"),
        ("cpu1", "wait until lock is 0"),
        ("cpu1", "cli"),
        ("cpu1", "try to lock lock"),
        ("cpu1", "add 1 to inside -> 0"),
        ("cpu1", "load count -> 0"),
        ("cpu1", "store count = 1"),
        ("cpu1", "add -1 to inside"),
        ("cpu1", "unlock lock"),
        ("cpu1", "sti"),
    ]


@pytest.mark.parametrize("tried", [3, 4], ids=["before its first try", "after a failed try"])
def test_irqsave_answers_only_there(tried: int) -> None:
    with pytest.raises(Stray, match=r"cpu1\.irq"):
        in_trio(lambda: replay(spinning(Kind.IRQSAVE), (*CAUGHT[:tried], "cpu1.irq")))


def test_irqsave_may_lose_the_lock_again() -> None:
    """The lock looked free, and another CPU was quicker: it spins with interrupts on again."""
    system = contended(Kind.IRQSAVE, Kind.PLAIN, Kind.PLAIN)
    held_by_cpu1 = ["cpu1", "cpu0", "cpu0", "cpu0"]
    # cpu1 gives it back, cpu0 sees that, cpu2 takes it before cpu0 tries again.
    then_by_cpu2 = [*["cpu1"] * 5, "cpu0", "cpu2", "cpu0", "cpu0", "cpu0"]
    run = in_trio(lambda: replay(system, (*held_by_cpu1, *then_by_cpu2)))
    texts = [action.text for action in run.actions if action.context == "cpu0"]
    assert texts == [
        "cli",
        "try to lock lock (not taken)",
        "sti",
        "wait until lock is 0",
        "cli",
        "try to lock lock (not taken)",
        "sti",
    ]


# A try that fails.


async def keep_for_a_while() -> None:
    await spin_lock(LOCK)
    await store(COUNT, 1)
    await spin_unlock(LOCK)


async def try_once(*, looks: bool) -> None:
    taken = bool(await try_acquire(LOCK) & TAKEN)
    bug_on(await holds(LOCK) != taken, "held_if_and_only_if_taken")
    if taken or not looks:
        await release(LOCK)


async def try_and_keep() -> None:
    await try_acquire(LOCK)


def tried(*calls: smpmmu.engine.local.Call) -> System:
    cpus = (smpmmu.call(keep_for_a_while), *calls)
    return System(tuple(Context(f"cpu{n}", f"cpu{n}", (c,)) for n, c in enumerate(cpus)), ())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_failed_try_holds_nothing(engine: str) -> None:
    system = tried(smpmmu.call(try_once, looks=True))
    assert smpmmu.explore(system, engine=engine).exploration.verdict is smpmmu.Verdict.HOLDS


@pytest.mark.parametrize("engine", ENGINES)
def test_unlocking_after_a_failed_try_is_a_violation(engine: str) -> None:
    answered = smpmmu.explore(tried(smpmmu.call(try_once, looks=False)), engine=engine)
    assert [v.name for v in answered.exploration.violations] == [NOT_ITS_HOLDER]
    (story,) = answered.stories
    texts = [action.text for action in story.actions if action.context == "cpu1"]
    assert texts == ["try to lock lock (not taken)", "unlock lock"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_try_that_succeeds_does_hold_the_lock(engine: str) -> None:
    answered = smpmmu.explore(tried(smpmmu.call(try_and_keep)), engine=engine)
    assert [v.name for v in answered.exploration.violations] == ["no_lock_held_at_end"]
    (story,) = answered.stories
    texts = [action.text for action in story.actions if action.context == "cpu1"]
    assert texts == ["try to lock lock"]
