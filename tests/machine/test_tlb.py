"""The TLB: what each flush keeps, what faults, when an entry is walked again, A and D."""

from __future__ import annotations

import pytest

from smpmmu.engine.errors import ModelError
from smpmmu.engine.expressions import finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, store, xchg
from smpmmu.machine.cpu import Cpu, flush_global, invlpg, load_cr3
from smpmmu.machine.entries import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_GLOBAL,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_UNUSED1,
    PAGE_USER,
    WALKING,
    entry,
)
from smpmmu.machine.memory import VERSION_SHIFT
from smpmmu.machine.walker import Access, user_read, user_write
from smpmmu.scenario import Setup
from tests.machines import (
    ADDR,
    CLEAN,
    OTHER_ADDR,
    OTHER_PAGE,
    PAGE,
    PGD,
    READ_ONLY,
    TABLE,
    TOUCHED,
    UNTOUCHED,
    alone,
    ended,
    holds,
    labels,
    memory,
    vcpu,
)

PLAIN = entry(PAGE, TOUCHED)
GLOBAL = PLAIN | PAGE_GLOBAL
PTE = "0x2[1]"
TLB = "cpu0.tlb[0x1]"
OUT = Word("went through", 4)
GONE = Word("what was there", 32)


async def cached(cpu: Cpu, addr: int, what: int) -> None:
    await store(cpu.tlb(addr), what)


async def flush(cpu: Cpu, how: str) -> None:
    if how == "INVLPG":
        await invlpg(cpu, ADDR)
    elif how == "INVLPG of another page":
        await invlpg(cpu, OTHER_ADDR)
    elif how == "CR3":
        await load_cr3(cpu, cpu.root)
    else:
        await flush_global(cpu)


@pytest.mark.parametrize(
    ("how", "before", "after"),
    [
        ("INVLPG", PLAIN, 0),
        ("INVLPG", GLOBAL, 0),
        ("INVLPG", WALKING, 0),
        ("INVLPG", PLAIN | WALKING, 0),
        ("INVLPG of another page", PLAIN, PLAIN),
        ("INVLPG of another page", PLAIN | WALKING, PLAIN | WALKING),
        ("CR3", PLAIN, 0),
        ("CR3", GLOBAL, GLOBAL),
        ("CR3", WALKING, 0),
        ("CR3", PLAIN | WALKING, 0),
        ("CR3", GLOBAL | WALKING, GLOBAL),
        ("CR4.PGE", PLAIN, 0),
        ("CR4.PGE", GLOBAL, 0),
        ("CR4.PGE", WALKING, 0),
        ("CR4.PGE", GLOBAL | WALKING, 0),
    ],
)
def test_what_a_flush_keeps(how: str, before: int, after: int) -> None:
    cpu = vcpu(pages=(ADDR, OTHER_ADDR))
    run = alone(call(cached, cpu, ADDR, before), call(flush, cpu, how))
    assert ended(run)[TLB] == after


@pytest.mark.parametrize("how", ["CR3", "CR4.PGE"])
def test_a_flush_of_all_reaches_every_page(how: str) -> None:
    cpu = vcpu(pages=(ADDR, OTHER_ADDR))
    fill = (call(cached, cpu, ADDR, PLAIN), call(cached, cpu, OTHER_ADDR, PLAIN))
    values = ended(alone(*fill, call(flush, cpu, how)))
    assert (values[TLB], values["cpu0.tlb[0x2]"]) == (0, 0)


def test_a_load_of_cr3_is_remembered_where_address_spaces_change() -> None:
    still, switching = vcpu(), vcpu(mms=(vcpu().mm,))
    assert ended(alone(call(load_cr3, still, 0x9)))["cpu0.cr3"] == 0
    assert ended(alone(call(load_cr3, switching, 0x9)))["cpu0.cr3"] == 0x9


