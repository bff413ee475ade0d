"""The speculative walker: what aborts it, what it may set, and that it can be caught."""

from __future__ import annotations

import pytest

from smpmmu.engine.expressions import all_of, finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, load, store, xchg
from smpmmu.machine.cpu import Cpu, flush_global, invlpg, load_cr3
from smpmmu.machine.entries import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_GLOBAL,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_SHIFT,
    PAGE_TABLE,
    WALKING,
    entry,
    pfn_of,
)
from smpmmu.machine.memory import VERSION_SHIFT, Memory, pgd_index, pte_index
from smpmmu.machine.speculation import speculate
from smpmmu.machine.walker import Access, user_write
from smpmmu.scenario import Setup
from smpmmu.scenarios.common import install_walker
from tests.machines import (
    ADDR,
    CLEAN,
    MM,
    OTHER_ADDR,
    OTHER_PAGE,
    PAGE,
    PGD,
    READ_ONLY,
    TABLE,
    TOUCHED,
    UNTOUCHED,
    holds,
    memory,
    vcpu,
    violated,
)

SECOND_PGD, SECOND_TABLE = 0x11, 0x12
GONE = Word("what was there", 32)


async def change_and_flush(cpu: Cpu, pte: int, how: str) -> None:
    """Write the entry of ADDR, and flush."""
    await store(cpu.memory.table(TABLE, 1), pte)
    if how == "INVLPG":
        await invlpg(cpu, ADDR)
    elif how == "CR3":
        await load_cr3(cpu, cpu.root)
    else:
        await flush_global(cpu)


async def speculate_without_latch(cpu: Cpu, addr: int) -> None:
    """Do what `speculate` does, and fill whether a flush came in between or not."""
    directory = cpu.walked.table(cpu.root, pgd_index(addr))
    pde = await load(directory)
    pte = await load(cpu.walked.table(pfn_of(pde), pte_index(addr)))
    if pte & PAGE_PRESENT:
        await store(cpu.tlb(addr), pte)


def changed(how: str, pte: int, *, latch: bool) -> Setup:
    """Return one vCPU that takes away RW, flushes, and must then have nothing writable cached."""
    setup = Setup()
    mem = memory(TOUCHED)
    cpu = vcpu(mem=mem)
    setup.cpu(0, call(change_and_flush, cpu, pte, how))
    setup.daemon(0, "walker", call(speculate if latch else speculate_without_latch, cpu, ADDR))
    tlb = value(cpu.tlb(ADDR))
    stale = (tlb & PAGE_PRESENT != 0) & (tlb & (PAGE_RW | PAGE_PRESENT) != pte & 0x3)
    setup.always("nothing_stale_is_cached_after_the_flush", implies(finished("cpu0"), ~stale))
    setup.sometimes("something stale was cached before it", stale)
    setup.sometimes("a walk was in flight at the end", finished("cpu0") & (tlb & WALKING != 0))
    return setup


@pytest.mark.parametrize("pte", [0, entry(PAGE, READ_ONLY)])
@pytest.mark.parametrize("how", ["INVLPG", "CR3", "CR4.PGE"])
def test_a_walk_in_flight_is_aborted_by_a_flush(how: str, pte: int) -> None:
    assert holds(changed(how, pte, latch=True))
    assert violated(changed(how, pte, latch=False)) == "nothing_stale_is_cached_after_the_flush"


async def change_and_flush_other(cpu: Cpu) -> None:
    """Write the entry of ADDR, and flush another page."""
    await store(cpu.memory.table(TABLE, 1), 0)
    await invlpg(cpu, OTHER_ADDR)


def test_an_invlpg_of_another_page_aborts_nothing() -> None:
    setup = Setup()
    cpu = vcpu(mem=memory(TOUCHED), pages=(ADDR, OTHER_ADDR))
    setup.cpu(0, call(change_and_flush_other, cpu))
    setup.daemon(0, "walker", call(speculate, cpu, ADDR))
    cached = value(cpu.tlb(ADDR)) & PAGE_PRESENT != 0
    setup.always("nothing_is_cached_at_the_end", implies(finished("cpu0"), ~cached))
    assert violated(setup) == "nothing_is_cached_at_the_end"


