"""PAE's machine: 64-bit entries, three levels, a root that vCPUs keep, NX."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, store, updated
from smpmmu.machine.cpu import Cpu, flush_global, load_cr3
from smpmmu.machine.entries import (
    ENTRY,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_TABLE,
    TLB_ENTRY,
    allows,
    entry,
    pfn_of,
)
from smpmmu.machine.memory import (
    NON_PAE,
    PAE,
    VERSION_SHIFT,
    Memory,
    pgd_index,
    pmd_index,
    pte_index,
    store_high,
    store_low,
    xchg_low,
)
from smpmmu.machine.walker import Access, combined, user_execute, user_read, user_write
from smpmmu.scenario import Setup
from smpmmu.scenarios.common import install_walker
from tests.engine.programs import hypothetically
from tests.machines import (
    ADDR,
    CLEAN,
    PGD,
    TABLE,
    TOUCHED,
    UNTOUCHED,
    alone,
    ended,
    holds,
    labels,
    vcpu,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PMD, PAGE = 0x5, 0x100003
OTHER_PGD, OTHER_PMD, OTHER_TABLE, OTHER_PAGE = 0x11, 0x12, 0x13, 0x200004
PTE, TLB, PDPTE = "0x2[1]", "cpu0.tlb[0x1]", "cpu0.pdpte[0]"
OUT = Word("went through", 4)
ADDRESSES = st.integers(0, (1 << 32) - 1)
WORDS = st.integers(0, (1 << 64) - 1)


def memory(
    pte: int = entry(PAGE, TOUCHED), pde: int = PAGE_TABLE, pdpte: int = PAGE_PRESENT
) -> Memory:
    """Return memory of two address spaces, the first with these entries."""
    entries = (
        (PGD, 0, entry(PMD, pdpte)),
        (PMD, 0, entry(TABLE, pde & ~PAGE_NX) | pde & PAGE_NX),
        (TABLE, 1, pte),
        (OTHER_PGD, 0, entry(OTHER_PMD, PAGE_PRESENT)),
        (OTHER_PMD, 0, entry(OTHER_TABLE, PAGE_TABLE)),
        (OTHER_TABLE, 1, entry(OTHER_PAGE, TOUCHED)),
    )
    return Memory(entries, paging=PAE)


def pae(mem: Memory | None = None, **fields: object) -> Cpu:
    return vcpu(0, mem or memory(), **fields)


async def access(cpu: Cpu, *kinds: Callable[[Cpu, int], Awaitable[Access]]) -> None:
    """Try accesses; bit n of OUT tells whether access n went through."""
    result = 0
    for number in range(len(kinds)):
        if await kinds[number](cpu, ADDR) is Access.DONE:
            result |= 1 << number
    await store(OUT, result)


# Geometry.


@hypothetically(100)
@given(ADDRESSES)
def test_indexes_are_the_bits_of_an_address(addr: int) -> None:
    assert pgd_index(addr) << 22 | pte_index(addr) << 12 | addr & 0xFFF == addr
    assert pmd_index(addr) == pgd_index(addr)
    tops = pgd_index(addr, PAE) << 30 | pmd_index(addr, PAE) << 21
    assert tops | pte_index(addr, PAE) << 12 | addr & 0xFFF == addr


def test_an_entry_has_four_or_eight_bytes() -> None:
    assert [Memory().at(0x2000 + 4 * n).name for n in (0, 1, 1023)] == [
        "0x2[0]", PTE, "0x2[1023]",
    ]  # fmt: skip
    assert [memory().at(0x2000 + 8 * n).name for n in (0, 1, 511)] == ["0x2[0]", PTE, "0x2[511]"]
    assert (Memory().at(0x2004).width, memory().at(0x2008).width) == (32, 64)
    assert (NON_PAE.is_pae, PAE.is_pae) == (False, True)


def test_an_entry_shows_its_frame_and_nx() -> None:
    assert ENTRY.show(entry(PAGE, TOUCHED) | PAGE_NX) == "0x100003 P-RW-US-A-D-NX"
    assert TLB_ENTRY.show(PAGE_NX | 1) == "P-NX"
    assert pfn_of(entry(PAGE, TOUCHED) | PAGE_NX) == PAGE


# Half stores.


@hypothetically(100)
@given(WORDS, WORDS)
def test_a_store_changes_one_word_of_an_entry(before: int, after: int) -> None:
    word = memory().table(TABLE, 1)
    low, high = 0xFFFFFFFF, 0xFFFFFFFF << 32
    assert updated(store_low(word, after), before) == before & high | after & low
    assert updated(store_high(word, after), before) == before & low | after & high
    taken = xchg_low(word, after)
    assert (updated(taken, before), taken.returns) == (before & high | after & low, low)


def test_without_pae_the_low_word_is_all() -> None:
    word = Memory().table(TABLE, 1)
    assert store_low(word, 0x3067) == store(word, 0x3067)
    assert updated(xchg_low(word, 0), 0x3067) == 0


# Walks.


def test_a_walk_reads_the_kept_root_for_nothing_and_two_levels() -> None:
    run = alone(call(access, pae(memory(entry(PAGE, UNTOUCHED))), user_write))
    kept = "0x100003 P-RW-US-A-D"
    assert labels(run)[1:] == [
        "load 0x5[0]", f"load {PTE}",
        f"cmpxchg {PTE} 0x100003 P-RW-US -> {kept}", f"fill {TLB} = {kept}",
        "write page 0x100003", "store went through = 1",
    ]  # fmt: skip
    assert ended(run)[PTE] == entry(PAGE, TOUCHED)


@pytest.mark.parametrize(
    ("fields", "reads", "writes", "executes"),
    [
        ({}, True, True, True),
        ({"pte": entry(PAGE, TOUCHED) | PAGE_NX}, True, True, False),
        ({"pde": PAGE_TABLE | PAGE_NX}, True, True, False),
        ({"pde": PAGE_TABLE & ~PAGE_RW}, True, False, True),
        ({"pte": entry(PAGE, TOUCHED & ~PAGE_RW)}, True, False, True),
        ({"pte": entry(PAGE, TOUCHED & ~PAGE_PRESENT)}, False, False, False),
        ({"pde": PAGE_TABLE & ~PAGE_PRESENT}, False, False, False),
        ({"pdpte": 0}, False, False, False),
    ],
)
def test_rights_are_those_that_every_level_gives(
    fields: dict[str, int], *, reads: bool, writes: bool, executes: bool
) -> None:
    cpu = pae(memory(**fields))
    for kind, right in ((user_read, reads), (user_write, writes), (user_execute, executes)):
        assert ended(alone(call(access, cpu, kind)))["went through"] == right
        # What the first access caches is as good as a walk.
        twice = ended(alone(call(access, cpu, user_read, kind)))["went through"]
        assert twice == reads | right << 1


def test_a_fault_for_nx_drops_what_is_cached() -> None:
    run = alone(call(access, pae(memory(entry(PAGE, TOUCHED) | PAGE_NX)), user_read, user_execute))
    assert labels(run)[-2] == f"drop {TLB} with the fault"
    assert ended(run)[TLB] == 0


@hypothetically(100)
@given(WORDS, WORDS)
def test_the_tlb_keeps_nx_of_either_level(pde: int, pte: int) -> None:
    kept = combined(pde, pte)
    for execute in (False, True):
        for write in (False, True):
            both = allows(pde | PAGE_PRESENT, write=write, execute=execute) and allows(
                pte, write=write, execute=execute
            )
            assert allows(kept, write=write, execute=execute) == both
    assert pfn_of(kept) == pfn_of(pte)


def test_a_speculative_walk_fills_what_a_demanded_one_does() -> None:
    cpu = pae(memory(entry(PAGE, CLEAN) | PAGE_NX))
    setup = Setup()
    setup.cpu(0, call(access, cpu, user_execute))
    install_walker(setup, cpu)
    setup.sometimes("filled", value(cpu.tlb(ADDR)) == entry(PAGE, CLEAN) | PAGE_NX)
    setup.always("never_executed", ~finished("cpu0") | (value(OUT) == 0))
    assert holds(setup)


# The root is kept since CR3 was loaded.


async def change_root(cpu: Cpu, how: str) -> None:
    """Change an entry of the root in memory, then do `how`, then use the page."""
    await store(cpu.memory.table(PGD, 0), entry(OTHER_PMD, PAGE_PRESENT))
    if how == "CR3":
        await load_cr3(cpu, PGD)
    elif how == "PGE":
        await flush_global(cpu)
    await user_write(cpu, ADDR)


@pytest.mark.parametrize(("how", "page"), [("", PAGE), ("CR3", OTHER_PAGE), ("PGE", OTHER_PAGE)])
def test_a_store_to_the_root_counts_from_the_next_load_of_cr3(how: str, page: int) -> None:
    run = alone(call(change_root, pae(root_changes=True), how))
    written = {name for name, after in ended(run).items() if name.startswith("page") and after}
    assert written == {f"page {page:#x}"}


async def change_space(cpu: Cpu) -> None:
    await user_write(cpu, ADDR)
    await load_cr3(cpu, OTHER_PGD)
    await user_write(cpu, ADDR)


def test_another_address_space_has_another_root() -> None:
    values = ended(alone(call(change_space, pae(mms=(vcpu().mm,)))))
    assert values[PDPTE] == entry(OTHER_PMD, PAGE_PRESENT)
    assert values[f"page {PAGE:#x}"] >> VERSION_SHIFT == 1
    assert values[f"page {OTHER_PAGE:#x}"] >> VERSION_SHIFT == 1


def test_a_vcpu_whose_root_stays_has_no_steps_for_it() -> None:
    still = labels(alone(call(access, pae(), user_read)))
    changing = labels(alone(call(access, pae(root_changes=True), user_read)))
    assert [each for each in changing if each not in still] == [f"load {PDPTE}"]


async def reload(cpu: Cpu, page: int) -> None:
    await load_cr3(cpu, cpu.root)
    await store(Word(f"{cpu.name} is done", 1), 1)
    await user_write(cpu, ADDR)


async def switch_root(cpu: Cpu) -> None:
    await store(cpu.memory.table(PGD, 0), entry(OTHER_PMD, PAGE_PRESENT))


def test_each_vcpu_keeps_its_own() -> None:
    mem = memory()
    cpus = [replace(pae(mem, root_changes=True), number=n) for n in (0, 1)]
    setup = Setup()
    setup.cpu(0, call(switch_root, cpus[0]), call(reload, cpus[0], OTHER_PAGE))
    setup.cpu(1, call(access, cpus[1], user_write))
    kept = [value(cpu.pdpte(0)) >> 12 for cpu in cpus]
    setup.always("only_a_load_changes_it", kept[1] == PMD)
    setup.sometimes("one has the new, one the old", (kept[0] == OTHER_PMD) & (kept[1] == PMD))
    assert holds(setup)
