"""Second-level tables: every table of the guest's walk, rights and D of both, and what drops it."""

from __future__ import annotations

import pytest

from smpmmu.engine.errors import ModelError
from smpmmu.engine.expressions import value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, store
from smpmmu.machine.cpu import Cpu, invlpg, load_cr3
from smpmmu.machine.entries import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_GLOBAL,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_TABLE,
    entry,
)
from smpmmu.machine.memory import PAE, Memory
from smpmmu.machine.nested import Nested, both, flush_context
from smpmmu.machine.speculation import speculate
from smpmmu.machine.walker import Access, user_execute, user_read, user_write
from smpmmu.scenario import Setup
from tests.machines import (
    ADDR,
    CLEAN,
    PGD,
    READ_ONLY,
    TABLE,
    TOUCHED,
    UNTOUCHED,
    alone,
    ended,
    holds,
    labels,
    vcpu,
)

ROOT, SECOND, GFN, FRAME = 0x18, 0x19, 0x30, 0x3
TLB = "cpu0.tlb[0x1]"
LEAF = f"nested {SECOND:#x}[{GFN}]"


def guest(pte: int = TOUCHED, second: int = TOUCHED, table: int = TOUCHED, **fields: object) -> Cpu:
    """Return a vCPU with these flags of both levels' entries for the page, and of its table's."""
    first = Memory(((PGD, 0, entry(TABLE, PAGE_TABLE)), (TABLE, 1, entry(GFN, pte))))
    entries = (
        (ROOT, 0, entry(SECOND, PAGE_TABLE)),
        (SECOND, PGD, entry(PGD, TOUCHED)),
        (SECOND, TABLE, entry(TABLE, table)),
        (SECOND, GFN, entry(FRAME, second)),
    )
    return vcpu(mem=first, nested=Nested(Memory(entries, "nested "), ROOT), **fields)


async def access(cpu: Cpu, out: Word, *, write: bool) -> None:
    ended_as = await (user_write(cpu, ADDR) if write else user_read(cpu, ADDR))
    await store(out, list(Access).index(ended_as))


def how(cpu: Cpu, *, write: bool = False) -> Access:
    """Return how one access ends."""
    out = Word("how it ended", 2)
    return list(Access)[ended(alone(call(access, cpu, out, write=write)))["how it ended"]]


def test_a_walk_goes_through_the_second_level_for_each_table_and_the_page() -> None:
    run = alone(call(user_read, guest(), ADDR))
    assert [label.partition(" ->")[0] for label in labels(run)] == [
        f"load {TLB}",
        *(f"load nested {ROOT:#x}[0]", f"load nested {SECOND:#x}[1]", "load 0x1[0]"),
        *(f"load nested {ROOT:#x}[0]", f"load nested {SECOND:#x}[2]", "load 0x2[1]"),
        *(f"load nested {ROOT:#x}[0]", f"load {LEAF}"),
        f"fill {TLB} = 0x3 P-RW-US-A-D",
        "read page 0x3",
    ]


def test_what_is_cached_is_used_without_either() -> None:
    run = alone(call(user_read, guest(), ADDR), call(user_write, guest(), ADDR))
    assert labels(run)[-2:] == [f"load {TLB}", "write page 0x3"]


@pytest.mark.parametrize(
    ("pte", "second", "write", "expected"),
    [
        (TOUCHED, 0, False, Access.EXIT),
        (TOUCHED, READ_ONLY, True, Access.EXIT),
        (TOUCHED, READ_ONLY, False, Access.DONE),
        (0, TOUCHED, False, Access.FAULT),
        (READ_ONLY, READ_ONLY, True, Access.FAULT),
        (0, 0, False, Access.FAULT),
    ],
)
def test_whose_fault_it_is(pte: int, second: int, *, write: bool, expected: Access) -> None:
    assert how(guest(pte, second), write=write) is expected


def test_a_table_is_taken_for_written() -> None:
    assert how(guest(table=READ_ONLY)) is Access.EXIT
    assert ended(alone(call(user_read, guest(table=UNTOUCHED), ADDR)))["nested 0x19[2]"] == entry(
        TABLE, TOUCHED
    )


@pytest.mark.parametrize(("write", "bits"), [(False, PAGE_ACCESSED), (True, TOUCHED & ~UNTOUCHED)])
def test_both_levels_are_marked(*, write: bool, bits: int) -> None:
    cpu = guest(UNTOUCHED, UNTOUCHED)
    last = ended(alone(call(user_write if write else user_read, cpu, ADDR)))
    assert last["0x2[1]"] == entry(GFN, UNTOUCHED | bits)
    assert last[LEAF] == last[TLB] == entry(FRAME, UNTOUCHED | bits)


