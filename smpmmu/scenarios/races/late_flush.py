"""Flushes that came after the page-table lock, while somebody took the lock and trusted the entry.

    cpu0                          cpu1
    spin_lock(ptl)                write the page
    take the entry away           spin_lock(ptl)
    [flush]                       the entry is gone: no flush is needed
    spin_unlock(ptl)              spin_unlock(ptl); the call returns
    [flush]                       write the page

Linux of later years than the rest of the kernel here; each function says which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, load, store
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.kernel.munmap import zap_pte_range
from smpmmu.kernel.page_alloc import free_page
from smpmmu.kernel.pgtable import ptep_get_and_clear, set_pte_at
from smpmmu.kernel.smp import flush_tlb_mm, flush_tlb_page, flush_tlb_range
from smpmmu.machine.entries import PAGE_ACCESSED, PAGE_DIRTY, PAGE_PRESENT, PAGE_RW, entry
from smpmmu.machine.memory import PAGE_FROZEN, PAGE_OWNER, PAGE_SIZE, VERSION_SHIFT
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import (
    NO_ACCESS_TO_FREED_FRAME,
    NO_WRITE_AFTER_PROMISE,
    user_read,
    user_write,
)
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import ADDR, CLEAN, PAGE, promise
from smpmmu.scenarios.races.common import UNVERIFIED, memory, native_cpu, one_mm

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

MIGRATION_ENTRY = entry(PAGE, PAGE_RW)
"""Not present: the processor sees nothing in it."""


# migrate_vma_flush_after_ptl


async def migrate_vma_collect_pmd(cpu: Cpu, vma: VmAreaStruct, *, late: bool) -> None:
    """Put a migration entry in the place of the page's entry.

    C: migrate_vma_collect_pmd, mm/migrate_device.c, Linux 5.19
    Model: one entry; the page's lock and counts are left out, nobody else takes the page.
    """
    mm = vma.vm_mm
    pte, unmapped = mm.pte_offset(ADDR), False
    await spin_lock(mm.pte_lockptr(ADDR))
    if await load(cpu.memory.at(pte), PAGE_PRESENT):
        await ptep_get_and_clear(cpu, mm, ADDR, pte)
        await set_pte_at(cpu, mm, ADDR, pte, MIGRATION_ENTRY)
        unmapped = True
    if unmapped and not late:
        await flush_tlb_range(cpu, vma, ADDR, ADDR + PAGE_SIZE)
    await spin_unlock(mm.pte_lockptr(ADDR))
    if unmapped and late:
        # Whoever takes the lock now finds an entry that needs no flush.
        await flush_tlb_range(cpu, vma, ADDR, ADDR + PAGE_SIZE)


async def madvise_dontneed(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Give the page up: when the call returns, the address no longer leads to it.

    C: madvise_dontneed_single_vma, zap_page_range
    Model: a migration entry is left where it is; nobody looks at it again.
    """
    if await zap_pte_range(cpu, vma, ADDR):
        await flush_tlb_mm(cpu, vma.vm_mm)
    await promise(cpu.memory.page(PAGE))


MIGRATE = "60bae7370896 (6.0): flush before the ptl is dropped"


@scenario(
    variant("defect", violated(NO_WRITE_AFTER_PROMISE, MIGRATE), late=True),
    variant("repair", holds(MIGRATE), late=False),
)
def migrate_vma_flush_after_ptl(setup: Setup, *, late: bool) -> None:
    """Migration takes an entry away, drops the ptl, and flushes; B gives the page up."""
    mm = one_mm(0, 1)
    vma, guest = VmAreaStruct(mm), memory()
    cpu0, cpu1 = (native_cpu(setup, n, mm, guest) for n in (0, 1))
    setup.cpu(0, call(migrate_vma_collect_pmd, cpu0, vma, late=late))
    setup.cpu(
        1,
        call(user_write, cpu1, ADDR),
        call(madvise_dontneed, cpu1, vma),
        call(user_write, cpu1, ADDR),
    )
    pte = value(guest.at(mm.pte_offset(ADDR)))
    setup.sometimes("migration came first", finished("cpu1") & (pte == MIGRATION_ENTRY))
    setup.sometimes("the page was given up first", finished("cpu0") & (pte == 0))
    page = value(guest.page(PAGE))
    used = page >> VERSION_SHIFT != 0
    setup.sometimes("the page was used and given up", (page & PAGE_FROZEN != 0) & used)


# reclaim_batch_vs_mprotect

BATCHED = Word("mm1.tlb_flush_batched", 1)


