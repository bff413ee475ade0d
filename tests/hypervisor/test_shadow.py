"""The shadow and its queue: what is derived, what a hidden fault does, what drains, by knob."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpmmu.engine.errors import ModelError
from smpmmu.engine.expressions import finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, load, store, xchg
from smpmmu.hypervisor.shadow import DEFERRED_SLOTS, Hypervisor, Record, gpte_to_spte
from smpmmu.hypervisor.update_queue import deferred, drain
from smpmmu.hypervisor.vmi import vmi, vmi_page_fault
from smpmmu.kernel.context import context_switch
from smpmmu.kernel.mm import INIT_MM
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.pgtable import (
    ptep_clear_flush_dirty,
    ptep_clear_flush_young,
    ptep_get_and_clear,
    ptep_set_wrprotect,
    set_pte_at,
)
from smpmmu.kernel.smp import flush_tlb_page, install_interrupts
from smpmmu.machine.entries import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_SHIFT,
    PAGE_USER,
    entry,
)
from smpmmu.machine.memory import VERSION_SHIFT, Memory
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import Access, user_read, user_write
from smpmmu.properties.lock_rule import no_more_permissive
from smpmmu.scenario import Setup
from smpmmu.scenarios.common import demand_lock_rule, install_walker
from tests.engine.programs import hypothetically
from tests.machines import (
    ADDR,
    CLEAN,
    MM,
    MM_OF_TWO,
    OTHER_PAGE,
    PAGE,
    READ_ONLY,
    TABLE,
    TOUCHED,
    UNTOUCHED,
    VMA,
    alone,
    ended,
    holds,
    labels,
    memory,
    vcpu,
    violated,
)

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct
    from smpmmu.machine.cpu import Cpu

PTEP = MM.pte_offset(ADDR)
PTE, SPTE, TLB = "0x2[1]", "shadow 0x2[1]", "cpu0.tlb[0x1]"
OUT = Word("went through", 2)
DONE = Word("all is flushed", 1)
FOREIGN = replace(MM, number=2, cpus=())


def shadowed(number: int = 0, pte: int = TOUCHED, mm: MmStruct = MM, **knobs: object) -> Cpu:
    """Return a vCPU under the hypervisor, with these of its knobs."""
    hypervisor = Hypervisor(**knobs)  # type: ignore[arg-type]
    return vcpu(number, memory(pte), mm, pv=vmi, hypervisor=hypervisor)


# What the shadow of an entry is.


@pytest.mark.parametrize(
    ("gpte", "tracked", "untracked"),
    [
        (0, 0, 0),
        (PAGE_RW | PAGE_USER | PAGE_ACCESSED | PAGE_DIRTY, 0, 0),
        (PAGE_PRESENT | PAGE_USER, 0, PAGE_PRESENT | PAGE_USER),
        (UNTOUCHED, 0, UNTOUCHED),
        (UNTOUCHED | PAGE_DIRTY, 0, UNTOUCHED | PAGE_DIRTY),
        (READ_ONLY, READ_ONLY, READ_ONLY),
        (READ_ONLY | PAGE_DIRTY, READ_ONLY | PAGE_DIRTY, READ_ONLY | PAGE_DIRTY),
        (CLEAN, READ_ONLY, CLEAN),
        (TOUCHED, TOUCHED, TOUCHED),
        (TOUCHED & ~PAGE_USER, TOUCHED & ~PAGE_USER, TOUCHED & ~PAGE_USER),
        (CLEAN & ~PAGE_USER, READ_ONLY & ~PAGE_USER, CLEAN & ~PAGE_USER),
    ],
)
def test_the_shadow_of_an_entry(gpte: int, tracked: int, untracked: int) -> None:
    frame = entry(PAGE, 0)
    for result, tracking in ((tracked, True), (untracked, False)):
        shadow = gpte_to_spte(frame | gpte, tracking=tracking)
        assert shadow == (frame | result if result else 0)


@dataclass(frozen=True)
class Values:
    """Reads words from a table, for expressions."""

    values: dict[str, int]

    def word(self, word: Word) -> int:
        return self.values[word.name]

    def finished(self, context: str) -> bool:
        msg = f"the lock rule reads words alone, not whether {context} has ended"
        raise AssertionError(msg)


GPTE, SHADOW = Word("gpte", 32), Word("spte", 32)


def permitted(gpte: int, spte: int) -> bool:
    """Evaluate the lock rule's expression."""
    truth = no_more_permissive(SHADOW, GPTE)
    return bool(truth.evaluate(Values({"gpte": gpte, "spte": spte})))


