"""Kernel mappings: bringing page directories up to date, and taking an area away.

It must not know any hypervisor. Source: arch/x86/mm/fault.c and pgtable.c around a79e53d85683
(2.6.38), which took interrupts out of pgd_lock; mm/vmalloc.c, Linux 2.6.21.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, routine
from smpmmu.engine.steps import Word, load, store
from smpmmu.kernel.mm import INIT_MM, pmd_offset, pte_offset_kernel
from smpmmu.kernel.page_alloc import free_page
from smpmmu.kernel.pageattr import PAGE_KERNEL
from smpmmu.kernel.pgalloc import ENOMEM, pte_alloc_kernel
from smpmmu.kernel.pgd import pgd_list, pgd_lock
from smpmmu.kernel.pgtable import ptep_get_and_clear, set_pte_at
from smpmmu.kernel.smp import flush_tlb_all
from smpmmu.machine.cpu import read_cr3
from smpmmu.machine.entries import PAGE_PRESENT, entry, pfn_of
from smpmmu.machine.rwlock import rwlock, write_lock, write_unlock
from smpmmu.machine.spinlock import (
    spin_lock,
    spin_lock_irqsave,
    spin_unlock,
    spin_unlock_irqrestore,
)

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct
    from smpmmu.machine.cpu import Cpu

VMALLOC_START = 0xF8800000

vmlist_lock = rwlock("vmlist_lock")
vmlist = Word("vmlist", 1, 1)
"""The list of areas, as far as somebody could see it change: the one area is on it."""


@routine
async def vmalloc_sync_all(cpu: Cpu, mms: tuple[MmStruct, ...], *, irqsave: bool) -> None:
    """Copy the kernel's directory entry for VMALLOC_START to every listed directory that lacks it.

    With `irqsave`, as before a79e53d85683, interrupts are off under pgd_lock.

    C: vmalloc_sync_all
    Model: one address; the C takes pgd_lock anew for each.
    """
    if irqsave:
        flags = await spin_lock_irqsave(pgd_lock)
    else:
        await spin_lock(pgd_lock)
    listed = await load(pgd_list(cpu))
    for mm in mms:
        if listed & mm.number:
            # Another CPU may hold this lock and wait for us to answer its shootdown.
            await spin_lock(mm.page_table_lock)
            await vmalloc_sync_one(cpu, mm.pgd, VMALLOC_START)
            await spin_unlock(mm.page_table_lock)
    if irqsave:
        await spin_unlock_irqrestore(pgd_lock, flags)
    else:
        await spin_unlock(pgd_lock)


@routine
async def vmalloc_sync_one(cpu: Cpu, pgd: int, address: int) -> None:
    """Copy the kernel's directory entry for `address` to the directory `pgd` if it is missing.

    C: vmalloc_sync_one
    Holds: pgd_lock; the page_table_lock of the directory's mm
    """
    pmd_k = await load(cpu.memory.at(await pmd_offset(cpu, INIT_MM.pgd, address)))
    if not pmd_k & PAGE_PRESENT:
        return
    pmd = await pmd_offset(cpu, pgd, address)
    if not await load(cpu.memory.at(pmd), PAGE_PRESENT):
        await cpu.pv.set_pmd(cpu, pmd, pmd_k)


@routine
async def remove_vm_area(cpu: Cpu, online: tuple[int, ...], *, flush_after_unlock: bool) -> None:
    """Unmap the area and take it off the list.

    With `flush_after_unlock`, unlike the C, readers of the list do not wait for the flush.

    C: remove_vm_area, __remove_vm_area, unmap_vm_area (whose flush_tlb_kernel_range is
        flush_tlb_all)
    Model: clearing the entries is left out: nobody uses the area.
    """
    await write_lock(vmlist_lock)
    if not flush_after_unlock:
        # Everybody must answer, also who waits for vmlist_lock.
        await flush_tlb_all(cpu, online)
    await store(vmlist, 0)
    await write_unlock(vmlist_lock)
    if flush_after_unlock:
        await flush_tlb_all(cpu, online)


@routine
async def vmalloc_fault(cpu: Cpu, address: int) -> bool:
    """Copy the kernel's directory entry for `address` to the directory in CR3; False if it is none.

    No lock is taken, since what the kernel's directory leads to is never freed.

    C: vmalloc_fault, arch/i386/mm/fault.c
    """
    # Not current->active_mm: this may be in the middle of switch_mm.
    pgd = await read_cr3(cpu)
    pmd_k = await load(cpu.memory.at(await pmd_offset(cpu, INIT_MM.pgd, address)))
    if not pmd_k & PAGE_PRESENT:
        return False
    pmd = await pmd_offset(cpu, pgd, address)
    value = await load(cpu.memory.at(pmd))
    if not value & PAGE_PRESENT:
        await cpu.pv.set_pmd(cpu, pmd, pmd_k)
    else:
        bug_on(pfn_of(value) != pfn_of(pmd_k), "copies_of_kernel_entries_agree")
    pte_k = pte_offset_kernel(cpu, pmd_k, address)
    return await load(cpu.memory.at(pte_k), PAGE_PRESENT) != 0


async def map_vm_area(cpu: Cpu, address: int, page: int) -> int:
    """Map a page of the kernel's own at `address`, in its directory only; 0, or -ENOMEM.

    C: map_vm_area, vmap_pte_range
    """
    pmd = await pmd_offset(cpu, INIT_MM.pgd, address)
    absent = not await load(cpu.memory.at(pmd), PAGE_PRESENT)
    if absent and await pte_alloc_kernel(cpu, pmd):
        return ENOMEM
    pte = pte_offset_kernel(cpu, await load(cpu.memory.at(pmd)), address)
    await set_pte_at(cpu, INIT_MM, address, pte, entry(page, PAGE_KERNEL))
    return 0


async def unmap_vm_area(cpu: Cpu, address: int, *, frees_table: bool) -> None:
    """Unmap the page at `address`; with `frees_table`, unlike the C, the page table goes as well.

    C: unmap_vm_area, vunmap_pte_range
    """
    pmd = await pmd_offset(cpu, INIT_MM.pgd, address)
    value = await load(cpu.memory.at(pmd))
    if not value & PAGE_PRESENT:
        return
    await ptep_get_and_clear(cpu, INIT_MM, address, pte_offset_kernel(cpu, value, address))
    if frees_table:
        await cpu.pv.set_pmd(cpu, pmd, 0)
        await cpu.pv.release_pt(cpu, pfn_of(value))
    await flush_tlb_all(cpu, cpu.linux.online)
    if frees_table:
        await free_page(cpu, pfn_of(value))
