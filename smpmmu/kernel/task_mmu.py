"""Writing to /proc/pid/clear_refs: every page's accessed bit is cleared.

It must not know any hypervisor. Source: fs/proc/task_mmu.c, Linux 2.6.22-rc1 (b813e931b4c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import routine
from smpmmu.engine.steps import load
from smpmmu.kernel.pgtable import ptep_test_and_clear_young
from smpmmu.kernel.smp import flush_tlb_mm, flush_tlb_range
from smpmmu.machine.entries import PAGE_PRESENT
from smpmmu.machine.memory import PAGE_SIZE
from smpmmu.machine.spinlock import spin_lock, spin_unlock

if TYPE_CHECKING:
    from smpmmu.kernel.mm import VmAreaStruct
    from smpmmu.machine.cpu import Cpu


async def clear_refs_smap(cpu: Cpu, vma: VmAreaStruct, addresses: tuple[int, ...]) -> None:
    """Clear the accessed bits of the pages at `addresses`, each in a page table of its own.

    C: clear_refs_smap
    Model: mmap_sem is held for reading throughout. It keeps mappings and page tables in place, and
    holds up fork, mprotect and munmap; it does not hold up rmap walkers, who take the ptl alone.
    """
    for addr in addresses:
        await walk_pmd_range(cpu, vma, addr, addr + PAGE_SIZE)
    if not cpu.linux.clear_refs_flushes_locked:
        # No lock has been held for some time; what was cleared is stale in TLBs until here.
        await flush_tlb_mm(cpu, vma.vm_mm)


async def walk_pmd_range(cpu: Cpu, vma: VmAreaStruct, addr: int, end: int) -> None:
    """Go over a page table if there is one.

    C: walk_pmd_range
    Model: in PAE the root's entry, which never changes, is not read.
    """
    if await load(cpu.memory.at(vma.vm_mm.pmd_offset(addr)), PAGE_PRESENT):
        await clear_refs_pte_range(cpu, vma, addr, end)


@routine
async def clear_refs_pte_range(cpu: Cpu, vma: VmAreaStruct, addr: int, end: int) -> None:
    """Clear the accessed bits in one page table.

    C: clear_refs_pte_range
    Model: ClearPageReferenced is left out, a hint that no translation depends on. cond_resched
    is no step: anybody may run at any time anyway.
    """
    mm = vma.vm_mm
    ptl = mm.pte_lockptr(addr)
    changed = False
    await spin_lock(ptl)
    for address in range(addr, end, PAGE_SIZE):
        pte = mm.pte_offset(address)
        if not await load(cpu.memory.at(pte), PAGE_PRESENT):
            continue
        changed |= await ptep_test_and_clear_young(cpu, vma, address, pte)
    if changed and cpu.linux.clear_refs_flushes_locked:
        await flush_tlb_range(cpu, vma, addr, end)
    await spin_unlock(ptl)
    # From here the entries are believed by whoever takes the lock.
