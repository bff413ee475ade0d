"""What the columns of the main table share: the rows, the first machine, and the late flush.

A row is how an entry's change is told to the hypervisor, and where the flush stands. It is no
scenario itself.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.local import call
from smpmmu.engine.steps import fetch_or
from smpmmu.hypervisor.shadow import Hypervisor, Record, shadow_of
from smpmmu.hypervisor.update_queue import deferred
from smpmmu.hypervisor.vmi import vmi
from smpmmu.kernel.mm import MmStruct, VmAreaStruct
from smpmmu.kernel.paravirt import Linux, ParavirtOps, native
from smpmmu.kernel.smp import flush_tlb_page, install_interrupts
from smpmmu.machine.cpu import Cpu
from smpmmu.machine.entries import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_TABLE,
    PAGE_USER,
    entry,
)
from smpmmu.machine.memory import NON_PAE, PAE, PAGE_FROZEN, Memory, Paging, pmd_index
from smpmmu.machine.speculation import evict, speculate
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.properties.lock_rule import lock_rule
from smpmmu.scenario import Expected, Setup, Variant, variant

if TYPE_CHECKING:
    from collections.abc import Callable

    from smpmmu.engine.steps import Word

PGD, TABLE, PAGE, OTHER_TABLE = 0x1, 0x2, 0x3, 0x4
PMD = 0x5
"""With PAE, the page directory; PGD then is the table above it."""
HIGH_PAGE = 0x100003
"""With PAE, the page: above 4 GiB, so that both words of its entry have something of its frame."""
ADDR = 0x1000
OTHER_ADDR = 0x400000
"""An address of the same mapping in another page table, which has a lock of its own if split."""

READ_ONLY = PAGE_PRESENT | PAGE_USER | PAGE_ACCESSED
UNTOUCHED = PAGE_PRESENT | PAGE_RW | PAGE_USER
"""A writable page before its first access, which sets A and D and fills the shadow."""
CLEAN = UNTOUCHED | PAGE_ACCESSED
TOUCHED = CLEAN | PAGE_DIRTY

COMMENT = (
    "the comment above pte_update in 789e6ac0a7c: a deferred update is safe only if the flush "
    "happens under the same page-table lock"
)


class Hook(enum.Enum):
    """How a change of an entry is told to the hypervisor."""

    NATIVE = "native"
    IMMEDIATE = "immediate"
    DEFERRED = "deferred"
    DEFERRED_TORN = "deferred_torn"
    DEFERRED_VALUE = "deferred_value"

    @property
    def deferred(self) -> bool:
        """Whether the change is held back."""
        return self not in (Hook.NATIVE, Hook.IMMEDIATE)

    @property
    def record(self) -> Record:
        """What a deferred update holds."""
        return {Hook.DEFERRED_TORN: Record.TORN, Hook.DEFERRED_VALUE: Record.VALUE}.get(
            self, Record.ADDRESS
        )


class Flush(enum.Enum):
    """Where the flush stands that must follow a change."""

    UNDER_PTL = "under_ptl"
    AFTER_UNLOCK = "after_unlock"
    UNDER_OTHER_PTL = "under_other_ptl"
    PTL_RETAKEN = "ptl_retaken"

    @property
    def late(self) -> bool:
        """Whether the lock of the entry is free between the change and the flush."""
        return self is not Flush.UNDER_PTL


class Judge(enum.Enum):
    """What a variant is judged by; never by two in one verdict."""

    PROMISES = "promises"
    LOCK_RULE = "lock_rule"
    ACCESSED = "accessed"
    """A heuristic that some variants ask for (`properties/accessed.py`)."""


def rows(
    expect: Callable[[Hook, Flush], Expected], suffix: str = "", **knobs: object
) -> tuple[Variant, ...]:
    """Return a variant for every row, named after it, with what `expect` says of it.

    First without PAE, then with it. The same is expected: who changes an entry of a row changes its
    low word alone, or takes P away first, so that no walker finds halves of two entries; and who
    could find it absent for a moment holds or takes the ptl, or is given a fault that changes
    nothing.
    """
    return tuple(
        variant(f"{hook.value}_{flush.value}{suffix}{PAE_SUFFIX if paging.is_pae else ''}",
                expect(hook, flush), hook=hook, flush=flush, **knobs, **with_paging)
        for paging, with_paging in ((NON_PAE, {}), (PAE, {"paging": PAE}))
        for hook in Hook
        for flush in Flush
    )  # fmt: skip


def in_both_modes(*variants: Variant) -> tuple[Variant, ...]:
    """Return variants without PAE, then the same with it, of which the same is expected."""
    with_pae = (
        replace(each, name=each.name + PAE_SUFFIX, knobs=(*each.knobs, ("paging", PAE)))
        for each in variants
    )
    return (*variants, *with_pae)


PAE_SUFFIX = "_pae"
"""What the names of variants with PAE end with."""


def address_space(flush: Flush, cpus: tuple[int, ...], paging: Paging = NON_PAE) -> MmStruct:
    """Return the address space of a row: split locks where it flushes under another one."""
    split = flush is Flush.UNDER_OTHER_PTL
    pmds = ((0, PMD),) if paging.is_pae else ()
    tables = ((0, TABLE), (OTHER_ADDR >> paging.pmd_shift, OTHER_TABLE))
    return MmStruct(1, PGD, tables, cpus, split, pmds, paging)


def page_of(paging: Paging) -> int:
    """Return the frame that ADDR is mapped to."""
    return HIGH_PAGE if paging.is_pae else PAGE


def guest_memory(pte: int, paging: Paging = NON_PAE, version_bits: int = 6) -> Memory:
    """Return memory in which ADDR is mapped with the flags `pte`; with PAE not executable."""
    if not paging.is_pae:
        tables = ((PGD, 0, entry(TABLE, PAGE_TABLE)), (TABLE, 1, entry(PAGE, pte)))
        return Memory(tables, version_bits=version_bits)
    entries = (
        (PGD, 0, entry(PMD, PAGE_PRESENT)),
        (PMD, pmd_index(ADDR, paging), entry(TABLE, PAGE_TABLE)),
        (TABLE, 1, entry(HIGH_PAGE, pte) | PAGE_NX),
    )
    return Memory(entries, paging=paging, version_bits=version_bits)


MOST_EVICTORS = 64


def vcpus(
    setup: Setup,
    hook: Hook,
    mm: MmStruct,
    numbers: tuple[int, ...],
    *,
    pte: int = TOUCHED,
    flush: Flush = Flush.UNDER_PTL,
    mms: tuple[MmStruct, ...] = (),
    linux: Linux | None = None,
    hypervisor: Hypervisor | None = None,
    guest: Memory | None = None,
    pages: tuple[int, ...] = (ADDR,),
    changers: tuple[int, ...] = (),
) -> list[Cpu]:
    """Return vCPUs with their interrupts and evictors; the first one's changes go by `hook`.

    As written, only some of the modelled functions defer; here a row says whether the first
    vCPU's do, or those of all `changers`. The hooks of the others are VMI's. If the row's `flush`
    is late, the macros that would flush by themselves do not, on those vCPUs. They use ADDR, which
    is mapped with the flags `pte`, or the `pages` of a `guest` memory. Evictors are for what can be
    explored: there are none beyond `MOST_EVICTORS`.
    """
    guest = guest or guest_memory(pte, mm.paging)
    changers = changers or numbers[:1]
    evictors = len(numbers) * len(pages) <= MOST_EVICTORS
    knobs = replace(hypervisor or Hypervisor(), record=hook.record)
    kernel = linux or Linux()
    result = []
    for number in numbers:
        pv, walked = native, guest
        if hook is not Hook.NATIVE:
            pv = vmi
            walked = shadow_of(guest, (TABLE,), knobs, number)
        if number in changers and hook is Hook.IMMEDIATE:
            pv = replace(vmi, pte_update_defer=vmi.pte_update)
        if number in changers and hook.deferred:
            pv = replace(vmi, pte_update=vmi.pte_update_defer)
        late = flush.late and number in changers
        cpu = Cpu(
            number, guest, walked, mm.pgd, pv, mm, pages, mms=mms,
            hypervisor=None if hook is Hook.NATIVE else knobs,
            linux=replace(kernel, macros_flush=False) if late else kernel,
        )  # fmt: skip
        if number in mm.cpus or mms:
            install_interrupts(setup, cpu)
            if evictors:
                install_evictor(setup, cpu)
        result.append(cpu)
    return result


def install_walker(setup: Setup, cpu: Cpu) -> None:
    """Give a vCPU a speculative walker for each of its pages."""
    for number, addr in enumerate(cpu.pages):
        setup.daemon(cpu.number, f"walker{number or ''}", call(speculate, cpu, addr))


def install_evictor(setup: Setup, cpu: Cpu) -> None:
    """Give a vCPU an evictor for each of its pages, for the second look at what holds."""
    for number, addr in enumerate(cpu.pages):
        setup.evictor(cpu.number, f"evictor{number or ''}", call(evict, cpu, addr))


def demand_lock_rule(setup: Setup, cpus: list[Cpu], lock: Word, ptep: int) -> None:
    """Demand the lock rule of the entry at `ptep`, guarded by `lock`, for all vCPUs."""
    shadows = {cpu.walked.prefix: cpu.walked.at(ptep) for cpu in cpus if cpu.hypervisor}
    queues = [cpu for cpu in cpus if cpu.hypervisor]
    slots = [deferred(cpu, slot) for cpu in queues for slot in range(cpu.hypervisor.slots)]
    primary = cpus[0].memory.at(ptep)
    for name, truth in lock_rule(lock, primary, list(shadows.values()), slots, ptep):
        setup.always(name, truth)


def vcpu(
    setup: Setup,
    number: int,
    mm: MmStruct,
    guest: Memory,
    hypervisor: Hypervisor | None,
    *,
    tables: tuple[int, ...] = (TABLE,),
    pv: ParavirtOps = vmi,
    linux: Linux | None = None,
    mms: tuple[MmStruct, ...] = (),
    kernel_thread: bool = False,
    pages: tuple[int, ...] = (ADDR,),
    bare: ParavirtOps = native,
) -> Cpu:
    """Return a vCPU whose hooks are as written: VMI's, or nothing on the bare machine.

    It has interrupts and an evictor unless no flush can ever concern it. `tables` are the frames
    of the guest's page tables. Without a hypervisor that keeps a shadow its hooks are `bare`.
    """
    cpu = Cpu(
        number,
        guest,
        guest if hypervisor is None else shadow_of(guest, tables, hypervisor, number),
        mm.pgd,
        bare if hypervisor is None else pv,
        mm,
        pages,
        mms=mms,
        kernel_thread=kernel_thread,
        hypervisor=hypervisor,
        linux=linux or Linux(),
    )
    if number in mm.cpus or mms:
        install_interrupts(setup, cpu)
        install_evictor(setup, cpu)
    return cpu


async def unlock_and_flush(cpu: Cpu, vma: VmAreaStruct, flush: Flush, addr: int = ADDR) -> None:
    """End a change of the entry for `addr`, whose lock is held, with the flush where it stands."""
    mm = vma.vm_mm
    ptl = mm.pte_lockptr(addr)
    if flush is Flush.UNDER_PTL:
        await flush_tlb_page(cpu, vma, addr)
        await spin_unlock(ptl)
        return
    await spin_unlock(ptl)
    # The lock is free: whoever takes it now will believe the entry.
    await flush_late(cpu, vma, flush, addr)


async def flush_late(cpu: Cpu, vma: VmAreaStruct, flush: Flush, addr: int = ADDR) -> None:
    """Flush after the lock of the entry was released."""
    if flush is Flush.AFTER_UNLOCK:
        await flush_tlb_page(cpu, vma, addr)
        return
    lock = vma.vm_mm.pte_lockptr(addr if flush is Flush.PTL_RETAKEN else OTHER_ADDR)
    await spin_lock(lock)
    await flush_tlb_page(cpu, vma, addr)
    await spin_unlock(lock)


async def promise(page: Word) -> None:
    """Promise that a page no longer changes: the moment in which it would be copied."""
    await fetch_or(page, PAGE_FROZEN)
