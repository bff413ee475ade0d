"""A thread takes the right to write away from a mapping; siblings write, others use the entry.

    cpu0: mprotect                           cpu1                     cpu2
    down_write(mmap_sem)                     write the page           rely on the entry,
    spin_lock(ptl), enter lazy mode            [fault: down_read,     or take the page away,
    ptep_get_and_clear(pte)  [pte_update]       handle it, again]     or write it back
    set_pte_at(pte, read-only)
    leave lazy mode, spin_unlock(ptl)
    flush_tlb_range
    up_write(mmap_sem); the page is final

The flush comes after the lock, and before mmap_sem is given back: until then nobody believes the
entry but those who need no mmap_sem, and they do a shootdown of their own. What is held back in
lazy MMU mode, however, they cannot make good; so the mode is left before the lock.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import any_of, finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import AGAIN, Again, retry
from smpmmu.hypervisor.shadow import Holds, Hypervisor, Record
from smpmmu.hypervisor.vmi import vmi
from smpmmu.kernel.fault import Fault, do_page_fault
from smpmmu.kernel.mm import INIT_MM, VM_READ, VM_WRITE, VmAreaStruct
from smpmmu.kernel.mprotect import sys_mprotect
from smpmmu.kernel.page_writeback import pg_dirty, set_page_dirty
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.reclaim import unmap_and_move
from smpmmu.kernel.rmap import page_mkclean_one
from smpmmu.machine.entries import PAGE_DIRTY, PAGE_PRESENT, PAGE_RW
from smpmmu.machine.memory import (
    NON_PAE,
    PAE,
    PAGE_FROZEN,
    PAGE_OWNER,
    PAGE_SIZE,
    VERSION_SHIFT,
    Paging,
)
from smpmmu.machine.walker import (
    NO_ACCESS_TO_FREED_FRAME,
    NO_WRITE_AFTER_PROMISE,
    Access,
    user_read,
    user_write,
)
from smpmmu.properties.lock_rule import NO_QUEUE_HOLDS_ENTRY, SHADOW_NO_MORE_PERMISSIVE
from smpmmu.properties.promises import NO_WRITE_LOST
from smpmmu.scenario import Setup, Variant, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    CLEAN,
    READ_ONLY,
    TABLE,
    TOUCHED,
    Flush,
    Judge,
    address_space,
    demand_lock_rule,
    guest_memory,
    page_of,
    promise,
    vcpu,
)
from smpmmu.scenarios.dirty_writeback import DISK, write_back
from smpmmu.scenarios.reliant_flusher import rely_on_protection

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

CLEAN_IS_READ_ONLY = "clean_entries_are_read_only_where_writes_are_accounted"


class Beside(enum.Enum):
    """Who works on the entry beside the sibling that writes."""

    NOBODY = "nobody"
    READER = "reader"
    """Sees the entry read-only, shoots down, and relies on it."""
    MIGRATION = "migration"
    """A kernel thread takes the page and frees it."""
    WRITEBACK = "writeback"
    """page_mkclean, then the page goes to the disk."""


ANY_CPU_CURES = (
    "change_protection, mm/mprotect.c: the flush is after the locks; whoever needs no mmap_sem "
    "does a shootdown of its own, which cures every TLB"
)
AT_ONCE = (
    "ptep_get_and_clear's hook (8ecb8950695) and set_pte_at are applied at once: the shadow is as "
    "strict as the entry when the ptl is released"
)
RULE = "the rule of 6606c3e0da5: lazy MMU mode is entered and left under the lock of the tables"
OUTLIVES = f"{RULE}; left later, what is held back outlives the lock, and other CPUs overtake it"
ALONE = "flush_tlb_range comes after the mode is left, and nobody else believes the entry"
IN_PLACE = (
    "change_pte_range, mm/mprotect.c, empties an entry before it writes it: a walker can mark it "
    "until then, and what it has marked is kept"
)
ACCOUNTED = "vma_wants_writenotify, mm/mmap.c: the first write to a clean page must fault"
UNDER_MMAP_SEM = "do_page_fault looks at the mapping and raises rights in one read side of mmap_sem"
NO_FLUSH = "whoever has the entry cached goes on writing, with any hook"
QUEUED = "789e6ac0a7c: a deferred update needs its flush under the lock; mprotect flushes after it"
PLANTED = f"{QUEUED}: what is queued is planted after the page was taken"

Knobs = dict[str, object]
VALUE, TORN = Hypervisor(record=Record.VALUE), Hypervisor(record=Record.TORN)


def lazily(holds_back: Holds, record: Record = Record.ADDRESS) -> Hypervisor:
    """Return a hypervisor that holds back in lazy MMU mode; its queues have room for all of it."""
    return Hypervisor(record=record, lazy=holds_back, slots=5)


def lazy_variants() -> tuple[Variant, ...]:
    """Return what holds in lazy MMU mode, whatever is held back."""
    chosen = (
        ("", Beside.NOBODY, Record.ADDRESS),
        ("_reader", Beside.READER, Record.ADDRESS),
        ("_value_migration", Beside.MIGRATION, Record.VALUE),
        ("_torn_migration", Beside.MIGRATION, Record.TORN),
        ("_writeback", Beside.WRITEBACK, Record.ADDRESS),
    )
    return tuple(
        variant(f"lazy_{back.value}{suffix}", holds(RULE), hypervisor=lazily(back, record),
                beside=beside)
        for back in (Holds.UPDATES, Holds.FLUSHES, Holds.ALL)
        for suffix, beside, record in chosen
        if back is not Holds.ALL or beside is Beside.READER
    )  # fmt: skip


async def protect(cpu: Cpu, vma: VmAreaStruct, flags: int, *, promises: bool) -> None:
    """Give the mapping other rights; if it is read-only then, the page is final."""
    await sys_mprotect(cpu, vma, ADDR, ADDR + PAGE_SIZE, flags)
    if promises:
        await promise(cpu.memory.page(page_of(vma.vm_mm.paging)))


async def write(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Write to the page, and let Linux handle faults, until it is done or a signal ends it."""
    await retry(write_or_fault, cpu, vma)


