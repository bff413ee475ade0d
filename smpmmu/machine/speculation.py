"""Hardware that moves by itself: the speculative walker and the evictor of a vCPU.

Both are daemons: they may move at any time, or never. A walk in flight is a bit of the TLB entry
that it would fill, so that INVLPG, a load of CR3 and a global flush abort it by clearing the
entry. It must not know Linux or the hypervisor. Source: fills are speculative (the comment above
the flush protocol in arch/i386/kernel/smp.c, Linux 2.6.21); that they are aborted is general x86
knowledge, unverified here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import indivisible, routine
from smpmmu.engine.steps import Step, Wait, When, load, store
from smpmmu.machine.cpu import page_directory
from smpmmu.machine.entries import (
    FLAGS,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    TLB_ENTRY,
    WALKING,
    pfn_of,
    small_page,
)
from smpmmu.machine.marking import mark
from smpmmu.machine.memory import pmd_index, pte_index
from smpmmu.machine.nested import both
from smpmmu.machine.walker import CACHED, combined

if TYPE_CHECKING:
    from smpmmu.engine.steps import Word
    from smpmmu.machine.cpu import Cpu


WALK_STOPS_AT_ONCE = (
    "a flush that has ended leaves no walk of its CPU in flight: the walk makes no access after it "
    "(general x86 knowledge; unverified)"
)


async def speculate(cpu: Cpu, addr: int) -> None:
    """Walk for a page that nobody asked for, and cache it unless a flush came in between.

    It sets A but never D, and never faults. It begins only while the page is not cached.
    """
    word = cpu.tlb(addr)
    begins = Wait(PAGE_PRESENT, 0)
    await Step("begin to walk", word, wait=begins, and_mask=~WALKING, xor_mask=WALKING)
    paging, pd = cpu.walked.paging, await page_directory(cpu, addr)
    if pd is None:
        return
    pd = await table_in_flight(cpu, addr, pd)
    if not pd:
        return
    directory = cpu.walked.table(pd, pmd_index(addr, paging))
    pde = await load(cpu.pde_cache(addr)) if cpu.caches_directory else 0
    if not pde:
        pde = await visit(cpu, addr, directory)
        if cpu.caches_directory:
            await keep_in_flight(cpu, addr, pde)
    if not pde & PAGE_PRESENT:
        return
    if pde & PAGE_PSE:
        pte = small_page(pde, pte_index(addr, paging))
    else:
        table = await table_in_flight(cpu, addr, pfn_of(pde))
        if not table:
            return
        pte = await visit(cpu, addr, cpu.walked.table(table, pte_index(addr, paging)))
    if not pte & PAGE_PRESENT:
        return
    leaf = combined(pde, pte)
    if cpu.nested is not None:
        second = await second_level_in_flight(cpu, addr, pfn_of(leaf))
        if not second & PAGE_PRESENT:
            return
        leaf = both(leaf, second)
    kept = leaf & (CACHED | ~FLAGS)
    label = f"fill {word.name} = {TLB_ENTRY.show(kept)} unless flushed"
    await Step(label, word, when=When(WALKING, WALKING), and_mask=0, xor_mask=kept)


async def table_in_flight(cpu: Cpu, addr: int, frame: int) -> int:
    """Return where a table lies, as `table_frame` does; 0 where D would have to be set for it."""
    if cpu.nested is None:
        return frame
    second = await second_level_in_flight(cpu, addr, frame)
    written = PAGE_PRESENT | PAGE_RW | PAGE_DIRTY
    return pfn_of(second) if second & written == written else 0


@routine
async def second_level_in_flight(cpu: Cpu, addr: int, gfn: int) -> int:
    """Return the second level's entry for a guest's frame on a walk in flight; 0 if there is none.

    Whether it is the user's is not looked at: of a guest, all is.
    """
    pde = await visit(cpu, addr, cpu.nested.directory(gfn))
    return await visit(cpu, addr, cpu.nested.leaf(pde, gfn)) if pde & PAGE_PRESENT else 0


@routine
async def visit(cpu: Cpu, addr: int, word: Word) -> int:
    """Read an entry on a walk in flight, setting A; 0 if there is none, or the walk was aborted."""
    found = await read_in_flight(cpu, addr, word)
    if not found & PAGE_PRESENT or found & PAGE_ACCESSED:
        return found
    return await mark_in_flight(cpu, addr, word, found)


@indivisible(WALK_STOPS_AT_ONCE)
async def read_in_flight(cpu: Cpu, addr: int, word: Word) -> int:
    """Read an entry unless the walk was aborted; 0 then."""
    return await load(word) if await load(cpu.tlb(addr), WALKING) else 0


@indivisible(WALK_STOPS_AT_ONCE)
async def mark_in_flight(cpu: Cpu, addr: int, word: Word, found: int) -> int:
    """Set A in an entry and return it; 0 if it has changed, or the walk was aborted."""
    if not await load(cpu.tlb(addr), WALKING):
        return 0
    marked = await mark(cpu, word, found, write=False)
    return marked if isinstance(marked, int) else 0


@indivisible(WALK_STOPS_AT_ONCE)
async def keep_in_flight(cpu: Cpu, addr: int, pde: int) -> None:
    """Keep an entry of the page directory unless it is absent, or the walk was aborted."""
    if pde & PAGE_PRESENT and await load(cpu.tlb(addr), WALKING):
        await store(cpu.pde_cache(addr), pde)


async def evict(cpu: Cpu, addr: int) -> None:
    """Drop what is cached for a page, for want of room; a walk in flight goes on."""
    word = cpu.tlb(addr)
    cached = Wait(PAGE_PRESENT, PAGE_PRESENT)
    await Step(f"evict {word.name}", word, wait=cached, and_mask=WALKING)
