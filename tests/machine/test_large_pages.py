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
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    PAGE_USER,
    allows,
    entry,
    small_page,
)
from smpmmu.machine.memory import (
    PAE,
    VERSION_SHIFT,
    Memory,
    pgd_indices,
    pmd_indices,
    pte_indices,
)
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
PAE_PDE, PMD = "0x5[1]", 0x5
PAE_HIGH = 0xC0203000
"""In the second large page of two megabytes."""
OUT = Word("went through", 2)


def high(pde: int) -> Cpu:
    return vcpu(mem=Memory(((PGD, 768, pde),)), pages=(HIGH,))


def pae(pde: int) -> Cpu:
    """Return a vCPU whose page directory of the kernel has this entry."""
    entries = ((PGD, 3, entry(PMD, PAGE_PRESENT)), (PMD, 1, pde))
    return vcpu(mem=Memory(entries, paging=PAE), pages=(PAE_HIGH,))


async def touch(cpu: Cpu, *, write: bool, user: bool = False) -> None:
    """Set bit 0 of OUT if an access went through, bit 1 if not."""
    addr = cpu.pages[0]
    if user:
        access = await user_read(cpu, addr)
    else:
        access = await (kernel_write if write else kernel_read)(cpu, addr)
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


# With PAE: two megabytes, 64 bits, NX.


def test_with_pae_a_large_page_has_512_pages() -> None:
    large = entry(0x100200, LARGE) | PAGE_NX
    values = ended(alone(call(touch, pae(large), write=True)))
    assert values["cpu0.tlb[0xc0203]"] == entry(0x100203, LARGE & ~PAGE_PSE) | PAGE_NX
    assert (values["went through"], values[PAE_PDE]) == (1, large)
    assert values["page 0x100203"] >> VERSION_SHIFT == 1


@pytest.mark.parametrize(
    ("write", "marked"), [(False, PAGE_ACCESSED), (True, PAGE_ACCESSED | PAGE_DIRTY)]
)
def test_with_pae_marks_of_a_large_page_are_in_the_directory(marked: int, *, write: bool) -> None:
    bare = LARGE & ~(PAGE_ACCESSED | PAGE_DIRTY)
    run = alone(call(touch, pae(entry(0x100200, bare)), write=write))
    assert ended(run)[PAE_PDE] == entry(0x100200, bare | marked)
    # At once, although an entry has two words: a 64-bit compare-and-exchange.
    assert sum(label.startswith("cmpxchg 0x5[1]") for label in labels(run)) == 1


@pytest.mark.parametrize(
    ("flags", "write", "through"),
    [(LARGE, True, True), (LARGE & ~PAGE_RW, True, False), (LARGE & ~PAGE_PRESENT, False, False)],
)
def test_with_pae_rights_of_a_large_page(flags: int, *, write: bool, through: bool) -> None:
    values = ended(alone(call(touch, pae(entry(0x200, flags)), write=write)))
    assert values["went through"] == (1 if through else 2)


def test_with_pae_a_large_page_is_speculated_on() -> None:
    cpu = pae(entry(0x100200, LARGE))
    setup = Setup()
    setup.cpu(0, call(touch, cpu, write=False))
    setup.daemon(0, "walker", call(speculate, cpu, PAE_HIGH))
    cached = value(cpu.tlb(PAE_HIGH)) == entry(0x100203, LARGE & ~PAGE_PSE)
    setup.sometimes("it was cached before it was used", cached & (value(OUT) == 0))
    setup.at_quiescence("the_access_went_through", value(OUT) == 1)
    assert holds(setup)


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
    assert [of(pages, PAE) for of in (pgd_indices, pmd_indices)] == [(0,), (0, 2)]
    assert pte_indices(pages, PAE) == (1, 2)