async def write_or_fault(cpu: Cpu, vma: VmAreaStruct) -> Access | Again:
    """Try the write once."""
    if await user_write(cpu, ADDR) is Access.DONE:
        return Access.DONE
    fault = await do_page_fault(cpu, vma, ADDR, write=True)
    return AGAIN if fault is Fault.MINOR else Access.FAULT


async def clean_and_write_back(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Write the page to the disk if it or its entry is dirty.

    C: clear_page_dirty_for_io, mm/page-writeback.c, and writepage
    """
    if await page_mkclean_one(cpu, page_of(vma.vm_mm.paging), vma, ADDR):
        await set_page_dirty(cpu, page_of(vma.vm_mm.paging))
    await write_back(cpu)


@scenario(
    variant("native", holds(ANY_CPU_CURES), hypervisor=None),
    variant("native_pae", holds(ANY_CPU_CURES), hypervisor=None, paging=PAE),
    variant("native_reader", holds(ANY_CPU_CURES), hypervisor=None, beside=Beside.READER),
    variant("native_migration", holds(ANY_CPU_CURES), hypervisor=None, beside=Beside.MIGRATION),
    variant("native_migration_pae", holds(ANY_CPU_CURES), hypervisor=None,
            beside=Beside.MIGRATION, paging=PAE),
    variant("native_writeback", holds(ACCOUNTED), hypervisor=None, beside=Beside.WRITEBACK),
    variant("native_clean_page", holds(IN_PLACE), hypervisor=None, pte=CLEAN),
    variant("native_read_only_page", holds(UNDER_MMAP_SEM), hypervisor=None, pte=READ_ONLY),
    variant("vmi_read_only_page", holds(UNDER_MMAP_SEM), hypervisor=Hypervisor(), pte=READ_ONLY),
    variant("native_in_place_clean_page", violated(NO_WRITE_LOST, IN_PLACE), hypervisor=None,
            pte=CLEAN, linux=Linux(mprotect_clears=False)),
    variant("native_unflushed", violated(NO_WRITE_AFTER_PROMISE, NO_FLUSH), hypervisor=None,
            linux=Linux(mprotect_flushes=False)),
    variant("native_left_late", holds("natively there is nothing to hold back"), hypervisor=None,
            beside=Beside.READER, linux=Linux(lazy_mmu_left_late=True)),
    variant("vmi", holds(AT_ONCE), hypervisor=Hypervisor()),
    variant("vmi_pae", holds(AT_ONCE), hypervisor=Hypervisor(), paging=PAE),
    variant("vmi_rule", holds(AT_ONCE), hypervisor=Hypervisor(), judged=Judge.LOCK_RULE),
    variant("vmi_reader", holds(AT_ONCE), hypervisor=Hypervisor(), beside=Beside.READER),
    variant("vmi_value_migration", holds(AT_ONCE), hypervisor=VALUE, beside=Beside.MIGRATION),
    variant("vmi_writeback", holds(ACCOUNTED), hypervisor=Hypervisor(), beside=Beside.WRITEBACK),
    variant("vmi_clean_page", holds(IN_PLACE), hypervisor=Hypervisor(), pte=CLEAN),
    variant("vmi_unhooked",
            holds("set_pte_at, an accessor, brings the shadow up to date under the same lock"),
            hypervisor=Hypervisor(), beside=Beside.READER,
            linux=Linux(get_and_clear_hooked=False)),
    variant("vmi_unflushed", violated(NO_WRITE_AFTER_PROMISE, NO_FLUSH), hypervisor=Hypervisor(),
            linux=Linux(mprotect_flushes=False)),
    variant("deferred_rule", violated(NO_QUEUE_HOLDS_ENTRY, QUEUED), hypervisor=Hypervisor(),
            defers=True, judged=Judge.LOCK_RULE),
    variant("deferred_reader", holds("set_pte_at, an accessor, is applied at once"),
            hypervisor=Hypervisor(), defers=True, beside=Beside.READER),
    variant("deferred_value_migration", violated(NO_ACCESS_TO_FREED_FRAME, PLANTED),
            hypervisor=VALUE, defers=True, beside=Beside.MIGRATION),
    variant("deferred_torn_migration", violated(NO_ACCESS_TO_FREED_FRAME, PLANTED),
            hypervisor=TORN, defers=True, beside=Beside.MIGRATION),
    *lazy_variants(),
    variant("lazy_rule", holds(RULE), hypervisor=lazily(Holds.UPDATES), judged=Judge.LOCK_RULE),
    variant("lazy_pae", holds(RULE), hypervisor=lazily(Holds.UPDATES), paging=PAE,
            beside=Beside.READER),
    *(
        variant(f"lazy_left_late{name}", expected, hypervisor=lazily(Holds.UPDATES, record),
                beside=beside, judged=judged, paging=paging, linux=Linux(lazy_mmu_left_late=True))
        for name, expected, record, beside, judged, paging in (
            ("", holds(ALONE), Record.ADDRESS, Beside.NOBODY, Judge.PROMISES, NON_PAE),
            ("_rule", violated(SHADOW_NO_MORE_PERMISSIVE, OUTLIVES), Record.ADDRESS,
             Beside.NOBODY, Judge.LOCK_RULE, NON_PAE),
            ("_reader", violated(NO_WRITE_AFTER_PROMISE, OUTLIVES), Record.ADDRESS,
             Beside.READER, Judge.PROMISES, NON_PAE),
            ("_reader_pae", violated(NO_WRITE_AFTER_PROMISE, OUTLIVES), Record.ADDRESS,
             Beside.READER, Judge.PROMISES, PAE),
            ("_value_migration", violated(NO_ACCESS_TO_FREED_FRAME, OUTLIVES), Record.VALUE,
             Beside.MIGRATION, Judge.PROMISES, NON_PAE),
            ("_torn_migration", violated(NO_ACCESS_TO_FREED_FRAME, OUTLIVES), Record.TORN,
             Beside.MIGRATION, Judge.PROMISES, NON_PAE),
            ("_migration",
             holds("a record of an address re-reads the entry, which is gone by then"),
             Record.ADDRESS, Beside.MIGRATION, Judge.PROMISES, NON_PAE),
        )
    ),
)  # fmt: skip
def mprotect(
    setup: Setup,
    *,
    hypervisor: Hypervisor | None,
    beside: Beside = Beside.NOBODY,
    judged: Judge = Judge.PROMISES,
    pte: int = TOUCHED,
    linux: Linux | None = None,
    defers: bool = False,
    paging: Paging = NON_PAE,
) -> None:
    """A takes the right to write away and flushes late; B writes; C relies, migrates or cleans."""
    reads, accounts = beside is Beside.READER, beside is Beside.WRITEBACK
    mm = address_space(Flush.UNDER_PTL, (0, 1, 2) if reads else (0, 1), paging)
    vma = VmAreaStruct(mm, shared=accounts, notifies=accounts)
    guest = guest_memory(pte, paging)
    pv = replace(vmi, pte_update=vmi.pte_update_defer) if defers else vmi
    cpu0, cpu1 = (
        vcpu(setup, n, mm, guest, hypervisor, pv=vmi if n else pv, linux=linux) for n in (0, 1)
    )
    flags = VM_READ | VM_WRITE if accounts else VM_READ
    final = judged is Judge.PROMISES and beside in (Beside.NOBODY, Beside.READER)
    setup.cpu(0, call(protect, cpu0, vma, flags, promises=final))
    taken = beside is Beside.MIGRATION
    second = call(user_read, cpu1, ADDR) if taken else call(write, cpu1, vma)
    setup.cpu(1, call(write, cpu1, vma), second)
    if beside is not Beside.NOBODY:
        mm2 = mm if reads else INIT_MM
        cpu2 = vcpu(setup, 2, mm2, guest, hypervisor, linux=linux, kernel_thread=not reads)
        setup.cpu(2, {
            Beside.READER: call(rely_on_protection, cpu2, vma),
            Beside.MIGRATION: call(unmap_and_move, cpu2, page_of(paging), (vma,), ADDR),
            Beside.WRITEBACK: call(clean_and_write_back, cpu2, vma),
        }[beside])  # fmt: skip
    page, entry = value(guest.page(page_of(paging))), value(guest.table(TABLE, 1))
    version, disk = page >> VERSION_SHIFT, value(DISK)
    marked = any_of(entry & PAGE_DIRTY != 0, value(pg_dirty(page_of(paging))) != 0)
    setup.at_quiescence(NO_WRITE_LOST, (version == disk) | marked)
    if judged is Judge.LOCK_RULE:
        demand_lock_rule(setup, [cpu0, cpu1], mm.pte_lockptr(ADDR), mm.pte_offset(ADDR))
    if accounts:
        writable = (value(mm.pte_lockptr(ADDR)) == 0) & (entry & PAGE_RW != 0)
        setup.always(CLEAN_IS_READ_ONLY, implies(writable, entry & PAGE_DIRTY != 0))
        setup.sometimes("a page with writes was written back", disk != 0)
        setup.sometimes("a write marked the entry again", (disk != 0) & (entry & PAGE_DIRTY != 0))
        return
    if final:
        setup.sometimes("the page was promised to be final", page & PAGE_FROZEN != 0)
    if taken:
        setup.sometimes("the page was freed first", (page & PAGE_OWNER == 0) & (version == 0))
        written = entry & (PAGE_PRESENT | PAGE_RW) == PAGE_PRESENT
        setup.sometimes("the page was there to be protected", finished("cpu0") & written)
    writes = 1 if taken else 2
    setup.sometimes("every write went through", finished("cpu1") & (version == writes))
    setup.sometimes("protection stopped a write", finished("cpu1") & (version < writes))
