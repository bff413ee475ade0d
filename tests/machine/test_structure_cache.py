"""Entries of page directories that a processor keeps: when they are used, and what drops them."""

from __future__ import annotations

import pytest

from smpmmu.engine.expressions import value
from smpmmu.engine.local import call
from smpmmu.engine.steps import store
from smpmmu.machine.cpu import Cpu, flush_global, invlpg, load_cr3
from smpmmu.machine.entries import PAGE_PRESENT, PAGE_TABLE, PAGE_USER, WALKING, entry
from smpmmu.machine.speculation import evict, keep_in_flight, speculate
from smpmmu.machine.walker import user_read
from smpmmu.scenario import Setup
from tests.machines import ADDR, PGD, TABLE, TOUCHED, alone, ended, holds, labels, memory, vcpu

PDE = "0x1[0]"
KEPT = "cpu0.pde_cache[0x0]"
LINK = entry(TABLE, PAGE_TABLE)


async def read(cpu: Cpu) -> None:
    await user_read(cpu, ADDR)


async def flush(cpu: Cpu, how: str) -> None:
    if how == "INVLPG":
        await invlpg(cpu, ADDR)
    elif how == "CR3":
        await load_cr3(cpu, PGD)
    else:
        await flush_global(cpu)


def test_nothing_is_kept_unless_it_is_asked_for() -> None:
    run = alone(call(read, vcpu()))
    assert not any("pde_cache" in label for label in labels(run))


def test_a_walk_keeps_the_entry_and_the_next_one_uses_it() -> None:
    cpu = vcpu(caches_directory=True)
    run = alone(call(read, cpu), call(evict, cpu, ADDR), call(read, cpu))
    assert ended(run)[KEPT] == LINK
    assert labels(run).count(f"load {PDE}") == 1
    assert labels(run).count("load 0x2[1]") == 2


def test_a_walk_goes_where_the_entry_led() -> None:
    """As the processor may, as long as nobody flushes."""
    cpu = vcpu(caches_directory=True)
    cut = call(unlink, cpu)
    run = alone(call(read, cpu), cut, call(evict, cpu, ADDR), call(read, cpu))
    assert labels(run)[-1] == "read page 0x3"


async def unlink(cpu: Cpu) -> None:
    await store(cpu.memory.table(PGD, 0), 0)


@pytest.mark.parametrize("how", ["INVLPG", "CR3", "PGE"])
def test_every_flush_drops_it(how: str) -> None:
    cpu = vcpu(caches_directory=True)
    run = alone(call(read, cpu), call(unlink, cpu), call(flush, cpu, how), call(read, cpu))
    assert ended(run)[KEPT] == 0
    assert labels(run)[-1] == f"load {PDE}"


def test_an_entry_is_kept_with_its_rights() -> None:
    cpu = vcpu(mem=memory(TOUCHED, pde=PAGE_TABLE & ~PAGE_USER), caches_directory=True)
    assert ended(alone(call(read, cpu)))[KEPT] == 0


def test_a_speculative_walk_keeps_it_unless_it_was_aborted() -> None:
    cpu = vcpu(caches_directory=True)
    begun = call(begin, cpu, WALKING)
    assert ended(alone(begun, call(keep_in_flight, cpu, ADDR, LINK)))[KEPT] == LINK
    aborted = call(begin, cpu, 0)
    assert ended(alone(aborted, call(keep_in_flight, cpu, ADDR, LINK)))[KEPT] == 0


async def begin(cpu: Cpu, walking: int) -> None:
    await store(cpu.tlb(ADDR), walking)


def test_after_a_flush_no_walk_in_flight_brings_it_back() -> None:
    """The table is unlinked, then flushed: from then on nothing of it is kept or cached."""
    cpu = vcpu(caches_directory=True)
    setup = Setup()
    setup.cpu(0, call(unlink_and_flush, cpu))
    setup.daemon(0, "walker", call(speculate, cpu, ADDR))
    gone = value(cpu.pde_cache(ADDR)) == 0
    setup.at_quiescence("nothing_is_kept", gone & (value(cpu.tlb(ADDR)) & PAGE_PRESENT == 0))
    setup.sometimes("it was kept before", value(cpu.pde_cache(ADDR)) == LINK)
    assert holds(setup)


async def unlink_and_flush(cpu: Cpu) -> None:
    await unlink(cpu)
    await invlpg(cpu, ADDR)
