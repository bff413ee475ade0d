"""Lazy MMU mode: what is held back, in which order it is applied, and what ends it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.local import call
from smpmmu.engine.run import Ending
from smpmmu.engine.steps import Step, Word
from smpmmu.hypervisor.shadow import Holds, Hypervisor, Record
from smpmmu.hypervisor.update_queue import FLUSH_EVERYTHING, FLUSH_USER, Held, deferred, lazy_mode
from smpmmu.hypervisor.vmi import LAZY_MODES_DO_NOT_NEST, lazy_mode_variable, vmi
from smpmmu.kernel.paravirt import (
    Linux,
    arch_enter_lazy_mmu_mode,
    arch_flush_lazy_mmu_mode,
    arch_leave_lazy_mmu_mode,
    native,
)
from smpmmu.kernel.pgtable import ptep_get_and_clear, ptep_set_wrprotect, set_pte_at
from smpmmu.machine.entries import PAGE_RW, entry
from smpmmu.machine.memory import PAE
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import user_write
from tests.machines import ADDR, MM, PAGE, READ_ONLY, TOUCHED, alone, ended, labels, memory, vcpu

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

MARK = Word("mark", 4)
SPTE, TLB = "shadow 0x2[1]", "cpu0.tlb[0x1]"
PROTECTED = entry(PAGE, TOUCHED & ~PAGE_RW)


def lazy_cpu(back: Holds, record: Record = Record.ADDRESS, **fields: object) -> Cpu:
    knobs = Hypervisor(record=record, lazy=back, slots=3)
    return vcpu(0, memory(TOUCHED), pv=vmi, hypervisor=knobs, **fields)


async def change(cpu: Cpu, *what: str) -> None:
    """Do things in lazy MMU mode, under the ptl, with a mark in the run after each."""
    mm, ptep = MM, MM.pte_offset(ADDR)
    await spin_lock(mm.pte_lockptr(ADDR))
    await arch_enter_lazy_mmu_mode(cpu)
    for each in what:
        match each:
            case "wrprotect":
                await ptep_set_wrprotect(cpu, mm, ADDR, ptep)
            case "clear":
                await ptep_get_and_clear(cpu, mm, ADDR, ptep)
            case "set":
                await set_pte_at(cpu, mm, ADDR, ptep, entry(PAGE, READ_ONLY))
            case "flush page":
                await cpu.pv.flush_tlb_single(cpu, ADDR)
            case "flush user":
                await cpu.pv.flush_tlb_user(cpu)
            case "flush mode":
                await arch_flush_lazy_mmu_mode(cpu)
            case "enter":
                await arch_enter_lazy_mmu_mode(cpu)
        await Step(f"after {each}", MARK)
    await arch_leave_lazy_mmu_mode(cpu)
    await spin_unlock(mm.pte_lockptr(ADDR))


def between(found: list[str], begin: str, end: str) -> list[str]:
    return found[found.index(begin) + 1 : found.index(end)]


def writes(found: list[str], name: str) -> list[str]:
    return [label for label in found if name in label and not label.startswith("load")]


@pytest.mark.parametrize("record", list(Record))
@pytest.mark.parametrize("change_of", ["wrprotect", "clear", "set"])
def test_an_update_reaches_the_shadow_when_the_mode_is_left(change_of: str, record: Record) -> None:
    found = labels(alone(call(change, lazy_cpu(Holds.UPDATES, record), change_of)))
    last = found.index(f"after {change_of}")
    assert not writes(found[:last], SPTE)
    assert len(writes(found[last : found.index("unlock ptl")], SPTE)) == 1
    # The primary itself is written at once.
    assert [label for label in found[:last] if "0x2[1]" in label and "shadow" not in label]


@pytest.mark.parametrize("back", [Holds.NOTHING, *list(Holds)[1:]])
def test_in_the_end_the_shadow_agrees(back: Holds) -> None:
    cpu = lazy_cpu(back)
    values = ended(alone(call(user_write, cpu, ADDR), call(change, cpu, "wrprotect", "flush page")))
    assert values[SPTE] == values["0x2[1]"] == PROTECTED
    assert values[TLB] == 0
    assert not values[lazy_mode(cpu).name]
    assert not values[lazy_mode_variable(cpu).name]


def test_without_the_mode_it_is_no_step() -> None:
    assert "in lazy MMU mode" not in " ".join(
        labels(alone(call(change, lazy_cpu(Holds.NOTHING), "wrprotect")))
    )
    bare = vcpu(0, memory(TOUCHED), pv=native)
    assert labels(alone(call(change, bare, "wrprotect"))) == [
        "lock ptl", "clear_bit RW 0x2[1]", "after wrprotect", "unlock ptl",
    ]  # fmt: skip


@pytest.mark.parametrize("flush", ["flush page", "flush user"])
def test_a_flush_drains_unless_it_is_held_back(flush: str) -> None:
    for back in (Holds.UPDATES, Holds.FLUSHES, Holds.ALL):
        cpu = lazy_cpu(back)
        run = alone(call(user_write, cpu, ADDR), call(change, cpu, "wrprotect", flush))
        found = labels(run)
        here = between(found, "after wrprotect", f"after {flush}")
        there = between(found, f"after {flush}", "unlock ptl")
        at_once, later = (here, there) if back is Holds.UPDATES else (there, here)
        assert len(writes(at_once, SPTE)) == 1
        assert writes(at_once, TLB)
        assert not writes(later, SPTE)
        assert not writes(later, TLB)
        # First the update, then the flush, whenever they are applied.
        assert at_once.index(writes(at_once, SPTE)[0]) < at_once.index(writes(at_once, TLB)[-1])


def test_a_flush_in_an_interrupt_is_held_back_only_if_all_are() -> None:
    for back in (Holds.UPDATES, Holds.FLUSHES, Holds.ALL):
        cpu = lazy_cpu(back, in_interrupt=True)
        found = labels(alone(call(change, cpu, "flush page")))
        held = [x for x in found if x.startswith(f"store {deferred(cpu, 0).name}")]
        assert bool(held) is (back is Holds.ALL)


def test_a_full_queue_is_drained() -> None:
    cpu = lazy_cpu(Holds.UPDATES)
    found = labels(alone(call(change, cpu, *["wrprotect"] * 4)))
    assert len(writes(between(found, "after wrprotect", "unlock ptl"), SPTE)) == 3 + 1


def test_flushing_the_mode_applies_and_stays() -> None:
    cpu = lazy_cpu(Holds.UPDATES)
    found = labels(alone(call(change, cpu, "wrprotect", "flush mode", "set")))
    assert len(writes(between(found, "after wrprotect", "after flush mode"), SPTE)) == 1
    assert not writes(between(found, "after flush mode", "after set"), SPTE)


def test_flushing_outside_the_mode_does_not_begin_it() -> None:
    cpu = lazy_cpu(Holds.UPDATES)
    values = ended(alone(call(arch_flush_lazy_mmu_mode, cpu)))
    assert values[lazy_mode(cpu).name] == 0


def test_modes_do_not_nest() -> None:
    run = alone(call(change, lazy_cpu(Holds.UPDATES), "enter"))
    assert (run.ending, run.violated) == (Ending.VIOLATION, LAZY_MODES_DO_NOT_NEST)


def test_it_is_left_late_where_the_kernel_leaves_it_late() -> None:
    cpu = replace(lazy_cpu(Holds.UPDATES), linux=Linux(lazy_mmu_left_late=True))
    found = labels(alone(call(late, cpu)))
    assert found.index("unlock ptl") < found.index(writes(found, SPTE)[0])


async def late(cpu: Cpu) -> None:
    await spin_lock(MM.pte_lockptr(ADDR))
    await arch_enter_lazy_mmu_mode(cpu)
    await ptep_set_wrprotect(cpu, MM, ADDR, MM.pte_offset(ADDR))
    await arch_leave_lazy_mmu_mode(cpu)
    await spin_unlock(MM.pte_lockptr(ADDR))
    await arch_leave_lazy_mmu_mode(cpu, late=True)


def test_records_are_shown_by_what_they_are() -> None:
    held = Held(entry_size=PAE.entry_size)
    assert [held.show(each) for each in (0, 0x2008, 0x1001, FLUSH_USER, FLUSH_EVERYTHING)] == [
        "0", "0x2[1]", "flush 0x1000", "flush", "flush all",
    ]  # fmt: skip
