"""Read-write spinlocks of parisc: a spinlock that writers keep, and a count of readers.

It must not know what a lock protects. Source: include/asm-parisc/spinlock.h around 08dc2ca61e6,
"Fix our spinlock implementation".
"""

from __future__ import annotations

from dataclasses import dataclass

from smpmmu.engine.routines import AGAIN, Again, irqs_enabled, retry
from smpmmu.engine.steps import Word, fetch_add, load, local_irq_disable, wait_until
from smpmmu.machine.spinlock import (
    spin_lock,
    spin_lock_irqsave,
    spin_unlock,
    spin_unlock_irqrestore,
    spinlock,
)


@dataclass(frozen=True, slots=True)
class RwLock:
    """raw_rwlock_t: `lock` guards `counter`, the number of readers; a writer keeps `lock`."""

    lock: Word
    counter: Word


def rwlock(name: str) -> RwLock:
    """Return a lock for one writer, or for up to seven readers."""
    return RwLock(spinlock(name), Word(f"{name}.counter", 3))


async def write_lock(rw: RwLock) -> None:
    """Take `rw` alone; interrupts stay as they are.

    C: __raw_write_lock
    Model: left out is the counter's -1, which only tells trylock that a writer is in; and that
    since the fix interrupts are off while it looks at the counter: it waits with them on.
    """
    await retry(write_lock_unless_read, rw)


async def write_lock_unless_read(rw: RwLock) -> Again | None:
    """Try once; if there are readers, let go until they look gone."""
    await spin_lock(rw.lock)
    if await load(rw.counter):
        await spin_unlock(rw.lock)
        await wait_until(rw.counter, 0)
        return AGAIN
    return None


async def write_unlock(rw: RwLock) -> None:
    """Let readers and writers in again.

    C: __raw_write_unlock
    """
    await spin_unlock(rw.lock)


async def read_lock(rw: RwLock, *, answers: bool = True) -> None:
    """Join the readers, which a writer keeps waiting here.

    Interrupts are off, lest one that reads too lands here. With `answers` they are on again while
    it spins, if they were on before: so it is since the fix.

    C: __raw_read_lock
    """
    flags = await _lock(rw, answers=answers)
    await fetch_add(rw.counter, 1)
    await spin_unlock_irqrestore(rw.lock, flags)


async def read_unlock(rw: RwLock, *, answers: bool = True) -> None:
    """Leave the readers.

    C: __raw_read_unlock
    """
    flags = await _lock(rw, answers=answers)
    await fetch_add(rw.counter, -1)
    await spin_unlock_irqrestore(rw.lock, flags)


async def _lock(rw: RwLock, *, answers: bool) -> bool:
    if answers:
        return await spin_lock_irqsave(rw.lock)
    flags = await irqs_enabled()
    await local_irq_disable()
    await spin_lock(rw.lock)
    return flags
