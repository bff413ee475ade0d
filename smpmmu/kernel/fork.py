"""fork(2): the parent's entries are write-protected and copied, with one flush at the end.

It must not know any hypervisor. Source: kernel/fork.c and mm/memory.c, Linux 2.6.21.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import routine
from smpmmu.engine.steps import load
from smpmmu.kernel.pgtable import ptep_set_wrprotect, read_pte, set_pte_at
from smpmmu.kernel.smp import flush_tlb_mm
from smpmmu.machine.entries import PAGE_ACCESSED, PAGE_PRESENT, PAGE_RW
from smpmmu.machine.memory import PAGE_SIZE
from smpmmu.machine.spinlock import spin_lock, spin_unlock

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct, VmAreaStruct
    from smpmmu.machine.cpu import Cpu


async def dup_mmap(cpu: Cpu, mm: MmStruct, vma: VmAreaStruct, addr: int, end: int) -> None:
    """Copy the mapping `vma` of `addr` to `end`, within one page table, to the child's `mm`.

    C: dup_mmap
    Model: mmap_sem is held for writing until after the flush, so that no fault of a sibling is
    handled in between; the siblings here do not handle faults at all.
    """
    await copy_pte_range(cpu, mm, vma.vm_mm, addr, end)
    # No lock of an entry is held: siblings may still write through what they have cached.
    await flush_tlb_mm(cpu, vma.vm_mm)


@routine
async def copy_pte_range(cpu: Cpu, dst_mm: MmStruct, src_mm: MmStruct, addr: int, end: int) -> None:
    """Copy the entries of one page table.

    C: copy_pte_range
    Model: lazy MMU mode is entered and left under both locks, and here hooks are not batched. The
    break under load is left out: it falls between entries.
    """
    dst_ptl, src_ptl = dst_mm.pte_lockptr(addr), src_mm.pte_lockptr(addr)
    await spin_lock(dst_ptl)
    await spin_lock(src_ptl)
    for address in range(addr, end, PAGE_SIZE):
        if not await load(cpu.memory.at(src_mm.pte_offset(address)), PAGE_PRESENT):
            continue
        await copy_one_pte(cpu, dst_mm, src_mm, address)
    await spin_unlock(src_ptl)
    await spin_unlock(dst_ptl)


async def copy_one_pte(cpu: Cpu, dst_mm: MmStruct, src_mm: MmStruct, addr: int) -> None:
    """Take the right to write away, and give the child the entry without it.

    C: copy_one_pte, for a private mapping
    Holds: the ptl of both entries
    Model: the counts of references and mappings are left out; see who frees the page.
    """
    src_pte, dst_pte = src_mm.pte_offset(addr), dst_mm.pte_offset(addr)
    pte = await read_pte(cpu, src_pte)
    # A walker may set A or D in the parent's entry from here on; the child's copy has what was.
    await ptep_set_wrprotect(cpu, src_mm, addr, src_pte)
    pte &= ~(PAGE_RW | PAGE_ACCESSED)
    await set_pte_at(cpu, dst_mm, addr, dst_pte, pte)
