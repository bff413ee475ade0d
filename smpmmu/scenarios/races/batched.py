"""A flush that is pending is forgotten by who has just completed another: one bit, and two locks.

    cpu0                              cpu1
    spin_lock(ptl of B)               spin_lock(ptl of A)
    clear the entry in B              is a flush pending? flush
    a flush is pending                none is pending any more
    spin_unlock(ptl of B)             spin_unlock(ptl of A)
    [flush]                           spin_lock(ptl of B): the entry is gone, nothing is pending

Linux 4.13 to 5.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, cmpxchg, fetch_add, load, store
from smpmmu.kernel.mm import MmStruct, VmAreaStruct
from smpmmu.kernel.pgtable import ptep_get_and_clear, set_pte_at
from smpmmu.kernel.smp import flush_tlb_mm, flush_tlb_range
from smpmmu.machine.entries import PAGE_PRESENT, PAGE_RW, PAGE_TABLE, entry
from smpmmu.machine.memory import PAGE_FROZEN, PAGE_SIZE, Memory
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE, user_write
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    OTHER_ADDR,
    OTHER_TABLE,
    PAGE,
    PGD,
    TABLE,
    TOUCHED,
    install_walker,
    promise,
)
from smpmmu.scenarios.races.common import native_cpu

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

TLB_FLUSH_BATCHED = Word("mm1.tlb_flush_batched", 4, 1)
"""A bit; or how many were pended, and above that how many flushed. At first one is pending."""
COUNT_MASK, FLUSHED_SHIFT = 0x3, 2


async def set_tlb_ubc_flush_pending(*, counts: bool) -> None:
    """Say that an entry was cleared whose flush comes later.

    C: set_tlb_ubc_flush_pending, mm/rmap.c
    Holds: the ptl
    """
    if counts:
        await fetch_add(TLB_FLUSH_BATCHED, 1)
    else:
        await store(TLB_FLUSH_BATCHED, 1)


async def flush_tlb_batched_pending(cpu: Cpu, mm: MmStruct, *, counts: bool) -> None:
    """Complete what reclaim may still have to flush.

    C: flush_tlb_batched_pending, mm/rmap.c
    Holds: a ptl, not always the same
    Model: which count lies lower, and what happens when they overflow.
    """
    batch = await load(TLB_FLUSH_BATCHED)
    pending, flushed = batch & COUNT_MASK, batch >> FLUSHED_SHIFT
    if counts and pending != flushed:
        await flush_tlb_mm(cpu, mm)
        # If a flush was pended meanwhile, all is left as it is.
        await cmpxchg(TLB_FLUSH_BATCHED, batch, pending | pending << FLUSHED_SHIFT)
    if not counts and batch:
        await flush_tlb_mm(cpu, mm)
        # Under another ptl a flush may have been pended meanwhile, and is forgotten.
        await store(TLB_FLUSH_BATCHED, 0)


async def shrink_page_list(cpu: Cpu, vma: VmAreaStruct, *, counts: bool) -> None:
    """Take a page from its users, and flush later.

    C: try_to_unmap_one with TTU_BATCH_FLUSH, try_to_unmap_flush
    """
    mm = vma.vm_mm
    pte, unmapped = mm.pte_offset(OTHER_ADDR), False
    await spin_lock(mm.pte_lockptr(OTHER_ADDR))
    if await load(cpu.memory.at(pte), PAGE_PRESENT):
        await ptep_get_and_clear(cpu, mm, OTHER_ADDR, pte)
        await set_tlb_ubc_flush_pending(counts=counts)
        unmapped = True
    await spin_unlock(mm.pte_lockptr(OTHER_ADDR))
    if unmapped:
        await flush_tlb_mm(cpu, mm)


async def change_pte_range(cpu: Cpu, vma: VmAreaStruct, addr: int, *, counts: bool) -> None:
    """Write-protect the page at `addr`, if there is one.

    C: change_pte_range, mm/mprotect.c; then change_protection_range
    """
    mm = vma.vm_mm
    pte, pages = mm.pte_offset(addr), 0
    await spin_lock(mm.pte_lockptr(addr))
    await flush_tlb_batched_pending(cpu, mm, counts=counts)
    if await load(cpu.memory.at(pte), PAGE_PRESENT):
        oldpte = await ptep_get_and_clear(cpu, mm, addr, pte)
        await set_pte_at(cpu, mm, addr, pte, oldpte & ~PAGE_RW)
        pages = 1
    await spin_unlock(mm.pte_lockptr(addr))
    if pages:
        await flush_tlb_range(cpu, vma, addr, addr + PAGE_SIZE)


async def mprotect(cpu: Cpu, vma: VmAreaStruct, *, counts: bool) -> None:
    """Write-protect a range of two page tables; when it returns nobody can write there.

    C: change_protection
    """
    await change_pte_range(cpu, vma, ADDR, counts=counts)
    await change_pte_range(cpu, vma, OTHER_ADDR, counts=counts)
    await promise(cpu.memory.page(PAGE))


LOST = (
    "5ee2fa2f0636 (5.17; the message was read as posted): counts of what was pended and flushed, "
    "of which the second is set if the first is what it was"
)
NO_FILL = "the same message: an entry must be cached between the flush and the unmapping"


@scenario(
    variant("defect", violated(NO_WRITE_AFTER_PROMISE, LOST), counts=False),
    variant("repair", holds(LOST), counts=True),
    variant("no_speculation", holds(NO_FILL), counts=False, speculates=False),
)
def batched_flush_lost(setup: Setup, *, counts: bool, speculates: bool = True) -> None:
    """A takes a page whose table has its own lock; B completes an earlier flush just then."""
    mm = MmStruct(1, PGD, ((0, TABLE), (1, OTHER_TABLE)), (0, 1), split=True)
    vma = VmAreaStruct(mm)
    tables = ((PGD, 0, entry(TABLE, PAGE_TABLE)), (PGD, 1, entry(OTHER_TABLE, PAGE_TABLE)))
    guest = Memory((*tables, (OTHER_TABLE, 0, entry(PAGE, TOUCHED))))
    cpu0, cpu1 = (native_cpu(setup, n, mm, guest, (OTHER_ADDR,)) for n in (0, 1))
    setup.cpu(0, call(shrink_page_list, cpu0, vma, counts=counts))
    setup.cpu(1, call(mprotect, cpu1, vma, counts=counts), call(user_write, cpu1, OTHER_ADDR))
    if speculates:
        install_walker(setup, cpu1)
    page, pte = value(guest.page(PAGE)), value(guest.at(mm.pte_offset(OTHER_ADDR)))
    both = finished("cpu0") & finished("cpu1") & (page & PAGE_FROZEN != 0)
    setup.sometimes("the page was protected", finished("cpu1") & (pte & PAGE_PRESENT != 0))
    setup.sometimes("it was reclaimed", both & (pte == 0))
    cached = value(cpu1.tlb(OTHER_ADDR)) & PAGE_RW != 0
    if speculates:
        setup.sometimes("it was cached", cached & (page & PAGE_FROZEN == 0))
