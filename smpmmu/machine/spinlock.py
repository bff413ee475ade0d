"""Spinlocks of i386: a waiting step takes the lock, so nothing spins.

It must not know what a lock protects. Source: include/asm-i386/spinlock.h, Linux 2.6.21.
"""

from __future__ import annotations

from smpmmu.engine.routines import AGAIN, Again, irqs_enabled, retry
from smpmmu.engine.steps import (
    TAKEN,
    Word,
    acquire,
    local_irq_disable,
    local_irq_enable,
    release,
    try_acquire,
    wait_until,
)


def spinlock(name: str) -> Word:
    """Return a lock word."""
    return Word(name, 1)


async def spin_lock(lock: Word) -> None:
    """Take `lock`; interrupts stay as they are and can land while waiting if they are on.

    C: spin_lock
    """
    await acquire(lock)


async def spin_unlock(lock: Word) -> None:
    """Release `lock`; a violation if this context does not hold it.

    C: spin_unlock
    """
    await release(lock)


async def spin_lock_irq(lock: Word) -> None:
    """Switch interrupts off, then take `lock`; none lands while waiting.

    C: spin_lock_irq
    """
    await local_irq_disable()
    await acquire(lock)


async def spin_unlock_irq(lock: Word) -> None:
    """Release `lock`, then switch interrupts on.

    C: spin_unlock_irq
    """
    await release(lock)
    await local_irq_enable()


async def spin_lock_irqsave(lock: Word, *, lockdep: bool = False) -> bool:
    """Take `lock` with interrupts off; return whether they were on.

    While it spins, interrupts are on again if they were on before: a spinner still answers IPIs.
    With `lockdep` that is compiled out.

    C: spin_lock_irqsave, __raw_spin_lock_flags
    """
    flags = await irqs_enabled()
    await local_irq_disable()
    if flags and not lockdep:
        await retry(spin_with_interrupts, lock)
    else:
        await acquire(lock)
    return flags


async def spin_with_interrupts(lock: Word) -> bool | Again:
    """Try once; if the lock is held, let interrupts land until it looks free."""
    if await try_acquire(lock) & TAKEN:
        return True
    await local_irq_enable()
    await wait_until(lock, 0)
    await local_irq_disable()
    return AGAIN


async def spin_unlock_irqrestore(lock: Word, flags: bool) -> None:  # noqa: FBT001  as in C
    """Release `lock`; switch interrupts on if `flags` says they were.

    C: spin_unlock_irqrestore
    """
    await release(lock)
    if flags:
        await local_irq_enable()
