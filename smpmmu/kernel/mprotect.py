"""mprotect(2): entries are rewritten with other rights under the ptl, and flushed after the last.

It must not know any hypervisor. Source: mm/mprotect.c, Linux 2.6.21.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, holds, routine
from smpmmu.engine.steps import load, store
from smpmmu.kernel.mm import VM_EXEC, VM_READ, VM_WRITE
from smpmmu.kernel.paravirt import arch_enter_lazy_mmu_mode, arch_leave_lazy_mmu_mode
from smpmmu.kernel.pgtable import pte_modify, ptep_get_and_clear, read_pte, set_pte_at
from smpmmu.kernel.smp import flush_tlb_range
from smpmmu.machine.entries import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_PROTNONE,
    PAGE_RW,
    PAGE_USER,
)
from smpmmu.machine.memory import PAGE_SIZE
from smpmmu.machine.rwsem import down_write, up_write
from smpmmu.machine.spinlock import spin_lock, spin_unlock

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct, VmAreaStruct
    from smpmmu.machine.cpu import Cpu


def page_prot(vma: VmAreaStruct, flags: int) -> int:
    """Return the rights of a mapping's entries.

    C: protection_map, PAGE_NONE to PAGE_SHARED_EXEC, as vm_page_prot has it in mprotect_fixup
    """
    if not flags & (VM_READ | VM_WRITE | VM_EXEC):
        return PAGE_PROTNONE | PAGE_ACCESSED
    writable = flags & VM_WRITE and vma.shared and not vma.notifies
    prot = PAGE_PRESENT | PAGE_USER | PAGE_ACCESSED | (PAGE_RW if writable else 0)
    return prot | (PAGE_NX if vma.vm_mm.paging.is_pae and not flags & VM_EXEC else 0)


@routine
async def sys_mprotect(cpu: Cpu, vma: VmAreaStruct, start: int, end: int, flags: int) -> None:
    """Give a mapping other rights; when it returns, nobody has any that were taken away.

    C: sys_mprotect
    Model: the mapping is the whole range.
    """
    await down_write(vma.vm_mm.mmap_sem)
    await mprotect_fixup(cpu, vma, start, end, flags)
    await up_write(vma.vm_mm.mmap_sem)


async def mprotect_fixup(cpu: Cpu, vma: VmAreaStruct, start: int, end: int, flags: int) -> None:
    """Change what the mapping allows, then its entries.

    C: mprotect_fixup
    Holds: mmap_sem for writing
    """
    bug_on(not await holds(vma.vm_mm.mmap_sem), "mmap_sem_held_in_mprotect_fixup")
    await store(vma.vm_flags, flags)
    accountable = vma.notifies and flags & VM_WRITE != 0
    prot = page_prot(vma, flags)
    await change_protection(cpu, vma, start, end, prot, dirty_accountable=accountable)


async def change_protection(
    cpu: Cpu, vma: VmAreaStruct, addr: int, end: int, newprot: int, *, dirty_accountable: bool
) -> None:
    """Change entries, and flush when all are.

    C: change_protection, with change_pud_range and change_pmd_range
    Model: one page table, and the entries that lead to it are not read: they stay while mmap_sem is
    held.
    """
    mm = vma.vm_mm
    await change_pte_range(cpu, mm, addr, end, newprot, dirty_accountable=dirty_accountable)
    # The lock is free. Until the flush others may write through what they have cached.
    if cpu.linux.mprotect_flushes:
        await flush_tlb_range(cpu, vma, addr, end)


@routine
async def change_pte_range(
    cpu: Cpu, mm: MmStruct, addr: int, end: int, newprot: int, *, dirty_accountable: bool
) -> None:
    """Change the entries of one page table.

    C: change_pte_range
    Model: entries of swapped pages are left out: nothing translates by them.
    """
    ptl = mm.pte_lockptr(addr)
    await spin_lock(ptl)
    await arch_enter_lazy_mmu_mode(cpu)
    for address in range(addr, end, PAGE_SIZE):
        pte = mm.pte_offset(address)
        if not await load(cpu.memory.at(pte), PAGE_PRESENT | PAGE_PROTNONE):
            continue
        # A walker may mark the entry until it is empty, and cannot then.
        if cpu.linux.mprotect_clears:
            ptent = await ptep_get_and_clear(cpu, mm, address, pte)
        else:
            ptent = await read_pte(cpu, pte)
        ptent = pte_modify(ptent, newprot)
        if dirty_accountable and ptent & PAGE_DIRTY:
            # It is accounted for already: the next write needs no fault.
            ptent |= PAGE_RW
        await set_pte_at(cpu, mm, address, pte, ptent)
    await arch_leave_lazy_mmu_mode(cpu)
    await spin_unlock(ptl)
    # Whoever takes the lock now must find walkers to see what is in memory.
    await arch_leave_lazy_mmu_mode(cpu, late=True)