def test_a_shadow_of_another_frame_is_more_permissive() -> None:
    assert permitted(entry(PAGE, TOUCHED), entry(PAGE, TOUCHED))
    assert not permitted(entry(PAGE, TOUCHED), entry(OTHER_PAGE, TOUCHED))


@given(gpte=st.integers(0, 0xFFFFFFFF))
@hypothetically(300)
def test_a_shadow_that_is_derived_permits_no_more(gpte: int) -> None:
    assert permitted(gpte, gpte_to_spte(gpte))


@given(
    frame=st.integers(0, 0xFFFFF),
    other=st.integers(0, 0xFFFFF),
    gflags=st.integers(0, 0xFFF),
    sflags=st.integers(0, 0xFFF),
    agree=st.booleans(),
)
@hypothetically(500)
def test_the_lock_rule_says_what_a_walk_of_either_table_allows(
    frame: int, other: int, gflags: int, sflags: int, *, agree: bool
) -> None:
    gpte, spte = entry(frame, gflags), entry(frame if agree else other, sflags)

    def can(pte: int, *needed: int) -> bool:
        return all(pte & bit for bit in (PAGE_PRESENT, *needed))

    more = (
        can(spte) and not can(gpte, PAGE_ACCESSED),
        can(spte, PAGE_USER) and not can(gpte, PAGE_USER),
        can(spte, PAGE_RW) and not can(gpte, PAGE_RW, PAGE_DIRTY),
        can(spte) and spte >> PAGE_SHIFT != gpte >> PAGE_SHIFT,
    )
    assert permitted(gpte, spte) == (not any(more))


# Hidden faults.


async def access(cpu: Cpu, *, write: bool) -> None:
    one = user_write if write else user_read
    await store(OUT, 1 if await one(cpu, ADDR) is Access.DONE else 2)


@pytest.mark.parametrize(
    ("pte", "write", "through", "gpte", "spte"),
    [
        (UNTOUCHED, False, 1, CLEAN, READ_ONLY),
        (UNTOUCHED, True, 1, TOUCHED, TOUCHED),
        (CLEAN, False, 1, CLEAN, READ_ONLY),
        (CLEAN, True, 1, TOUCHED, TOUCHED),
        (TOUCHED, True, 1, TOUCHED, TOUCHED),
        (READ_ONLY, False, 1, READ_ONLY, READ_ONLY),
        (READ_ONLY, True, 2, READ_ONLY, READ_ONLY),
        (UNTOUCHED & ~PAGE_PRESENT, False, 2, None, None),
        (UNTOUCHED & ~PAGE_USER, False, 2, UNTOUCHED & ~PAGE_USER, None),
    ],
)
def test_a_hidden_fault_marks_the_primary_and_fills_the_shadow(
    pte: int, through: int, gpte: int | None, spte: int | None, *, write: bool
) -> None:
    cpu = shadowed(pte=pte)
    check = call(look, cpu)
    values = ended(alone(call(access, cpu, write=write), check))
    assert values["went through"] == through
    assert values[PTE] == entry(PAGE, pte if gpte is None else gpte)
    assert values[SPTE] == (0 if spte is None else entry(PAGE, spte))
    if through == 1:
        assert values[TLB] == values[SPTE]
        assert values["page 0x3"] >> VERSION_SHIFT == write


async def look(cpu: Cpu) -> None:
    """Read what a test wants to know the last value of."""
    await load(cpu.memory.at(PTEP))
    await load(cpu.walked.at(PTEP))
    await load(deferred(cpu, 0))


