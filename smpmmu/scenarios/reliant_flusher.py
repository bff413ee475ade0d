"""A CPU write-protects a page; another one sees that and relies on its own shootdown.

    cpu0                          cpu1                             cpu2
    spin_lock(ptl)                spin_lock(ptl)                   write the page
    ptep_set_wrprotect(pte)       if pte is read-only:             write the page
      pte_update[_defer]            flush_tlb_page                 ...
    [flush_tlb_page]                the page is final (copied)
    spin_unlock(ptl)              spin_unlock(ptl)
    [walk on, flush_tlb_page]

Natively the flush may come late: whoever relies on the entry does its own shootdown, and that
cures every TLB. With a deferred hook it may not: the shadow stays writable until cpu0 drains its
queue, and a TLB that was shot down fills again from the shadow.
"""

from __future__ import annotations

from dataclasses import replace

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import routine
from smpmmu.engine.steps import fetch_or, load
from smpmmu.hypervisor.shadow import shadow_of
from smpmmu.hypervisor.vmi import vmi, vmi_page_fault_torn
from smpmmu.kernel.mm import MmStruct, VmAreaStruct
from smpmmu.kernel.paravirt import native
from smpmmu.kernel.pgtable import ptep_set_wrprotect
from smpmmu.kernel.smp import flush_tlb_page, install_interrupts
from smpmmu.machine.cpu import Cpu
from smpmmu.machine.entries import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_TABLE,
    PAGE_USER,
    entry,
)
from smpmmu.machine.memory import PAGE_FROZEN, PAGE_VERSION, Memory
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE, user_write
from smpmmu.scenario import Setup, holds, scenario, variant, violated

ADDR = 0x1000
FURTHER = 6
"""Empty directory entries that the range still covers before the late flush at its end."""
WRITES = 4
PGD, TABLE, PAGE = 0x1, 0x2, 0x3
UNTOUCHED = PAGE_PRESENT | PAGE_RW | PAGE_USER
"""A writable page before its first access, which sets A and D and fills the shadow."""
TOUCHED = UNTOUCHED | PAGE_ACCESSED | PAGE_DIRTY
MM = MmStruct(number=1, pgd=PGD, tables=((0, TABLE),), cpus=(0, 1, 2))
VMA = VmAreaStruct(MM)

HOOKS = (
    ("native", native),
    ("immediate", vmi),
    # As written, ptep_set_wrprotect has the immediate hook; this is what it must not have.
    ("deferred", replace(vmi, pte_update=vmi.pte_update_defer)),
)
TORN = (
    "a shadow filled from an entry that was read before another CPU changed it outlives the "
    "change; KVM had this (f7d9c7b7b90)"
)

COMMENT = (
    "the comment above pte_update in 789e6ac0a7c: a deferred update is safe only if the flush "
    "happens under the same page-table lock"
)


async def write_protect(cpu: Cpu, *, late: bool) -> None:
    """Take the right to write away, and flush under the lock or after it."""
    ptl = MM.page_table_lock
    await spin_lock(ptl)
    await ptep_set_wrprotect(cpu, MM, ADDR, MM.pte_offset(ADDR))
    if not late:
        await flush_tlb_page(cpu, VMA, ADDR)
    await spin_unlock(ptl)
    # The entry is read-only, and the lock is free: whoever takes it now will believe the entry.
    if late:
        for index in range(1, 1 + FURTHER):
            await load(cpu.memory.table(MM.pgd, index), PAGE_PRESENT)
        await flush_tlb_page(cpu, VMA, ADDR)


async def rely_on_protection(cpu: Cpu) -> None:
    """Take a read-only page for final once everybody has been shot down."""
    ptl = MM.page_table_lock
    await spin_lock(ptl)
    if not await load(cpu.memory.at(MM.pte_offset(ADDR)), PAGE_RW):
        await flush_tlb_page(cpu, VMA, ADDR)
        await promise(cpu)
    await spin_unlock(ptl)


@routine
async def promise(cpu: Cpu) -> None:
    """Promise that the page no longer changes: the moment in which it would be copied."""
    await fetch_or(cpu.memory.page(PAGE), PAGE_FROZEN)


@scenario(
    variant(
        "native_after_unlock",
        holds("without a shadow a shootdown by any CPU cures every TLB"),
        hook="native",
        late=True,
    ),
    variant(
        "immediate_after_unlock",
        holds("shadow and primary agree when the lock is released; then as native"),
        hook="immediate",
        late=True,
    ),
    variant("deferred_under_ptl", holds(COMMENT), hook="deferred", late=False),
    variant(
        "deferred_after_unlock",
        violated(NO_WRITE_AFTER_PROMISE, COMMENT),
        hook="deferred",
        late=True,
    ),
    variant(
        "immediate_untouched_page",
        holds("as immediate_after_unlock; a hidden fault reads the primary, which is never wrong"),
        hook="immediate",
        late=True,
        pte=UNTOUCHED,
    ),
    variant(
        "deferred_untouched_page",
        holds(COMMENT),
        hook="deferred",
        late=False,
        pte=UNTOUCHED,
    ),
    variant(
        "deferred_torn_fault",
        violated(NO_WRITE_AFTER_PROMISE, TORN),
        hook="deferred",
        late=False,
        pte=UNTOUCHED,
        torn=True,
    ),
)
def reliant_flusher(
    setup: Setup, *, hook: str, late: bool, pte: int = TOUCHED, torn: bool = False
) -> None:
    """A write-protects with pte_update; B sees it under the ptl, shoots down, relies on it."""
    guest = Memory(((PGD, 0, entry(TABLE, PAGE_TABLE)), (TABLE, 1, entry(PAGE, pte))))
    walked = guest if hook == "native" else shadow_of(guest, (TABLE,))
    pv = dict(HOOKS)[hook]
    if torn:
        pv = replace(pv, page_fault=vmi_page_fault_torn)
    cpus = [Cpu(number, guest, walked, PGD, pv, MM) for number in range(3)]
    setup.cpu(0, call(write_protect, cpus[0], late=late))
    setup.cpu(1, call(rely_on_protection, cpus[1]))
    setup.cpu(2, *(call(user_write, cpus[2], ADDR) for _ in range(WRITES)))
    for cpu in cpus:
        install_interrupts(setup, cpu)
    page = value(guest.page(PAGE))
    setup.sometimes("the page was promised to be final", page & PAGE_FROZEN != 0)
    written = page & PAGE_VERSION
    setup.sometimes("every write went through", finished("cpu2") & (written == WRITES))
    setup.sometimes("protection stopped a write", finished("cpu2") & (written < WRITES))
