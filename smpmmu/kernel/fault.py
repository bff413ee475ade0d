"""The page-fault handler, for a page that is present: rights, dirty and accessed bits.

It must not know any hypervisor. Source: mm/memory.c, Linux 2.6.21.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smpmmu.engine.routines import routine
from smpmmu.kernel.pgtable import ptep_set_access_flags, read_pte
from smpmmu.kernel.smp import flush_tlb_page
from smpmmu.machine.entries import PAGE_ACCESSED, PAGE_DIRTY, PAGE_PRESENT, PAGE_PROTNONE, PAGE_RW
from smpmmu.machine.spinlock import spin_lock, spin_unlock

if TYPE_CHECKING:
    from smpmmu.kernel.mm import VmAreaStruct
    from smpmmu.machine.cpu import Cpu


class Fault(enum.Enum):
    """What a page fault led to."""

    MINOR = "minor"
    """The access is to be tried again."""
    SIGBUS = "sigbus"
    """There is no page."""


@routine
async def handle_pte_fault(cpu: Cpu, vma: VmAreaStruct, address: int, *, write: bool) -> Fault:
    """Raise an entry's rights as the mapping allows; or find that another CPU has done so.

    C: handle_pte_fault
    Model: the mapping is writable, and an absent page is not brought back (SIGBUS); mmap_sem is
    held for reading, so that nothing changes the mapping.
    """
    mm = vma.vm_mm
    ptep = mm.pte_offset(address)
    old_entry = entry = await read_pte(cpu, ptep)
    if not entry & (PAGE_PRESENT | PAGE_PROTNONE):
        return Fault.SIGBUS
    ptl = mm.pte_lockptr(address)
    await spin_lock(ptl)
    if await read_pte(cpu, ptep) != entry:
        # Another CPU was here first; the access shows whether that was enough.
        await spin_unlock(ptl)
        return Fault.MINOR
    if write:
        if not entry & PAGE_RW:
            await do_wp_page(cpu, vma, address, ptep, entry)
            await spin_unlock(ptl)
            return Fault.MINOR
        entry |= PAGE_DIRTY
    entry |= PAGE_ACCESSED
    if old_entry != entry:
        await ptep_set_access_flags(cpu, vma, address, ptep, entry, dirty=write)
    elif write:
        # A spurious fault: only this CPU, or a shadow, was behind.
        await flush_tlb_page(cpu, vma, address)
    await spin_unlock(ptl)
    return Fault.MINOR


@routine
async def do_wp_page(cpu: Cpu, vma: VmAreaStruct, address: int, ptep: int, orig_pte: int) -> None:
    """Let a page be written that nobody else uses.

    C: do_wp_page, where it reuses the page
    Holds: the ptl; the C releases it here
    """
    entry = orig_pte | PAGE_ACCESSED | PAGE_DIRTY | PAGE_RW
    await ptep_set_access_flags(cpu, vma, address, ptep, entry, dirty=True)
