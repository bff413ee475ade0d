"""Pages looked up in a process's tables, with a reference: get_user_pages, get_page, put_page.

It must not know any hypervisor. Source: mm/memory.c, mm/swap.c, Linux 2.6.27.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, routine
from smpmmu.engine.steps import Word, fetch_add, load
from smpmmu.kernel.page_alloc import free_page
from smpmmu.machine.entries import PAGE_PRESENT, pfn_of
from smpmmu.machine.spinlock import spin_lock, spin_unlock

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct
    from smpmmu.machine.cpu import Cpu


def page_count(pfn: int) -> Word:
    """Return page->_count, the references to a page: at first that of its one mapping."""
    return Word(f"page {pfn:#x} count", 3, 1)


async def get_page(pfn: int) -> None:
    """Take a reference to a page that somebody else keeps meanwhile.

    C: get_page, with its VM_BUG_ON
    """
    before = await fetch_add(page_count(pfn), 1, page_count(pfn).mask)
    bug_on(before == 0, "nobody_takes_a_reference_to_a_free_page")


async def put_page(cpu: Cpu, pfn: int) -> None:
    """Drop a reference; who drops the last one frees the page.

    C: put_page, put_page_testzero
    """
    if await fetch_add(page_count(pfn), -1, page_count(pfn).mask) == 1:
        await free_page(cpu, pfn)


@routine
async def get_user_page(cpu: Cpu, mm: MmStruct, start: int) -> int:
    """Return the page at `start` with a reference, or 0 if there is none.

    C: get_user_pages, follow_page with FOLL_GET, for one page
    Model: what is not mapped is not brought back; the page is writable. mmap_sem is held for
    reading, which holds up nobody who unmaps a page through its reverse mappings.
    """
    ptl = mm.pte_lockptr(start)
    await spin_lock(ptl)
    pte = await load(cpu.memory.at(mm.pte_offset(start)))
    pfn = pfn_of(pte) if pte & PAGE_PRESENT else 0
    if pfn:
        await get_page(pfn)
    await spin_unlock(ptl)
    return pfn
