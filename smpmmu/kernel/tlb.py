"""The mmu_gather: pages that are unmapped wait in it until a flush, and are freed after that.

It must not know any hypervisor. Source: include/asm-generic/tlb.h, Linux 2.6.21. There is one for
each CPU, and who has it may not be preempted, which does not exist here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import routine
from smpmmu.engine.steps import Word, load, store
from smpmmu.kernel.page_alloc import free_page
from smpmmu.kernel.smp import flush_tlb_mm
from smpmmu.machine.entries import PAGE_SHIFT

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct
    from smpmmu.machine.cpu import Cpu


def gathered(cpu: Cpu, nr: int) -> Word:
    """Return a slot of this CPU's mmu_gather: a frame, or 0."""
    width = cpu.memory.paging.entry_bits - PAGE_SHIFT
    return Word(f"{cpu.name}.mmu_gather.pages[{nr}]", width, owner=cpu.name)


def need_flush(cpu: Cpu) -> Word:
    """Return whether pages were unmapped since the last flush; needed in fast mode alone."""
    return Word(f"{cpu.name}.mmu_gather.need_flush", 1, owner=cpu.name)


def tlb_fast_mode(cpu: Cpu) -> bool:
    """Whether pages are freed at once: no other CPU is online that could still use them.

    C: tlb_fast_mode, tlb_gather_mmu
    """
    return len(cpu.linux.online) == 1


async def tlb_remove_page(cpu: Cpu, mm: MmStruct, page: int) -> None:
    """Free a page after the next flush; flush and free if there is no room for more.

    C: tlb_remove_page
    """
    if not await remove_page(cpu, page):
        # The caller may hold the ptl, and may be in lazy MMU mode.
        await tlb_flush_mmu(cpu, mm)


async def remove_page(cpu: Cpu, page: int) -> bool:
    """Gather a page, or free it in fast mode; False if there is no room for more.

    C: tlb_remove_page; __tlb_remove_page since the rework of the mmu_gather
    Model: need_flush is whether there are pages, nr how many; both are private to the CPU.
    """
    if tlb_fast_mode(cpu):
        await store(need_flush(cpu), 1)
        await free_page(cpu, page)
        return True
    for nr in range(cpu.linux.gather):
        if not await load(gathered(cpu, nr)):
            await store(gathered(cpu, nr), page)
            room: bool = nr + 1 < cpu.linux.gather
            return room
    return False


@routine
async def tlb_flush_mmu(cpu: Cpu, mm: MmStruct) -> None:
    """Flush, and free what was gathered.

    C: tlb_flush_mmu, free_pages_and_swap_cache
    """
    if tlb_fast_mode(cpu):
        if await load(need_flush(cpu)):
            await store(need_flush(cpu), 0)
            await flush_tlb_mm(cpu, mm)
        return
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
