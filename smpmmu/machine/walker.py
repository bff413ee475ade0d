"""The memory-management unit: user accesses through the TLB, and the page-table walk.

One step per access: every level is read for itself, A and D are set by an atomic
read-modify-write, and no interrupt lands inside the instruction. It must not know Linux; the
hooks decide what a fault leads to. Source: the behaviour that `docs/model.md` lists under
"Walker" with its marks.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smpmmu.engine.routines import AGAIN, Again, bug_on, instruction, retry
from smpmmu.engine.steps import TAKEN, Step, cmpxchg, load, store
from smpmmu.machine.entries import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_USER,
    pfn_of,
)
from smpmmu.machine.memory import PAGE_FROZEN, pgd_index, pte_index

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

NO_WRITE_AFTER_PROMISE = "no_write_after_promise"


class Access(enum.Enum):
    """How a user access ended."""

    DONE = "done"
    FAULT = "fault"


async def user_write(cpu: Cpu, addr: int) -> Access:
    """Write to the user page of `addr`; FAULT if Linux is given a page fault.

    The instruction is begun anew after a hidden fault, and interrupts can land in between.
    """
    return await retry(store_instruction, cpu, addr)


@instruction
async def store_instruction(cpu: Cpu, addr: int) -> Access | Again:
    """Execute one store: TLB or walk, then the access; AGAIN after a hidden fault."""
    cached = await load(cpu.tlb(addr))
    if not allows(cached, write=True) or not cached & PAGE_DIRTY:
        found = await retry(walk, cpu, addr, write=True)
        if not found:
            return AGAIN if await cpu.pv.page_fault(cpu, addr, write=True) else Access.FAULT
        cached = found
        await store(cpu.tlb(addr), cached)
    await write_page(cpu, pfn_of(cached))
    return Access.DONE


async def walk(cpu: Cpu, addr: int, *, write: bool) -> int | Again:
    """Read the levels and set A (and D for a write); the leaf entry, 0 for a fault.

    AGAIN if an entry changed between being read and being marked: the walk begins anew, within
    the instruction.
    """
    directory = cpu.walked.table(cpu.cr3, pgd_index(addr))
    pde = await load(directory)
    if not allows(pde, write=write):
        return 0
    if not pde & PAGE_ACCESSED:
        set_accessed = await cmpxchg(directory, pde, pde | PAGE_ACCESSED)
        if not set_accessed & TAKEN:
            return AGAIN
    leaf = cpu.walked.table(pfn_of(pde), pte_index(addr))
    pte = await load(leaf)
    if not allows(pte, write=write):
        return 0
    wanted = pte | PAGE_ACCESSED | (PAGE_DIRTY if write else 0)
    if wanted != pte:
        # Another CPU may have changed the entry since it was read.
        updated = await cmpxchg(leaf, pte, wanted)
        if not updated & TAKEN:
            return AGAIN
    return wanted


def allows(entry: int, *, write: bool) -> bool:
    """Whether an entry of any level lets user code read, or write."""
    needed = PAGE_PRESENT | PAGE_USER | (PAGE_RW if write else 0)
    return entry & needed == needed


async def write_page(cpu: Cpu, pfn: int) -> None:
    """Change a data frame; a violation once somebody was promised that it stays as it is."""
    page = cpu.memory.page(pfn)
    frozen = await Step(f"write {page.name}", page, add=1, returns=PAGE_FROZEN)
    bug_on(frozen, NO_WRITE_AFTER_PROMISE)
