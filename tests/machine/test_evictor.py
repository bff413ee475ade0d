"""The evictor: it drops what is cached, leaves walks alone, and is there only when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, store
from smpmmu.engine.system import NO_DEADLOCK
from smpmmu.machine.entries import PAGE_DIRTY, PAGE_GLOBAL, PAGE_PRESENT, WALKING, entry
from smpmmu.machine.speculation import evict
from smpmmu.machine.walker import Access, user_read
from smpmmu.scenario import Setup
from smpmmu.scenarios.common import install_evictor, install_walker
from tests.machines import (
    ADDR,
    OTHER_ADDR,
    PAGE,
    TABLE,
    TOUCHED,
    UNTOUCHED,
    alone,
    ended,
    holds,
    memory,
    vcpu,
    violated,
)

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

CACHED = entry(PAGE, TOUCHED)
FAULTED = Word("the second read faulted", 1)


async def cached(cpu: Cpu, what: int) -> None:
    await store(cpu.tlb(ADDR), what)


def test_it_drops_an_entry_global_or_not_and_leaves_a_walk_in_flight() -> None:
    cpu = vcpu()
    for before, after in (
        (CACHED, 0),
        (CACHED | PAGE_GLOBAL, 0),
        (CACHED | WALKING, WALKING),
    ):
        run = alone(call(cached, cpu, before), call(evict, cpu, ADDR))
        assert ended(run)["cpu0.tlb[0x1]"] == after


def test_it_waits_for_something_to_drop() -> None:
    for what in (0, WALKING):
        setup = Setup()
        cpu = vcpu()
        setup.cpu(0, call(cached, cpu, what), call(evict, cpu, ADDR))
        assert violated(setup) == NO_DEADLOCK


async def read_unmap_read(cpu: Cpu) -> None:
    """Read the page, unmap it without a flush, and read it again."""
    await user_read(cpu, ADDR)
    await store(cpu.memory.table(TABLE, 1), 0)
    if await user_read(cpu, ADDR) is Access.FAULT:
        await store(FAULTED, 1)


def unflushed() -> Setup:
    setup = Setup()
    cpu = vcpu()
    setup.cpu(0, call(read_unmap_read, cpu))
    install_evictor(setup, cpu)
    setup.always("what_is_not_flushed_stays_cached", value(FAULTED) == 0)
    return setup


def test_it_shows_who_relies_on_an_entry_staying_cached() -> None:
    assert holds(unflushed())
    assert violated(unflushed(), evictor=True) == "what_is_not_flushed_stays_cached"


def test_there_is_one_for_each_page_and_none_unless_asked_for() -> None:
    setup = Setup()
    cpu = vcpu(pages=(ADDR, OTHER_ADDR))
    setup.cpu(0, call(cached, cpu, 0))
    install_evictor(setup, cpu)
    assert [c.name for c in setup.system().contexts] == ["cpu0"]
    names = [c.name for c in setup.system(evictor=True).contexts]
    assert names == ["cpu0", "cpu0.evictor", "cpu0.evictor1"]


def test_with_the_walker_it_lets_an_entry_be_read_anew() -> None:
    """What is cached clean can come to be cached dirty without any flush, and never the reverse."""
    setup = Setup()
    mem = memory(UNTOUCHED)
    cpu = vcpu(mem=mem)
    setup.cpu(0, call(read_and_mark, cpu))
    install_walker(setup, cpu)
    install_evictor(setup, cpu)
    tlb = value(cpu.tlb(ADDR))
    leaf = value(mem.table(TABLE, 1))
    dirty = tlb & PAGE_DIRTY != 0
    setup.always("dirty_is_cached_only_if_marked", implies(dirty, leaf & PAGE_DIRTY != 0))
    setup.sometimes("read anew", finished("cpu0") & dirty)
    setup.sometimes("dropped with a walk in flight", finished("cpu0") & (tlb == WALKING))
    setup.sometimes("still as it was", finished("cpu0") & (tlb & PAGE_PRESENT != 0) & ~dirty)
    assert holds(setup, evictor=True)


async def read_and_mark(cpu: Cpu) -> None:
    """Read the page, so that it is cached clean, and then set D in its entry."""
    await user_read(cpu, ADDR)
    await store(cpu.memory.table(TABLE, 1), CACHED)
