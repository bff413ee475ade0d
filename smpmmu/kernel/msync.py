"""msync(2): dirty marks move from entries to pages.

It must not know any hypervisor. Source: mm/msync.c, Linux 2.6.18. Since 2.6.19 (204ec841fbe) msync
does not look at entries, so that ptep_clear_flush_dirty had lost its caller when its hook came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.steps import load
from smpmmu.kernel.page_writeback import set_page_dirty
from smpmmu.kernel.pgtable import ptep_clear_flush_dirty, read_pte
from smpmmu.machine.entries import FRAME, PAGE_DIRTY, PAGE_PRESENT, pfn_of
from smpmmu.machine.memory import PAGE_SIZE
from smpmmu.machine.spinlock import spin_lock, spin_unlock

if TYPE_CHECKING:
    from smpmmu.kernel.mm import VmAreaStruct
    from smpmmu.machine.cpu import Cpu


async def msync_pte_range(cpu: Cpu, vma: VmAreaStruct, addr: int, end: int) -> None:
    """Move the dirty marks of one page table's entries to their pages.

    C: msync_pte_range
    Model: mmap_sem is held for reading. The break after 64 entries, under load, is left out: it
    takes the lock anew for the next entry, never between an entry's change and its flush.
    """
    mm = vma.vm_mm
    ptl = mm.pte_lockptr(addr)
    await spin_lock(ptl)
    for address in range(addr, end, PAGE_SIZE):
        pte = mm.pte_offset(address)
        word = cpu.memory.at(pte)
        if not await load(word, PAGE_PRESENT):
            continue
        if not await load(word, PAGE_DIRTY):
            continue
        pfn = pfn_of(await read_pte(cpu, pte, FRAME))
        if await ptep_clear_flush_dirty(cpu, vma, address, pte):
            # Every TLB is clean: whoever writes from here on marks the entry again.
            await set_page_dirty(cpu, pfn)
    await spin_unlock(ptl)
