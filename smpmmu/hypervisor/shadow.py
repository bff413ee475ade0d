"""The shadow: the tables that the walker really reads, derived from the guest's.

With A/D tracking, shadow entries are present only if the primary is present and accessed, and
writable only if it is writable and dirty; what is missing is a hidden fault, which reads the
primary, sets A or D in it and fills the shadow. Names as in lguest: `g...` the guest's, `s...` the
shadow's. Entries of PAE, 64 bits, are read and written by the hypervisor at once (assumed: it is
closed; unverified), and the entries of the root, which a processor keeps, are not shadowed. It must
not know Linux.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.engine.errors import ModelError
from smpmmu.engine.routines import AGAIN, Again, indivisible, retry, routine
from smpmmu.engine.steps import TAKEN, Part, Word, cmpxchg, load, store
from smpmmu.hypervisor.page_types import PageTypes, is_directory, spde_for
from smpmmu.machine.cpu import page_directory
from smpmmu.machine.entries import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    PAGE_TABLES,
    allows,
    pfn_of,
)
from smpmmu.machine.memory import Memory, pmd_index, pte_index

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

SYNC_IS_ATOMIC = (
    "a record of an address is re-read and applied under the hypervisor's lock of the shadow "
    "entry, and re-checked before it is let go (assumed: the hypervisor is closed; unverified)"
)
FAULT_IS_ATOMIC = (
    "a hidden fault re-checks the primary under the lock of the shadow entry before it lets go "
    "(assumed: the hypervisor is closed; unverified)"
)


DEFERRED_SLOTS = 2
"""Records that a queue has room for."""


class Record(enum.Enum):
    """What a deferred update holds of its entry."""

    ADDRESS = "address"
    """Its address; it is re-read and applied at once."""
    TORN = "torn"
    """Its address; it is re-read, and what was read is applied in another step."""
    VALUE = "value"
    """Its value when the update was made."""


class Holds(enum.Enum):
    """What is held back in lazy MMU mode, until it is left or the queue is drained."""

    NOTHING = "nothing"
    """The hypervisor has no SetLazyMode."""
    UPDATES = "updates"
    """Updates of leaf entries, whether accessors or hooks; a flush here drains the queue."""
    FLUSHES = "flushes"
    """Flushes of this vCPU too, in their order, but for those of interrupt handlers."""
    ALL = "all"
    """Those of interrupt handlers too."""


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """Knobs of the hypervisor, which is closed; the defaults are what is believed of it.

    Attributes:
        record: what a deferred update holds.
        current_only: only updates of the current address space are deferred.
        private: each vCPU has a shadow of its own, brought up to date by its own flushes.
        cr3_drains: a load of CR3 drains the queue.
        ipis_drain: what an interrupt handler flushes drains the queue.
        tracking: the shadow is kept stricter than the primary until A and D are set.
        fault_is_atomic: a hidden fault fills the shadow from what the primary still holds.
        lazy: what is held back in lazy MMU mode.
        lazy_noted_first: vmi_set_lazy_mode writes its variable before it calls SetLazyMode; the
            code does so after it.
        highpte: the address at which Linux maps a page table for a moment, and by which it names
            entries to the hypervisor; 0 if tables lie in low memory, whose addresses last.
        registered: Linux tells what it maps there, by SetLinearMapping; if not, the guest's tables
            are looked at when a record is applied.
        slots: records that a queue has room for; a full one is drained, which is always allowed.
        types: page types, where the scenario's tables come and go.

    Raises:
        ModelError: records of values are asked for where entries are named by a short mapping.
    """

    record: Record = Record.ADDRESS
    current_only: bool = True
    private: bool = False
    cr3_drains: bool = True
    ipis_drain: bool = True
    tracking: bool = True
    fault_is_atomic: bool = True
    lazy: Holds = Holds.NOTHING
    lazy_noted_first: bool = False
    highpte: int = 0
    registered: bool = False
    slots: int = DEFERRED_SLOTS
    types: PageTypes | None = None

    def __post_init__(self) -> None:
        """Refuse knobs that are not modelled together."""
        if self.highpte and self.record is Record.VALUE:
            msg = (
                "records of values are modelled for entries with lasting addresses only: no highpte"
            )
            raise ModelError(msg)


def gpte_to_spte(gpte: int, *, tracking: bool = True) -> int:
    """Return the shadow of a leaf entry."""
    if not gpte & PAGE_PRESENT or (tracking and not gpte & PAGE_ACCESSED):
        return 0
    return gpte if gpte & PAGE_DIRTY or not tracking else gpte & ~PAGE_RW


def shadow_prefix(knobs: Hypervisor, number: int) -> str:
    """Return what names of the shadow entries that vCPU `number` walks begin with."""
    return f"cpu{number}'s shadow " if knobs.private else "shadow "


def shadow_of(guest: Memory, tables: tuple[int, ...], knobs: Hypervisor, number: int) -> Memory:
    """Return shadow tables that agree with the guest's `entries`, those of `tables` as leaves."""
    entries = tuple(
        (frame, i, gpte_to_spte(v, tracking=knobs.tracking) if frame in tables else v)
        for frame, i, v in guest.entries
    )
    return Memory(entries, shadow_prefix(knobs, number), paging=guest.paging)