@pytest.mark.parametrize("fault_is_atomic", [True, False])
def test_two_hidden_faults_lose_no_mark_of_each_other(*, fault_is_atomic: bool) -> None:
    """A hidden fault that loses its compare-and-exchange begins anew, on what is there then."""
    setup = Setup()
    knobs = {"fault_is_atomic": fault_is_atomic}
    cpu0, cpu1 = (shadowed(n, UNTOUCHED, MM_OF_TWO, **knobs) for n in range(2))
    setup.cpu(0, call(access, cpu0, write=True))
    setup.cpu(1, call(access, cpu1, write=False))
    leaf, spte = value(cpu0.memory.at(PTEP)), value(cpu0.walked.at(PTEP))
    setup.at_quiescence("both_marks_are_there", leaf == entry(PAGE, TOUCHED))
    agree = no_more_permissive(cpu0.walked.at(PTEP), cpu0.memory.at(PTEP))
    setup.always("the_shadow_permits_no_more", agree)
    setup.sometimes("only accessed", spte == entry(PAGE, READ_ONLY))
    assert holds(setup)


# What drains the queue.


class By(enum.Enum):
    """What may drain a queue."""

    INVLPG = "INVLPG"
    FLUSH = "a flush"
    GLOBAL = "a global flush"
    CR3 = "a load of CR3"
    FAULT = "a page fault"
    UNLOCK = "nothing"


async def defer(cpu: Cpu, mm: MmStruct) -> None:
    """Take the right to write away, and defer telling of it."""
    await spin_lock(MM.pte_lockptr(ADDR))
    await store(cpu.memory.at(PTEP), entry(PAGE, READ_ONLY))
    await cpu.pv.pte_update_defer(cpu, mm, ADDR, PTEP)
    await spin_unlock(MM.pte_lockptr(ADDR))


async def do(cpu: Cpu, how: By) -> None:
    if how is By.INVLPG:
        await cpu.pv.flush_tlb_single(cpu, ADDR)
    elif how is By.FLUSH:
        await cpu.pv.flush_tlb_user(cpu)
    elif how is By.GLOBAL:
        await cpu.pv.flush_tlb_kernel(cpu)
    elif how is By.CR3:
        await cpu.pv.write_cr3(cpu, cpu.root)
    elif how is By.FAULT:
        await vmi_page_fault(cpu, ADDR, write=False)
    else:
        await load(cpu.memory.at(PTEP))


@pytest.mark.parametrize("how", list(By))
@pytest.mark.parametrize("in_interrupt", [False, True])
@pytest.mark.parametrize("cr3_drains", [False, True])
@pytest.mark.parametrize("ipis_drain", [False, True])
@pytest.mark.parametrize("record", list(Record))
def test_what_drains_the_queue(
    how: By, record: Record, *, in_interrupt: bool, cr3_drains: bool, ipis_drain: bool
) -> None:
    cpu = shadowed(record=record, cr3_drains=cr3_drains, ipis_drain=ipis_drain)
    there = replace(cpu, in_interrupt=in_interrupt)
    values = ended(alone(call(defer, cpu, MM), call(do, there, how), call(look, cpu)))
    flushes = how in (By.INVLPG, By.FLUSH, By.GLOBAL) or (how is By.CR3 and cr3_drains)
    drained = how is By.FAULT or (flushes and (ipis_drain or not in_interrupt))
    assert values["cpu0.deferred[0]"] == (0 if drained else PTEP)
    assert values[SPTE] == entry(PAGE, READ_ONLY if drained else TOUCHED)


@pytest.mark.parametrize("how", [By.INVLPG, By.FLUSH, By.GLOBAL, By.CR3])
def test_a_flush_drains_before_it_drops_what_is_cached(how: By) -> None:
    cpu = shadowed()
    run = alone(call(access, cpu, write=True), call(defer, cpu, MM), call(do, cpu, how))
    told = labels(run)
    drops = [n for n, label in enumerate(told) if TLB in label and "fill" not in label]
    assert told.index(f"store {SPTE} = 0x3 P-US-A") < drops[-1]
    assert ended(run)[TLB] == 0


