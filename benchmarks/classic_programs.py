"""The classic small programs of the literature, straight on steps and words.

`dining` philosophers, `inc`rements that lose updates, `lockinc`rements that do not, one writer and
many `readers`. Closed forms of their counts are in `tests/test_benchmarks_classics.py`.
"""

from __future__ import annotations

from smpmmu.engine.expressions import all_of, finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import indivisible
from smpmmu.engine.steps import Word, acquire, load, release, store
from smpmmu.engine.system import NO_DEADLOCK
from smpmmu.scenario import Setup, holds, scenario, variant, violated

ONE_EVENT = "the literature counts a read into a local variable as one event"
NO_UPDATE_LOST = "no_update_is_lost"

COUNTER = Word("x", 5)
LOCK = Word("lock", 1)


def fork(number: int) -> Word:
    """Return the fork to the left of a philosopher."""
    return Word(f"fork{number}", 1)


async def eat(first: int, second: int) -> None:
    """Take two forks, one after the other, and give them back."""
    await acquire(fork(first))
    await acquire(fork(second))
    await release(fork(second))
    await release(fork(first))


@scenario(
    *(
        variant(f"left_first.{n}", violated(NO_DEADLOCK, "all have taken the left one"), n=n)
        for n in (2, 3, 4, 5, 6, 8, 10)
    ),
    *(
        variant(f"ordered.{n}", holds("the last one takes the right one first"), n=n, ordered=True)
        for n in (2, 3, 4, 5, 6, 8, 10)
    ),
)
def dining(setup: Setup, *, n: int, ordered: bool = False) -> None:
    """Philosophers who take the left fork first; ordered, the last one the right one."""
    for number in range(n):
        first, second = number, (number + 1) % n
        if ordered and first > second:
            first, second = second, first
        setup.cpu(number, call(eat, first, second))


async def increment() -> None:
    """Read the counter, and write one more: another increment in between is lost."""
    counted = await load(COUNTER)
    await store(COUNTER, counted + 1)


async def locked_increment() -> None:
    """Increment under the lock."""
    await acquire(LOCK)
    await increment()
    await release(LOCK)


SIZES = (2, 3, 4, 5, 6, 8)


@scenario(
    *(variant(f"{n}", violated(NO_UPDATE_LOST, "two read the same"), n=n) for n in SIZES),
    *(variant(f"{n}.all", holds("nothing is asked"), n=n, judged=False) for n in SIZES),
)
def inc(setup: Setup, *, n: int, judged: bool = True) -> None:
    """Threads that increment a counter, without a lock; `all` explores all of it."""
    for number in range(n):
        setup.cpu(number, call(increment))
    setup.symmetric(*range(n))
    if judged:
        setup.at_quiescence(NO_UPDATE_LOST, value(COUNTER) == n)


@scenario(*(variant(f"{n}", holds("one after the other"), n=n) for n in SIZES))
def lockinc(setup: Setup, *, n: int) -> None:
    """Threads that increment a counter under a lock."""
    for number in range(n):
        setup.cpu(number, call(locked_increment))
    setup.symmetric(*range(n))
    setup.at_quiescence(NO_UPDATE_LOST, value(COUNTER) == n)


def local(reader: int) -> Word:
    """Return what a reader has read."""
    return Word(f"y{reader}", 1, owner=f"cpu{reader}")


@indivisible(ONE_EVENT)
async def read(reader: int) -> None:
    """Read x into a local variable."""
    await store(local(reader), await load(Word("x", 1)))


async def write() -> None:
    """Write x."""
    await store(Word("x", 1), 1)


@scenario(*(variant(f"{n}", holds("nothing is asked"), n=n) for n in (2, 4, 8, 10, 13)))
def readers(setup: Setup, *, n: int) -> None:
    """One writer of x, and readers of it."""
    setup.cpu(0, call(write))
    for reader in range(1, n + 1):
        setup.cpu(reader, call(read, reader))
    setup.symmetric(*range(1, n + 1))
    everybody = all_of(*(finished(f"cpu{number}") for number in range(n + 1)))
    setup.sometimes("everybody has read it", everybody)
