"""Unmapping a region: its pages, and then the page tables that nobody else needs.

It must not know any hypervisor. Source: mm/memory.c, mm/mmap.c and mm/rmap.c, Linux 2.6.21, with
the hook of c119ecce894 in __pte_free_tlb. On i386 directories stay until the address space goes:
pud_clear and __pmd_free_tlb do nothing, with PAE as without. `munmap.py` has the same for one page
whose table stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, routine
from smpmmu.engine.steps import Word, load, store
from smpmmu.kernel.mm import pte_offset_kernel
from smpmmu.kernel.page_hooks import Place
from smpmmu.kernel.paravirt import arch_enter_lazy_mmu_mode, arch_leave_lazy_mmu_mode
from smpmmu.kernel.pgalloc import pmd_clear
from smpmmu.kernel.pgtable import ptep_get_and_clear
from smpmmu.kernel.tlb import remove_page, tlb_finish_mmu, tlb_flush_mmu, tlb_remove_page
from smpmmu.machine.entries import PAGE_PRESENT, pfn_of
from smpmmu.machine.memory import OWNER_SHIFT, PAGE_OWNER
from smpmmu.machine.spinlock import spin_lock, spin_unlock, spinlock
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct, VmAreaStruct
    from smpmmu.machine.cpu import Cpu

anon_vma_lock = spinlock("anon_vma->lock")
i_mmap_lock = spinlock("i_mmap_lock")


def on_anon_vma(vma: VmAreaStruct) -> Word:
    """Return whether who walks from an anonymous page to its entries finds this mapping."""
    return Word(f"vma {vma.vm_start:#x} is on anon_vma", 1, 1)


def on_i_mmap(vma: VmAreaStruct) -> Word:
    """Return whether who walks from a page of a file to its entries finds this mapping."""
    return Word(f"vma {vma.vm_start:#x} is on i_mmap", 1, 1)


async def anon_vma_unlink(vma: VmAreaStruct) -> None:
    """Hide a mapping from walkers; one that was here first is done with its tables.

    C: anon_vma_unlink, mm/rmap.c
    """
    await spin_lock(anon_vma_lock)
    await store(on_anon_vma(vma), 0)
    await spin_unlock(anon_vma_lock)


async def unlink_file_vma(vma: VmAreaStruct) -> None:
    """Hide a mapping of a file from walkers.

    C: unlink_file_vma, mm/mmap.c
    """
    if vma.vm_file:
        await spin_lock(i_mmap_lock)
        await store(on_i_mmap(vma), 0)
        await spin_unlock(i_mmap_lock)


@routine
async def page_table_present(cpu: Cpu, mm: MmStruct, address: int) -> bool:
    """Whether a walker from a page finds a page table for `address`; a violation if it is freed.

    C: page_check_address, mm/rmap.c: the levels above the entry, before it is looked at
    """
    pmd = await load(cpu.memory.at(mm.pmd_offset(address)))
    if not pmd & PAGE_PRESENT:
        return False
    # From here on nothing but the lock of the reverse mapping keeps the table, which is read next.
    owner = await load(cpu.memory.page(pfn_of(pmd)), PAGE_OWNER)
    bug_on(owner >> OWNER_SHIFT != mm.number, NO_ACCESS_TO_FREED_FRAME)
    return True


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
    await pmd_clear(cpu, pmd)
    await pte_free_tlb(cpu, mm, page)


@routine
async def free_pgd_range(
    cpu: Cpu, mm: MmStruct, addr: int, end: int, floor: int, ceiling: int
) -> None:
    """Free the page tables from `addr` to `end`, unless `floor` or `ceiling` is in one of them.

    C: free_pgd_range, free_pud_range, free_pmd_range
    Model: flush_tlb_pgtables does nothing on i386. Of the directory only the entries for
    addresses that somebody uses are looked at.
    """
    size = 1 << mm.paging.pmd_shift
    addr = addr // size * size
    if addr < floor:
        addr += size
    if ceiling:
        ceiling = ceiling // size * size
        if not ceiling:
            return
        # The table of `end` belongs to somebody else as well.
        if end > ceiling:
            end -= size
    for number in tables(used(cpu, addr, (end - 1) // size * size + size), size):
        pmd = mm.pmd_offset(number * size)
        if await load(cpu.memory.at(pmd), PAGE_PRESENT):
            await free_pte_range(cpu, mm, pmd)


async def free_pgtables(cpu: Cpu, vmas: tuple[VmAreaStruct, ...], floor: int, ceiling: int) -> None:
    """Free the page tables of `vmas`, which are in order, between what `floor` and `ceiling` use.

    C: free_pgtables
    Model: no huge pages.
    """
    while vmas:
        size = 1 << vmas[0].vm_mm.paging.pmd_shift
        # Nearby mappings may share a table: it goes when all that use it are hidden.
        near = 1
        while near < len(vmas) and vmas[near].vm_start <= vmas[near - 1].vm_end + size:
            near += 1
        first, last, rest = vmas[0], vmas[near - 1], vmas[near:]
        if cpu.linux.unlinks_first:
            await hide(vmas[:near])
        top = rest[0].vm_start if rest else ceiling
        await free_pgd_range(cpu, first.vm_mm, first.vm_start, last.vm_end, floor, top)
        if not cpu.linux.unlinks_first:
            await hide(vmas[:near])
        vmas = rest


async def hide(vmas: tuple[VmAreaStruct, ...]) -> None:
    """Hide mappings from walkers that come from a page."""
    for vma in vmas:
        await anon_vma_unlink(vma)
        await unlink_file_vma(vma)


@routine
async def zap_pte_range(cpu: Cpu, vma: VmAreaStruct, pmd: int, addr: int, end: int) -> None:
    """Clear the entries from `addr` to `end`, which lie in one table, and gather their pages.

    C: zap_pte_range
    Model: anonymous pages, whose dirty mark dies with them.
    """
    mm = vma.vm_mm
    table = await load(cpu.memory.at(pmd))
    ptl = mm.pte_lockptr(addr)
    await spin_lock(ptl)
    await arch_enter_lazy_mmu_mode(cpu)
    for address in used(cpu, addr, end):
        pte = pte_offset_kernel(cpu, table, address)
        if not await load(cpu.memory.at(pte), PAGE_PRESENT):
            continue
        page = pfn_of(await ptep_get_and_clear(cpu, mm, address, pte))
        if not cpu.linux.zap_flushes_after_lazy:
            # It may be freed here and now, while the ptl is held.
            await tlb_remove_page(cpu, mm, page)
        elif not await remove_page(cpu, page):
            await arch_leave_lazy_mmu_mode(cpu)
            await spin_unlock(ptl)
            await tlb_flush_mmu(cpu, mm)
            await spin_lock(ptl)
            await arch_enter_lazy_mmu_mode(cpu)
    await arch_leave_lazy_mmu_mode(cpu)
    await spin_unlock(ptl)
    await arch_leave_lazy_mmu_mode(cpu, late=True)


def used(cpu: Cpu, addr: int, end: int) -> tuple[int, ...]:
    """Return the addresses from `addr` to `end` that somebody uses."""
    return tuple(sorted(page for page in cpu.pages if addr <= page < end))


def tables(pages: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Return which page tables, by number, map `pages`; a table maps `size` bytes."""
    return tuple(dict.fromkeys(page // size for page in pages))


async def unmap_vmas(cpu: Cpu, vmas: tuple[VmAreaStruct, ...], addr: int, end: int) -> None:
    """Unmap the pages from `addr` to `end`, table by table.

    C: unmap_vmas, unmap_page_range
    Model: a flush every so many pages, where somebody waits for the CPU, is left out: a
    mmu_gather that is full does the same.
    """
    for vma in vmas:
        size = 1 << vma.vm_mm.paging.pmd_shift
        pages = used(cpu, max(addr, vma.vm_start), min(end, vma.vm_end))
        for number in tables(pages, size):
            pmd = vma.vm_mm.pmd_offset(number * size)
            if await load(cpu.memory.at(pmd), PAGE_PRESENT):
                first, last = number * size, (number + 1) * size
                await zap_pte_range(
                    cpu, vma, pmd, max(first, vma.vm_start, addr), min(last, vma.vm_end, end)
                )


async def zap_page_range(cpu: Cpu, vma: VmAreaStruct, address: int, size: int) -> None:
    """Unmap pages whose mapping and tables stay, as madvise(MADV_DONTNEED) does.

    C: zap_page_range
    Model: mmap_sem is held for reading, which holds up nobody here.
    """
    await unmap_vmas(cpu, (vma,), address, address + size)
    await tlb_finish_mmu(cpu, vma.vm_mm)


async def unmap_region(
    cpu: Cpu, vmas: tuple[VmAreaStruct, ...], floor: int = 0, ceiling: int = 0
) -> None:
    """Unmap whole mappings, and their page tables as far as no neighbour uses them.

    C: unmap_region
    Model: mmap_sem is held for writing. Nobody else maps anything here.
    """
    await unmap_vmas(cpu, vmas, vmas[0].vm_start, vmas[-1].vm_end)
    await free_pgtables(cpu, vmas, floor, ceiling)
    await tlb_finish_mmu(cpu, vmas[0].vm_mm)