def test_a_foreign_update_is_deferred_only_if_the_knob_says_so() -> None:
    for current_only, mm, queued in (
        (True, MM, True), (True, FOREIGN, False), (False, MM, True), (False, FOREIGN, True),
    ):  # fmt: skip
        cpu = shadowed(current_only=current_only)
        values = ended(alone(call(defer, cpu, mm), call(look, cpu)))
        assert values["cpu0.deferred[0]"] == (PTEP if queued else 0)
        assert values[SPTE] == entry(PAGE, TOUCHED if queued else READ_ONLY)


async def defer_many(cpu: Cpu, count: int) -> None:
    for index in range(count):
        ptep = (TABLE << PAGE_SHIFT) + 4 * index
        await cpu.pv.pte_update_defer(cpu, MM, index << PAGE_SHIFT, ptep)


def test_a_full_queue_is_drained_and_keeps_the_newest() -> None:
    cpu = shadowed()
    for count in range(1, 2 * DEFERRED_SLOTS + 1):
        values = ended(alone(call(defer_many, cpu, count)))
        left = [values[deferred(cpu, n).name] for n in range(DEFERRED_SLOTS)]
        base = (count - 1) // DEFERRED_SLOTS * DEFERRED_SLOTS
        kept = [(TABLE << PAGE_SHIFT) + 4 * n for n in range(base, count)]
        assert left == kept + [0] * (DEFERRED_SLOTS - len(kept))


# What a record holds.


async def change_twice(cpu: Cpu) -> None:
    """Defer one change of the entry; make another that is told of nowhere; then drain."""
    await defer(cpu, MM)
    await store(cpu.memory.at(PTEP), 0)
    await drain(cpu)


@pytest.mark.parametrize(
    ("record", "left"),
    [(Record.ADDRESS, 0), (Record.TORN, 0), (Record.VALUE, entry(PAGE, READ_ONLY))],
)
def test_a_record_of_a_value_installs_the_older_one(record: Record, left: int) -> None:
    assert ended(alone(call(change_twice, shadowed(record=record))))[SPTE] == left


async def unmap(cpu: Cpu) -> None:
    """Empty the entry and its shadow, under the lock."""
    await spin_lock(MM.pte_lockptr(ADDR))
    await xchg(cpu.memory.at(PTEP), 0)
    await cpu.pv.pte_update(cpu, MM, ADDR, PTEP)
    await spin_unlock(MM.pte_lockptr(ADDR))
    await store(DONE, 1)


@pytest.mark.parametrize(("record", "comes_back"), [
    (Record.ADDRESS, False), (Record.TORN, True), (Record.VALUE, True),
])  # fmt: skip
def test_a_torn_record_can_bring_back_what_was_emptied(record: Record, *, comes_back: bool) -> None:
    setup = Setup()
    cpu0, cpu1 = (shadowed(n, TOUCHED, MM_OF_TWO, record=record) for n in range(2))
    setup.cpu(0, call(defer_once, cpu0))
    setup.cpu(1, call(unmap, cpu1))
    spte = value(cpu0.walked.at(PTEP))
    both = finished("cpu0") & (value(DONE) == 1)
    setup.always("what_was_emptied_stays_so", implies(both, spte & PAGE_PRESENT == 0))
    if comes_back:
        assert violated(setup) == "what_was_emptied_stays_so"
    else:
        setup.sometimes("emptied before it was drained", (value(DONE) == 1) & ~finished("cpu0"))
        setup.sometimes("emptied after it", both)
        assert holds(setup)


async def defer_once(cpu: Cpu) -> None:
    """Take the right to write away, deferred, and drain after the lock was released."""
    await spin_lock(MM.pte_lockptr(ADDR))
    await store(cpu.memory.at(PTEP), await load(cpu.memory.at(PTEP)) & ~PAGE_RW)
    await cpu.pv.pte_update_defer(cpu, cpu.mm, ADDR, PTEP)
    await spin_unlock(MM.pte_lockptr(ADDR))
    await drain(cpu)


# Shadows of one vCPU each.


