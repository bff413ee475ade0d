"""mremap(2): entries are moved to another address, each flushed before its lock is released.

It must not know any hypervisor. Source: mm/mremap.c, Linux 2.6.21; for the flush after the locks
eb66ae030829 (4.19), which took it back (CVE-2018-18281).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, holds, routine
from smpmmu.kernel.free_pgtables import i_mmap_lock
from smpmmu.kernel.paravirt import arch_enter_lazy_mmu_mode, arch_leave_lazy_mmu_mode
from smpmmu.kernel.pgtable import ptep_clear_flush, ptep_get_and_clear, read_pte, set_pte_at
from smpmmu.kernel.smp import flush_tlb_range
from smpmmu.machine.memory import PAGE_SIZE
from smpmmu.machine.rwsem import down_write, up_write
from smpmmu.machine.spinlock import spin_lock, spin_unlock

if TYPE_CHECKING:
    from smpmmu.kernel.mm import VmAreaStruct
    from smpmmu.machine.cpu import Cpu


@routine
async def sys_mremap(cpu: Cpu, vma: VmAreaStruct, addr: int, end: int, new_addr: int) -> None:
    """Move the mapping of `addr` to `end` to `new_addr`.

    C: sys_mremap, move_vma
    Model: what is left at the old address is a mapping without entries, which is taken away.
    """
    await down_write(vma.vm_mm.mmap_sem)
    await move_page_tables(cpu, vma, addr, end, new_addr)
    await up_write(vma.vm_mm.mmap_sem)


async def move_page_tables(
    cpu: Cpu, vma: VmAreaStruct, old_addr: int, old_end: int, new_addr: int
) -> None:
    """Move entries from one page table to another, or within one.

    C: move_page_tables
    Holds: mmap_sem for writing
    Model: at most LATENCY_LIMIT (64) pages are moved with the locks held: here there are fewer.
    """
    bug_on(not await holds(vma.vm_mm.mmap_sem), "mmap_sem_held_in_move_page_tables")
    await move_ptes(cpu, vma, old_addr, old_end, new_addr)
    if not cpu.linux.mremap_flushes_locked:
        await flush_tlb_range(cpu, vma, old_addr, old_end)


@routine
async def move_ptes(
    cpu: Cpu, vma: VmAreaStruct, old_addr: int, old_end: int, new_addr: int
) -> None:
    """Move entries, each of them flushed when it is gone from the old place.

    C: move_ptes
    Model: vm_truncate_count is left out, by which a truncation that
    was broken off knows where to go on. move_pte changes nothing on i386.
    """
    mm = vma.vm_mm
    if vma.vm_file and cpu.linux.mremap_locks_file:
        # A truncation could otherwise have cleaned the new place before entries come there.
        await spin_lock(i_mmap_lock)
    # mmap_sem is held for writing, so nobody else nests these two.
    old_ptl, new_ptl = mm.pte_lockptr(old_addr), mm.pte_lockptr(new_addr)
    await spin_lock(old_ptl)
    if new_ptl != old_ptl:
        await spin_lock(new_ptl)
    await arch_enter_lazy_mmu_mode(cpu)
    for offset in range(0, old_end - old_addr, PAGE_SIZE):
        await move_one_pte(cpu, vma, old_addr + offset, new_addr + offset)
    await arch_leave_lazy_mmu_mode(cpu)
    if new_ptl != old_ptl:
        await spin_unlock(new_ptl)
    await spin_unlock(old_ptl)
    await arch_leave_lazy_mmu_mode(cpu, late=True)
    if vma.vm_file and cpu.linux.mremap_locks_file:
        await spin_unlock(i_mmap_lock)


async def move_one_pte(cpu: Cpu, vma: VmAreaStruct, old_addr: int, new_addr: int) -> None:
    """Move one entry, if there is one.

    C: move_ptes, the body of its loop
    Holds: the ptl of both entries
    """
    mm = vma.vm_mm
    old_pte, new_pte = mm.pte_offset(old_addr), mm.pte_offset(new_addr)
    if not await read_pte(cpu, old_pte):
        return
    if cpu.linux.mremap_flushes_locked:
        pte = await ptep_clear_flush(cpu, vma, old_addr, old_pte)
    else:
        pte = await ptep_get_and_clear(cpu, mm, old_addr, old_pte)
    # From here the page can be found, and taken away, at its new address alone.
    await set_pte_at(cpu, mm, new_addr, new_pte, pte)
