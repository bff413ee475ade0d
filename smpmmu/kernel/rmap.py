"""Walking from a page to the entries that map it: reference bits, and unmapping for reclaim.

It must not know any hypervisor. Source: mm/rmap.c, Linux 2.6.21. The lock of the reverse mapping
(anon_vma->lock or i_mmap_lock) is left out: it keeps two walkers of one page apart, so that there
are more interleavings here, never fewer; and nobody walks beside another walker in the catalogue.
Nothing here holds mmap_sem.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smpmmu.engine.routines import routine
from smpmmu.engine.steps import load
from smpmmu.kernel.page_writeback import set_page_dirty
from smpmmu.kernel.pgtable import ptep_clear_flush, ptep_clear_flush_young, read_pte, set_pte_at
from smpmmu.machine.entries import FRAME, PAGE_DIRTY, PAGE_PRESENT, PAGE_RW, pfn_of
from smpmmu.machine.spinlock import spin_lock, spin_unlock

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct, VmAreaStruct
    from smpmmu.machine.cpu import Cpu


class Swap(enum.Enum):
    """What came of unmapping a page."""

    SUCCESS = "success"
    """It was mapped and is no more."""
    AGAIN = "again"
    """It was not mapped."""
    FAIL = "fail"
    """It is in use."""


@routine
async def page_check_address(
    cpu: Cpu, pfn: int, mm: MmStruct, address: int, *, sync: bool = False
) -> int:
    """Return the entry that maps the page at `address`, with its ptl held; 0 if it does not.

    With `sync` it is certain of that: since 479db0bf408 (2.6.27) it can be asked to look under the
    ptl alone.

    C: page_check_address
    Model: the upper levels stay in place here, and are not read.
    """
    pte = mm.pte_offset(address)
    # A quick look without the lock; whoever fills the entry after it was not seen.
    if not sync and not await load(cpu.memory.at(pte), PAGE_PRESENT):
        return 0
    ptl = mm.pte_lockptr(address)
    await spin_lock(ptl)
    found = await read_pte(cpu, pte, FRAME | PAGE_PRESENT)
    if found & PAGE_PRESENT and pfn_of(found) == pfn:
        return pte
    await spin_unlock(ptl)
    return 0


@routine
async def page_referenced_one(cpu: Cpu, pfn: int, vma: VmAreaStruct, address: int) -> bool:
    """Clear the accessed bit of the entry for `address` if it maps the page; whether it was set.

    C: page_referenced_one
    Model: the swap token is left out, which changes the result and no entry.
    """
    pte = await page_check_address(cpu, pfn, vma.vm_mm, address)
    if not pte:
        return False
    referenced = await ptep_clear_flush_young(cpu, vma, address, pte)
    await spin_unlock(vma.vm_mm.pte_lockptr(address))
    return referenced


@routine
async def try_to_unmap_one(
    cpu: Cpu, pfn: int, vma: VmAreaStruct, address: int, *, migration: bool
) -> Swap:
    """Unmap the page at `address`, unless it was used of late; `migration` takes it anyway.

    C: try_to_unmap_one
    Model: the swap entry that an anonymous page leaves is left out: it is as absent as none.
    The count of mappings is the caller's, who knows who maps the page.
    """
    pte = await page_check_address(cpu, pfn, vma.vm_mm, address)
    if not pte:
        return Swap.AGAIN
    ptl = vma.vm_mm.pte_lockptr(address)
    if not migration and await ptep_clear_flush_young(cpu, vma, address, pte):
        await spin_unlock(ptl)
        return Swap.FAIL
    pteval = await ptep_clear_flush(cpu, vma, address, pte)
    # Nobody can write any more: the mark moves to the page.
    if pteval & PAGE_DIRTY:
        await set_page_dirty(cpu, pfn)
    await spin_unlock(ptl)
    return Swap.SUCCESS


@routine
async def page_mkclean_one(
    cpu: Cpu, pfn: int, vma: VmAreaStruct, address: int, *, sync: bool = True
) -> bool:
    """Clear D and the right to write, so that the next write is noticed; whether one was set.

    C: page_mkclean_one; `sync` since 479db0bf408 (2.6.27)
    """
    mm = vma.vm_mm
    pte = await page_check_address(cpu, pfn, mm, address, sync=sync)
    if not pte:
        return False
    ret = await load(cpu.memory.at(pte), PAGE_DIRTY | PAGE_RW) != 0
    if ret:
        # No CPU has D cached any more when the clean entry appears.
        entry = await ptep_clear_flush(cpu, vma, address, pte)
        await set_pte_at(cpu, mm, address, pte, entry & ~(PAGE_DIRTY | PAGE_RW))
    await spin_unlock(mm.pte_lockptr(address))
    return ret


async def page_referenced(cpu: Cpu, pfn: int, vmas: tuple[VmAreaStruct, ...], address: int) -> bool:
    """Clear the accessed bits of all entries that map the page; whether one was set.

    C: page_referenced
    Model: the bit that the page itself has is left out.
    """
    referenced = False
    for vma in vmas:
        referenced |= await page_referenced_one(cpu, pfn, vma, address)
    return referenced


@routine
async def try_to_unmap(
    cpu: Cpu, pfn: int, vmas: tuple[VmAreaStruct, ...], address: int, *, migration: bool
) -> Swap:
    """Unmap a page everywhere; SUCCESS if it was mapped and nobody maps it any more.

    C: try_to_unmap, try_to_unmap_anon
    Model: `vmas` are all that can map the page, a parent's before its child's as anon_vma has
    them: a child's entry appears, if at all, before the parent's is cleared. So no count of
    mappings is needed to know when the last is gone.
    """
    ret = Swap.AGAIN
    for vma in vmas:
        result = await try_to_unmap_one(cpu, pfn, vma, address, migration=migration)
        if result is Swap.FAIL:
            return Swap.FAIL
        if result is Swap.SUCCESS:
            ret = Swap.SUCCESS
    return ret
