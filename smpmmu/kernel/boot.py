"""The kernel's first page tables: what head.S has left, and what pagetable_init makes of it.

It must not know any hypervisor. Source: arch/i386/mm/init.c, Linux 2.6.21, with the hooks of
c119ecce894. There is one CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, routine
from smpmmu.engine.steps import load
from smpmmu.kernel.mm import INIT_MM, pmd_offset, pte_offset_kernel
from smpmmu.kernel.page_alloc import alloc_page
from smpmmu.kernel.page_hooks import Place
from smpmmu.kernel.pageattr import PAGE_KERNEL, PAGE_KERNEL_LARGE, PAGE_OFFSET, linear
from smpmmu.kernel.pgalloc import set_pmd
from smpmmu.kernel.pgd import set_pgd, user_ptrs_per_pgd
from smpmmu.kernel.pgtable import set_pte
from smpmmu.machine.entries import KERNPG_TABLE, PAGE_PRESENT, PAGE_PSE, PAGE_SHIFT, entry, pfn_of
from smpmmu.machine.memory import pgd_index

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu


async def boot_page(cpu: Cpu) -> int:
    """Return a page that is all zero.

    C: alloc_bootmem_low_pages
    """
    page = await alloc_page(cpu, cpu.linux.frames, INIT_MM.number)
    bug_on(not page, "boot_has_memory")
    return page


@routine
async def one_md_table_init(cpu: Cpu, pgd: int) -> int:
    """Give an entry of the root a page directory; return where its entries begin.

    C: one_md_table_init; without PAE there is no middle level, and the entry is the directory's
    """
    if not cpu.memory.paging.is_pae:
        return pgd
    pmd_table = await boot_page(cpu)
    place = cpu.linux.page_hooks.md_table
    if place is Place.BEFORE:
        await cpu.pv.alloc_pd(cpu, pmd_table)
    await set_pgd(cpu, pgd, entry(pmd_table, PAGE_PRESENT))
    if place is Place.AFTER:
        await cpu.pv.alloc_pd(cpu, pmd_table)
    return pmd_table << PAGE_SHIFT


@routine
async def one_page_table_init(cpu: Cpu, pmd: int) -> None:
    """Give an entry of the kernel's directory a page table, unless it has one.

    C: one_page_table_init
    Model: the C links it with _PAGE_TABLE rather than _KERNPG_TABLE.
    """
    if await load(cpu.memory.at(pmd)):
        return
    page_table = await boot_page(cpu)
    place = cpu.linux.page_hooks.populate
    if place is Place.BEFORE:
        await cpu.pv.alloc_pt(cpu, page_table)
    await set_pmd(cpu, pmd, entry(page_table, KERNPG_TABLE))
    if place is Place.AFTER:
        await cpu.pv.alloc_pt(cpu, page_table)


@routine
async def kernel_physical_mapping_init(cpu: Cpu, pgd_base: int, *, pse: bool) -> None:
    """Map low memory, with large pages if the processor has them.

    C: kernel_physical_mapping_init
    Model: of low memory one directory entry, and in it the pages that somebody uses.
    """
    paging = cpu.memory.paging
    pgd = paging.entry_at(pgd_base, pgd_index(PAGE_OFFSET, paging))
    pmd = await one_md_table_init(cpu, pgd)
    if pse:
        await set_pmd(cpu, pmd, entry(0, PAGE_KERNEL_LARGE))
        return
    await one_page_table_init(cpu, pmd)
    for addr in cpu.pages:
        pfn = (addr - PAGE_OFFSET) >> PAGE_SHIFT
        if addr == linear(pfn) and 0 <= pfn < paging.ptrs_per_pte:
            pte = pte_offset_kernel(cpu, await load(cpu.memory.at(pmd)), addr)
            await set_pte(cpu, pte, entry(pfn, PAGE_KERNEL))


async def page_table_range_init(cpu: Cpu, vaddr: int, pgd_base: int) -> None:
    """Make the page table of the fixmap.

    C: page_table_range_init
    Model: the root's entry is there, that of low memory.
    """
    await one_page_table_init(cpu, await pmd_offset(cpu, pgd_base, vaddr))


async def announce_boot_tables(cpu: Cpu, pgd_base: int) -> None:
    """Announce the tables that head.S has linked, each once (not PAE).

    Proposed here; Linux has nothing of the kind.
    """
    known = 0
    for addr in cpu.pages:
        value = await load(cpu.memory.at(await pmd_offset(cpu, pgd_base, addr)))
        if value & (PAGE_PRESENT | PAGE_PSE) == PAGE_PRESENT and pfn_of(value) != known:
            known = pfn_of(value)
            await cpu.pv.alloc_pt(cpu, known)


async def pagetable_init(cpu: Cpu, fixmap: int, *, pse: bool) -> None:
    """Make the kernel's page tables.

    C: pagetable_init
    Model: the range of kmap is made as the fixmap's is. In PAE, entries of the root that lead to
    nothing anybody uses are left out; they lead to the zero page, which is never announced.
    """
    pgd_base, paging = INIT_MM.pgd, cpu.memory.paging
    if cpu.linux.page_hooks.boot_tables:
        await announce_boot_tables(cpu, pgd_base)
    if not paging.is_pae and cpu.linux.page_hooks.root:
        await cpu.pv.alloc_pd(cpu, pgd_base)
    await kernel_physical_mapping_init(cpu, pgd_base, pse=pse)
    await page_table_range_init(cpu, fixmap, pgd_base)
    if paging.is_pae:
        # Low memory is found where it lies, for processors that have yet to start.
        kernel = cpu.memory.table(pgd_base, user_ptrs_per_pgd(cpu))
        await set_pgd(cpu, paging.entry_at(pgd_base, 0), await load(kernel))


@routine
async def paging_init(cpu: Cpu, fixmap: int, *, pse: bool) -> None:
    """Make the kernel's page tables, and use them.

    C: paging_init
    Model: until PAE is switched on here, the processor walks the tables of two levels that head.S
    has made, in the same page as the root; nothing that is mapped by those is accessed before.
    """
    await pagetable_init(cpu, fixmap, pse=pse)
    await cpu.pv.write_cr3(cpu, INIT_MM.pgd)
    # set_in_cr4(X86_CR4_PAE) has the processor fetch the root's entries, as this does.
    await cpu.pv.flush_tlb_kernel(cpu)
