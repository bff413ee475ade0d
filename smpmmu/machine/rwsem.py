"""Read-write semaphores: who waits sleeps, and the CPU idles with interrupts on.

Taking one is one step, the locked instruction of the fast path; the queue of sleepers, which
decides who comes first, is left out. It must not know what a semaphore protects. Source:
include/asm-i386/rwsem.h, Linux 2.6.21.
"""

from __future__ import annotations

from smpmmu.engine.steps import Step, Wait, Word

WRITER = 0x8
READERS = WRITER - 1


def rwsem(name: str) -> Word:
    """Return a semaphore for one writer, or for up to seven readers."""
    return Word(name, 4)


async def down_read(sem: Word) -> None:
    """Join the readers once no writer is in.

    C: down_read
    """
    await Step(f"down_read {sem.name}", sem, wait=Wait(WRITER, 0), add=1, lock=1)


async def up_read(sem: Word) -> None:
    """Leave the readers.

    C: up_read
    """
    await Step(f"up_read {sem.name}", sem, add=-1, lock=-1)


async def down_write(sem: Word) -> None:
    """Go in alone once nobody is in.

    C: down_write
    """
    await Step(f"down_write {sem.name}", sem, wait=Wait(sem.mask, 0), xor_mask=WRITER, lock=1)


async def up_write(sem: Word) -> None:
    """Let others in.

    C: up_write
    """
    await Step(f"up_write {sem.name}", sem, and_mask=~WRITER, lock=-1)
