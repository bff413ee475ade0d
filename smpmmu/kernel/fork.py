"""fork(2): the parent's entries are write-protected and copied, with one flush at the end.

It must not know any hypervisor. Source: kernel/fork.c and mm/memory.c, Linux 2.6.21.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, holds, routine
from smpmmu.engine.steps import load
from smpmmu.kernel.paravirt import arch_enter_lazy_mmu_mode, arch_leave_lazy_mmu_mode
from smpmmu.kernel.pgtable import ptep_set_wrprotect, read_pte, set_pte_at
from smpmmu.kernel.smp import flush_tlb_mm
from smpmmu.machine.entries import PAGE_ACCESSED, PAGE_DIRTY, PAGE_PRESENT, PAGE_RW
from smpmmu.machine.memory import PAGE_SIZE
from smpmmu.machine.rwsem import down_write, up_write
from smpmmu.machine.spinlock import spin_lock, spin_unlock

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct, VmAreaStruct
    from smpmmu.machine.cpu import Cpu


async def dup_mmap(cpu: Cpu, mm: MmStruct, vma: VmAreaStruct, addr: int, end: int) -> None:
    """Copy the mapping `vma` of `addr` to `end`, within one page table, to the child's `mm`.

    C: dup_mmap
    Model: there is one mapping. The child's mmap_sem is left out: nobody knows the child yet.
    """
    await down_write(vma.vm_mm.mmap_sem)
    await copy_page_range(cpu, mm, vma, addr, end)
    # No lock of an entry is held: siblings may still write through what they have cached, but
    # no fault of theirs is handled.
    await flush_tlb_mm(cpu, vma.vm_mm)
    await up_write(vma.vm_mm.mmap_sem)


async def copy_page_range(
    cpu: Cpu, dst_mm: MmStruct, vma: VmAreaStruct, addr: int, end: int
) -> None:
    """Copy the entries of a mapping.

    C: copy_page_range, copy_pud_range, copy_pmd_range
    Holds: mmap_sem for writing
    Model: the mapping has had anonymous pages (else nothing is copied) and lies in one page table.
    The child has that table: nobody else could give it one.
    """
    bug_on(not await holds(vma.vm_mm.mmap_sem), "mmap_sem_held_in_copy_page_range")
    step = cpu.linux.copy_break * PAGE_SIZE or end - addr
    for begin in range(addr, end, step):
        await copy_pte_range(cpu, dst_mm, vma, begin, min(begin + step, end))


@routine
async def copy_pte_range(
    cpu: Cpu, dst_mm: MmStruct, vma: VmAreaStruct, addr: int, end: int
) -> None:
    """Copy entries of one page table, until it is time to give the locks up.

    C: copy_pte_range, once from `again`
    Model: what is time (need_resched, need_lockbreak) is the kernel's knob `copy_break`; the caller
    goes on with the rest. Entries of swapped pages are left out: nothing translates by them.
    """
    src_mm = vma.vm_mm
    dst_ptl, src_ptl = dst_mm.pte_lockptr(addr), src_mm.pte_lockptr(addr)
    await spin_lock(dst_ptl)
    await spin_lock(src_ptl)
    await arch_enter_lazy_mmu_mode(cpu)
    for address in range(addr, end, PAGE_SIZE):
        if not await load(cpu.memory.at(src_mm.pte_offset(address)), PAGE_PRESENT):
            continue
        await copy_one_pte(cpu, dst_mm, vma, address)
    await arch_leave_lazy_mmu_mode(cpu)
    await spin_unlock(src_ptl)
    await spin_unlock(dst_ptl)
    await arch_leave_lazy_mmu_mode(cpu, late=True)


async def copy_one_pte(cpu: Cpu, dst_mm: MmStruct, vma: VmAreaStruct, addr: int) -> None:
    """Take the right to write away, if writes are to copy, and give the child the entry.

    C: copy_one_pte
    Holds: the ptl of both entries
    Model: the counts of references and mappings are left out; see who frees the page.
    """
    src_mm = vma.vm_mm
    src_pte, dst_pte = src_mm.pte_offset(addr), dst_mm.pte_offset(addr)
    pte = await read_pte(cpu, src_pte)
    if not vma.shared:
        # A walker may set A or D in the parent's entry from here on; the child's copy has what was.
        await ptep_set_wrprotect(cpu, src_mm, addr, src_pte)
        # Reading it again could find what is still held back.
        pte = await read_pte(cpu, src_pte) if cpu.linux.copy_rereads else pte & ~PAGE_RW
    else:
        pte &= ~PAGE_DIRTY
    pte &= ~PAGE_ACCESSED
    await set_pte_at(cpu, dst_mm, addr, dst_pte, pte)
