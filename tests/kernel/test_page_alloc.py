"""Frames being freed and allocated: who owns one, and what a promise about it is worth then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, fetch_or, store
from smpmmu.kernel.page_alloc import alloc_page, free_page
from smpmmu.machine.memory import OWNER_SHIFT, PAGE_FROZEN, PAGE_OWNER, VERSION_SHIFT
from smpmmu.machine.walker import user_write
from smpmmu.scenario import Setup
from tests.machines import ADDR, OTHER_PAGE, PAGE, alone, ended, vcpu, violated

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

GOT = Word("allocated", 20)


async def promise_and_free(cpu: Cpu) -> None:
    """Promise that the page no longer changes, and then give it back."""
    await fetch_or(cpu.memory.page(PAGE), PAGE_FROZEN)
    await free_page(cpu, PAGE)


async def allocate(cpu: Cpu, frames: tuple[int, ...], owner: int) -> None:
    await store(GOT, await alloc_page(cpu, frames, owner))


def test_a_promise_ends_with_the_page() -> None:
    cpu = vcpu()
    again = (call(allocate, cpu, (PAGE,), 1), call(user_write, cpu, ADDR))
    page = ended(alone(call(promise_and_free, cpu), *again))["page 0x3"]
    assert page & PAGE_FROZEN == 0
    assert (page & PAGE_OWNER, page >> VERSION_SHIFT) == (1 << OWNER_SHIFT, 1)


@pytest.mark.parametrize(("owner", "somebody_else"), [(0, True), (2, True), (1, False)])
def test_a_page_is_used_by_its_owner_alone(owner: int, *, somebody_else: bool) -> None:
    cpu = vcpu()
    setup = Setup()
    given = (call(allocate, cpu, (PAGE,), owner),) if owner else ()
    setup.cpu(0, call(promise_and_free, cpu), *given, call(user_write, cpu, ADDR))
    if somebody_else:
        assert violated(setup) == "no_access_to_freed_frame"
    else:
        assert alone(*setup.system().contexts[0].calls).violated == ""


def test_the_first_free_frame_is_taken_and_none_twice() -> None:
    cpu = vcpu()
    frames = (PAGE, OTHER_PAGE)
    freed = call(promise_and_free, cpu)
    assert ended(alone(call(allocate, cpu, frames, 1)))["allocated"] == 0
    assert ended(alone(freed, call(allocate, cpu, frames, 1)))["allocated"] == PAGE
    twice = alone(freed, call(allocate, cpu, frames, 1), call(allocate, cpu, frames, 1))
    assert ended(twice)["allocated"] == 0
