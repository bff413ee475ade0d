"""Changing page-table entries, as include/asm-i386/pgtable.h has it with the first patch.

It must not know any hypervisor. Source: Linux 2.6.21, and 789e6ac0a7c for the hooks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, holds, routine
from smpmmu.engine.steps import Step
from smpmmu.machine.entries import ENTRY, PAGE_BIT_RW

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct
    from smpmmu.machine.cpu import Cpu


async def clear_bit(cpu: Cpu, nr: int, addr: int) -> None:
    """Clear bit `nr` of the entry at `addr` with a locked instruction.

    C: clear_bit, include/asm-i386/bitops.h
    """
    word, bit = cpu.memory.at(addr), 1 << nr
    await Step(f"clear_bit {ENTRY.show(bit)} {word.name}", word, and_mask=word.mask & ~bit)


@routine
async def ptep_set_wrprotect(cpu: Cpu, mm: MmStruct, addr: int, ptep: int) -> None:
    """Take the right to write away; the caller must flush.

    C: ptep_set_wrprotect, include/asm-i386/pgtable.h
    Holds: mm->page_table_lock
    """
    bug_on(not await holds(mm.page_table_lock), "ptl_held_in_ptep_set_wrprotect")
    # The walker of another CPU may set A or D at any moment: the instruction is locked.
    await clear_bit(cpu, PAGE_BIT_RW, ptep)
    await cpu.pv.pte_update(cpu, mm, addr, ptep)