def spte_of(cpu: Cpu, gpte: Word) -> Word:
    """Return the shadow entry of a leaf of the guest's, in the shadow that `cpu` walks."""
    name = cpu.walked.prefix + gpte.name
    initial = gpte_to_spte(gpte.initial, tracking=cpu.hypervisor.tracking)
    if cpu.hypervisor.types is not None:  # some frames have no shadow at first
        shadowed = {cpu.walked.table(f, i).name: v for f, i, v in cpu.walked.entries}
        initial = shadowed.get(name, 0)
    part = Part(PAGE_TABLES, gpte.name, cpu.walked.prefix.rstrip())
    return Word(name, gpte.width, initial, format=gpte.format, part=part)


@indivisible(SYNC_IS_ATOMIC)
async def sync_entry(cpu: Cpu, ptep: Word) -> None:
    """Bring the shadow of one entry up to date from the primary."""
    await sync_entry_torn(cpu, ptep)


@routine
async def sync_entry_torn(cpu: Cpu, ptep: Word) -> None:
    """Do what `sync_entry` does; other CPUs can move between the two steps."""
    await set_spte(cpu, ptep, await load(ptep))


@indivisible(SYNC_IS_ATOMIC)
async def sync_directory(cpu: Cpu, pmdp: Word) -> None:
    """Bring the shadow of a directory entry up to date from the primary."""
    await set_spte(cpu, pmdp, await spde_for(cpu, await load(pmdp), linking=True))


async def set_spte(cpu: Cpu, ptep: Word, gpte: int) -> None:
    """Make the shadow of one entry what a value of the primary calls for."""
    await store(spte_of(cpu, ptep), gpte_to_spte(gpte, tracking=cpu.hypervisor.tracking))


async def demand_page(
    cpu: Cpu, addr: int, *, write: bool, execute: bool = False, user: bool = True
) -> bool:
    """Answer a hidden fault: fill the shadow from the primary, or False if Linux must fault.

    The guest's own code may change its tables at any moment.
    """
    paging, pd = cpu.memory.paging, await page_directory(cpu, addr)
    if pd is None or not await is_directory(cpu, pd):
        return False
    directory = cpu.memory.table(pd, pmd_index(addr, paging))
    gpde = await load(directory)
    if not allows(gpde, write=write, execute=execute, user=user):
        return False
    ptep = directory
    if not gpde & PAGE_PSE:
        if cpu.hypervisor.types is not None and not await fill_directory(cpu, directory):
            return False
        ptep = cpu.memory.table(pfn_of(gpde), pte_index(addr, paging))
    how = fill if cpu.hypervisor.fault_is_atomic else fill_torn
    return await retry(how, cpu, ptep, write=write, execute=execute, user=user)


@indivisible(FAULT_IS_ATOMIC)
async def fill_directory(cpu: Cpu, directory: Word) -> bool:
    """Fill the shadow of a directory entry; False if it leads to no page table that is known."""
    spde = await spde_for(cpu, await load(directory), linking=False)
    await store(spte_of(cpu, directory), spde)
    return spde != 0


@indivisible(FAULT_IS_ATOMIC)
async def fill(cpu: Cpu, ptep: Word, *, write: bool, execute: bool, user: bool) -> bool | Again:
    """Set A (and D for a write) in the primary, and fill the shadow from it."""
    return await fill_torn(cpu, ptep, write=write, execute=execute, user=user)


@routine
async def fill_torn(
    cpu: Cpu, ptep: Word, *, write: bool, execute: bool, user: bool
) -> bool | Again:
    """Do what `fill` does; other CPUs can move between reading the primary and filling."""
    gpte = await load(ptep)
    if not allows(gpte, write=write, execute=execute, user=user):
        return False
    wanted = gpte | PAGE_ACCESSED | (PAGE_DIRTY if write else 0)
    if wanted != gpte:
        updated = await cmpxchg(ptep, gpte, wanted)
        if not updated & TAKEN:
            return AGAIN
    await set_spte(cpu, ptep, wanted)
    return True
