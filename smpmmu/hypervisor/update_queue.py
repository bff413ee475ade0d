"""The queue of a vCPU: updates, and in lazy MMU mode flushes too, that were held back.

A record is applied at that vCPU's next INVLPG, load of CR3 or page fault, its own or an
interrupt's, or when it leaves lazy MMU mode. It must not know who calls the hooks (`vmi.py`).
Source: the VMI specification 2.0 (2006-03-13). That queues are one per vCPU is inferred; when a
record is read, and what is held back in lazy MMU mode, is unverified, hence the knobs
(`shadow.Hypervisor`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import routine
from smpmmu.engine.steps import Part, Word, load, store, xchg
from smpmmu.hypervisor.page_types import ONLY_ANNOUNCED_FRAMES_ARE_UPDATED, PT, check, page_type
from smpmmu.hypervisor.shadow import Holds, Record, set_spte, sync_entry, sync_entry_torn
from smpmmu.machine.cpu import flush_global, invlpg, load_cr3, read_cr3
from smpmmu.machine.entries import ENTRY, PAGE_PRESENT, PAGE_SHIFT, Address, pfn_of
from smpmmu.machine.memory import PAGE_SIZE, pgd_index, pmd_index, pte_index

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

QUEUES = "deferred updates"
"""Reports show the queues in this table."""
ADDRESS_BITS = 3
"""An entry's address leaves these bits of a record free, which then tell what is to be flushed."""
FLUSH_PAGE, FLUSH_USER, FLUSH_EVERYTHING = 1, 2, 3
"""Records of INVLPG (with the page's address), of a load of CR3, of a global flush."""


class Held(Address):
    """How reports show a record: the entry that it is of, or what it flushes."""

    def show(self, value: int) -> str:
        """Return the entry's name, or the flush."""
        flushes = {FLUSH_USER: "flush", FLUSH_EVERYTHING: "flush all"}
        if value & ADDRESS_BITS == FLUSH_PAGE:
            return f"flush {value & ~(PAGE_SIZE - 1):#x}"
        return flushes.get(value) or super().show(value)


def deferred(cpu: Cpu, slot: int) -> Word:
    """Return a slot of a vCPU's queue: the physical address of an entry, a flush, or 0."""
    held = Held(entry_size=cpu.memory.paging.entry_size)
    part = Part(QUEUES, f"slot {slot}", cpu.name, held)
    return Word(f"{cpu.name}.deferred[{slot}]", 32, owner=cpu.name, part=part)


def deferred_value(cpu: Cpu, slot: int) -> Word:
    """Return the entry's value that goes with the slot, where records hold values."""
    width = cpu.memory.paging.entry_bits
    name = f"{cpu.name}.deferred_value[{slot}]"
    part = Part(QUEUES, f"slot {slot}, its value", cpu.name)
    return Word(name, width, owner=cpu.name, format=ENTRY, part=part)


def lazy_mode(cpu: Cpu) -> Word:
    """Return whether a vCPU is in lazy MMU mode, as the hypervisor knows it."""
    part = Part(QUEUES, "lazy MMU mode", cpu.name)
    return Word(f"{cpu.name}.in lazy MMU mode", 1, owner=cpu.name, part=part)


def drains(cpu: Cpu) -> bool:
    """Whether what is flushed here and now drains the queue."""
    return bool(cpu.hypervisor.ipis_drain or not cpu.in_interrupt)


async def holds_updates(cpu: Cpu) -> bool:
    """Whether updates are held back; no step without lazy MMU mode."""
    return cpu.hypervisor.lazy is not Holds.NOTHING and await load(lazy_mode(cpu)) != 0


async def holds_flushes(cpu: Cpu) -> bool:
    """Whether flushes are held back; no step where they never are."""
    held = (Holds.ALL,) if cpu.in_interrupt else (Holds.FLUSHES, Holds.ALL)
    return cpu.hypervisor.lazy in held and await load(lazy_mode(cpu)) != 0


@routine
async def drain(cpu: Cpu) -> None:
    """Apply and empty this vCPU's queue, oldest first."""
    for slot in range(cpu.hypervisor.slots):
        record = await xchg(deferred(cpu, slot), 0)
        if not record:
            return
        if record & ADDRESS_BITS:
            await flush_held(cpu, record)
            continue
        if cpu.hypervisor.highpte:
            record = await lasting_address(cpu, record)
            if not record:
                continue
        word = cpu.memory.at(record)
        if not await is_page_table(cpu, record):
            continue
        if cpu.hypervisor.record is Record.VALUE:
            await set_spte(cpu, word, await xchg(deferred_value(cpu, slot), 0))
        elif cpu.hypervisor.record is Record.TORN:
            await sync_entry_torn(cpu, word)
        else:
            await sync_entry(cpu, word)


