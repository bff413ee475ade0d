"""The kernel's first page tables: what head.S has left, and what pagetable_init makes of it.

It must not know any hypervisor. Source: arch/i386/mm/init.c, Linux 2.6.21 without PAE, with the
hooks of c119ecce894. There is one CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, routine
from smpmmu.engine.steps import load
from smpmmu.kernel.mm import INIT_MM, pmd_offset, pte_offset_kernel
from smpmmu.kernel.page_alloc import alloc_page
from smpmmu.kernel.pageattr import PAGE_KERNEL, PAGE_KERNEL_LARGE, PAGE_OFFSET, linear
from smpmmu.kernel.pgalloc import pmd_populate_kernel, set_pmd
from smpmmu.kernel.pgtable import set_pte
from smpmmu.machine.entries import PAGE_PRESENT, PAGE_PSE, PAGE_SHIFT, entry, pfn_of

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu


async def one_md_table_init(pgd: int, address: int) -> int:
    """Return the directory's entry for `address`: without PAE there is no middle level to make.

    C: one_md_table_init
    """
    return pmd_offset(pgd, address)


@routine
async def one_page_table_init(cpu: Cpu, pmd: int) -> None:
    """Give an entry of swapper_pg_dir a page table, unless it has one.

    C: one_page_table_init, alloc_bootmem_low_pages
    Model: the C links it with _PAGE_TABLE rather than _KERNPG_TABLE.
    """
    if not await load(cpu.memory.at(pmd)):
        page_table = await alloc_page(cpu, cpu.linux.frames, INIT_MM.number)
        bug_on(not page_table, "boot_has_memory")
        await pmd_populate_kernel(cpu, INIT_MM, pmd, page_table)


@routine
async def kernel_physical_mapping_init(cpu: Cpu, pgd_base: int, *, pse: bool) -> None:
    """Map low memory, with large pages if the processor has them.

    C: kernel_physical_mapping_init
    Model: of low memory one directory entry, and in it the pages that somebody uses.
    """
    pmd = await one_md_table_init(pgd_base, PAGE_OFFSET)
    if pse:
        await set_pmd(cpu, pmd, entry(0, PAGE_KERNEL_LARGE))
        return
    await one_page_table_init(cpu, pmd)
    for addr in cpu.pages:
        pfn = (addr - PAGE_OFFSET) >> PAGE_SHIFT
        if addr == linear(pfn) and pmd_offset(pgd_base, addr) == pmd:
            pte = pte_offset_kernel(await load(cpu.memory.at(pmd)), addr)
            await set_pte(cpu, pte, entry(pfn, PAGE_KERNEL))


async def page_table_range_init(cpu: Cpu, vaddr: int, pgd_base: int) -> None:
    """Make the page table of the fixmap.

    C: page_table_range_init
    """
    await one_page_table_init(cpu, await one_md_table_init(pgd_base, vaddr))


async def announce_boot_tables(cpu: Cpu, pgd_base: int) -> None:
    """Announce the tables that head.S has linked, each once.

    Proposed here; Linux has nothing of the kind.
    """
    known = 0
    for addr in cpu.pages:
        value = await load(cpu.memory.at(pmd_offset(pgd_base, addr)))
        if value & (PAGE_PRESENT | PAGE_PSE) == PAGE_PRESENT and pfn_of(value) != known:
            known = pfn_of(value)
            await cpu.pv.alloc_pt(cpu, known)


async def pagetable_init(cpu: Cpu, fixmap: int, *, pse: bool) -> None:
    """Make the kernel's page tables.

    C: pagetable_init
    Model: the range of kmap is made as the fixmap's is.
    """
    pgd_base = INIT_MM.pgd
    if cpu.linux.page_hooks.boot_tables:
        await announce_boot_tables(cpu, pgd_base)
    if cpu.linux.page_hooks.root:
        await cpu.pv.alloc_pd(cpu, pgd_base)
    await kernel_physical_mapping_init(cpu, pgd_base, pse=pse)
    await page_table_range_init(cpu, fixmap, pgd_base)
