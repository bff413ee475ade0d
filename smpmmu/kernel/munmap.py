"""munmap(2): entries are cleared under the ptl, and pages freed after one flush at the end.

It must not know any hypervisor. Source: mm/memory.c, mm/mmap.c and include/asm-generic/tlb.h, Linux
2.6.21.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import routine
from smpmmu.engine.steps import load
from smpmmu.kernel.page_alloc import free_page
from smpmmu.kernel.pgtable import ptep_get_and_clear
from smpmmu.kernel.smp import flush_tlb_mm
from smpmmu.machine.entries import PAGE_PRESENT, pfn_of
from smpmmu.machine.spinlock import spin_lock, spin_unlock

if TYPE_CHECKING:
    from smpmmu.kernel.mm import VmAreaStruct
    from smpmmu.machine.cpu import Cpu


async def unmap_region(cpu: Cpu, vma: VmAreaStruct, addr: int, *, frees: bool) -> None:
    """Unmap the page at `addr`; it `frees` the page unless somebody else keeps it.

    C: unmap_region, with tlb_finish_mmu
    Model: mmap_sem is held for writing, which does not hold up rmap walkers. The page table
    stays. Pages are not gathered over several page tables: there is one page.
    """
    pfn = await zap_pte_range(cpu, vma, addr)
    if pfn:
        # The entry is gone and its lock free; the page is still there for stale translations.
        await flush_tlb_mm(cpu, vma.vm_mm)
        if frees:
            await free_page(cpu, pfn)


@routine
async def zap_pte_range(cpu: Cpu, vma: VmAreaStruct, addr: int) -> int:
    """Clear the entry for `addr`; return the page that is to be freed after a flush, or 0.

    C: zap_pte_range, ptep_get_and_clear_full with full = 0
    Model: an anonymous page, whose dirty mark dies with it. Lazy MMU mode is entered and left
    under the lock, and here hooks are not batched.
    """
    mm = vma.vm_mm
    pte = mm.pte_offset(addr)
    await spin_lock(mm.pte_lockptr(addr))
    pfn = 0
    if await load(cpu.memory.at(pte), PAGE_PRESENT):
        pfn = pfn_of(await ptep_get_and_clear(cpu, mm, addr, pte))
    await spin_unlock(mm.pte_lockptr(addr))
    return pfn
