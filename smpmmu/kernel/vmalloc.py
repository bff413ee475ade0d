"""Kernel mappings: bringing page directories up to date, and taking an area away.

It must not know any hypervisor. Source: arch/x86/mm/fault.c and pgtable.c around a79e53d85683
(2.6.38), which took interrupts out of pgd_lock; mm/vmalloc.c, Linux 2.6.21.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import routine
from smpmmu.engine.steps import Word, load, store
from smpmmu.kernel.mm import INIT_MM
from smpmmu.kernel.smp import flush_tlb_all
from smpmmu.machine.entries import PAGE_PRESENT
from smpmmu.machine.memory import pgd_index
from smpmmu.machine.rwlock import rwlock, write_lock, write_unlock
from smpmmu.machine.spinlock import (
    spin_lock,
    spin_lock_irqsave,
    spin_unlock,
    spin_unlock_irqrestore,
    spinlock,
)

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct
    from smpmmu.machine.cpu import Cpu

VMALLOC_START = 0xF8800000

pgd_lock = spinlock("pgd_lock")
pgd_list = Word("pgd_list", 2, 0b11)
"""Whose directories are listed, a bit for each mm by its number; at first mm1's and mm2's."""

vmlist_lock = rwlock("vmlist_lock")
vmlist = Word("vmlist", 1, 1)
"""The list of areas, as far as somebody could see it change: the one area is on it."""


@routine
async def vmalloc_sync_all(cpu: Cpu, mms: tuple[MmStruct, ...], *, irqsave: bool) -> None:
    """Copy the kernel's directory entry for VMALLOC_START to every listed directory that lacks it.

    With `irqsave`, as before a79e53d85683, interrupts are off under pgd_lock.

    C: vmalloc_sync_all
    Model: one address; the C takes pgd_lock anew for each.
    """
    if irqsave:
        flags = await spin_lock_irqsave(pgd_lock)
    else:
        await spin_lock(pgd_lock)
    listed = await load(pgd_list)
    for mm in mms:
        if listed & mm.number:
            # Another CPU may hold this lock and wait for us to answer its shootdown.
            await spin_lock(mm.page_table_lock)
            await vmalloc_sync_one(cpu, mm.pgd, VMALLOC_START)
            await spin_unlock(mm.page_table_lock)
    if irqsave:
        await spin_unlock_irqrestore(pgd_lock, flags)
    else:
        await spin_unlock(pgd_lock)


@routine
async def vmalloc_sync_one(cpu: Cpu, pgd: int, address: int) -> None:
    """Copy the kernel's directory entry for `address` to the directory `pgd` if it is missing.

    C: vmalloc_sync_one
    Holds: pgd_lock; the page_table_lock of the directory's mm
    """
    pmd_k = await load(cpu.memory.table(INIT_MM.pgd, pgd_index(address)))
    if not pmd_k & PAGE_PRESENT:
        return
    pmd = cpu.memory.table(pgd, pgd_index(address))
    if not await load(pmd, PAGE_PRESENT):
        await store(pmd, pmd_k)


@routine
async def pgd_dtor(cpu: Cpu, mm: MmStruct) -> None:
    """Take a directory off the list.

    C: pgd_dtor, with pgd_lock a plain lock as after a79e53d85683
    Model: the list is a word of bits, so taking off what is off already changes nothing.
    """
    await spin_lock(pgd_lock)
    listed = await load(pgd_list)
    await store(pgd_list, listed & ~mm.number)
    await spin_unlock(pgd_lock)


@routine
async def remove_vm_area(cpu: Cpu, online: tuple[int, ...], *, flush_after_unlock: bool) -> None:
    """Unmap the area and take it off the list.

    With `flush_after_unlock`, unlike the C, readers of the list do not wait for the flush.

    C: remove_vm_area, __remove_vm_area, unmap_vm_area (whose flush_tlb_kernel_range is
        flush_tlb_all)
    Model: clearing the entries is left out: nobody uses the area.
    """
    await write_lock(vmlist_lock)
    if not flush_after_unlock:
        # Everybody must answer, also who waits for vmlist_lock.
        await flush_tlb_all(cpu, online)
    await store(vmlist, 0)
    await write_unlock(vmlist_lock)
    if flush_after_unlock:
        await flush_tlb_all(cpu, online)