async def count(cpu: Cpu, accesses: str) -> None:
    """Read (r) or write (w) the page; bit n of OUT tells whether access n went through."""
    result = 0
    for number in range(len(accesses)):
        access = user_write if accesses[number] == "w" else user_read
        if await access(cpu, ADDR) is Access.DONE:
            result |= 1 << number
    await store(OUT, result)


def test_a_cached_entry_without_the_right_faults_once_and_is_dropped() -> None:
    cpu = vcpu(mem=memory(TOUCHED))
    run = alone(call(cached, cpu, ADDR, entry(PAGE, READ_ONLY)), call(count, cpu, "ww"))
    values = ended(run)
    assert values["went through"] == 0b10  # the second one, which walks
    assert f"drop {TLB} with the fault" in labels(run)
    assert values["page 0x3"] >> VERSION_SHIFT == 1


def test_a_fault_without_a_cached_entry_caches_nothing() -> None:
    values = ended(alone(call(count, vcpu(mem=memory(READ_ONLY)), "w")))
    assert (values["went through"], values[TLB], values[PTE]) == (0, 0, entry(PAGE, READ_ONLY))


@pytest.mark.parametrize(
    ("flags", "pde", "reads", "writes"),
    [
        (TOUCHED, TOUCHED, True, True),
        (READ_ONLY, TOUCHED, True, False),
        (TOUCHED & ~PAGE_USER, TOUCHED, False, False),
        (TOUCHED & ~PAGE_PRESENT, TOUCHED, False, False),
        (TOUCHED, TOUCHED & ~PAGE_PRESENT, False, False),
        (TOUCHED, TOUCHED & ~PAGE_USER, False, False),
        (TOUCHED, READ_ONLY, True, False),
    ],
)
def test_both_levels_must_allow_an_access(
    flags: int, pde: int, *, reads: bool, writes: bool
) -> None:
    cpu = vcpu(mem=memory(flags, pde=pde))
    assert ended(alone(call(count, cpu, "r")))["went through"] == reads
    assert ended(alone(call(count, cpu, "w")))["went through"] == writes


def test_a_read_marks_accessed_and_a_write_dirty_at_the_levels_that_have_them() -> None:
    mem = memory(UNTOUCHED, pde=UNTOUCHED)
    values = ended(alone(call(count, vcpu(mem=mem), "r")))
    assert values[PTE] == values[TLB] == entry(PAGE, CLEAN)
    assert values["0x1[0]"] == entry(TABLE, CLEAN)
    values = ended(alone(call(count, vcpu(mem=mem), "w")))
    assert values[PTE] == values[TLB] == entry(PAGE, TOUCHED)
    assert values["0x1[0]"] == entry(TABLE, CLEAN)  # a directory entry has no D


def test_software_bits_are_not_cached() -> None:
    values = ended(alone(call(count, vcpu(mem=memory(TOUCHED | PAGE_UNUSED1)), "w")))
    assert values[TLB] == entry(PAGE, TOUCHED)


@pytest.mark.parametrize(
    ("now", "through", "written"),
    [
        (entry(PAGE, CLEAN), True, 0x3),
        (entry(OTHER_PAGE, UNTOUCHED), True, 0x4),
        (entry(PAGE, READ_ONLY), False, None),
        (0, False, None),
    ],
)
def test_a_write_through_a_clean_entry_walks_again(
    now: int, written: int | None, *, through: bool
) -> None:
    mem = memory(TOUCHED)
    setup = (
        call(cached, vcpu(mem=mem), ADDR, entry(PAGE, CLEAN)),
        call(become, vcpu(mem=mem), now),
    )
    run = alone(*setup, call(count, vcpu(mem=mem), "w"))
    values = ended(run)
    assert values["went through"] == through
    assert f"load {PTE}" in labels(run)
    for frame in (PAGE, OTHER_PAGE):
        versions = values.get(f"page {frame:#x}", 0) >> VERSION_SHIFT
        assert versions == (frame == written)
    if through:
        assert values[PTE] == values[TLB] == now | PAGE_ACCESSED | PAGE_DIRTY


