"""How walkers set A and D where the entry was changed since they read it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.answer import answer
from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import xchg
from smpmmu.machine.entries import PAGE_ACCESSED, PAGE_DIRTY, entry
from smpmmu.machine.marking import Marking, mark
from smpmmu.machine.memory import VERSION_SHIFT
from smpmmu.machine.speculation import speculate
from smpmmu.machine.walker import user_write
from smpmmu.scenario import Setup
from tests.machines import ADDR, PAGE, TABLE, UNTOUCHED, alone, ended, labels, memory, vcpu

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

A_AND_D = PAGE_ACCESSED | PAGE_DIRTY
ENTRY = entry(PAGE, UNTOUCHED)


def marking_cpu(marking: Marking, number: int = 0) -> Cpu:
    return replace(vcpu(number, memory(UNTOUCHED)), marking=marking)


@pytest.mark.parametrize("marking", Marking)
def test_where_nothing_has_changed_all_do_the_same(marking: Marking) -> None:
    last = ended(alone(call(user_write, marking_cpu(marking), ADDR)))
    assert last["0x2[1]"] == ENTRY | A_AND_D
    assert last["cpu0.tlb[0x1]"] == ENTRY | A_AND_D


@pytest.mark.parametrize("marking", Marking)
def test_what_is_marked_already_takes_no_step(marking: Marking) -> None:
    cpu = marking_cpu(marking)
    found = call(mark, cpu, cpu.memory.table(TABLE, 1), ENTRY | PAGE_ACCESSED, write=False)
    assert labels(alone(found)) == []


@pytest.mark.parametrize(
    ("marking", "left", "written"),
    [
        (Marking.CHECKED, {0}, {0, 1}),
        (Marking.STRAY, {0, A_AND_D}, {0, 1}),
        (Marking.PLAIN, {0, ENTRY | A_AND_D}, {0, 1}),
    ],
)
def test_what_is_left_of_an_entry_that_is_cleared(
    marking: Marking, left: set[int], written: set[int]
) -> None:
    """Every outcome is asked for by a property that says it does not happen."""
    assert outcomes(marking, "entry", {*left, ENTRY, ENTRY | PAGE_ACCESSED}) == left
    assert outcomes(marking, "writes", {0, 1, 2}) == written


def outcomes(marking: Marking, of: str, candidates: set[int]) -> set[int]:
    """Return those values that the entry, or the count of writes, has in some end."""
    found = set()
    for candidate in candidates:
        cpu0, cpu1 = (marking_cpu(marking, number) for number in (0, 1))
        word = cpu0.memory.table(TABLE, 1)
        setup = Setup()
        setup.cpu(0, call(clear, cpu0))
        setup.cpu(1, call(user_write, cpu1, ADDR))
        seen = value(word) if of == "entry" else value(cpu1.memory.page(PAGE)) >> VERSION_SHIFT
        setup.sometimes("it comes out", finished("cpu0") & finished("cpu1") & (seen == candidate))
        if answer(setup.system()).reached["it comes out"]:
            found.add(candidate)
    return found


async def clear(cpu: Cpu) -> None:
    await xchg(cpu.memory.table(TABLE, 1), 0)


@pytest.mark.parametrize(("marking", "stray"), [(Marking.CHECKED, False), (Marking.STRAY, True)])
def test_a_speculative_walk_has_the_erratum_too(marking: Marking, *, stray: bool) -> None:
    cpu = marking_cpu(marking)
    setup = Setup()
    setup.cpu(0, call(clear, cpu))
    setup.daemon(0, "walker", call(speculate, cpu, ADDR))
    setup.sometimes("stray", value(cpu.memory.table(TABLE, 1)) == PAGE_ACCESSED)
    assert answer(setup.system()).reached["stray"] is stray
