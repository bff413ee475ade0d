"""A thread unmaps a region with two page tables; a walker comes from a page; another mm allocates.

    cpu0: munmap                         cpu1                          cpu2, another address space
    for each table: zap its pages        write the first page          pte_alloc_one: a freed frame
    anon_vma_unlink, unlink_file_vma     read the second page          alloc_pt, set_pmd, set_pte_at
    for each table:                      or, from the page (rmap):     use its page
      pmd_clear, release_pt                lock anon_vma (or i_mmap)
      tlb_remove_page                      if the mapping is there:
    tlb_finish_mmu                           go to the table, clear A
                                           unlock

A walker from a page reads tables under no lock but that of its list. So mappings are taken off the
list, under that lock, before their tables are freed: whoever was there first is done, whoever comes
later finds nothing. Two data pages and two tables go through a mmu_gather that may be full in
between. On one CPU, in fast mode, tables are freed at once; an interrupt may allocate one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import all_of, any_of, finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import load
from smpmmu.hypervisor.page_types import FREE_FRAMES_ARE_NORMAL, PD, PT
from smpmmu.kernel.free_pgtables import (
    anon_vma_lock,
    i_mmap_lock,
    on_anon_vma,
    on_i_mmap,
    page_table_present,
    unmap_region,
)
from smpmmu.kernel.mm import INIT_MM_NUMBER, MmStruct, VmAreaStruct
from smpmmu.kernel.page_hooks import PageHooks, Place
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.pgalloc import handle_mm_fault
from smpmmu.kernel.pgtable import ptep_clear_flush_young
from smpmmu.kernel.rmap import page_check_address
from smpmmu.machine.entries import PAGE_TABLE, entry
from smpmmu.machine.memory import (
    NON_PAE,
    OWNER_SHIFT,
    PAGE_OWNER,
    PAGE_SIZE,
    VERSION_SHIFT,
    Memory,
    Paging,
)
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, user_read, user_write
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.allocation import (
    MAPPED_PAGES_ARE_REACHABLE,
    NATIVELY,
    By,
    demand_normal_when_free,
    directories,
    free,
    hypervisor_of,
    links,
    must_reach,
    vcpu,
)
from smpmmu.scenarios.common import (
    ADDR,
    OTHER_ADDR,
    OTHER_TABLE,
    PAGE,
    PGD,
    TABLE,
    TOUCHED,
    UNTOUCHED,
    in_both_modes,
    install_walker,
)
from smpmmu.scenarios.mmu_gather import install_device
from smpmmu.scenarios.page_table_free import BEFORE_POOL, DRAFT, OTHER_PAGE, OTHER_PGD

if TYPE_CHECKING:
    from smpmmu.engine.local import Call
    from smpmmu.engine.steps import Word
    from smpmmu.machine.cpu import Cpu

SECOND_PAGE = 0x5
TABLES = (TABLE, OTHER_TABLE)

HIDDEN_FIRST = (
    "free_pgtables, mm/memory.c: hide vma from rmap and vmtruncate before freeing pgtables"
)
FOUND_LATE = (
    "free_pgtables, mm/memory.c, done the other way round: who comes from a page still finds the "
    "mapping, and reads a table that is freed"
)
FAST = (
    "tlb_fast_mode, include/asm-generic/tlb.h: on one CPU frames are freed before the flush; "
    "release_pt stands before that"
)
FAST_DRAFT = f"{DRAFT}; in fast mode that is always after the frame was freed"


async def look_from_page(cpu: Cpu, vma: VmAreaStruct, lock: Word, linked: Word) -> None:
    """Clear A of the entry that maps the first page, if its mapping is on the list.

    C: page_referenced_anon, page_referenced_file and page_referenced_one, mm/rmap.c
    """
    await spin_lock(lock)
    if await load(linked) and await page_table_present(cpu, vma.vm_mm, ADDR):
        pte = await page_check_address(cpu, PAGE, vma.vm_mm, ADDR)
        if pte:
            await ptep_clear_flush_young(cpu, vma, ADDR, pte)
            await spin_unlock(vma.vm_mm.pte_lockptr(ADDR))
    await spin_unlock(lock)


async def reuse(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Use a page of the other address space, whose table needs a frame, if there is one."""
    if not await handle_mm_fault(cpu, vma, ADDR, OTHER_PAGE, UNTOUCHED):
        must_reach(cpu, await user_read(cpu, ADDR))


