"""The page-fault handler, for a page that is present: rights, dirty and accessed bits, copies.

It must not know any hypervisor. Source: arch/i386/mm/fault.c and mm/memory.c, Linux 2.6.21.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smpmmu.engine.routines import routine
from smpmmu.engine.steps import load
from smpmmu.kernel.mm import VM_EXEC, VM_READ, VM_WRITE
from smpmmu.kernel.page_alloc import alloc_page, free_page
from smpmmu.kernel.pgtable import ptep_clear_flush, ptep_set_access_flags, read_pte, set_pte_at
from smpmmu.kernel.smp import flush_tlb_page
from smpmmu.machine.entries import (
    FLAGS,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_PROTNONE,
    PAGE_RW,
    pfn_of,
)
from smpmmu.machine.entries import entry as page_entry
from smpmmu.machine.rwsem import down_read, up_read
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
    SIGSEGV = "sigsegv"
    """The mapping does not allow the access."""
    OOM = "oom"
    """There is no memory."""


@routine
async def do_page_fault(cpu: Cpu, vma: VmAreaStruct, address: int, *, write: bool) -> Fault:
    """Look what the mapping allows, and let the entry allow it; nobody changes mappings meanwhile.

    C: do_page_fault, __handle_mm_fault
    Model: there is a mapping at the address. The entries that lead to its page table are not read:
    they stay while mmap_sem is held.
    """
    await down_read(vma.vm_mm.mmap_sem)
    fault = Fault.SIGSEGV
    if await load(vma.vm_flags, VM_WRITE if write else VM_READ | VM_WRITE | VM_EXEC):
        fault = await handle_pte_fault(cpu, vma, address, write=write)
    await up_read(vma.vm_mm.mmap_sem)
    return fault


@routine
async def handle_pte_fault(cpu: Cpu, vma: VmAreaStruct, address: int, *, write: bool) -> Fault:
    """Raise an entry's rights as the mapping allows; or find that another CPU has done so.

    C: handle_pte_fault; for an absent page do_no_page, do_anonymous_page and do_swap_page
    Model: the mapping is writable, and an absent page is not brought back (SIGBUS); mmap_sem is
    held for reading, so that nothing changes the mapping; who takes it says so (do_page_fault).
    """
    mm = vma.vm_mm
    ptep = mm.pte_offset(address)
    old_entry = entry = await read_pte(cpu, ptep)
    ptl = mm.pte_lockptr(address)
    if not entry & (PAGE_PRESENT | PAGE_PROTNONE):
        await spin_lock(ptl)
        # Another CPU may have had it empty for a moment, or been here first.
        absent = await read_pte(cpu, ptep) == entry
        await spin_unlock(ptl)
        return Fault.SIGBUS if absent else Fault.MINOR
    await spin_lock(ptl)
    if await read_pte(cpu, ptep) != entry:
        # Another CPU was here first; the access shows whether that was enough.
        await spin_unlock(ptl)
        return Fault.MINOR
    if write:
        if not entry & PAGE_RW:
            return await do_wp_page(cpu, vma, address, ptep, entry)
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
async def do_wp_page(cpu: Cpu, vma: VmAreaStruct, address: int, ptep: int, orig_pte: int) -> Fault:
    """Let a page be written that nobody else uses, or a copy of one that somebody does.

    C: do_wp_page
    Holds: the ptl, and releases it
    Model: whether somebody else uses the page is the kernel's knob `copied`, and whether it is
    freed `copied_frees`. page_mkwrite of a shared mapping is left out.
    """
    mm = vma.vm_mm
    ptl = mm.pte_lockptr(address)
    if not cpu.linux.copied:
        entry = orig_pte | PAGE_ACCESSED | PAGE_DIRTY | PAGE_RW
        await ptep_set_access_flags(cpu, vma, address, ptep, entry, dirty=True)
        await spin_unlock(ptl)
        return Fault.MINOR
    await spin_unlock(ptl)
    # The page is kept by a reference while nobody keeps its entry.
    unused = await alloc_page(cpu, cpu.linux.copied, mm.number)
    if not unused:
        return Fault.OOM
    await spin_lock(ptl)
    if await read_pte(cpu, ptep) == orig_pte:
        await ptep_clear_flush(cpu, vma, address, ptep)
        # Nobody uses the old page here any more: nobody sees two pages at one address.
        flags = orig_pte & (FLAGS | PAGE_NX) | PAGE_ACCESSED | PAGE_DIRTY | PAGE_RW
        await set_pte_at(cpu, mm, address, ptep, page_entry(unused, flags))
        unused = pfn_of(orig_pte) if cpu.linux.copied_frees else 0
    await spin_unlock(ptl)
    if unused:
        await free_page(cpu, unused)
    return Fault.MINOR