async def shrink_page_list(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Take a page from its users, and flush later, for many pages at once.

    C: try_to_unmap_one with TTU_BATCH_FLUSH, set_tlb_ubc_flush_pending, try_to_unmap_flush;
    Linux 4.12
    Model: a batch of one page; arch_tlbbatch_flush tells the same CPUs as flush_tlb_mm.
    """
    mm = vma.vm_mm
    pte, unmapped = mm.pte_offset(ADDR), False
    await spin_lock(mm.pte_lockptr(ADDR))
    if await load(cpu.memory.at(pte), PAGE_PRESENT):
        await ptep_get_and_clear(cpu, mm, ADDR, pte)
        await store(BATCHED, 1)
        unmapped = True
    await spin_unlock(mm.pte_lockptr(ADDR))
    if unmapped:
        await flush_tlb_mm(cpu, mm)


async def flush_tlb_batched_pending(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Flush what reclaim may still have to flush.

    C: flush_tlb_batched_pending, mm/rmap.c, Linux 4.13
    Holds: the ptl
    """
    if await load(BATCHED):
        await flush_tlb_mm(cpu, vma.vm_mm)
        await store(BATCHED, 0)


async def change_pte_range(cpu: Cpu, vma: VmAreaStruct, *, drains: bool) -> None:
    """Write-protect the page; when the call returns nobody can write to it.

    C: change_pte_range, mm/mprotect.c, Linux 4.13 where it `drains`; then change_protection_range
    """
    mm = vma.vm_mm
    pte, ptl, pages = mm.pte_offset(ADDR), mm.pte_lockptr(ADDR), 0
    await spin_lock(ptl)
    if drains:
        await flush_tlb_batched_pending(cpu, vma)
    if await load(cpu.memory.at(pte), PAGE_PRESENT):
        oldpte = await ptep_get_and_clear(cpu, mm, ADDR, pte)
        await set_pte_at(cpu, mm, ADDR, pte, oldpte & ~PAGE_RW)
        pages = 1
    await spin_unlock(ptl)
    if pages:
        await flush_tlb_range(cpu, vma, ADDR, ADDR + PAGE_SIZE)
    await promise(cpu.memory.page(PAGE))


async def madvise_free_pte_range(cpu: Cpu, vma: VmAreaStruct, *, drains_again: bool) -> None:
    """Let the page be dropped unless it is written again; the lock is dropped on the way.

    C: madvise_free_pte_range, mm/madvise.c, Linux 6.15; then tlb_finish_mmu
    Model: a large page elsewhere in the table is split, for which the lock is dropped. If the page
    is found gone the caller has nothing to fear of its users, which is the promise.
    """
    mm = vma.vm_mm
    pte, ptl, present = mm.pte_offset(ADDR), mm.pte_lockptr(ADDR), False
    await spin_lock(ptl)
    await flush_tlb_batched_pending(cpu, vma)
    await spin_unlock(ptl)
    # split_folio. Reclaim may come in here, and its entries are looked at below.
    await spin_lock(ptl)
    if drains_again:
        await flush_tlb_batched_pending(cpu, vma)
    if await load(cpu.memory.at(pte), PAGE_PRESENT):
        ptent = await ptep_get_and_clear(cpu, mm, ADDR, pte)
        await set_pte_at(cpu, mm, ADDR, pte, ptent & ~(PAGE_ACCESSED | PAGE_DIRTY))
        present = True
    await spin_unlock(ptl)
    if present:
        await flush_tlb_mm(cpu, mm)
    else:
        await promise(cpu.memory.page(PAGE))


DRAIN = "3ea277194daa (4.13): under the ptl, flush what is batched before looking at entries"
RELOCK = "383c4613c67c (2025): every time the ptl is taken, not only the first"


@scenario(
    variant("defect", violated(NO_WRITE_AFTER_PROMISE, DRAIN), drains=False),
    variant("repair", holds(DRAIN), drains=True),
    variant(
        "relock_defect",
        violated(NO_WRITE_AFTER_PROMISE, RELOCK),
        drains=True,
        relocks=True,
        drains_again=False,
    ),
    variant("relock_repair", holds(RELOCK), drains=True, relocks=True),
)
def reclaim_batch_vs_mprotect(
    setup: Setup, *, drains: bool, relocks: bool = False, drains_again: bool = True
) -> None:
    """Reclaim takes an entry away and flushes after the ptl; B finds it gone.

    B protects the page, or lets it be dropped and `relocks`.
    """
    mm = one_mm(0, 1)
    vma, guest = VmAreaStruct(mm), memory()
    cpu0, cpu1 = (native_cpu(setup, n, mm, guest) for n in (0, 1))
    if relocks:
        walk = call(madvise_free_pte_range, cpu1, vma, drains_again=drains_again)
    else:
        walk = call(change_pte_range, cpu1, vma, drains=drains)
    setup.cpu(0, call(shrink_page_list, cpu0, vma))
    setup.cpu(1, call(user_write, cpu1, ADDR), walk, call(user_write, cpu1, ADDR))
    page, batched = value(guest.page(PAGE)), value(BATCHED)
    written = page >> VERSION_SHIFT != 0
    promised = page & PAGE_FROZEN != 0
    setup.sometimes("the page was used, and then relied on", promised & written)
    setup.sometimes("reclaim had it first", finished("cpu1") & ~written)
    if drains:
        drained = finished("cpu0") & finished("cpu1") & (batched == 0)
        setup.sometimes("what was batched was flushed for it", drained)


# mremap_flush_after_ptl

NEW_ADDR = 0x2000
"""Where the page is moved to, in the same page table."""


async def move_ptes(cpu: Cpu, vma: VmAreaStruct, *, late: bool) -> None:
    """Move the page's entry to another address.

    C: move_ptes, mm/mremap.c, Linux 4.18
    Model: a clean entry, so that it is not flushed for its D. One page table, so one lock.
    """
    mm = vma.vm_mm
    old_pte, new_pte, moved = mm.pte_offset(ADDR), mm.pte_offset(NEW_ADDR), False
    await spin_lock(mm.pte_lockptr(ADDR))
    if await load(cpu.memory.at(old_pte), PAGE_PRESENT):
        pte = await ptep_get_and_clear(cpu, mm, ADDR, old_pte)
        await set_pte_at(cpu, mm, NEW_ADDR, new_pte, pte)
        moved = True
    if moved and not late:
        await flush_tlb_page(cpu, vma, ADDR)
    await spin_unlock(mm.pte_lockptr(ADDR))
    if moved and late:
        # Whoever takes the lock now finds the page at its new address, and frees it.
        await flush_tlb_page(cpu, vma, ADDR)


async def truncate(cpu: Cpu, vma: VmAreaStruct, *, whole: bool) -> None:
    """Unmap the page where it is mapped now, and free it.

    C: unmap_mapping_range, zap_pte_range, zap_page_range_single; then the page cache lets go of it
    Model: it looks at the new address only, as a later mapping; the old one may be empty by now.
    """
    if await zap_pte_range(cpu, vma, NEW_ADDR):
        if whole:
            await flush_tlb_mm(cpu, vma.vm_mm)
        else:
            await flush_tlb_page(cpu, vma, NEW_ADDR)
        await free_page(cpu, PAGE)


MOVE = f"eb66ae030829 (4.19): flush before the ptl is dropped; the CVE, 2018-18281, is {UNVERIFIED}"
FLUSH_ALL = "argument: who unmaps flushes the whole address space, the old address with it"


@scenario(
    variant("defect", violated(NO_ACCESS_TO_FREED_FRAME, MOVE), late=True),
    variant("repair", holds(MOVE), late=False),
    variant("flushed_whole", holds(FLUSH_ALL), late=True, whole=True),
)
def mremap_flush_after_ptl(setup: Setup, *, late: bool, whole: bool = False) -> None:
    """A moves a page, drops the ptl, and flushes; B frees the page, and uses its old address."""
    mm = one_mm(0, 1)
    vma, guest = VmAreaStruct(mm), memory(entry(PAGE, CLEAN))
    cpu0, cpu1 = (native_cpu(setup, n, mm, guest, (ADDR, NEW_ADDR)) for n in (0, 1))
    setup.cpu(0, call(move_ptes, cpu0, vma, late=late))
    setup.cpu(
        1,
        call(user_read, cpu1, ADDR),
        call(truncate, cpu1, vma, whole=whole),
        call(user_read, cpu1, ADDR),
    )
    freed = value(guest.page(PAGE)) & PAGE_OWNER == 0
    moved = value(guest.at(mm.pte_offset(NEW_ADDR))) != 0
    setup.sometimes("the page was freed", freed)
    setup.sometimes("it was moved later", finished("cpu1") & moved & ~freed)
    cached = value(cpu1.tlb(ADDR)) & PAGE_PRESENT != 0
    setup.sometimes("it was in use when it was moved", cached & moved)
