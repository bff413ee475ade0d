"""The macros that change an entry: what is written, which hook is told, what is flushed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.expressions import finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Step, Word, load, store
from smpmmu.kernel.mm import MmStruct, VmAreaStruct
from smpmmu.kernel.paravirt import Linux, native
from smpmmu.kernel.pgtable import (
    ptep_clear_flush,
    ptep_clear_flush_dirty,
    ptep_clear_flush_young,
    ptep_get_and_clear,
    ptep_set_access_flags,
    ptep_set_wrprotect,
    ptep_test_and_clear_dirty,
    ptep_test_and_clear_young,
    set_pte,
    set_pte_at,
)
from smpmmu.machine.entries import PAGE_ACCESSED, PAGE_DIRTY, PAGE_RW, entry
from smpmmu.machine.memory import VERSION_SHIFT
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import user_write
from smpmmu.scenario import Setup
from tests.machines import (
    ADDR,
    CLEAN,
    OTHER_ADDR,
    PAGE,
    PGD,
    READ_ONLY,
    TABLE,
    TOUCHED,
    alone,
    ended,
    holds,
    labels,
    memory,
    vcpu,
    violated,
)

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

OUT = Word("returned", 32)
TOLD = Word("hooks called", 8)
SPLIT = MmStruct(1, PGD, ((0, TABLE), (1, 0x5)), (0,), split=True)
FAR_ADDR = 0x400000
PTE = "0x2[1]"
NEW = entry(PAGE, TOUCHED)


async def tell(name: str) -> None:
    """Leave a trace in the run."""
    await Step(name, TOLD, add=1)


async def told_set_pte(cpu: Cpu, ptep: int, pteval: int) -> None:
    await tell("set_pte")
    await store(cpu.memory.at(ptep), pteval)


async def told_set_pte_at(cpu: Cpu, mm: object, addr: int, ptep: int, pteval: int) -> None:
    await tell("set_pte_at")
    await store(cpu.memory.at(ptep), pteval)


async def told_update(cpu: Cpu, mm: object, addr: int, ptep: int) -> None:
    await tell(f"pte_update({addr:#x}, {ptep:#x})")


async def told_update_defer(cpu: Cpu, mm: object, addr: int, ptep: int) -> None:
    await tell(f"pte_update_defer({addr:#x}, {ptep:#x})")


async def told_flush(cpu: Cpu, addr: int) -> None:
    await tell(f"flush({addr:#x})")


TELLING = replace(
    native,
    set_pte=told_set_pte,
    set_pte_at=told_set_pte_at,
    pte_update=told_update,
    pte_update_defer=told_update_defer,
    flush_tlb_single=told_flush,
)
UPDATE, DEFER = "pte_update(0x1000, 0x2004)", "pte_update_defer(0x1000, 0x2004)"
FLUSH = "flush(0x1000)"


async def change(cpu: Cpu, mm: MmStruct, macro: str) -> None:
    """Do one macro on the entry of ADDR; keep what it returns."""
    vma, ptep = VmAreaStruct(mm), mm.pte_offset(ADDR)
    result = 0
    if macro == "set_pte":
        await set_pte(cpu, ptep, NEW)
    elif macro == "set_pte_at":
        await set_pte_at(cpu, mm, ADDR, ptep, NEW)
    elif macro == "ptep_set_access_flags":
        await ptep_set_access_flags(cpu, vma, ADDR, ptep, NEW, dirty=True)
    elif macro == "ptep_set_access_flags of a read":
        await ptep_set_access_flags(cpu, vma, ADDR, ptep, NEW, dirty=False)
    elif macro == "ptep_set_wrprotect":
        await ptep_set_wrprotect(cpu, mm, ADDR, ptep)
    elif macro == "ptep_get_and_clear":
        result = await ptep_get_and_clear(cpu, mm, ADDR, ptep)
    elif macro == "ptep_clear_flush":
        result = await ptep_clear_flush(cpu, vma, ADDR, ptep)
    else:
        result = await clear_mark(cpu, vma, ptep, macro)
    await store(OUT, result)


async def clear_mark(cpu: Cpu, vma: VmAreaStruct, ptep: int, macro: str) -> bool:
    """Do one of the macros that clear A or D."""
    if macro == "ptep_clear_flush_dirty":
        return await ptep_clear_flush_dirty(cpu, vma, ADDR, ptep)
    if macro == "ptep_clear_flush_young":
        return await ptep_clear_flush_young(cpu, vma, ADDR, ptep)
    if macro == "ptep_test_and_clear_dirty":
        return await ptep_test_and_clear_dirty(cpu, vma, ADDR, ptep)
    return await ptep_test_and_clear_young(cpu, vma, ADDR, ptep)


async def locked(cpu: Cpu, mm: MmStruct, macro: str, addr: int) -> None:
    """Do one macro under the lock of the entry of `addr`."""
    await spin_lock(mm.pte_lockptr(addr))
    await change(cpu, mm, macro)
    await spin_unlock(mm.pte_lockptr(addr))


def telling(pte: int, mm: MmStruct = SPLIT, **knobs: bool) -> Cpu:
    return vcpu(0, memory(pte), mm, pv=TELLING, linux=Linux(**knobs))


def told(macro: str, cpu: Cpu) -> tuple[list[str], int, int]:
    """Return what a macro did, but for locks and masks, what is in the entry, what it returned."""
    run = alone(call(locked, cpu, SPLIT, macro, ADDR))
    did = [
        label for label in labels(run)
        if not any(word in label for word in ("lock", "cpu_vm_mask", "returned"))
    ]  # fmt: skip
    return did, ended(run)[PTE], ended(run)["returned"]


WITHOUT = {"RW": TOUCHED & ~PAGE_RW, "A": TOUCHED & ~PAGE_ACCESSED, "D": TOUCHED & ~PAGE_DIRTY}


@pytest.mark.parametrize(
    ("macro", "before", "did", "after", "returned"),
    [
        ("set_pte", 0, ["set_pte", f"store {PTE} = 0x3 P-RW-US-A-D"], TOUCHED, 0),
        ("set_pte_at", 0, ["set_pte_at", f"store {PTE} = 0x3 P-RW-US-A-D"], TOUCHED, 0),
        ("ptep_set_access_flags", READ_ONLY,
         [f"store {PTE} = 0x3 P-RW-US-A-D", DEFER, FLUSH], TOUCHED, 0),
        ("ptep_set_wrprotect", TOUCHED, [f"clear_bit RW {PTE}", UPDATE], WITHOUT["RW"], 0),
        ("ptep_get_and_clear", TOUCHED, [f"xchg {PTE} = 0", UPDATE], None, NEW),
        ("ptep_clear_flush", TOUCHED, [f"xchg {PTE} = 0", UPDATE, FLUSH], None, NEW),
        ("ptep_clear_flush_dirty", TOUCHED,
         [f"load {PTE}", f"clear_bit D {PTE}", DEFER, FLUSH], WITHOUT["D"], 1),
        ("ptep_clear_flush_dirty", CLEAN, [f"load {PTE}"], CLEAN, 0),
        ("ptep_clear_flush_young", TOUCHED,
         [f"load {PTE}", f"clear_bit A {PTE}", DEFER, FLUSH], WITHOUT["A"], 1),
        ("ptep_clear_flush_young", WITHOUT["A"], [f"load {PTE}"], WITHOUT["A"], 0),
        ("ptep_test_and_clear_dirty", TOUCHED,
         [f"load {PTE}", f"test_and_clear_bit D {PTE}", DEFER], WITHOUT["D"], 1),
        ("ptep_test_and_clear_dirty", CLEAN, [f"load {PTE}"], CLEAN, 0),
        ("ptep_test_and_clear_young", TOUCHED,
         [f"load {PTE}", f"test_and_clear_bit A {PTE}", DEFER], WITHOUT["A"], 1),
        ("ptep_test_and_clear_young", WITHOUT["A"], [f"load {PTE}"], WITHOUT["A"], 0),
    ],
)  # fmt: skip
def test_what_a_macro_writes_tells_and_flushes(
    macro: str, before: int, did: list[str], after: int | None, returned: int
) -> None:
    expected = 0 if after is None else entry(PAGE, after)
    assert told(macro, telling(before)) == (did, expected, returned)


def test_a_read_fault_changes_nothing() -> None:
    did, _, _ = told("ptep_set_access_flags of a read", telling(READ_ONLY))
    assert did == []


@pytest.mark.parametrize(
    "macro", ["ptep_set_access_flags", "ptep_clear_flush_dirty", "ptep_clear_flush_young"]
)
def test_the_flush_inside_can_be_left_to_the_caller(macro: str) -> None:
    did, _, _ = told(macro, telling(TOUCHED, macros_flush=False))
    assert DEFER in did
    assert FLUSH not in did


def test_as_first_merged_get_and_clear_tells_nobody() -> None:
    cpu = telling(TOUCHED, get_and_clear_hooked=False)
    assert told("ptep_get_and_clear", cpu)[0] == [f"xchg {PTE} = 0"]
    assert told("ptep_clear_flush", cpu)[0] == [f"xchg {PTE} = 0", FLUSH]


NAMES = [
    "set_pte_at",
    "ptep_set_access_flags",
    "ptep_set_access_flags of a read",
    "ptep_set_wrprotect",
    "ptep_get_and_clear",
    "ptep_clear_flush",
    "ptep_clear_flush_dirty",
    "ptep_clear_flush_young",
    "ptep_test_and_clear_dirty",
    "ptep_test_and_clear_young",
]


async def unlocked(cpu: Cpu, macro: str) -> None:
    """Do one macro without the lock, after something else."""
    await tell("begin")
    await change(cpu, SPLIT, macro)


@pytest.mark.parametrize("macro", NAMES)
def test_without_the_lock_it_is_a_violation(macro: str) -> None:
    asserts = macro.split(maxsplit=1)[0].replace("ptep_clear_flush", "ptep_get_and_clear")
    if macro.startswith("ptep_clear_flush_"):
        asserts = macro
    bare, wrong = Setup(), Setup()
    bare.cpu(0, call(unlocked, telling(TOUCHED), macro))
    assert violated(bare) == f"ptl_held_in_{asserts}"
    wrong.cpu(0, call(locked, telling(TOUCHED), SPLIT, macro, FAR_ADDR))
    assert violated(wrong) == f"ptl_held_in_{asserts}"


def test_a_lock_is_shared_by_a_page_table_or_by_all() -> None:
    whole = replace(SPLIT, split=False)
    assert SPLIT.pte_lockptr(ADDR) == SPLIT.pte_lockptr(OTHER_ADDR) != SPLIT.pte_lockptr(FAR_ADDR)
    assert whole.pte_lockptr(ADDR) == whole.pte_lockptr(FAR_ADDR) == whole.page_table_lock
    assert ended(
        alone(call(locked, telling(TOUCHED, whole), whole, "ptep_set_wrprotect", FAR_ADDR))
    )


async def clear_by_load_and_store(cpu: Cpu) -> int:
    """Empty the entry as no macro may."""
    pte = await load(cpu.memory.table(TABLE, 1))
    await store(cpu.memory.table(TABLE, 1), 0)
    return pte


async def take_away(cpu: Cpu, *, at_once: bool) -> None:
    """Empty the entry under the lock, and keep what was in it."""
    mm = SPLIT
    await spin_lock(mm.pte_lockptr(ADDR))
    if at_once:
        await store(OUT, await ptep_get_and_clear(cpu, mm, ADDR, mm.pte_offset(ADDR)))
    else:
        await store(OUT, await clear_by_load_and_store(cpu))
    await spin_unlock(mm.pte_lockptr(ADDR))


def taken_while_written(*, at_once: bool) -> Setup:
    setup = Setup()
    mem = memory(CLEAN)
    setup.cpu(0, call(take_away, vcpu(0, mem, SPLIT), at_once=at_once))
    setup.cpu(1, call(user_write, vcpu(1, mem, SPLIT), ADDR))
    written = value(mem.page(PAGE)) >> VERSION_SHIFT != 0
    setup.at_quiescence("no_mark_is_lost", implies(written, value(OUT) & PAGE_DIRTY != 0))
    setup.sometimes("the write came first", finished("cpu0") & written)
    setup.sometimes("the write came last", finished("cpu1") & ~written)
    return setup


def test_no_mark_of_a_walker_is_lost_while_an_entry_is_emptied() -> None:
    assert holds(taken_while_written(at_once=True))
    assert violated(taken_while_written(at_once=False)) == "no_mark_is_lost"
