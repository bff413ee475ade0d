"""Page tables being allocated, linked, unlinked and freed.

It must not know any hypervisor. Source: mm/memory.c, include/asm-i386/pgalloc.h and
include/asm-generic/tlb.h, Linux 2.6.21, with the hooks of c119ecce894.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, holds, routine
from smpmmu.engine.steps import Word, load, store
from smpmmu.kernel.mm import INIT_MM, pmd_offset, pte_offset_kernel
from smpmmu.kernel.page_alloc import alloc_page, free_page
from smpmmu.kernel.page_hooks import Place
from smpmmu.kernel.pgtable import ptep_get_and_clear, set_pte_at
from smpmmu.kernel.smp import flush_tlb_mm
from smpmmu.machine.entries import KERNPG_TABLE, PAGE_PRESENT, PAGE_TABLE, entry, pfn_of
from smpmmu.machine.memory import pte_indices
from smpmmu.machine.spinlock import spin_lock, spin_unlock

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct, VmAreaStruct
    from smpmmu.machine.cpu import Cpu

ENOMEM = -12


async def set_pmd(cpu: Cpu, pmdp: int, pmdval: int) -> None:
    """Write a directory entry through the accessor.

    C: set_pmd, and pmd_clear for 0
    """
    await cpu.pv.set_pmd(cpu, pmdp, pmdval)


async def _populate(cpu: Cpu, pmd: int, pte: int, flags: int) -> None:
    place = cpu.linux.page_hooks.populate
    if place is Place.BEFORE:
        await cpu.pv.alloc_pt(cpu, pte)
    await set_pmd(cpu, pmd, entry(pte, flags))
    # The table can be walked, and filled by other CPUs, from here on.
    if place is Place.AFTER:
        await cpu.pv.alloc_pt(cpu, pte)


async def pmd_populate(cpu: Cpu, mm: MmStruct, pmd: int, pte: int) -> None:
    """Link a page table into a user's part of a directory.

    C: pmd_populate
    Holds: mm->page_table_lock
    """
    bug_on(not await holds(mm.page_table_lock), "page_table_lock_held_in_pmd_populate")
    await _populate(cpu, pmd, pte, PAGE_TABLE)


async def pmd_populate_kernel(cpu: Cpu, mm: MmStruct, pmd: int, pte: int) -> None:
    """Link a page table into the kernel's part of swapper_pg_dir.

    C: pmd_populate_kernel
    Holds: init_mm.page_table_lock, but at boot
    """
    await _populate(cpu, pmd, pte, KERNPG_TABLE)


@routine
async def pte_alloc_one(cpu: Cpu, mm: MmStruct) -> int:
    """Return an empty page table; 0 if there is no memory.

    C: pte_alloc_one, pte_alloc_one_kernel: alloc_pages(__GFP_ZERO)
    Model: entries for addresses that nobody uses are not cleared.
    """
    new = await alloc_page(cpu, cpu.linux.frames, mm.number)
    if new:
        for index in pte_indices(cpu.pages):
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
    pmd = pmd_offset(mm.pgd, address)
    if not await load(cpu.memory.at(pmd), PAGE_PRESENT) and await pte_alloc(cpu, mm, pmd):
        return ENOMEM
    pte = pte_offset_kernel(await load(cpu.memory.at(pmd)), address)
    await spin_lock(mm.pte_lockptr(address))
    if not await load(cpu.memory.at(pte)):
        await set_pte_at(cpu, mm, address, pte, entry(page, flags))
    await spin_unlock(mm.pte_lockptr(address))
    return 0


def gathered(cpu: Cpu, nr: int) -> Word:
    """Return a slot of this CPU's mmu_gather: a frame, or 0."""
    return Word(f"{cpu.name}.mmu_gather.pages[{nr}]", 20, owner=cpu.name)


async def tlb_remove_page(cpu: Cpu, mm: MmStruct, page: int) -> None:
    """Free a page after the next flush; flush and free if there is no room for more.

    C: tlb_remove_page
    Model: need_flush is whether there are pages, nr how many; both are private to the CPU.
    """
    for nr in range(cpu.linux.gather):
        if not await load(gathered(cpu, nr)):
            await store(gathered(cpu, nr), page)
            if nr + 1 == cpu.linux.gather:
                await tlb_flush_mmu(cpu, mm)
            return


@routine
async def tlb_flush_mmu(cpu: Cpu, mm: MmStruct) -> None:
    """Flush, and free what was gathered.

    C: tlb_flush_mmu, free_pages_and_swap_cache
    """
    if not await load(gathered(cpu, 0)):
        return
    await flush_tlb_mm(cpu, mm)
    for nr in range(cpu.linux.gather):
        page = await load(gathered(cpu, nr))
        if not page:
            return
        await store(gathered(cpu, nr), 0)
        await free_page(cpu, page)


async def tlb_finish_mmu(cpu: Cpu, mm: MmStruct) -> None:
    """Flush and free what is left.

    C: tlb_finish_mmu
    """
    await tlb_flush_mmu(cpu, mm)


async def pte_free_tlb(cpu: Cpu, mm: MmStruct, pte: int) -> None:
    """Free an unlinked page table after the next flush.

    C: __pte_free_tlb
    """
    place = cpu.linux.page_hooks.free_tlb
    if place in (Place.BEFORE, Place.TWICE):
        await cpu.pv.release_pt(cpu, pte)
    await tlb_remove_page(cpu, mm, pte)
    # The frame may be somebody else's by now, if there was no room to gather it.
    if place in (Place.AFTER, Place.TWICE):
        await cpu.pv.release_pt(cpu, pte)


@routine
async def free_pte_range(cpu: Cpu, mm: MmStruct, pmd: int) -> None:
    """Unlink a page table and free it.

    C: free_pte_range
    """
    page = pfn_of(await load(cpu.memory.at(pmd)))
    if cpu.linux.page_hooks.free_tlb is Place.EARLY:
        await cpu.pv.release_pt(cpu, page)
    await set_pmd(cpu, pmd, 0)
    await pte_free_tlb(cpu, mm, page)


@routine
async def zap_pte_range(cpu: Cpu, vma: VmAreaStruct, pmd: int, address: int) -> None:
    """Clear the entry for `address` and gather its page.

    C: zap_pte_range, as in `munmap.py`
    """
    mm = vma.vm_mm
    pte = pte_offset_kernel(await load(cpu.memory.at(pmd)), address)
    await spin_lock(mm.pte_lockptr(address))
    if await load(cpu.memory.at(pte), PAGE_PRESENT):
        page = pfn_of(await ptep_get_and_clear(cpu, mm, address, pte))
        await tlb_remove_page(cpu, mm, page)
    await spin_unlock(mm.pte_lockptr(address))


async def unmap_region(cpu: Cpu, vma: VmAreaStruct, address: int, anon_vma_lock: Word,
                       linked: Word) -> None:  # fmt: skip
    """Unmap a page and its page table, in which it was the last.

    Walkers from the page find the mapping while it is `linked`, under `anon_vma_lock`.

    C: unmap_region, free_pgtables
    Model: mmap_sem is held for writing. Nobody else maps anything here.
    """
    mm = vma.vm_mm
    pmd = pmd_offset(mm.pgd, address)
    await zap_pte_range(cpu, vma, pmd, address)
    # anon_vma_unlink: a walker that was here first is done with the table.
    await spin_lock(anon_vma_lock)
    await store(linked, 0)
    await spin_unlock(anon_vma_lock)
    await free_pte_range(cpu, mm, pmd)
    await tlb_finish_mmu(cpu, mm)