async def go_to(cpu: Cpu, root: int) -> None:
    await load_cr3(cpu, root)


def test_a_walk_from_the_old_directory_does_not_outlive_a_load_of_cr3() -> None:
    setup = Setup()
    mem = Memory(
        (
            (PGD, 0, entry(TABLE, PAGE_TABLE)),
            (TABLE, 1, entry(PAGE, TOUCHED)),
            (SECOND_PGD, 0, entry(SECOND_TABLE, PAGE_TABLE)),
            (SECOND_TABLE, 1, entry(OTHER_PAGE, TOUCHED)),
        )
    )
    cpu = vcpu(mem=mem, mms=(MM,))
    setup.cpu(0, call(go_to, cpu, SECOND_PGD))
    install_walker(setup, cpu)
    tlb = value(cpu.tlb(ADDR))
    old, new = (tlb >> PAGE_SHIFT == frame for frame in (PAGE, OTHER_PAGE))
    setup.always("only_what_cr3_leads_to_is_cached", implies(finished("cpu0"), ~old))
    setup.always("the_new_is_not_cached_before", implies(new, value(cpu.cr3) == SECOND_PGD))
    setup.sometimes("the old page was cached", old)
    setup.sometimes("the new page was cached", new)
    assert holds(setup)


def test_a_global_entry_that_was_speculated_survives_a_load_of_cr3() -> None:
    setup = Setup()
    cpu = vcpu(mem=memory(TOUCHED | PAGE_GLOBAL))
    setup.cpu(0, call(change_and_flush, cpu, 0, "CR3"))
    install_walker(setup, cpu)
    cached = value(cpu.tlb(ADDR)) & PAGE_GLOBAL != 0
    setup.always("nothing_is_cached_at_the_end", implies(finished("cpu0"), ~cached))
    assert violated(setup) == "nothing_is_cached_at_the_end"


async def rest(cpu: Cpu) -> None:
    """Read the page's own word, which is no access through the TLB."""
    await load(cpu.memory.page(PAGE))


@pytest.mark.parametrize(
    ("pte", "pde", "marks"),
    [
        (UNTOUCHED, UNTOUCHED, True),
        (UNTOUCHED & ~PAGE_RW, PAGE_TABLE, True),
        (CLEAN, PAGE_TABLE, True),
        (UNTOUCHED & ~PAGE_PRESENT, PAGE_TABLE, False),
        (UNTOUCHED, 0, False),
    ],
)
def test_it_marks_accessed_never_dirty_and_caches_only_what_is_present(
    pte: int, pde: int, *, marks: bool
) -> None:
    setup = Setup()
    mem = memory(pte, pde=pde)
    cpu = vcpu(mem=mem)
    setup.cpu(0, call(rest, cpu))
    install_walker(setup, cpu)
    leaf, tlb = value(mem.table(TABLE, 1)), value(cpu.tlb(ADDR))
    present = tlb & PAGE_PRESENT != 0
    setup.always("never_dirty", all_of(leaf & PAGE_DIRTY == 0, tlb & PAGE_DIRTY == 0))
    setup.always("what_is_cached_is_marked_accessed", implies(present, leaf & tlb & 0x20 != 0))
    setup.always("the_rest_stays", leaf | PAGE_ACCESSED == entry(PAGE, pte | PAGE_ACCESSED))
    if marks:
        setup.sometimes("the entry was cached", present)
    else:
        setup.always("nothing_is_cached", ~present)
        setup.always("nothing_is_marked", leaf == entry(PAGE, pte))
    assert holds(setup)


async def exchange(cpu: Cpu, pte: int) -> None:
    """Write the entry of ADDR, and keep what it was."""
    await store(GONE, await xchg(cpu.memory.table(TABLE, 1), pte))


