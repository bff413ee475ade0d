"""Pages that were copied or compared while a TLB could still write to them.

    cpu0, cpu1                    cpu2                          cpu3
    spin_lock(ptl)                finds the page read-only      write the page
    take the right to write       copies or compares it         write the page
    spin_unlock(ptl)              spin_lock(ptl)
    flush                         map the copy instead
                                  spin_unlock(ptl)

A flush that is pending is counted, so that whoever relies on an entry can know. Linux of later
years than the rest of the kernel here; each function says which.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import routine
from smpmmu.engine.steps import Word, fetch_add, load, store
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.kernel.pgtable import ptep_clear_flush, ptep_get_and_clear, read_pte, set_pte_at
from smpmmu.kernel.smp import flush_tlb_mm, flush_tlb_page
from smpmmu.machine.entries import (
    FRAME,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_UNUSED1,
    entry,
)
from smpmmu.machine.memory import VERSION_SHIFT
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import Access, user_write
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import ADDR, PAGE, READ_ONLY, TOUCHED
from smpmmu.scenarios.races.common import ANOTHER, memory, native_cpu, one_mm

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct
    from smpmmu.machine.cpu import Cpu

COPY = 0x6
"""The frame that takes the page's place."""
PAGE_UFFD_WP = PAGE_UNUSED1
NO_WRITE_LOST_BY_REPLACING = "no_write_is_lost_by_replacing"
WRITES = ~((1 << VERSION_SHIFT) - 1)

PENDING = Word("mm1.tlb_flush_pending", 3)
SEEN = Word(f"what was seen of page {PAGE:#x}", 10)
"""The page's count of writes when it was copied or compared."""


async def inc_tlb_flush_pending(mm: MmStruct) -> None:
    """Say that entries are about to change whose flush comes later.

    C: inc_tlb_flush_pending
    """
    await fetch_add(PENDING, 1)


async def dec_tlb_flush_pending(mm: MmStruct) -> None:
    """Say that the flush is done.

    C: dec_tlb_flush_pending
    """
    await fetch_add(PENDING, -1)


async def mm_tlb_flush_pending(mm: MmStruct) -> bool:
    """Whether entries may have changed without having been flushed.

    C: mm_tlb_flush_pending
    Holds: the ptl of what is to be relied on
    """
    return await load(PENDING) != 0


async def change_pte(cpu: Cpu, mm: MmStruct, clear: int, set_: int) -> bool:
    """Change flags of the entry under the ptl; whether there is one.

    C: change_pte_range, clear_soft_dirty, madvise_free_pte_range: all take the entry out and back
    """
    pte, present = mm.pte_offset(ADDR), False
    await spin_lock(mm.pte_lockptr(ADDR))
    if await load(cpu.memory.at(pte), PAGE_PRESENT):
        oldpte = await ptep_get_and_clear(cpu, mm, ADDR, pte)
        await set_pte_at(cpu, mm, ADDR, pte, oldpte & ~clear | set_)
        present = True
    await spin_unlock(mm.pte_lockptr(ADDR))
    return present


async def change_and_flush(
    cpu: Cpu, vma: VmAreaStruct, clear: int, set_: int = 0, *, counted: bool = True
) -> None:
    """Change flags of the entry, and flush when its lock is free again.

    C: change_protection (userfaultfd_writeprotect), clear_refs_write, madvise_free_single_vma
    Model: mmap_lock is held for reading, which holds up no fault.
    """
    mm = vma.vm_mm
    if counted:
        await inc_tlb_flush_pending(mm)
    if await change_pte(cpu, mm, clear, set_):
        await flush_tlb_mm(cpu, mm)
    if counted:
        await dec_tlb_flush_pending(mm)


async def see_page(cpu: Cpu, pfn: int) -> None:
    """Copy or compare the whole page: it is seen as it is now."""
    await store(SEEN, await load(cpu.memory.page(pfn), WRITES))


# uffd_wp_cow


async def write(cpu: Cpu, vma: VmAreaStruct, *, flushes: bool) -> None:
    """Write to the page; if that faults, get a copy of it."""
    if await user_write(cpu, ADDR) is Access.FAULT:
        await do_wp_page(cpu, vma, ADDR, flushes=flushes)


