"""The shadow: the tables that the walker really reads, derived from the guest's.

Shadow entries are present only if the primary is present and accessed, writable only if it is
writable and dirty; what is missing is a hidden fault, which reads the primary, sets A or D in it
and fills the shadow. Names as in lguest: `g...` the guest's, `s...` the shadow's. It must not
know Linux.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import AGAIN, Again, indivisible, retry, routine
from smpmmu.engine.steps import TAKEN, Word, cmpxchg, load, store
from smpmmu.machine.entries import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_RW,
    pfn_of,
)
from smpmmu.machine.memory import Memory, pgd_index, pte_index
from smpmmu.machine.walker import allows

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

SHADOW = "shadow "

SYNC_IS_ATOMIC = (
    "a record of an address is re-read and applied under the hypervisor's lock of the shadow "
    "entry, and re-checked before it is let go (assumed: the hypervisor is closed; unverified)"
)
FAULT_IS_ATOMIC = (
    "a hidden fault re-checks the primary under the lock of the shadow entry before it lets go "
    "(assumed: the hypervisor is closed; unverified)"
)


def gpte_to_spte(gpte: int) -> int:
    """Return the shadow of a leaf entry, with A/D tracking."""
    if not gpte & PAGE_PRESENT or not gpte & PAGE_ACCESSED:
        return 0
    return gpte if gpte & PAGE_DIRTY else gpte & ~PAGE_RW


def shadow_of(guest: Memory, tables: tuple[int, ...]) -> Memory:
    """Return shadow tables that agree with the guest's `entries`, those of `tables` as leaves."""
    entries = tuple(
        (frame, index, gpte_to_spte(value) if frame in tables else value)
        for frame, index, value in guest.entries
    )
    return Memory(entries, SHADOW)


def spte_of(gpte: Word) -> Word:
    """Return the shadow entry of a guest entry."""
    return Word(SHADOW + gpte.name, gpte.width, gpte_to_spte(gpte.initial), format=gpte.format)


@indivisible(SYNC_IS_ATOMIC)
async def sync_entry(ptep: Word) -> None:
    """Bring the shadow of one entry up to date from the primary."""
    gpte = await load(ptep)
    await store(spte_of(ptep), gpte_to_spte(gpte))


async def demand_page(cpu: Cpu, addr: int, *, write: bool, torn: bool = False) -> bool:
    """Answer a hidden fault: fill the shadow from the primary, or False if Linux must fault.

    The guest's own code may change its tables at any moment.
    """
    gpde = await load(cpu.memory.table(cpu.cr3, pgd_index(addr)))
    if not allows(gpde, write=write):
        return False
    ptep = cpu.memory.table(pfn_of(gpde), pte_index(addr))
    return await retry(fill_torn if torn else fill, ptep, write=write)


@indivisible(FAULT_IS_ATOMIC)
async def fill(ptep: Word, *, write: bool) -> bool | Again:
    """Set A (and D for a write) in the primary, and fill the shadow from it."""
    return await fill_torn(ptep, write=write)


@routine
async def fill_torn(ptep: Word, *, write: bool) -> bool | Again:
    """Do what `fill` does; other CPUs can move between reading the primary and filling."""
    gpte = await load(ptep)
    if not allows(gpte, write=write):
        return False
    wanted = gpte | PAGE_ACCESSED | (PAGE_DIRTY if write else 0)
    if wanted != gpte:
        updated = await cmpxchg(ptep, gpte, wanted)
        if not updated & TAKEN:
            return AGAIN
    await store(spte_of(ptep), gpte_to_spte(wanted))
    return True