def test_it_gives_up_where_the_entry_changed_before_it_was_marked() -> None:
    setup = Setup()
    mem = memory(UNTOUCHED)
    cpu = vcpu(0, mem)
    setup.cpu(0, call(rest, cpu))
    setup.cpu(1, call(exchange, vcpu(1, mem), 0))
    install_walker(setup, cpu)
    leaf, tlb = value(mem.table(TABLE, 1)), value(cpu.tlb(ADDR))
    setup.always("the_old_entry_stays_gone", implies(finished("cpu1"), leaf == 0))
    cached = finished("cpu1") & (tlb & PAGE_PRESENT != 0)
    marked = value(GONE) & PAGE_ACCESSED != 0
    setup.always("what_was_cached_had_been_marked", implies(cached, marked))
    setup.sometimes("it had been cached", finished("cpu1") & (tlb & PAGE_PRESENT != 0))
    setup.sometimes("it had not", finished("cpu1") & (tlb & PAGE_PRESENT == 0))
    assert holds(setup)


async def write_twice(cpu: Cpu) -> None:
    for _ in range(2):
        if await user_write(cpu, ADDR) is not Access.DONE:
            return


def test_it_and_a_demand_fill_can_walk_together() -> None:
    setup = Setup()
    mem = memory(UNTOUCHED)
    cpu = vcpu(mem=mem)
    setup.cpu(0, call(write_twice, cpu))
    install_walker(setup, cpu)
    tlb, leaf, page = (value(w) for w in (cpu.tlb(ADDR), mem.table(TABLE, 1), mem.page(PAGE)))
    written, present = page >> VERSION_SHIFT, tlb & PAGE_PRESENT != 0
    setup.always("every_write_is_marked", implies(written != 0, leaf & PAGE_DIRTY != 0))
    setup.always("the_frame_is_right", implies(present, tlb >> PAGE_SHIFT == PAGE))
    setup.always(
        "dirty_is_cached_only_if_marked", implies(tlb & PAGE_DIRTY != 0, leaf & PAGE_DIRTY != 0)
    )
    setup.at_quiescence("both_writes_went_through", written == 2)
    # The walk read the entry before the store marked it dirty, and fills after it.
    clean = present & (tlb & PAGE_DIRTY == 0)
    setup.sometimes("the older, clean entry replaced the dirty one", (written == 1) & clean)
    walking = tlb & WALKING != 0
    setup.sometimes("it was cached while a walk was in flight", present & walking)
    assert holds(setup)


def test_a_vcpu_has_a_walker_for_each_of_its_pages() -> None:
    setup = Setup()
    cpu = vcpu(pages=(ADDR, OTHER_ADDR), mem=memory(TOUCHED, other=TOUCHED))
    setup.cpu(0, call(rest, cpu))
    install_walker(setup, cpu)
    names = [context.name for context in setup.system().contexts]
    assert names == ["cpu0", "cpu0.walker", "cpu0.walker1"]
    for addr in cpu.pages:
        setup.sometimes(f"{addr:#x} was cached", value(cpu.tlb(addr)) & PAGE_PRESENT != 0)
    assert holds(setup)


async def unlink_and_reuse(cpu: Cpu) -> None:
    """Unlink the table, flush, and use its frame for something else."""
    await store(cpu.memory.table(PGD, 0), 0)
    await load_cr3(cpu, cpu.root)
    await store(cpu.memory.table(TABLE, 1), entry(0x77, PAGE_PRESENT))


def test_an_aborted_walk_touches_no_table_any_more() -> None:
    setup = Setup()
    mem = memory(TOUCHED)
    cpu = vcpu(mem=mem)
    setup.cpu(0, call(unlink_and_reuse, cpu))
    install_walker(setup, cpu)
    reused = value(mem.table(TABLE, 1)) == entry(0x77, PAGE_PRESENT)
    setup.always("a_frame_in_new_use_is_left_alone", implies(finished("cpu0"), reused))
    assert holds(setup)
