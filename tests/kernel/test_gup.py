"""References to pages: who drops the last one frees the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, store
from smpmmu.kernel.gup import get_user_page, page_count, put_page
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.kernel.munmap import zap_pte_range
from smpmmu.machine.memory import PAGE_OWNER
from smpmmu.scenario import Setup
from tests.machines import ADDR, MM, PAGE, TOUCHED, alone, ended, holds, memory, vcpu

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

FOUND = Word("the page was found", 1)
VMA = VmAreaStruct(MM)


async def take_and_drop(cpu: Cpu) -> None:
    pfn = await get_user_page(cpu, MM, ADDR)
    if pfn:
        await store(FOUND, 1)
        await put_page(cpu, pfn)


async def unmap(cpu: Cpu) -> None:
    pfn = await zap_pte_range(cpu, VMA, ADDR)
    if pfn:
        await put_page(cpu, pfn)


def test_a_reference_more_does_not_free_the_page() -> None:
    run = alone(call(take_and_drop, vcpu()))
    last = ended(run)
    assert last[FOUND.name] == 1
    assert last[page_count(PAGE).name] == 1
    assert not any("free" in taken.step.label for action in run.actions for taken in action.steps)


def test_there_is_no_page_behind_an_empty_entry() -> None:
    last = ended(alone(call(take_and_drop, vcpu(mem=memory(0)))))
    assert (last[FOUND.name], last[page_count(PAGE).name]) == (0, 0)


def test_the_last_reference_frees_it_once() -> None:
    setup = Setup()
    cpus = [vcpu(number, memory(TOUCHED)) for number in (0, 1)]
    setup.cpu(0, call(unmap, cpus[0]))
    setup.cpu(1, call(take_and_drop, cpus[1]))
    freed = value(cpus[0].memory.page(PAGE)) & PAGE_OWNER == 0
    count = value(page_count(PAGE))
    setup.always("a_page_with_references_is_not_free", ~freed | (count == 0))
    both = finished("cpu0") & finished("cpu1")
    setup.always("without_references_it_is_free", ~both | freed)
    setup.sometimes("the last one is the lookup's", both & (value(FOUND) == 1))
    setup.sometimes("it came too late", both & (value(FOUND) == 0))
    assert holds(setup)