def test_a_write_walks_again_until_both_are_dirty() -> None:
    cpu = guest(TOUCHED, CLEAN)
    run = alone(call(user_read, cpu, ADDR), call(user_write, cpu, ADDR))
    assert ended(run)[LEAF] == entry(FRAME, TOUCHED)
    assert labels(run).count(f"load {LEAF}") == 2


@pytest.mark.parametrize(
    ("leaf", "second", "flags"),
    [
        (TOUCHED, TOUCHED, TOUCHED),
        (TOUCHED, CLEAN, CLEAN),
        (CLEAN, TOUCHED, CLEAN),
        (TOUCHED, TOUCHED & ~PAGE_RW, TOUCHED & ~PAGE_RW),
        (TOUCHED | PAGE_GLOBAL, TOUCHED, TOUCHED | PAGE_GLOBAL),
    ],
)
def test_what_is_kept_of_two_entries(leaf: int, second: int, flags: int) -> None:
    assert both(entry(GFN, leaf), entry(FRAME, second)) == entry(FRAME, flags)


def test_a_right_that_is_missing_is_looked_for_again() -> None:
    """Cached read-only by the second level, which has changed its mind."""
    cpu = guest(TOUCHED, READ_ONLY)
    raised = call(store_entry, cpu.nested.leaf(entry(SECOND, 0), GFN), entry(FRAME, TOUCHED))
    run = alone(call(user_read, cpu, ADDR), raised, call(user_write, cpu, ADDR))
    assert labels(run)[-1] == "write page 0x3"


async def store_entry(word: Word, to: int) -> None:
    await store(word, to)


def test_a_fault_of_the_second_level_drops_what_is_cached() -> None:
    cpu = guest(TOUCHED, READ_ONLY)
    gone = call(store_entry, cpu.nested.leaf(entry(SECOND, 0), GFN), 0)
    assert ended(alone(call(user_read, cpu, ADDR), gone, call(user_write, cpu, ADDR)))[TLB] == 0


@pytest.mark.parametrize(("how_", "left"), [("INVLPG", False), ("CR3", True), ("all", False)])
def test_what_drops_a_global_page_of_the_guest(how_: str, *, left: bool) -> None:
    cpu = guest(TOUCHED | PAGE_GLOBAL)
    flush = {
        "INVLPG": call(invlpg, cpu, ADDR), "CR3": call(load_cr3, cpu, PGD),
        "all": call(flush_context, cpu),
    }[how_]  # fmt: skip
    assert bool(ended(alone(call(user_read, cpu, ADDR), flush))[TLB]) is left


def test_instructions_are_fetched_through_it() -> None:
    assert labels(alone(call(user_execute, guest(), ADDR)))[-1] == "read page 0x3"
    assert labels(alone(call(user_execute, guest(second=0), ADDR)))[-1] == f"load {LEAF}"


@pytest.mark.parametrize(
    ("second", "table", "fills"),
    [(TOUCHED, TOUCHED, True), (0, TOUCHED, False), (TOUCHED, READ_ONLY, False),
     (TOUCHED, CLEAN, False), (UNTOUCHED, TOUCHED, True)],
)  # fmt: skip
def test_a_speculative_walk_sets_no_d(second: int, table: int, *, fills: bool) -> None:
    last = ended(alone(call(speculate, guest(second=second, table=table), ADDR)))
    assert bool(last[TLB] & PAGE_PRESENT) is fills
    assert last["nested 0x19[2]"] in (0, entry(TABLE, table))
    if fills:
        assert last[TLB] == entry(FRAME, second | PAGE_ACCESSED)
        assert last[LEAF] & PAGE_DIRTY == second & PAGE_DIRTY


def test_after_all_is_dropped_no_walk_brings_it_back() -> None:
    cpu, done = guest(), Word("flushed", 1)
    setup = Setup()
    setup.cpu(0, call(take_away, cpu, done))
    setup.daemon(0, "walker", call(speculate, cpu, ADDR))
    cached = value(cpu.tlb(ADDR)) & PAGE_PRESENT != 0
    setup.always("nothing_is_cached_after_it", (value(done) == 0) | ~cached)
    setup.sometimes("it was cached before", cached)
    assert holds(setup)


async def take_away(cpu: Cpu, done: Word) -> None:
    await store(cpu.nested.leaf(entry(SECOND, 0), GFN), 0)
    await flush_context(cpu)
    await store(done, 1)


def test_what_is_not_modelled_is_refused() -> None:
    with pytest.raises(ModelError, match="32-bit entries"):
        Nested(Memory(paging=PAE), ROOT)
    with pytest.raises(ModelError, match="neither PAE nor a cached directory"):
        guest(caches_directory=True)