def linear_mapping(cpu: Cpu) -> Word:
    """Return the frame that SetLinearMapping was last told of for the short mapping; 0 for none."""
    return Word(f"{cpu.name}.linear_mapping", 20, owner=cpu.name)


@routine
async def lasting_address(cpu: Cpu, record: int) -> int:
    """Return where in memory an entry named by a short mapping lies now; 0 if nowhere."""
    if cpu.hypervisor.registered:
        pfn = await load(linear_mapping(cpu))
    else:
        vaddr, paging = cpu.hypervisor.highpte, cpu.memory.paging
        gpde = await load(cpu.memory.table(await read_cr3(cpu), pgd_index(vaddr, paging)))
        pfn = pfn_of(await load(cpu.memory.table(pfn_of(gpde), pte_index(vaddr, paging))))
    return (pfn << PAGE_SHIFT) + record % PAGE_SIZE if pfn else 0


async def flush_held(cpu: Cpu, record: int) -> None:
    """Do a flush that was held back."""
    if record & ADDRESS_BITS == FLUSH_PAGE:
        await flush_page(cpu, record & ~(PAGE_SIZE - 1))
    else:
        await flush_all(cpu, everything=record == FLUSH_EVERYTHING)


async def is_page_table(cpu: Cpu, ptep: int) -> bool:
    """Whether there is a shadow for the frame that `ptep` lies in; no step if types are not kept.

    C: check_page_type
    """
    if cpu.hypervisor.types is None:
        return True
    known = await load(page_type(cpu, ptep >> PAGE_SHIFT)) == PT
    check(cpu, known, ONLY_ANNOUNCED_FRAMES_ARE_UPDATED)
    return known


@routine
async def supersede(cpu: Cpu, ptep: int) -> None:
    """Bring a queued value up to date when its entry is updated now: no call overtakes another.

    Records of addresses need no such care: whenever they are applied, the entry is read anew.
    """
    if cpu.hypervisor.record is not Record.VALUE:
        return
    for slot in range(cpu.hypervisor.slots):
        queued = await load(deferred(cpu, slot))
        if not queued:
            return
        if queued == ptep:
            await store(deferred_value(cpu, slot), await load(cpu.memory.at(ptep)))


async def enqueue(cpu: Cpu, record: int) -> None:
    """Add a record to this vCPU's queue, and drain it first if it is full."""
    if cpu.hypervisor.highpte and not record & ADDRESS_BITS:
        record = cpu.hypervisor.highpte | record % PAGE_SIZE
    for slot in range(cpu.hypervisor.slots):
        if not await load(deferred(cpu, slot)):
            await put(cpu, slot, record)
            return
    await drain(cpu)
    await put(cpu, 0, record)


@routine
async def put(cpu: Cpu, slot: int, record: int) -> None:
    """Write a record."""
    if cpu.hypervisor.record is Record.VALUE and not record & ADDRESS_BITS:
        await store(deferred_value(cpu, slot), await load(cpu.memory.at(record)))
    await store(deferred(cpu, slot), record)


async def flush_page(cpu: Cpu, addr: int) -> None:
    """Drop the translation of `addr`, and bring a shadow of this vCPU's own up to date."""
    if cpu.hypervisor.private:
        await refetch(cpu, await read_cr3(cpu), addr)
    await invlpg(cpu, addr)


async def flush_all(cpu: Cpu, *, everything: bool) -> None:
    """Drop what is cached; with `everything` global entries as well."""
    if cpu.hypervisor.private:
        root = await read_cr3(cpu)
        for addr in cpu.pages:
            await refetch(cpu, root, addr)
    if everything:
        await flush_global(cpu)
    else:
        await load_cr3(cpu, await read_cr3(cpu))


@routine
async def refetch(cpu: Cpu, root: int, addr: int) -> None:
    """Bring this vCPU's own shadow of the page of `addr` under `root` up to date."""
    paging = cpu.memory.paging
    if paging.is_pae:
        pdpte = await load(cpu.memory.table(root, pgd_index(addr, paging)))
        if not pdpte & PAGE_PRESENT:
            return
        root = pfn_of(pdpte)
    gpde = await load(cpu.memory.table(root, pmd_index(addr, paging)))
    if gpde & PAGE_PRESENT:
        await sync_entry(cpu, cpu.memory.table(pfn_of(gpde), pte_index(addr, paging)))
