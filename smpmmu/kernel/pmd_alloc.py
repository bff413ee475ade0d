"""Page directories on demand, in PAE: the root's entry appears while the root is loaded.

It must not know any hypervisor. Source: mm/memory.c, and arch/x86/mm/pgtable.c since 6194ba6ff6c
(2.6.25). Until then pgd_alloc filled all entries of the root before anybody could load it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import routine
from smpmmu.engine.steps import load
from smpmmu.kernel.smp import flush_tlb_mm
from smpmmu.machine.cpu import read_cr3
from smpmmu.machine.entries import PAGE_PRESENT, entry
from smpmmu.machine.spinlock import spin_lock, spin_unlock

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct
    from smpmmu.machine.cpu import Cpu


@routine
async def pmd_alloc(cpu: Cpu, mm: MmStruct, address: int, new: int) -> None:
    """Give `address` the page directory `new` if it has none.

    C: pmd_alloc, __pmd_alloc
    Model: `new` leads to a page already. Nothing below the root is kept by processors, so that
    filling it makes no difference here.
    """
    pud = mm.pud_offset(address)
    if await load(cpu.memory.at(pud), PAGE_PRESENT):
        return
    await spin_lock(mm.page_table_lock)
    if not await load(cpu.memory.at(pud), PAGE_PRESENT):
        await pud_populate(cpu, mm, pud, new)
    await spin_unlock(mm.page_table_lock)


@routine
async def pud_populate(cpu: Cpu, mm: MmStruct, pudp: int, pmd: int) -> None:
    """Write an entry of the root, and have processors fetch it.

    C: pud_populate
    Holds: mm->page_table_lock
    """
    await cpu.pv.set_pud(cpu, pudp, entry(pmd, PAGE_PRESENT))
    # In memory only: processors that run mm keep the entry as it was.
    if cpu.linux.pud_populate_flushes:
        await flush_tlb_mm(cpu, mm)
    elif cpu.mm.number == mm.number:
        await cpu.pv.write_cr3(cpu, await read_cr3(cpu))