def test_private_shadows_follow_their_own_flushes() -> None:
    for flushes in (False, True):
        setup = Setup()
        cpu0, cpu1 = (shadowed(n, TOUCHED, MM_OF_TWO, private=True) for n in range(2))
        setup.cpu(0, call(protect_and_maybe_flush, cpu0, flushes=flushes))
        setup.cpu(1, call(access, cpu1, write=True))
        for cpu in (cpu0, cpu1):
            install_interrupts(setup, cpu)
        mine, other = (value(cpu.walked.at(PTEP)) & PAGE_RW == 0 for cpu in (cpu0, cpu1))
        done = value(DONE) == 1
        setup.always("mine_is_protected", implies(done, mine))
        if flushes:
            setup.always("so_is_the_others", implies(done, other))
        else:
            setup.always("the_others_is_not", ~other)
        assert holds(setup)


async def protect_and_maybe_flush(cpu: Cpu, *, flushes: bool) -> None:
    await spin_lock(MM.pte_lockptr(ADDR))
    await ptep_set_wrprotect(cpu, MM_OF_TWO, ADDR, PTEP)
    if flushes:
        await flush_tlb_page(cpu, VMA_OF_TWO, ADDR)
    await spin_unlock(MM.pte_lockptr(ADDR))
    await store(DONE, 1)


VMA_OF_TWO = replace(VMA, vm_mm=MM_OF_TWO)


def test_a_load_of_cr3_fetches_a_private_shadow_before_anything_can_be_speculated() -> None:
    """Another CPU write-protects the page while this one has left the address space."""
    setup = Setup()
    mms = (MM_OF_TWO, FOREIGN, INIT_MM)
    knobs = {"pv": vmi, "hypervisor": Hypervisor(private=True), "mms": mms}
    cpu0, cpu1 = (vcpu(n, memory(TOUCHED), MM_OF_TWO, **knobs) for n in range(2))
    setup.cpu(0, call(protect_and_maybe_flush, cpu0, flushes=True))
    setup.cpu(1, call(go_and_come, cpu1))
    for cpu in (cpu0, cpu1):
        install_interrupts(setup, cpu)
    install_walker(setup, cpu1)
    writable = value(cpu1.tlb(ADDR)) & PAGE_RW != 0
    both = finished("cpu1") & (value(DONE) == 1)
    setup.always("nothing_stale_is_cached", implies(both, ~writable))
    setup.sometimes("it was cached", writable)
    setup.sometimes("left out of the flush", value(MM_OF_TWO.cpu_vm_mask) & 0b10 == 0)
    assert holds(setup)


async def go_and_come(cpu: Cpu) -> None:
    """Load another address space, and come back."""
    await context_switch(cpu, MM_OF_TWO, FOREIGN)
    await context_switch(cpu, FOREIGN, MM_OF_TWO)


def test_shadows_are_one_or_one_for_each() -> None:
    names = {
        private: [shadowed(n, private=private).walked.at(PTEP).name for n in range(2)]
        for private in (False, True)
    }
    assert names[False] == [SPTE, SPTE]
    assert names[True] == ["cpu0's shadow 0x2[1]", "cpu1's shadow 0x2[1]"]


# Any sequence of changes on one vCPU.


class Change(enum.Enum):
    """A change of the entry, or a use of it, as code under the lock makes them."""

    SET = "set_pte_at writable"
    SET_UNTOUCHED = "set_pte_at untouched"
    SET_OTHER = "set_pte_at another page"
    PROTECT = "ptep_set_wrprotect"
    PROTECT_DEFERRED = "ptep_set_wrprotect, deferred"
    CLEAN = "ptep_clear_flush_dirty"
    AGE = "ptep_clear_flush_young"
    EMPTY = "ptep_get_and_clear"
    READ = "read the page"
    WRITE = "write the page"
    FLUSH = "flush"


SETS = {
    Change.SET: entry(PAGE, TOUCHED),
    Change.SET_UNTOUCHED: entry(PAGE, UNTOUCHED),
    Change.SET_OTHER: entry(OTHER_PAGE, CLEAN),
}