async def do_wp_page(cpu: Cpu, vma: VmAreaStruct, address: int, *, flushes: bool) -> None:
    """Give a thread that wrote to a read-only page a copy of its own.

    C: handle_pte_fault, do_wp_page, Linux 5.11, for a page that somebody else keeps too
    """
    mm = vma.vm_mm
    pte = mm.pte_offset(address)
    await spin_lock(mm.pte_lockptr(address))
    orig_pte = await read_pte(cpu, pte)
    wanted = orig_pte & (PAGE_PRESENT | PAGE_RW | PAGE_UFFD_WP)
    if wanted == PAGE_PRESENT and flushes and await mm_tlb_flush_pending(mm):
        await flush_tlb_page(cpu, vma, address)
    await spin_unlock(mm.pte_lockptr(address))
    # With the marker it is userspace that is asked, and with the right nothing is left to do.
    if wanted == PAGE_PRESENT:
        await wp_page_copy(cpu, vma, address, orig_pte)


async def wp_page_copy(cpu: Cpu, vma: VmAreaStruct, address: int, orig_pte: int) -> None:
    """Copy the page with no lock held, then map the copy if nothing has changed.

    C: wp_page_copy
    """
    mm = vma.vm_mm
    pte = mm.pte_offset(address)
    await see_page(cpu, PAGE)
    await spin_lock(mm.pte_lockptr(address))
    if await read_pte(cpu, pte) == orig_pte:
        await ptep_clear_flush(cpu, vma, address, pte)
        await set_pte_at(cpu, mm, address, pte, entry(COPY, TOUCHED))
    await spin_unlock(mm.pte_lockptr(address))


FLUSH_FIRST = "6ce64428d620 (5.12): if a flush is pending, flush the page before it is copied"
SOFT_DIRTY = (
    "29a951dfb3c3 (5.11) has the same race in clear_refs, which then took mmap_lock for writing; "
    "the repair here is that of 6ce64428d620"
)


@scenario(
    variant("defect", violated(NO_WRITE_LOST_BY_REPLACING, FLUSH_FIRST), flushes=False),
    variant("repair", holds(FLUSH_FIRST), flushes=True),
    variant("soft_dirty_defect", violated(NO_WRITE_LOST_BY_REPLACING, SOFT_DIRTY), flushes=False,
            unprotects=False),
    variant("soft_dirty_repair", holds(SOFT_DIRTY), flushes=True, unprotects=False),
)  # fmt: skip
def uffd_wp_cow(setup: Setup, *, flushes: bool, unprotects: bool = True) -> None:
    """A protects, B unprotects, both flush late; C's write fault copies the page; D writes to it.

    A and B are threads of a monitor, a process of its own. Without B, what A sets has no marker, as
    with soft-dirty tracking.
    """
    mm = one_mm(2, 3)
    vma, guest = VmAreaStruct(mm), memory()
    cpu0, cpu1 = (native_cpu(setup, n, ANOTHER, guest) for n in (0, 1))
    cpu2, cpu3 = (native_cpu(setup, n, mm, guest) for n in mm.cpus)
    setup.cpu(0, call(change_and_flush, cpu0, vma, PAGE_RW, PAGE_UFFD_WP if unprotects else 0))
    if unprotects:
        setup.cpu(1, call(change_and_flush, cpu1, vma, PAGE_UFFD_WP))
    setup.cpu(2, call(write, cpu2, vma, flushes=flushes))
    setup.cpu(3, call(user_write, cpu3, ADDR), call(user_write, cpu3, ADDR))
    demand_every_write(setup, guest.at(mm.pte_offset(ADDR)), guest.page(PAGE), COPY)
    written = value(guest.page(PAGE)) >> VERSION_SHIFT
    setup.sometimes("nobody was stopped", written == 3)
    copied = value(guest.at(mm.pte_offset(ADDR))) & FRAME == entry(COPY, 0)
    setup.sometimes("the page was copied", copied)
    setup.sometimes("it was written before", copied & (written != 0))


def demand_every_write(setup: Setup, pte: Word, page: Word, instead: int) -> None:
    """Demand that where another frame is mapped, the page was not written since it was seen."""
    replaced = value(pte) & FRAME == entry(instead, 0)
    same = value(SEEN) >> VERSION_SHIFT == value(page) >> VERSION_SHIFT
    setup.always(NO_WRITE_LOST_BY_REPLACING, implies(replaced, same))


# ksm_stale_writable


class Ksm(enum.Enum):
    """What ksmd looks at before it takes a page for write-protected."""

    ENTRY = "entry"
    PENDING = "pending"