async def become(cpu: Cpu, pte: int) -> None:
    """Change the entry behind the TLB's back."""
    await store(cpu.memory.table(TABLE, 1), pte)


@pytest.mark.parametrize(("what", "write"), [(TOUCHED, True), (TOUCHED, False), (CLEAN, False)])
def test_otherwise_what_is_cached_is_used_as_it_is(what: int, *, write: bool) -> None:
    cpu = vcpu()
    run = alone(
        call(cached, cpu, ADDR, entry(PAGE, what)),
        call(become, cpu, 0),
        call(count, cpu, "w" if write else "r"),
    )
    values = ended(run)
    assert values["went through"] == 1
    assert values[PTE] == 0  # nobody marked it
    assert f"load {PTE}" not in labels(run)


async def take_away(cpu: Cpu, instead: int) -> None:
    """Exchange the entry, and keep what it was."""
    await store(GONE, await xchg(cpu.memory.table(TABLE, 1), instead))


@pytest.mark.parametrize("instead", [0, entry(PAGE, READ_ONLY & ~PAGE_ACCESSED)])
def test_a_mark_is_never_set_in_an_entry_that_changed_meanwhile(instead: int) -> None:
    setup = Setup()
    mem = memory(UNTOUCHED, pde=UNTOUCHED)
    setup.cpu(0, call(count, vcpu(0, mem), "w"))
    setup.cpu(1, call(take_away, vcpu(1, mem), instead))
    pte, page = value(mem.table(TABLE, 1)), value(mem.page(PAGE))
    setup.always("the_old_entry_stays_gone", implies(finished("cpu1"), pte == instead))
    # A write went through only if whoever took the entry away was told with it.
    told = value(GONE) & PAGE_DIRTY != 0
    wrote = page >> VERSION_SHIFT != 0
    setup.at_quiescence("no_write_without_a_mark", implies(wrote, told))
    setup.sometimes("the write went through", finished("cpu0") & wrote)
    setup.sometimes("the write faulted", finished("cpu0") & ~wrote)
    assert holds(setup)


def test_two_walkers_do_not_lose_each_others_marks() -> None:
    setup = Setup()
    mem = memory(UNTOUCHED, pde=UNTOUCHED)
    setup.cpu(0, call(count, vcpu(0, mem), "r"))
    setup.cpu(1, call(count, vcpu(1, mem), "w"))
    pte, pde = value(mem.table(TABLE, 1)), value(mem.table(PGD, 0))
    setup.at_quiescence("both_marks_are_there", pte == entry(PAGE, TOUCHED))
    setup.at_quiescence("the_directory_is_marked", pde == entry(TABLE, CLEAN))
    setup.at_quiescence("the_write_went_through", value(mem.page(PAGE)) >> VERSION_SHIFT == 1)
    setup.sometimes("accessed came first", pte == entry(PAGE, CLEAN))
    assert holds(setup)


def test_addresses_that_a_flush_of_all_would_miss_are_refused() -> None:
    cpu = vcpu(pages=(ADDR,))
    assert cpu.tlb(ADDR) == cpu.tlb(ADDR + 0xFFC)  # one page
    with pytest.raises(ModelError, match=r"cpu0 uses address 0x2000, which is not among its pages"):
        cpu.tlb(OTHER_ADDR)
    with pytest.raises(ModelError, match="not among its pages"):
        alone(call(user_write, cpu, OTHER_ADDR))


def test_a_right_that_only_the_directory_denies_is_not_cached_as_given() -> None:
    """Write-protected by the directory: RW of the leaf must not outlive the walk."""
    cpu = vcpu(mem=memory(TOUCHED, pde=READ_ONLY))
    assert PAGE_RW & READ_ONLY == 0
    assert ended(alone(call(count, cpu, "rw")))["went through"] == 0b01
