"""Entries of two words: what each primitive stores in which order, natively and under VMI."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from smpmmu.engine.expressions import any_of, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, store
from smpmmu.hypervisor.shadow import (
    DEFERRED_SLOTS,
    Hypervisor,
    Record,
    gpte_to_spte,
    shadow_of,
)
from smpmmu.hypervisor.update_queue import deferred
from smpmmu.hypervisor.vmi import vmi
from smpmmu.kernel.fault import handle_pte_fault
from smpmmu.kernel.init import set_kernel_exec
from smpmmu.kernel.mm import INIT_MM, MmStruct, VmAreaStruct
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.pgtable import (
    pte_clear,
    ptep_clear_flush_dirty,
    ptep_clear_flush_young,
    ptep_get_and_clear,
    ptep_set_access_flags,
    ptep_set_wrprotect,
    ptep_test_and_clear_young,
    read_pte,
    set_pte,
    set_pte_at,
    set_pte_atomic,
    set_pte_present,
)
from smpmmu.kernel.rmap import page_check_address, page_mkclean_one
from smpmmu.machine.entries import FRAME, PAGE_DIRTY, PAGE_NX, PAGE_RW, entry
from smpmmu.machine.memory import PAE, Memory
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import user_write
from smpmmu.properties.lock_rule import no_more_permissive
from smpmmu.scenario import Setup
from smpmmu.scenarios.common import (
    ADDR,
    HIGH_PAGE,
    OTHER_ADDR,
    TABLE,
    TOUCHED,
    Flush,
    address_space,
    guest_memory,
)
from tests.machines import CLEAN, READ_ONLY, alone, ended, holds, labels, memory, vcpu

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from smpmmu.engine.run import Run
    from smpmmu.machine.cpu import Cpu

    Primitive = Callable[[Cpu, MmStruct, int], Awaitable[int | None]]

MM = address_space(Flush.UNDER_PTL, (0,), PAE)
VMA = VmAreaStruct(MM)
PTEP = MM.pte_offset(ADDR)
PTE, SPTE, SLOT = "0x2[1]", "shadow 0x2[1]", "cpu0.deferred[0]"
NEW = entry(0x200004, TOUCHED) | PAGE_NX
OUT = Word("returned", 64)
LOW_PART, HIGH_PART = "0x4 P-RW-US-A-D", "0x200000 NX"


def native_cpu(pte: int = TOUCHED, **fields: Any) -> Cpu:
    return vcpu(0, guest_memory(pte, PAE), MM, **fields)


def vmi_cpu(pte: int = TOUCHED, mm: MmStruct = MM, **knobs: Any) -> Cpu:
    return vcpu(0, guest_memory(pte, PAE), mm, pv=vmi, hypervisor=Hypervisor(**knobs))


PRIMITIVES = {
    "set_pte": lambda cpu, mm, new: set_pte(cpu, mm.pte_offset(ADDR), new),
    "set_pte_at": lambda cpu, mm, new: set_pte_at(cpu, mm, ADDR, mm.pte_offset(ADDR), new),
    "set_pte_present": lambda cpu, mm, new: set_pte_present(
        cpu, mm, ADDR, mm.pte_offset(ADDR), new
    ),
    "set_pte_atomic": lambda cpu, mm, new: set_pte_atomic(cpu, mm.pte_offset(ADDR), new),
    "pte_clear": lambda cpu, mm, new: pte_clear(cpu, mm, ADDR, mm.pte_offset(ADDR)),
    "pmd_clear": lambda cpu, mm, new: cpu.pv.pmd_clear(cpu, mm.pmd_offset(ADDR)),
    "ptep_get_and_clear": lambda cpu, mm, new: ptep_get_and_clear(
        cpu, mm, ADDR, mm.pte_offset(ADDR)
    ),
    "ptep_set_wrprotect": lambda cpu, mm, new: ptep_set_wrprotect(
        cpu, mm, ADDR, mm.pte_offset(ADDR)
    ),
    "ptep_set_access_flags": lambda cpu, mm, new: ptep_set_access_flags(
        cpu, VmAreaStruct(mm), ADDR, mm.pte_offset(ADDR), new, dirty=True
    ),
    "ptep_clear_flush_dirty": lambda cpu, mm, new: ptep_clear_flush_dirty(
        cpu, VmAreaStruct(mm), ADDR, mm.pte_offset(ADDR)
    ),
    "ptep_clear_flush_young": lambda cpu, mm, new: ptep_clear_flush_young(
        cpu, VmAreaStruct(mm), ADDR, mm.pte_offset(ADDR)
    ),
    "ptep_test_and_clear_young": lambda cpu, mm, new: ptep_test_and_clear_young(
        cpu, VmAreaStruct(mm), ADDR, mm.pte_offset(ADDR)
    ),
    "read_pte": lambda cpu, mm, new: read_pte(cpu, mm.pte_offset(ADDR)),
    "its frame": lambda cpu, mm, new: read_pte(cpu, mm.pte_offset(ADDR), FRAME),
}


async def change(cpu: Cpu, mm: MmStruct, primitive: Primitive, new: int = NEW) -> None:
    """Do one primitive on the entry of ADDR under its lock; keep what it returns."""
    await spin_lock(mm.pte_lockptr(ADDR))
    result = await primitive(cpu, mm, new)
    await spin_unlock(mm.pte_lockptr(ADDR))
    await store(OUT, result or 0)


def did(run: Run) -> list[str]:
    """Return what a run did to entries, shadows and queues."""
    kept = (PTE, SPTE, "0x5[0]", "deferred")
    return [each for each in labels(run) if any(word in each for word in kept)]


OLD = entry(HIGH_PAGE, TOUCHED) | PAGE_NX
HIGH_LOW = [f"store high {PTE} = {HIGH_PART}", f"store low {PTE} = {LOW_PART}"]
VIA_ABSENT = [f"store low {PTE} = 0", *HIGH_LOW]
AT_ONCE = [f"store {PTE} = 0x200004 P-RW-US-A-D-NX"]
CLEARED = [f"store low {PTE} = 0", f"store high {PTE} = 0"]
FETCHED = [f"xchg low {PTE} = 0", f"load {PTE}", f"store high {PTE} = 0"]


@pytest.mark.parametrize(
    ("primitive", "steps", "after", "returned"),
    [
        ("set_pte", HIGH_LOW, NEW, 0),
        ("set_pte_at", HIGH_LOW, NEW, 0),
        ("set_pte_present", VIA_ABSENT, NEW, 0),
        ("set_pte_atomic", AT_ONCE, NEW, 0),
        ("pte_clear", CLEARED, 0, 0),
        ("ptep_get_and_clear", FETCHED, 0, OLD),
        ("ptep_set_access_flags", [f"store low {PTE} = {LOW_PART}"],
         OLD & ~0xFFFFFFFF | NEW & 0xFFFFFFFF, 0),
        ("ptep_set_wrprotect", [f"clear_bit RW {PTE}"], OLD & ~PAGE_RW, 0),
        ("ptep_clear_flush_dirty", [f"load {PTE}", f"clear_bit D {PTE}"], OLD & ~PAGE_DIRTY, 1),
        ("ptep_clear_flush_young", [f"load {PTE}", f"clear_bit A {PTE}"], OLD & ~0x20, 1),
        ("ptep_test_and_clear_young",
         [f"load {PTE}", f"test_and_clear_bit A {PTE}"], OLD & ~0x20, 1),
        ("read_pte", [f"load {PTE}", f"load {PTE}"], OLD, OLD),
        ("its frame", [f"load {PTE}", f"load {PTE}"], OLD, entry(HIGH_PAGE, 0)),
    ],
)  # fmt: skip
def test_the_words_are_written_in_the_order_of_the_c(
    primitive: str, steps: list[str], after: int, returned: int
) -> None:
    run = alone(call(change, native_cpu(), MM, PRIMITIVES[primitive]))
    assert did(run) == steps
    assert (ended(run)[PTE], ended(run)["returned"]) == (after, returned)


def test_the_entry_of_a_page_directory_is_emptied_p_first() -> None:
    run = alone(call(change, native_cpu(), MM, PRIMITIVES["pmd_clear"]))
    assert did(run) == ["store low 0x5[0] = 0", "store high 0x5[0] = 0"]


PLAIN = ["set_pte", "set_pte_at", "set_pte_present", "set_pte_atomic", "pte_clear",
         "ptep_get_and_clear", "ptep_set_access_flags", "read_pte"]  # fmt: skip


@pytest.mark.parametrize("primitive", PLAIN)
def test_without_pae_each_is_one_access(primitive: str) -> None:
    mm = MmStruct(1, 0x1, ((0, TABLE),), (0,))
    cpu = vcpu(0, memory(TOUCHED), mm)
    (only,) = did(alone(call(change, cpu, mm, PRIMITIVES[primitive], entry(0x4, TOUCHED))))
    assert only.split()[0] in ("load", "store", "xchg")
    assert " low " not in only


# VMI.

SYNC = [f"load {PTE}", f"store {SPTE} = 0x200004 P-RW-US-A-D-NX"]
SHADOWED = [f"store {SPTE} = 0x200004 P-RW-US-A-D-NX"]
QUEUED = [f"load {SLOT}", f"store {SLOT} = {PTEP:#x}"]


@pytest.mark.parametrize(
    ("primitive", "steps"),
    [
        ("set_pte_at", [*HIGH_LOW, *SHADOWED]),
        ("set_pte_present", [*VIA_ABSENT, *QUEUED]),
        ("set_pte_atomic", [*AT_ONCE, *SYNC]),
        ("pte_clear", [*CLEARED, f"store {SPTE} = 0"]),
        ("ptep_get_and_clear", [*FETCHED, f"load {PTE}", f"store {SPTE} = 0"]),
        ("pmd_clear", ["store low 0x5[0] = 0", "store high 0x5[0] = 0", "store shadow 0x5[0] = 0"]),
    ],
)  # fmt: skip
def test_vmi_writes_the_primary_in_the_same_order_and_then_the_shadow(
    primitive: str, steps: list[str]
) -> None:
    assert did(alone(call(change, vmi_cpu(), MM, PRIMITIVES[primitive]))) == steps


def test_set_pte_present_of_another_address_space_is_not_deferred() -> None:
    foreign = replace(MM, number=2, cpus=())
    steps = did(alone(call(change, vmi_cpu(), foreign, PRIMITIVES["set_pte_present"])))
    assert steps == [*VIA_ABSENT, *SYNC]
    kernel = replace(MM, number=INIT_MM.number)
    assert did(alone(call(change, vmi_cpu(), kernel, PRIMITIVES["set_pte_present"]))) == [
        *VIA_ABSENT,
        *SYNC,
    ]


def test_a_queued_value_is_replaced_by_one_that_is_written_now() -> None:
    cpu = replace(vmi_cpu(record=Record.VALUE), linux=Linux(macros_flush=False))
    both = [PRIMITIVES[name] for name in ("ptep_clear_flush_dirty", "set_pte_at")]
    run = alone(*(call(change, cpu, MM, primitive) for primitive in both))
    assert ended(run)["cpu0.deferred_value[0]"] == NEW


def test_the_shadow_of_an_entry_has_its_nx() -> None:
    assert gpte_to_spte(NEW) == NEW
    assert gpte_to_spte(NEW & ~PAGE_DIRTY) == NEW & ~PAGE_DIRTY & ~PAGE_RW
    guest = guest_memory(TOUCHED, PAE)
    shadow = shadow_of(guest, (TABLE,), Hypervisor(), 0)
    assert shadow.paging is PAE
    assert shadow.at(PTEP).initial == guest.at(PTEP).initial == OLD


@pytest.mark.parametrize(
    ("shadow", "primary", "strict"),
    [
        (OLD, OLD, True),
        (0, OLD, True),
        (OLD, OLD & ~PAGE_NX, True),
        (OLD & ~PAGE_NX, OLD, False),
        (NEW, OLD, False),
        (OLD ^ 1 << 44, OLD, False),
    ],
)
def test_the_lock_rule_knows_nx_and_both_words_of_the_frame(
    shadow: int, primary: int, *, strict: bool
) -> None:
    words = {name: Word(name, 64) for name in ("shadow", "primary")}

    class Reader:
        def word(self, word: Word) -> int:
            return shadow if word.name == "shadow" else primary

    truth = no_more_permissive(words["shadow"], words["primary"])
    assert truth.evaluate(Reader()) is strict


# Readers of both words.


async def peek(cpu: Cpu) -> None:
    await store(Word("peeked", 64), await read_pte(cpu, PTEP, FRAME))


def test_what_is_read_without_the_lock_may_be_of_two_entries() -> None:
    mm = address_space(Flush.UNDER_PTL, (0, 1), PAE)
    mem = guest_memory(TOUCHED, PAE)
    cpus = [vcpu(n, mem, mm) for n in (0, 1)]
    setup = Setup()
    setup.cpu(0, call(change, cpus[0], mm, PRIMITIVES["set_pte_present"]))
    setup.cpu(1, call(peek, cpus[1]))
    seen = value(Word("peeked", 64)) >> 12
    for frame in (HIGH_PAGE, 0x200004, 0x200003, 0x200000):
        setup.sometimes(f"{frame:#x}", seen == frame)
    known = (0, HIGH_PAGE, 0x200004, 0x200003, 0x200000, 0x100000)
    setup.always("no_other", any_of(*(seen == frame for frame in known)))
    assert holds(setup)


def test_a_fault_rereads_both_words_under_the_lock() -> None:
    async def fault(cpu: Cpu) -> None:
        await handle_pte_fault(cpu, VMA, ADDR, write=True)

    steps = did(alone(call(fault, native_cpu(READ_ONLY))))
    assert steps == [f"load {PTE}"] * 4 + [f"store low {PTE} = 0x3 P-RW-US-A-D"]


def test_an_rmap_walker_finds_a_page_above_4_gib() -> None:
    async def look(cpu: Cpu, pfn: int) -> None:
        found = await page_check_address(cpu, pfn, MM, ADDR)
        if found:
            await spin_unlock(MM.pte_lockptr(ADDR))
        await store(OUT, found)

    assert ended(alone(call(look, native_cpu(), HIGH_PAGE)))["returned"] == PTEP
    assert ended(alone(call(look, native_cpu(), HIGH_PAGE & 0xFFFFF)))["returned"] == 0


@pytest.mark.parametrize(
    ("before", "after", "cleaned"),
    [
        (TOUCHED, TOUCHED & ~(PAGE_DIRTY | PAGE_RW), 1),
        (CLEAN, CLEAN & ~PAGE_RW, 1),
        (READ_ONLY, READ_ONLY, 0),
        (0, 0, 0),
    ],
)
@pytest.mark.parametrize("sync", [True, False])
def test_page_mkclean_takes_d_and_the_right_to_write(
    before: int, after: int, cleaned: int, *, sync: bool
) -> None:
    async def clean(cpu: Cpu) -> None:
        await store(OUT, await page_mkclean_one(cpu, HIGH_PAGE, VMA, ADDR, sync=sync))

    run = alone(call(clean, native_cpu(before)))
    assert ended(run)["returned"] == cleaned
    assert not cleaned or ended(run)[PTE] == entry(HIGH_PAGE, after) | PAGE_NX
    assert ("lock ptl" in labels(run)) == (sync or before != 0)


# Offsets, and set_kernel_exec.


def test_offsets_are_those_of_the_levels() -> None:
    assert MM.pte_offset(ADDR) == 0x2008
    assert MM.pmd_offset(OTHER_ADDR) == 0x5010
    assert MM.pud_offset(0xC0000000) == 0x1018
    assert MM.page_table(OTHER_ADDR) == 0x4
    small = address_space(Flush.UNDER_PTL, (0,))
    assert small.pte_offset(ADDR) == 0x2004
    assert small.pmd_offset(OTHER_ADDR) == small.pud_offset(OTHER_ADDR) == 0x1004


KERNEL = replace(MM, number=INIT_MM.number)


async def forbid(cpu: Cpu, *, enable: bool) -> None:
    await store(OUT, await set_kernel_exec(cpu, KERNEL, ADDR, enable=enable))


@pytest.mark.parametrize(
    ("before", "enable", "after", "returned"),
    [
        (OLD, True, OLD & ~PAGE_NX, 0),
        (OLD, False, OLD, 0),
        (OLD & ~PAGE_NX, False, OLD, 1),
        (OLD & ~PAGE_NX, True, OLD & ~PAGE_NX, 1),
    ],
)
def test_set_kernel_exec_changes_the_high_word_alone(
    before: int, after: int, returned: int, *, enable: bool
) -> None:
    guest = guest_memory(TOUCHED, PAE)
    entries = (*guest.entries[:-1], (TABLE, 1, before))
    run = alone(call(forbid, vcpu(0, Memory(entries, paging=PAE), MM), enable=enable))
    steps = did(run)
    assert steps[:2] == [f"load {PTE}"] * 2
    assert steps[2].startswith(f"store high {PTE}")
    assert (ended(run)[PTE], ended(run)["returned"]) == (after, returned)


def test_set_kernel_exec_defers_and_its_own_flush_drains() -> None:
    run = alone(call(forbid, vmi_cpu(), enable=True))
    steps = did(run)
    assert f"store {SLOT} = {PTEP:#x}" in steps
    assert ended(run)[SLOT] == 0
    assert ended(run)[SPTE] == OLD & ~PAGE_NX
    assert f"load {deferred(vmi_cpu(), DEFERRED_SLOTS - 1).name}" not in steps


def test_a_hidden_fault_marks_an_entry_of_two_words_at_once() -> None:
    async def write(cpu: Cpu) -> None:
        await user_write(cpu, ADDR)

    run = alone(call(write, vmi_cpu(CLEAN)))
    assert ended(run)[PTE] == ended(run)[SPTE] == OLD
