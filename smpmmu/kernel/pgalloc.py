"""Page tables being allocated and linked; `free_pgtables.py` has how they go.

It must not know any hypervisor. Source: mm/memory.c and include/asm-i386/pgalloc.h, Linux 2.6.21,
with the hooks of c119ecce894.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, holds, routine
from smpmmu.engine.steps import load, store
from smpmmu.kernel.mm import INIT_MM, pmd_offset, pte_offset_kernel
from smpmmu.kernel.page_alloc import alloc_page, free_page
from smpmmu.kernel.page_hooks import Place
from smpmmu.kernel.pgtable import read_pte, set_pte_at
from smpmmu.machine.entries import KERNPG_TABLE, PAGE_PRESENT, PAGE_TABLE, entry
from smpmmu.machine.memory import pte_indices
from smpmmu.machine.spinlock import spin_lock, spin_unlock

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct, VmAreaStruct
    from smpmmu.machine.cpu import Cpu

ENOMEM = -12


async def set_pmd(cpu: Cpu, pmdp: int, pmdval: int) -> None:
    """Write a directory entry through the accessor.

    C: set_pmd
    """
    await cpu.pv.set_pmd(cpu, pmdp, pmdval)


async def pmd_clear(cpu: Cpu, pmdp: int) -> None:
    """Empty a directory entry through the accessor.

    C: pmd_clear; set_pmd of 0 but in PAE
    """
    if cpu.memory.paging.is_pae:
        await cpu.pv.pmd_clear(cpu, pmdp)
    else:
        await cpu.pv.set_pmd(cpu, pmdp, 0)


async def pmd_populate(cpu: Cpu, mm: MmStruct, pmd: int, pte: int) -> None:
    """Link a page table into a user's part of a directory.

    C: pmd_populate
    Holds: mm->page_table_lock
    """
    bug_on(not await holds(mm.page_table_lock), "page_table_lock_held_in_pmd_populate")
    place = cpu.linux.page_hooks.populate
    if place is Place.BEFORE:
        await cpu.pv.alloc_pt(cpu, pte)
    await set_pmd(cpu, pmd, entry(pte, PAGE_TABLE))
    # The table can be walked, and filled by other CPUs, from here on.
    if place is Place.AFTER:
        await cpu.pv.alloc_pt(cpu, pte)


async def pmd_populate_kernel(cpu: Cpu, mm: MmStruct, pmd: int, pte: int) -> None:
    """Link a page table into the kernel's part of swapper_pg_dir.

    C: pmd_populate_kernel
    Holds: init_mm.page_table_lock
    """
    place = cpu.linux.page_hooks.populate
    if place is Place.BEFORE:
        await cpu.pv.alloc_pt(cpu, pte)
    await set_pmd(cpu, pmd, entry(pte, KERNPG_TABLE))
    # The table can be walked and copied, and filled by other CPUs, from here on.
    if place is Place.AFTER:
        await cpu.pv.alloc_pt(cpu, pte)


@routine
async def pte_alloc_one(cpu: Cpu, mm: MmStruct) -> int:
    """Return an empty page table; 0 if there is no memory.

    C: pte_alloc_one, pte_alloc_one_kernel: alloc_pages(__GFP_ZERO)
    Model: entries for addresses that nobody uses are not cleared.
    """
    new = await alloc_page(cpu, cpu.linux.frames, mm.number)
    if new:
        for index in pte_indices(cpu.pages, cpu.memory.paging):
            await store(cpu.memory.table(new, index), 0)
        if cpu.linux.page_hooks.populate is Place.EARLY:
            await cpu.pv.alloc_pt(cpu, new)
    return new


async def pte_free(cpu: Cpu, pte: int) -> None:
    """Free a page table that was never linked.

    C: pte_free
    """
    await free_page(cpu, pte)


@routine
async def pte_alloc(cpu: Cpu, mm: MmStruct, pmd: int) -> int:
    """Give a directory entry a page table, unless another CPU does; 0, or -ENOMEM.

    C: __pte_alloc
    """
    new = await pte_alloc_one(cpu, mm)
    if not new:
        return ENOMEM
    await spin_lock(mm.page_table_lock)
    if await load(cpu.memory.at(pmd), PAGE_PRESENT):
        # Another CPU has populated it; nobody has seen ours.
        await pte_free(cpu, new)
    else:
        await pmd_populate(cpu, mm, pmd, new)
    await spin_unlock(mm.page_table_lock)
    return 0


@routine
async def pte_alloc_kernel(cpu: Cpu, pmd: int) -> int:
    """Give an entry of swapper_pg_dir a page table, unless another CPU does; 0, or -ENOMEM.

    C: __pte_alloc_kernel
    """
    new = await pte_alloc_one(cpu, INIT_MM)
    if not new:
        return ENOMEM
    await spin_lock(INIT_MM.page_table_lock)
    if await load(cpu.memory.at(pmd), PAGE_PRESENT):
        await pte_free(cpu, new)
    else:
        await pmd_populate_kernel(cpu, INIT_MM, pmd, new)
    await spin_unlock(INIT_MM.page_table_lock)
    return 0


@routine
async def handle_mm_fault(cpu: Cpu, vma: VmAreaStruct, address: int, page: int, flags: int) -> int:
    """Map `page` at `address` if nothing is there; 0, or -ENOMEM.

    C: __handle_mm_fault, do_anonymous_page
    Model: the page is there already; an address has one page, whoever maps it.
    """
    mm = vma.vm_mm
    pmd = await pmd_offset(cpu, mm.pgd, address)
    if not await load(cpu.memory.at(pmd), PAGE_PRESENT) and await pte_alloc(cpu, mm, pmd):
        return ENOMEM
    pte = pte_offset_kernel(cpu, await load(cpu.memory.at(pmd)), address)
    await spin_lock(mm.pte_lockptr(address))
    if not await read_pte(cpu, pte):
        await set_pte_at(cpu, mm, address, pte, entry(page, flags))
    await spin_unlock(mm.pte_lockptr(address))
    return 0