@scenario(
    *in_both_modes(
        variant("native", holds(NATIVELY), by=By.NATIVE),
        variant("vmi", holds(BEFORE_POOL), by=By.PAGE_TYPES),
    ),
    variant("vmi_promises", holds(BEFORE_POOL), by=By.PROMISES),
    variant("vmi_full_at_each", holds(BEFORE_POOL), by=By.PAGE_TYPES, gather=1),
    variant("released_after_remove", violated(FREE_FRAMES_ARE_NORMAL, DRAFT), by=By.PAGE_TYPES,
            free_tlb=Place.AFTER),
    variant("released_after_remove_promises", violated(MAPPED_PAGES_ARE_REACHABLE, DRAFT),
            by=By.PROMISES, free_tlb=Place.AFTER),
    *(
        variant(f"walker_{name}{how}", expected, by=by, walks=True, file=file, unlinks_first=first)
        for name, file in (("", False), ("file_", True))
        for how, expected, by, first in (
            ("native", holds(HIDDEN_FIRST), By.NATIVE, True),
            ("vmi", holds(HIDDEN_FIRST), By.PAGE_TYPES, True),
            ("hidden_late", violated(NO_ACCESS_TO_FREED_FRAME, FOUND_LATE), By.NATIVE, False),
        )
    ),
    variant("fast_native", holds(FAST), by=By.NATIVE, fast=True),
    variant("fast_vmi", holds(FAST), by=By.PAGE_TYPES, fast=True),
    variant("fast_promises", holds(FAST), by=By.PROMISES, fast=True),
    variant("fast_released_after_remove", violated(FREE_FRAMES_ARE_NORMAL, FAST_DRAFT),
            by=By.PAGE_TYPES, fast=True, free_tlb=Place.AFTER),
)  # fmt: skip
def free_pgtables(
    setup: Setup,
    *,
    by: By,
    gather: int = 3,
    free_tlb: Place = Place.BEFORE,
    walks: bool = False,
    file: bool = False,
    unlinks_first: bool = True,
    fast: bool = False,
    paging: Paging = NON_PAE,
) -> None:
    """Two page tables are unmapped and freed while others use them, walk to them, or take them."""
    numbers = (0,) if fast else (0, 1)
    tables = ((0, TABLE), (OTHER_ADDR >> paging.pmd_shift, OTHER_TABLE))
    pd, other_pd = directories(paging, (PGD, OTHER_PGD), ADDR)
    pmds = ((0, pd),) if paging.is_pae else ()
    mm = MmStruct(1, PGD, tables, numbers, pmds=pmds, paging=paging)
    other = MmStruct(2, OTHER_PGD, cpus=(2,), paging=paging)
    vma = VmAreaStruct(mm, ADDR, OTHER_ADDR + PAGE_SIZE, file)
    linux = Linux(
        page_hooks=PageHooks(free_tlb=free_tlb), frames=TABLES, gather=gather,
        unlinks_first=unlinks_first, online=numbers,
    )  # fmt: skip
    guest = Memory(
        (
            *links(paging, (PGD, OTHER_PGD), ADDR),
            *((pd, index, entry(table, PAGE_TABLE)) for index, table in tables),
            (TABLE, 1, entry(PAGE, TOUCHED)),
            (OTHER_TABLE, 0, entry(SECOND_PAGE, TOUCHED)),
        ),
        owners=((OTHER_PAGE, 2),),
        paging=paging,
    )
    frames = ((pd, PD), (other_pd, PD), (TABLE, PT), (OTHER_TABLE, PT))
    hypervisor = hypervisor_of(by, frames)
    pages = (ADDR, OTHER_ADDR)
    cpu0 = vcpu(setup, 0, mm, guest, hypervisor, pages, linux=linux)
    unmap = call(unmap_region, cpu0, (vma,))
    demand_normal_when_free(setup, cpu0, TABLES)
    if fast:
        on_one_cpu(setup, cpu0, unmap)
        return
    cpu1 = vcpu(setup, 1, mm, guest, hypervisor, pages, linux=linux)
    cpu2 = vcpu(setup, 2, other, guest, hypervisor, (ADDR,), linux=linux, alone=True)
    setup.cpu(0, unmap)
    if walks:
        lock, linked = (i_mmap_lock, on_i_mmap) if file else (anon_vma_lock, on_anon_vma)
        setup.cpu(1, call(look_from_page, cpu1, vma, lock, linked(vma)))
    else:
        setup.cpu(1, call(user_write, cpu1, ADDR), call(user_read, cpu1, OTHER_ADDR))
        page = value(guest.page(PAGE)) >> VERSION_SHIFT
        setup.sometimes("the page was used first", finished("cpu1") & (page != 0))
        setup.sometimes("unmapping stopped the use", finished("cpu1") & (page == 0))
    setup.cpu(2, call(reuse, cpu2, VmAreaStruct(other)))
    owners = [value(guest.page(table)) & PAGE_OWNER == 2 << OWNER_SHIFT for table in TABLES]
    setup.sometimes("a frame was reused", finished("cpu2") & any_of(*owners))
    both = all_of(*(free(cpu0, table) for table in TABLES))
    setup.sometimes("both tables were freed", finished("cpu0") & both)


def on_one_cpu(setup: Setup, cpu: Cpu, unmap: Call) -> None:
    """Let one CPU unmap and go on, beside interrupts that allocate, and its own walks."""
    install_device(setup, cpu, TABLES)
    install_walker(setup, cpu)
    after = [call(user_read, cpu, page) for page in cpu.pages]
    setup.cpu(0, call(user_write, cpu, ADDR), unmap, *after)
    taken = value(cpu.memory.page(TABLE)) & PAGE_OWNER == INIT_MM_NUMBER << OWNER_SHIFT
    setup.sometimes("an interrupt took the frame", taken)
