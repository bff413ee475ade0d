"""Small systems that tests of live vCPUs share: one for each thing that a machine can do."""

from __future__ import annotations

from smpmmu.engine.expressions import finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.program import Context, Role
from smpmmu.engine.routines import AGAIN, Again, bug_on, indivisible, retry, routine
from smpmmu.engine.steps import (
    TAKEN,
    Step,
    Wait,
    Word,
    acquire,
    cmpxchg,
    fetch_add,
    fetch_or,
    load,
    release,
    store,
    wait_until,
)
from smpmmu.engine.system import Property, System, always, at_quiescence, sometimes

X, Y, Z = Word("x", 2), Word("y", 2), Word("z", 2)
LOCK, OTHER = Word("lock", 1), Word("other", 1)
VECTOR = Word("vector", 1)
ROUND = Word("round", 1)


async def steps(*taken: Step) -> None:
    """Take the steps, one after the other."""
    for step in taken:
        await step


def main(cpu: int, *taken: Step, cyclic: bool = False) -> Context:
    """Return a vCPU that takes steps."""
    return Context(f"cpu{cpu}", f"cpu{cpu}", (call(steps, *taken),), cyclic=cyclic)


def running(cpu: int, *calls: object) -> Context:
    """Return a vCPU that runs calls."""
    return Context(f"cpu{cpu}", f"cpu{cpu}", calls)  # type: ignore[arg-type]


def handler(cpu: int, *taken: Step) -> Context:
    """Return the handler of VECTOR, which then takes steps."""
    first = Step("take vector", VECTOR, wait=Wait(1, 1), and_mask=0)
    program = (call(steps, first, *taken),)
    return Context(f"cpu{cpu}.irq", f"cpu{cpu}", program, Role.IRQ)


def hardware(cpu: int, *taken: Step) -> Context:
    """Return a piece of hardware that takes steps for ever, or none at all."""
    return Context(f"cpu{cpu}.hw", f"cpu{cpu}", (call(steps, *taken),), Role.DAEMON)


def system(*contexts: Context, holds: tuple[Property, ...] = ()) -> System:
    return System(contexts, holds)


def stores(prefix: str, count: int) -> tuple[Step, ...]:
    """Return stores to words that nobody else touches."""
    return tuple(store(Word(f"{prefix}{n}", 1), 1) for n in range(count))


def independent(*lengths: int) -> System:
    """Return programs of so many independent steps."""
    return system(*(main(cpu, *stores(f"cpu{cpu} ", n)) for cpu, n in enumerate(lengths)))


# Systems of one feature each.


async def increment() -> None:
    """Read, add, write: two of these can lose one."""
    seen = await load(X)
    await store(X, seen + 1)


@indivisible("the test says so")
async def increment_at_once() -> None:
    seen = await load(X)
    await store(X, seen + 1)


async def increment_by_cmpxchg() -> None:
    await retry(attempt)


async def attempt() -> Again | None:
    seen = await load(X)
    done = await cmpxchg(X, seen, seen + 1)
    return None if done & TAKEN else AGAIN


@routine
async def larger() -> int:
    """Return a value that depends on two reads, and forgets them."""
    first = await load(X)
    second = await load(Y)
    return max(first, second)


async def compare() -> None:
    found = await larger()
    await store(Z, found)
    bug_on(found == 2, "two_is_never_seen")


BOTH_COUNTED = at_quiescence("both_increments_count", value(X) == 2)
CROSSED = (acquire(LOCK), acquire(OTHER), release(OTHER), release(LOCK))
CROSSED_BACK = (acquire(OTHER), acquire(LOCK), release(LOCK), release(OTHER))

SYSTEMS: dict[str, System] = {
    "independent": independent(2, 2),
    "lost_update": system(
        running(0, call(increment)), running(1, call(increment)), holds=(BOTH_COUNTED,)
    ),
    "no_update_lost": system(
        running(0, call(increment_at_once)),
        running(1, call(increment_at_once)),
        holds=(BOTH_COUNTED, sometimes("one_is_ahead", value(X) == 1)),
    ),
    "retried_update": system(
        running(0, call(increment_by_cmpxchg)),
        running(1, call(increment_by_cmpxchg)),
        holds=(BOTH_COUNTED,),
    ),
    "locked": system(
        main(0, acquire(LOCK), fetch_add(X, 1), fetch_add(X, -1), release(LOCK)),
        main(1, acquire(LOCK), fetch_add(X, 1), fetch_add(X, -1), release(LOCK)),
        holds=(always("one_at_a_time", value(X) < 2),),
    ),
    "deadlock": system(main(0, *CROSSED), main(1, *CROSSED_BACK)),
    "lock_kept": system(main(0, acquire(LOCK), store(X, 1)), main(1, store(X, 2))),
    "interrupt": system(
        main(
            0,
            store(X, 1),
            Step("cli", irqs=False),
            store(Y, 1),
            store(Y, 0),
            Step("sti", irqs=True),
            store(X, 0),
        ),
        handler(0, load(X), fetch_or(Z, 1)),
        main(1, fetch_or(VECTOR, 1)),
        holds=(
            always("never_with_interrupts_off", implies(value(Y) == 1, value(Z) == 0)),
            always("never_while_x", implies(value(X) == 1, value(Z) == 0)),
            at_quiescence("handled", value(Z) == 1),
        ),
    ),
    "hardware": system(
        main(0, store(X, 1), wait_until(Y, 1), store(X, 0)),
        hardware(0, wait_until(X, 1), store(Y, 1)),
        holds=(
            sometimes("seen", value(Y) == 1),
            always("y_only_after_x", implies(finished("cpu0"), value(Y) == 1)),
        ),
    ),
    "bug": system(
        running(0, call(compare)),
        main(1, store(X, 1), store(Y, 2), store(Y, 1)),
        holds=(at_quiescence("z_is_two", value(Z) == 2), always("z_below_two", value(Z) < 2)),
    ),
    "two_calls": system(
        running(0, call(steps, store(X, 1), load(Y)), call(steps, load(X), store(Y, 1))),
        main(1, store(Y, 2), load(X)),
        holds=(at_quiescence("y_is_one", value(Y) == 1),),
    ),
    "nobody_wakes": system(main(0, wait_until(X, 1)), hardware(1, store(Y, 1), store(Y, 0))),
    "endless": system(
        main(0, store(X, 1), wait_until(Y, 1)),
        Context("cpu1", "cpu1", (call(steps, store(Z, 1), store(Z, 0)),), cyclic=True),
        holds=(always("x_below_two", value(X) < 2),),
    ),
}

VIOLATED: dict[str, set[str]] = {
    "lost_update": {"both_increments_count"},
    "deadlock": {"no_deadlock"},
    "lock_kept": {"no_lock_held_at_end"},
    "interrupt": {"never_while_x", "never_with_interrupts_off"},
    "bug": {"two_is_never_seen", "z_is_two", "z_below_two"},
    "two_calls": {"y_is_one"},
    "nobody_wakes": {"no_deadlock"},
}
"""What is violated in which; the others hold."""
