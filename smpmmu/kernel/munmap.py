"""munmap(2): entries are cleared under the ptl, and pages freed after one flush at the end.

It must not know any hypervisor. Source: mm/memory.c, mm/mmap.c and include/asm-generic/tlb.h, Linux
2.6.21.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import routine
from smpmmu.engine.steps import load
from smpmmu.kernel.free_pgtables import i_mmap_lock
from smpmmu.kernel.page_alloc import free_page
from smpmmu.kernel.paravirt import arch_enter_lazy_mmu_mode, arch_leave_lazy_mmu_mode
from smpmmu.kernel.pgtable import ptep_get_and_clear
from smpmmu.kernel.smp import flush_tlb_mm, flush_tlb_page
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


async def unmap_mapping_range(cpu: Cpu, vma: VmAreaStruct, addresses: tuple[int, ...]) -> None:
    """Unmap a page of a file that is truncated, wherever `vma` has it, and free it.

    C: vmtruncate, unmap_mapping_range, zap_page_range
    Model: the addresses are those of mappings in the order of the file's tree; each is zapped with
    a mmu_gather of its own. No mmap_sem is held. The page is freed when it is out of the page
    cache, which is after the last mapping.
    """
    await spin_lock(i_mmap_lock)
    found = 0
    for addr in addresses:
        pfn = await zap_pte_range(cpu, vma, addr)
        if pfn and cpu.linux.zap_flushes_page:
            await flush_tlb_page(cpu, vma, addr)
        elif pfn:
            await flush_tlb_mm(cpu, vma.vm_mm)
        found |= pfn
    await spin_unlock(i_mmap_lock)
    if found:
        await free_page(cpu, found)


@routine
async def zap_pte_range(cpu: Cpu, vma: VmAreaStruct, addr: int) -> int:
    """Clear the entry for `addr`; return the page that is to be freed after a flush, or 0.

    C: zap_pte_range, ptep_get_and_clear_full with full = 0
    Model: an anonymous page, whose dirty mark dies with it.
    """
    mm = vma.vm_mm
    pte = mm.pte_offset(addr)
    await spin_lock(mm.pte_lockptr(addr))
    await arch_enter_lazy_mmu_mode(cpu)
    pfn = 0
    if await load(cpu.memory.at(pte), PAGE_PRESENT):
        pfn = pfn_of(await ptep_get_and_clear(cpu, mm, addr, pte))
    await arch_leave_lazy_mmu_mode(cpu)
    await spin_unlock(mm.pte_lockptr(addr))
    await arch_leave_lazy_mmu_mode(cpu, late=True)
    return pfn
