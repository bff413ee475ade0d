"""Large pages and the kernel's own accesses: what is walked, cached, and marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, store
from smpmmu.machine.entries import (
    FLAGS,
    KERNPG_TABLE,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_GLOBAL,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    PAGE_USER,
    allows,
    entry,
    small_page,
)
from smpmmu.machine.memory import VERSION_SHIFT, Memory, pgd_indices, pte_indices
from smpmmu.machine.speculation import speculate
from smpmmu.machine.supervisor import kernel_read, kernel_write
from smpmmu.machine.walker import Access, user_read
from smpmmu.scenario import Setup
from tests.machines import PGD, alone, ended, holds, labels, vcpu

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

HIGH = 0xC0003000
LARGE = KERNPG_TABLE | PAGE_PSE | PAGE_GLOBAL
PDE, TLB = "0x1[768]", "cpu0.tlb[0xc0003]"
OUT = Word("went through", 2)


def high(pde: int) -> Cpu:
    return vcpu(mem=Memory(((PGD, 768, pde),)), pages=(HIGH,))


async def touch(cpu: Cpu, *, write: bool, user: bool = False) -> None:
    """Set bit 0 of OUT if an access went through, bit 1 if not."""
    if user:
        access = await user_read(cpu, HIGH)
    else:
        access = await (kernel_write if write else kernel_read)(cpu, HIGH)
    await store(OUT, 1 if access is Access.DONE else 2)


def test_a_large_page_is_cached_as_the_page_in_it() -> None:
    run = alone(call(touch, high(entry(0x400, LARGE)), write=False))
    values = ended(run)
    assert values[TLB] == entry(0x403, LARGE & ~PAGE_PSE)
    assert values["went through"] == 1
    assert values[PDE] == entry(0x400, LARGE)
    assert not any("0x400[" in label for label in labels(run))


@pytest.mark.parametrize(
    ("write", "marked"), [(False, PAGE_ACCESSED), (True, PAGE_ACCESSED | PAGE_DIRTY)]
)
def test_marks_of_a_large_page_are_in_the_directory(marked: int, *, write: bool) -> None:
    bare = LARGE & ~(PAGE_ACCESSED | PAGE_DIRTY)
    values = ended(alone(call(touch, high(entry(0, bare)), write=write)))
    assert values[PDE] == entry(0, bare | marked)
    assert values["page 0x3"] >> VERSION_SHIFT == write


@pytest.mark.parametrize(
    ("flags", "write", "user", "through"),
    [
        (LARGE, True, False, True),
        (LARGE & ~PAGE_RW, False, False, True),
        (LARGE & ~PAGE_RW, True, False, False),
        (LARGE & ~PAGE_PRESENT, False, False, False),
        (LARGE, False, True, False),
        (LARGE | PAGE_USER, False, True, True),
    ],
)
def test_rights_of_the_kernel_and_of_users(
    flags: int, *, write: bool, user: bool, through: bool
) -> None:
    values = ended(alone(call(touch, high(entry(0, flags)), write=write, user=user)))
    assert values["went through"] == (1 if through else 2)


def test_the_kernel_does_not_ask_for_the_users_right() -> None:
    assert not allows(KERNPG_TABLE, write=True)
    assert allows(KERNPG_TABLE, write=True, user=False)
    assert not allows(KERNPG_TABLE & ~PAGE_RW, write=True, user=False)
    assert small_page(entry(0x800, LARGE), 5) & FLAGS == LARGE & ~PAGE_PSE


def test_a_large_page_is_speculated_on() -> None:
    cpu = high(entry(0x400, LARGE))
    setup = Setup()
    setup.cpu(0, call(touch, cpu, write=False))
    setup.daemon(0, "walker", call(speculate, cpu, HIGH))
    cached = value(cpu.tlb(HIGH)) == entry(0x403, LARGE & ~PAGE_PSE)
    setup.sometimes("it was cached before it was used", cached & (value(OUT) == 0))
    setup.at_quiescence("the_access_went_through", value(OUT) == 1)
    setup.sometimes("it was used", finished("cpu0"))
    assert holds(setup)


def test_indices_are_those_of_the_pages_each_once() -> None:
    pages = (0x1000, 0x2000, 0x401000)
    assert pgd_indices(pages) == (0, 1)
    assert pte_indices(pages) == (1, 2)
