"""Spinlocks of i386, plain: a waiting step takes the lock, so nothing spins.

It must not know what a lock protects. Source: include/asm-i386/spinlock.h, Linux 2.6.21.
"""

from __future__ import annotations

from smpmmu.engine.steps import Word, acquire, release


def spinlock(name: str) -> Word:
    """Return a lock word."""
    return Word(name, 1)


async def spin_lock(lock: Word) -> None:
    """Take `lock`; interrupts stay as they are and can land while waiting.

    C: spin_lock
    """
    await acquire(lock)


async def spin_unlock(lock: Word) -> None:
    """Release `lock`; a violation if this context does not hold it.

    C: spin_unlock
    """
    await release(lock)