async def make(cpu: Cpu, change: Change, value_: int) -> None:
    if value_:
        await set_pte_at(cpu, MM, ADDR, PTEP, value_)
    elif change in (Change.PROTECT, Change.PROTECT_DEFERRED):
        await ptep_set_wrprotect(cpu, MM, ADDR, PTEP)
    elif change is Change.CLEAN:
        await ptep_clear_flush_dirty(cpu, VMA, ADDR, PTEP)
    elif change is Change.AGE:
        await ptep_clear_flush_young(cpu, VMA, ADDR, PTEP)
    elif change is Change.EMPTY:
        await ptep_get_and_clear(cpu, MM, ADDR, PTEP)
    elif change is Change.READ:
        await user_read(cpu, ADDR)
    elif change is Change.WRITE:
        await user_write(cpu, ADDR)
    else:
        await flush_tlb_page(cpu, VMA, ADDR)


async def begin(lock: Word) -> None:
    await spin_lock(lock)


async def end(cpu: Cpu, lock: Word) -> None:
    await flush_tlb_page(cpu, VMA, ADDR)
    await spin_unlock(lock)
    await look(cpu)


@given(
    changes=st.lists(st.sampled_from(Change), min_size=1, max_size=8),
    record=st.sampled_from([Record.ADDRESS, Record.TORN]),
    macros_flush=st.booleans(),
    pte=st.sampled_from([0, entry(PAGE, UNTOUCHED), entry(PAGE, TOUCHED)]),
)
@hypothetically(120)
def test_after_any_changes_and_a_flush_under_the_lock_the_rule_holds(
    changes: list[Change], record: Record, pte: int, *, macros_flush: bool
) -> None:
    cpu = vcpu(
        0, Memory((*memory(0).entries[:1], (TABLE, 1, pte))), pv=vmi,
        hypervisor=Hypervisor(record=record), linux=Linux(macros_flush=macros_flush),
    )  # fmt: skip
    deferring = replace(cpu, pv=replace(vmi, pte_update=vmi.pte_update_defer))
    lock = MM.pte_lockptr(ADDR)
    setup = Setup()
    calls = [
        call(make, deferring if one is Change.PROTECT_DEFERRED else cpu, one, SETS.get(one, 0))
        for one in changes
    ]
    setup.cpu(0, call(begin, lock), *calls, call(end, cpu, lock))
    demand_lock_rule(setup, [cpu], lock, PTEP)
    assert holds(setup)
    # Without a flush at the end what was deferred last is still owed.
    owing = Setup()
    owing.cpu(0, call(begin, lock), *calls, call(drop_lock, lock), call(end_again, cpu, lock))
    demand_lock_rule(owing, [cpu], lock, PTEP)
    last = [one for one in changes if one is not Change.READ][-1:]
    if last == [Change.PROTECT_DEFERRED] and changes[-1] is Change.PROTECT_DEFERRED:
        assert violated(owing)


async def drop_lock(lock: Word) -> None:
    await spin_unlock(lock)


async def end_again(cpu: Cpu, lock: Word) -> None:
    await spin_lock(lock)
    await end(cpu, lock)


def test_a_queued_value_is_not_applied_after_a_newer_immediate_update() -> None:
    """One vCPU, all under the lock, flushed under it: the rule must hold with values as well."""
    cpu = shadowed(record=Record.VALUE)
    deferring = replace(cpu, pv=replace(vmi, pte_update=vmi.pte_update_defer))
    lock = MM.pte_lockptr(ADDR)
    setup = Setup()
    protect_, empty = Change.PROTECT_DEFERRED, Change.EMPTY
    setup.cpu(
        0, call(begin, lock), call(make, deferring, protect_, 0), call(make, cpu, empty, 0),
        call(end, cpu, lock),
    )  # fmt: skip
    demand_lock_rule(setup, [cpu], lock, PTEP)
    assert holds(setup)


def test_values_of_entries_with_short_addresses_are_refused() -> None:
    with pytest.raises(ModelError, match="lasting addresses only"):
        Hypervisor(record=Record.VALUE, highpte=0xFFF00000)
