"""The memory-management unit: user accesses through the TLB, and the page-table walk.

One step per access: every level is read for itself, A and D are set by an atomic
read-modify-write, and no interrupt lands inside the instruction. It must not know Linux; the
hooks decide what a fault leads to. `speculation.py` has the walks that no instruction asks for.
Source: the behaviour that `docs/model.md` lists under "Walker" with its marks.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smpmmu.engine.routines import AGAIN, Again, bug_on, instruction, retry, routine
from smpmmu.engine.steps import Step, load, store
from smpmmu.machine.cpu import page_directory
from smpmmu.machine.entries import (
    FLAGS,
    PAGE_DIRTY,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    PAGE_UNUSED1,
    PAGE_UNUSED2,
    PAGE_UNUSED3,
    PAGE_USER,
    TLB_ENTRY,
    WALKING,
    allows,
    pfn_of,
    small_page,
)
from smpmmu.machine.marking import mark
from smpmmu.machine.memory import (
    OWNER_SHIFT,
    PAGE_FROZEN,
    PAGE_OWNER,
    VERSION_SHIFT,
    pmd_index,
    pte_index,
)
from smpmmu.machine.nested import both, second_level

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

NO_WRITE_AFTER_PROMISE = "no_write_after_promise"
NO_ACCESS_TO_FREED_FRAME = "no_access_to_freed_frame"

CACHED = FLAGS & ~(PAGE_UNUSED1 | PAGE_UNUSED2 | PAGE_UNUSED3)
"""Flags that a TLB keeps."""


class Access(enum.Enum):
    """How a user access ended."""

    DONE = "done"
    FAULT = "fault"
    EXIT = "exit"
    """The second level does not allow it: the guest is left, and its host is given the fault."""


async def user_read(cpu: Cpu, addr: int) -> Access:
    """Read the user page of `addr`; FAULT if Linux is given a page fault.

    The instruction is begun anew after a hidden fault, and interrupts can land in between.
    """
    return await retry(load_instruction, cpu, addr)


async def user_write(cpu: Cpu, addr: int) -> Access:
    """Write to the user page of `addr`, otherwise as `user_read`."""
    return await retry(store_instruction, cpu, addr)


async def user_execute(cpu: Cpu, addr: int) -> Access:
    """Fetch an instruction from the user page of `addr`, otherwise as `user_read`."""
    return await retry(fetch_instruction, cpu, addr)


@instruction
async def fetch_instruction(cpu: Cpu, addr: int) -> Access | Again:
    """Fetch one instruction: TLB or walk, then the access; AGAIN after a hidden fault."""
    pfn = await translate(cpu, addr, write=False, execute=True)
    if pfn is None:
        hidden = await cpu.pv.page_fault(cpu, addr, write=False, execute=True)
        return AGAIN if hidden else Access.FAULT
    if isinstance(pfn, Access):
        return pfn
    await read_page(cpu, pfn)
    return Access.DONE


@instruction
async def load_instruction(cpu: Cpu, addr: int) -> Access | Again:
    """Execute one load: TLB or walk, then the access; AGAIN after a hidden fault."""
    pfn = await translate(cpu, addr, write=False)
    if pfn is None:
        return AGAIN if await cpu.pv.page_fault(cpu, addr, write=False) else Access.FAULT
    if isinstance(pfn, Access):
        return pfn
    await read_page(cpu, pfn)
    return Access.DONE


@instruction
async def store_instruction(cpu: Cpu, addr: int) -> Access | Again:
    """Execute one store: TLB or walk, then the access; AGAIN after a hidden fault."""
    pfn = await translate(cpu, addr, write=True)
    if pfn is None:
        return AGAIN if await cpu.pv.page_fault(cpu, addr, write=True) else Access.FAULT
    if isinstance(pfn, Access):
        return pfn
    await write_page(cpu, pfn)
    return Access.DONE


@routine
async def translate(
    cpu: Cpu, addr: int, *, write: bool, execute: bool = False, user: bool = True
) -> int | Access | None:
    """Return the frame of `addr` from the TLB or by a walk that fills it; None for a fault.

    An entry that is cached without the right faults as it is; one that is cached writable and
    clean is walked again for a write, to set D. A fault drops what is cached, if it does so on
    this CPU. With second-level tables whatever does not suffice is walked again (unverified), and
    EXIT is a fault of theirs.
    """
    cached = await load(cpu.tlb(addr), ~WALKING)
    allowed = allows(cached, write=write, execute=execute, user=user)
    if allowed and (cached & PAGE_DIRTY or not write):
        return pfn_of(cached)
    found: int | Access = 0
    if allowed or not cached & PAGE_PRESENT or cpu.nested is not None:
        found = await retry(walk, cpu, addr, write=write, execute=execute, user=user)
    if not found or isinstance(found, Access):
        if cached & PAGE_PRESENT and cpu.fault_drops:
            await drop(cpu, addr)
        return found or None
    await fill_tlb(cpu, addr, found)
    return pfn_of(found)


async def walk(
    cpu: Cpu, addr: int, *, write: bool, execute: bool = False, user: bool = True
) -> int | Again | Access:
    """Read the levels and set A (and D for a write); the leaf with its rights, 0 for a fault.

    An entry is read at once, whatever it has of words. AGAIN if one changed between being read and
    being marked: the walk begins anew, within the instruction. EXIT if the second level does not
    allow it.
    """
    paging, pd = cpu.walked.paging, await page_directory(cpu, addr)
    frame = 0 if pd is None else await table_frame(cpu, pd)
    if not frame or not isinstance(frame, int):
        return frame
    directory = cpu.walked.table(frame, pmd_index(addr, paging))
    pde = await load(cpu.pde_cache(addr)) if cpu.caches_directory else 0
    is_kept = pde != 0
    if not is_kept:
        pde = await load(directory)
    if not allows(pde, write=write, execute=execute, user=user):
        return 0
    is_large = pde & PAGE_PSE != 0
    marked = await mark(cpu, directory, pde, write=write and is_large)
    if isinstance(marked, Again):
        return marked
    if cpu.caches_directory and not is_kept and not is_large:
        await store(cpu.pde_cache(addr), marked)
    if is_large:
        leaf: int | Again | Access = small_page(marked, pte_index(addr, paging))
    else:
        leaf = await walk_table(cpu, addr, marked, write=write, execute=execute, user=user)
    if not leaf or not isinstance(leaf, int):
        return leaf
    return await guest_page(cpu, leaf, write=write)


async def walk_table(
    cpu: Cpu, addr: int, pde: int, *, write: bool, execute: bool, user: bool
) -> int | Again | Access:
    """Read the leaf in the table that `pde` leads to, and set A (and D) in it; as `walk`."""
    frame = await table_frame(cpu, pfn_of(pde))
    if not isinstance(frame, int):
        return frame
    leaf = cpu.walked.table(frame, pte_index(addr, cpu.walked.paging))
    pte = await load(leaf)
    if not allows(pte, write=write, execute=execute, user=user):
        return 0
    marked = await mark(cpu, leaf, pte, write=write)
    return marked if isinstance(marked, Again) else combined(pde, marked)


async def table_frame(cpu: Cpu, frame: int) -> int | Again | Access:
    """Return where a table lies that the walk has come to: elsewhere only on the second level.

    There it is taken for written, as the walk may set A or D in it.
    """
    if cpu.nested is None:
        return frame
    second = await second_level(cpu, cpu.nested, frame, write=True)
    if isinstance(second, Again):
        return second
    return pfn_of(second) if second else Access.EXIT


async def guest_page(cpu: Cpu, leaf: int, *, write: bool) -> int | Again | Access:
    """Return what a TLB keeps of a leaf: on the second level, combined with the entry there."""
    if cpu.nested is None:
        return leaf
    second = await second_level(cpu, cpu.nested, pfn_of(leaf), write=write)
    if isinstance(second, Again):
        return second
    return both(leaf, second) if second else Access.EXIT


def combined(pde: int, pte: int) -> int:
    """Return a leaf with the rights that both levels give, which is what a TLB keeps."""
    return pte & (pde | ~(PAGE_RW | PAGE_USER)) | pde & PAGE_NX


async def fill_tlb(cpu: Cpu, addr: int, leaf: int) -> None:
    """Cache a leaf entry; a speculative walk in flight for the page goes on."""
    word, kept = cpu.tlb(addr), leaf & (CACHED | ~FLAGS)
    label = f"fill {word.name} = {TLB_ENTRY.show(kept)}"
    await Step(label, word, and_mask=WALKING, xor_mask=kept)


async def drop(cpu: Cpu, addr: int) -> None:
    """Drop what is cached for a page, as a fault on it does; a walk in flight goes on."""
    word = cpu.tlb(addr)
    await Step(f"drop {word.name} with the fault", word, and_mask=WALKING)


async def read_page(cpu: Cpu, pfn: int) -> None:
    """Read a data frame; a violation if it is not allocated to this thread's address space."""
    page = cpu.memory.page(pfn)
    ghosts = await Step(f"read {page.name}", page, returns=PAGE_OWNER)
    bug_on((ghosts & PAGE_OWNER) >> OWNER_SHIFT != cpu.mm.number, NO_ACCESS_TO_FREED_FRAME)


async def write_page(cpu: Cpu, pfn: int) -> None:
    """Change a data frame; as `read_page`, and a violation once it was promised to stay."""
    page = cpu.memory.page(pfn)
    changed = 1 << VERSION_SHIFT
    ghosts = await Step(f"write {page.name}", page, add=changed, returns=PAGE_FROZEN | PAGE_OWNER)
    bug_on((ghosts & PAGE_OWNER) >> OWNER_SHIFT != cpu.mm.number, NO_ACCESS_TO_FREED_FRAME)
    bug_on(ghosts & PAGE_FROZEN, NO_WRITE_AFTER_PROMISE)
