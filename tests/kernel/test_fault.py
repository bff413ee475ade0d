"""The fault handler: two CPUs that want the same right, and faults that turn out spurious."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smpmmu.engine.expressions import all_of, finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import AGAIN, Again, retry
from smpmmu.engine.steps import Word, fetch_add, store
from smpmmu.kernel.fault import Fault, handle_pte_fault
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.kernel.paravirt import native
from smpmmu.kernel.smp import install_interrupts
from smpmmu.machine.cpu import Cpu, invlpg
from smpmmu.machine.entries import PAGE_PRESENT, PAGE_SHIFT, PAGE_USER, entry
from smpmmu.machine.memory import VERSION_SHIFT
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import Access, user_read, user_write
from smpmmu.scenario import Setup
from tests.machines import (
    ADDR,
    CLEAN,
    MM,
    MM_OF_TWO,
    OTHER_PAGE,
    PAGE,
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

OUT = Word("handled as", 2)
PTE = "0x2[1]"
CODES = {Fault.MINOR: 1, Fault.SIGBUS: 2}


def counted(cpu: Cpu, what: str) -> Word:
    return Word(f"{cpu.name} {what}", 3)


async def counting_update(cpu: Cpu, mm: object, addr: int, ptep: int) -> None:
    await fetch_add(counted(cpu, "raised the right"), 1)


async def counting_flush(cpu: Cpu, addr: int) -> None:
    await fetch_add(counted(cpu, "flushed"), 1)
    await invlpg(cpu, addr)


COUNTING = replace(native, pte_update_defer=counting_update, flush_tlb_single=counting_flush)


async def write_until_done(cpu: Cpu) -> None:
    """Read the page, so that it is cached read-only, and write to it, handling faults."""
    await user_read(cpu, ADDR)
    await retry(write_or_fault, cpu)


async def write_or_fault(cpu: Cpu) -> Access | Again:
    if await user_write(cpu, ADDR) is Access.DONE:
        return Access.DONE
    await handle_pte_fault(cpu, VmAreaStruct(MM_OF_TWO), ADDR, write=True)
    return AGAIN


@pytest.mark.parametrize("pte", [READ_ONLY, PAGE_PRESENT | PAGE_USER])
def test_two_that_fault_on_one_page_raise_its_right_once(pte: int) -> None:
    setup = Setup()
    mem = memory(pte)
    for n in range(2):
        cpu = vcpu(n, mem, MM_OF_TWO, pv=COUNTING)
        setup.cpu(n, call(write_until_done, cpu))
        install_interrupts(setup, replace(cpu, pv=native))  # what others make it flush
    raised = [value(Word(f"cpu{n} raised the right", 3)) for n in range(2)]
    flushed = [value(Word(f"cpu{n} flushed", 3)) for n in range(2)]
    leaf, page = value(mem.table(TABLE, 1)), value(mem.page(PAGE))
    setup.at_quiescence("both_wrote", page >> VERSION_SHIFT == 2)
    setup.at_quiescence("the_right_is_there", leaf == entry(PAGE, TOUCHED))
    setup.at_quiescence("one_raised_it", raised[0] + raised[1] == 1)
    for n in range(2):
        setup.sometimes(f"cpu{n} raised it", raised[n] == 1)
        spurious = all_of(finished(f"cpu{n}"), raised[n] == 0, flushed[n] == 1)
        setup.sometimes(f"cpu{n} had a spurious fault", spurious)
        missed = all_of(finished(f"cpu{n}"), raised[n] == 0, flushed[n] == 0)
        setup.sometimes(f"cpu{n} found the entry changed, or did not fault", missed)
    assert holds(setup)


async def handle(cpu: Cpu, *, write: bool) -> None:
    fault = await handle_pte_fault(cpu, VmAreaStruct(MM), ADDR, write=write)
    await store(OUT, 2 if fault is Fault.SIGBUS else 1)


@pytest.mark.parametrize(
    ("pte", "write", "after", "did", "fault"),
    [
        (READ_ONLY, True, TOUCHED, ["raised", "flushed"], Fault.MINOR),
        (UNTOUCHED, True, TOUCHED, ["raised", "flushed"], Fault.MINOR),
        (CLEAN, True, TOUCHED, ["raised", "flushed"], Fault.MINOR),
        (TOUCHED, True, TOUCHED, ["flushed"], Fault.MINOR),
        (TOUCHED, False, TOUCHED, [], Fault.MINOR),
        (UNTOUCHED, False, UNTOUCHED, [], Fault.MINOR),  # the walker sets A
        (READ_ONLY & ~PAGE_PRESENT, True, None, [], Fault.SIGBUS),
        (READ_ONLY & ~PAGE_PRESENT, False, None, [], Fault.SIGBUS),
    ],
)
def test_what_is_done_for_a_fault(
    pte: int, after: int | None, did: list[str], fault: Fault, *, write: bool
) -> None:
    cpu = vcpu(mem=memory(pte), pv=COUNTING)
    run = alone(call(handle, cpu, write=write))
    expected = pte if after is None else after
    assert ended(run)[PTE] == entry(PAGE, expected)
    assert ended(run)["handled as"] == CODES[fault]
    counts = [label.split()[-1] for label in labels(run) if label.startswith("add 1 to")]
    assert counts == [{"raised": "right"}.get(one, one) for one in did]
    # An absent entry too is looked at again under the lock.
    assert labels(run).count("lock ptl") == labels(run).count("unlock ptl") == 1


async def take_right_away(cpu: Cpu, instead: int) -> None:
    await store(cpu.memory.table(TABLE, 1), instead)


@pytest.mark.parametrize("instead", [0, entry(OTHER_PAGE, READ_ONLY)])
def test_what_changed_before_the_lock_was_taken_is_not_overwritten(instead: int) -> None:
    setup = Setup()
    mem = memory(CLEAN)
    cpu = vcpu(0, mem, pv=COUNTING)
    setup.cpu(0, call(handle, cpu, write=True))
    setup.cpu(1, call(locked_change, vcpu(1, mem), instead))
    leaf = value(mem.table(TABLE, 1))
    raised = value(counted(cpu, "raised the right")) != 0
    old = leaf >> PAGE_SHIFT == PAGE
    setup.always("the_old_page_does_not_come_back", implies(finished("cpu1"), ~old))
    setup.sometimes("it was raised first", finished("cpu0") & raised)
    setup.sometimes("it was changed first", finished("cpu0") & ~raised)
    assert holds(setup)


async def locked_change(cpu: Cpu, instead: int) -> None:
    """Change the entry under the lock."""
    await spin_lock(MM.pte_lockptr(ADDR))
    await take_right_away(cpu, instead)
    await spin_unlock(MM.pte_lockptr(ADDR))