async def try_to_merge_one_page(cpu: Cpu, vma: VmAreaStruct, looks_at: Ksm) -> None:
    """Merge the page with another one of the same contents.

    C: try_to_merge_one_page, mm/ksm.c, Linux 4.13
    Model: mmap_sem is held for reading. The other page has what this one had at first.
    """
    orig_pte = await write_protect_page(cpu, vma, looks_at)
    if orig_pte:
        await see_page(cpu, PAGE)
        if not await load(SEEN):
            await replace_page(cpu, vma, orig_pte)


@routine
async def write_protect_page(cpu: Cpu, vma: VmAreaStruct, looks_at: Ksm) -> int:
    """See to it that nobody can write to the page; return its entry, or 0.

    C: write_protect_page
    Model: that the page is not in use otherwise is left out.
    """
    mm = vma.vm_mm
    pte = mm.pte_offset(ADDR)
    await spin_lock(mm.pte_lockptr(ADDR))
    now = await read_pte(cpu, pte)
    if now & (PAGE_RW | PAGE_DIRTY) or (looks_at is Ksm.PENDING and await mm_tlb_flush_pending(mm)):
        now = await ptep_clear_flush(cpu, vma, ADDR, pte)
        now &= ~(PAGE_RW | PAGE_DIRTY)
        await set_pte_at(cpu, mm, ADDR, pte, now)
    await spin_unlock(mm.pte_lockptr(ADDR))
    return now & PAGE_PRESENT and now


async def replace_page(cpu: Cpu, vma: VmAreaStruct, orig_pte: int) -> None:
    """Map the other page instead, unless the entry has changed.

    C: replace_page
    """
    mm = vma.vm_mm
    pte = mm.pte_offset(ADDR)
    await spin_lock(mm.pte_lockptr(ADDR))
    if await read_pte(cpu, pte) == orig_pte:
        await ptep_clear_flush(cpu, vma, ADDR, pte)
        await set_pte_at(cpu, mm, ADDR, pte, entry(COPY, READ_ONLY))
    await spin_unlock(mm.pte_lockptr(ADDR))


KSM = "b3a81d0841a9 (4.13): ksmd flushes whenever a flush is pending, and clear_refs counts its own"
FREE_COUNTS = (
    "argument: what ksmd passes over is clean and read-only; a TLB that can write has D cached, "
    "and the entry lost D to MADV_FREE alone, whose flush is counted"
)


@scenario(
    variant("defect", violated(NO_WRITE_LOST_BY_REPLACING, KSM), looks_at=Ksm.ENTRY, counted=False),
    variant("repair", holds(KSM), looks_at=Ksm.PENDING),
    variant("ksmd_does_not_look",
            violated(NO_WRITE_LOST_BY_REPLACING, "argument: nobody looks at the count"),
            looks_at=Ksm.ENTRY),
    variant("clear_refs_not_counted", holds(FREE_COUNTS), looks_at=Ksm.PENDING, counted=False),
    variant("madvise_alone", holds("the entry is still writable, so that ksmd flushes"),
            looks_at=Ksm.ENTRY, clear_refs=False),
)  # fmt: skip
def ksm_stale_writable(
    setup: Setup, *, looks_at: Ksm, counted: bool = True, clear_refs: bool = True
) -> None:
    """One call clears D, another W, both flush late; ksmd finds nothing to flush; a thread writes.

    clear_refs and ksmd run in other address spaces than the one they work on.
    """
    mm = one_mm(0, 1)
    vma, guest = VmAreaStruct(mm), memory()
    cpu0, cpu1 = (native_cpu(setup, n, mm, guest) for n in mm.cpus)
    cpu2, cpu3 = (native_cpu(setup, n, ANOTHER, guest) for n in (2, 3))
    setup.cpu(0, call(user_write, cpu0, ADDR), call(user_write, cpu0, ADDR))
    setup.cpu(1, call(change_and_flush, cpu1, vma, PAGE_DIRTY))
    if clear_refs:
        setup.cpu(2, call(change_and_flush, cpu2, vma, PAGE_RW, counted=counted))
    setup.cpu(3, call(try_to_merge_one_page, cpu3, vma, looks_at))
    demand_every_write(setup, guest.at(mm.pte_offset(ADDR)), guest.page(PAGE), COPY)
    merged = value(guest.at(mm.pte_offset(ADDR))) & FRAME == entry(COPY, 0)
    written = value(guest.page(PAGE)) >> VERSION_SHIFT
    setup.sometimes("the page was merged", merged)
    setup.sometimes("it was written, and not merged", finished("cpu3") & (written == 2) & ~merged)
