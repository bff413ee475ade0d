"""The flush family: when one returns, nothing of what it flushed is cached anywhere."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace

import pytest

from smpmmu.engine.expressions import all_of, finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import (
    Step,
    Word,
    fetch_and,
    load,
    local_irq_disable,
    local_irq_enable,
    store,
)
from smpmmu.engine.system import NO_DEADLOCK
from smpmmu.kernel.context import context_switch
from smpmmu.kernel.mm import INIT_MM, MmStruct, VmAreaStruct
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.pgtable import ptep_set_wrprotect
from smpmmu.kernel.smp import (
    FLUSH_ALL,
    flush_cpumask,
    flush_mm,
    flush_tlb_all,
    flush_tlb_mm,
    flush_tlb_others,
    flush_tlb_page,
    flush_tlb_range,
    flush_va,
    install_interrupts,
)
from smpmmu.machine.cpu import INVALIDATE_TLB_VECTOR, Cpu, take_interrupt
from smpmmu.machine.entries import PAGE_GLOBAL, PAGE_PRESENT, PAGE_RW, entry
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import user_read, user_write
from smpmmu.scenario import Setup
from smpmmu.scenarios.common import install_walker
from tests.machines import (
    ADDR,
    MM,
    MM_OF_THREE,
    MM_OF_TWO,
    OTHER_ADDR,
    PAGE,
    TOUCHED,
    alone,
    ended,
    holds,
    labels,
    memory,
    vcpu,
    violated,
)

Handler = Callable[[Cpu], Coroutine[Step, int, None]]
KINDS = ["page", "range", "mm", "all"]
STALE = "no_tlb_entry_outlives_its_flush"
RETURNED = tuple(Word(f"cpu{n}'s flush has returned", 1) for n in range(2))


async def flush(cpu: Cpu, mm: MmStruct, addr: int, kind: str, cpus: int) -> None:
    vma = VmAreaStruct(mm)
    if kind == "page":
        await flush_tlb_page(cpu, vma, addr)
    elif kind == "range":
        await flush_tlb_range(cpu, vma, addr, addr + 0x1000)
    elif kind == "mm":
        await flush_tlb_mm(cpu, mm)
    else:
        await flush_tlb_all(cpu, tuple(range(cpus)))


async def protect(cpu: Cpu, mm: MmStruct, addr: int, kind: str, cpus: int) -> None:
    """Take the right to write away under the lock, and flush after it."""
    await spin_lock(mm.pte_lockptr(addr))
    await ptep_set_wrprotect(cpu, mm, addr, mm.pte_offset(addr))
    await spin_unlock(mm.pte_lockptr(addr))
    await flush(cpu, mm, addr, kind, cpus)
    await store(RETURNED[cpu.number], 1)


def one_flusher(kind: str, cpus: int, **fields: object) -> Setup:
    """Return one CPU that write-protects a page which all have cached."""
    setup = Setup()
    mm = {2: MM_OF_TWO, 3: MM_OF_THREE}[cpus]
    mem = memory(TOUCHED)
    machine = [vcpu(n, mem, mm, **fields) for n in range(cpus)]
    setup.cpu(
        0, call(user_write, machine[0], ADDR), call(protect, machine[0], mm, ADDR, kind, cpus)
    )
    for cpu in machine[1:]:
        setup.cpu(cpu.number, call(user_write, cpu, ADDR))
    install_walker(setup, machine[-1])
    for cpu in machine:
        install_interrupts(setup, cpu, call_function=kind == "all")
        clean = value(cpu.tlb(ADDR)) & PAGE_RW == 0
        setup.always(f"{STALE}_on_{cpu.name}", implies(value(RETURNED[0]) == 1, clean))
        setup.sometimes(f"{cpu.name} had it cached", ~clean)
    return setup


@pytest.mark.parametrize("cpus", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_when_a_flush_returns_nobody_has_it_cached(kind: str, cpus: int) -> None:
    assert holds(one_flusher(kind, cpus))


@pytest.mark.parametrize("kind", KINDS)
def test_nor_in_the_other_order_natively(kind: str) -> None:
    assert holds(one_flusher(kind, 2, linux=Linux(local_first=False)))


async def acknowledge_first(cpu: Cpu) -> None:
    """Do what smp_invalidate_interrupt does, acknowledging before the flush."""
    await take_interrupt(cpu, INVALIDATE_TLB_VECTOR)
    await fetch_and(flush_cpumask, ~(1 << cpu.number))
    await cpu.pv.flush_tlb_single(cpu, ADDR)


async def acknowledge_only(cpu: Cpu) -> None:
    """Acknowledge, and flush nothing."""
    await take_interrupt(cpu, INVALIDATE_TLB_VECTOR)
    await fetch_and(flush_cpumask, ~(1 << cpu.number))


@pytest.mark.parametrize("handler", [acknowledge_first, acknowledge_only])
def test_an_acknowledgement_before_the_flush_is_caught(handler: Handler) -> None:
    setup = Setup()
    mem = memory(TOUCHED)
    cpu0, cpu1 = (vcpu(n, mem, MM_OF_TWO) for n in range(2))
    setup.cpu(0, call(protect, cpu0, MM_OF_TWO, ADDR, "page", 2))
    setup.cpu(1, call(user_write, cpu1, ADDR))
    install_interrupts(setup, cpu0)
    setup.irq(1, "invalidate", call(handler, cpu1))
    clean = value(cpu1.tlb(ADDR)) & PAGE_RW == 0
    setup.always(STALE, implies(value(RETURNED[0]) == 1, clean))
    assert violated(setup) == STALE


@pytest.mark.parametrize(("first", "second"), [("page", "page"), ("page", "mm"), ("mm", "mm"),
                                               ("all", "page"), ("all", "all")])  # fmt: skip
def test_two_flushers_at_once_answer_each_other(first: str, second: str) -> None:
    setup = Setup()
    mem = memory(TOUCHED, other=TOUCHED)
    pages = (ADDR, OTHER_ADDR)
    machine = [vcpu(n, mem, MM_OF_TWO, pages=pages) for n in range(2)]
    for cpu, addr, kind in zip(machine, pages, (first, second), strict=True):
        uses = call(user_write, cpu, pages[1 - cpu.number])
        setup.cpu(cpu.number, uses, call(protect, cpu, MM_OF_TWO, addr, kind, 2))
        install_interrupts(setup, cpu, call_function="all" in (first, second))
        returned = value(RETURNED[cpu.number]) == 1
        clean = all_of(*(value(each.tlb(addr)) & PAGE_RW == 0 for each in machine))
        setup.always(f"{STALE}_{addr:#x}", implies(returned, clean))
        elsewhere = value(machine[1 - cpu.number].tlb(addr)) != 0
        setup.sometimes(f"{addr:#x} was cached elsewhere", elsewhere)
    assert holds(setup)


async def flush_with_interrupts_off(cpu: Cpu, kind: str) -> None:
    await local_irq_disable()
    await flush(cpu, MM_OF_TWO, ADDR, kind, 2)
    await local_irq_enable()


@pytest.mark.parametrize("kind", KINDS)
def test_flushers_with_interrupts_off_deadlock_once_there_are_two(kind: str) -> None:
    both, one = Setup(), Setup()
    cpus = [vcpu(n, mm=MM_OF_TWO) for n in range(2)]
    for setup in (both, one):
        for cpu in cpus:
            install_interrupts(setup, cpu, call_function=kind == "all")
        setup.cpu(0, call(flush_with_interrupts_off, cpus[0], kind))
    both.cpu(1, call(flush_with_interrupts_off, cpus[1], kind))
    one.cpu(1, call(user_write, cpus[1], ADDR))
    assert violated(both) == NO_DEADLOCK
    assert holds(one)


def test_who_has_nothing_of_it_loaded_is_left_alone() -> None:
    """The other CPU runs another address space: no interrupt, and its entry stays."""
    setup = Setup()
    mem = memory(TOUCHED)
    cpu0, cpu1 = vcpu(0, mem, MM), vcpu(1, mem, replace(MM, number=2))
    setup.cpu(0, call(flush, cpu0, MM, ADDR, "mm", 2))
    setup.cpu(1, call(user_read, vcpu(1, mem, MM), ADDR))
    for cpu in (cpu0, cpu1):
        install_interrupts(setup, cpu)
    setup.always("nobody_is_told", value(flush_cpumask) == 0)
    setup.at_quiescence("it_stays_cached", value(cpu1.tlb(ADDR)) & PAGE_PRESENT != 0)
    assert holds(setup)


async def cache(cpu: Cpu, what: int) -> None:
    await store(cpu.tlb(ADDR), what)


@pytest.mark.parametrize(
    ("kind", "plain", "global_"),
    [("page", 0, 0), ("range", 0, entry(PAGE, TOUCHED | PAGE_GLOBAL)), ("all", 0, 0)],
)
def test_what_a_flush_does_here(kind: str, plain: int, global_: int) -> None:
    cpu = vcpu()
    for flags, left in ((TOUCHED, plain), (TOUCHED | PAGE_GLOBAL, global_)):
        run = alone(call(cache, cpu, entry(PAGE, flags)), call(flush, cpu, MM, ADDR, kind, 1))
        assert ended(run)["cpu0.tlb[0x1]"] == left
        assert not [label for label in labels(run) if "lock" in label]  # nobody else to tell


def test_a_foreign_address_space_is_not_flushed_here() -> None:
    cpu = vcpu()
    foreign = replace(MM, number=2, cpus=())
    run = alone(call(user_read, cpu, ADDR), call(flush, cpu, foreign, ADDR, "mm", 1))
    assert ended(run)["cpu0.tlb[0x1]"] == entry(PAGE, TOUCHED)


@pytest.mark.parametrize("local_first", [True, False])
def test_the_knob_turns_the_order_of_here_and_there(*, local_first: bool) -> None:
    setup = Setup()
    cpus = [vcpu(n, mm=MM_OF_TWO, linux=Linux(local_first=local_first)) for n in range(2)]
    setup.cpu(0, call(user_read, cpus[0], ADDR), call(flush, cpus[0], MM_OF_TWO, ADDR, "page", 2))
    setup.cpu(1, call(nothing, cpus[1]))
    for cpu in cpus:
        install_interrupts(setup, cpu)
    here, told = value(cpus[0].tlb(ADDR)) == 0, value(flush_va) != 0
    if local_first:
        setup.always("here_first", implies(told, here))
    else:
        setup.sometimes("there first", told & ~here)
        setup.always("here_after", implies(finished("cpu0"), here))
    assert holds(setup)


async def nothing(cpu: Cpu) -> None:
    await load(cpu.memory.page(PAGE))


@pytest.mark.parametrize(
    ("mask", "name"),
    [
        (0, "flush_tlb_others_has_somebody_to_tell"),
        (0b1, "flush_tlb_others_tells_others_only"),
        (0b11, "flush_tlb_others_tells_others_only"),
    ],
)
def test_flush_tlb_others_insists_on_others(mask: int, name: str) -> None:
    setup = Setup()
    cpu = vcpu()
    setup.cpu(0, call(nothing, cpu), call(flush_tlb_others, cpu, mask, MM, FLUSH_ALL))
    assert violated(setup) == name


async def idle(cpu: Cpu, mm: MmStruct) -> None:
    await user_write(cpu, ADDR)
    await context_switch(cpu, mm, None)


@pytest.mark.parametrize("kind", KINDS)
def test_an_idle_cpu_leaves_what_is_flushed(kind: str) -> None:
    setup = Setup()
    mem = memory(TOUCHED)
    cpu0 = vcpu(0, mem, MM_OF_TWO)
    cpu1 = vcpu(1, mem, MM_OF_TWO, mms=(MM_OF_TWO, INIT_MM))
    setup.cpu(0, call(protect, cpu0, MM_OF_TWO, ADDR, kind, 2))
    setup.cpu(1, call(idle, cpu1, MM_OF_TWO))
    for cpu in (cpu0, cpu1):
        install_interrupts(setup, cpu, call_function=kind == "all")
    install_walker(setup, cpu1)
    left = value(cpu1.cr3) == INIT_MM.pgd
    setup.always(STALE, implies(value(RETURNED[0]) == 1, value(cpu1.tlb(ADDR)) & PAGE_RW == 0))
    told = value(MM_OF_TWO.cpu_vm_mask) & 0b10 != 0
    setup.always("whose_bit_is_clear_has_left", implies(finished("cpu0") & left, ~told))
    setup.sometimes("it left", finished("cpu0") & finished("cpu1") & left)
    setup.sometimes("it was told before it was idle", finished("cpu0") & ~left)
    assert holds(setup)


def test_the_mailbox_is_empty_between_flushes() -> None:
    setup = one_flusher("page", 2)
    empty = (value(flush_mm) == 0) & (value(flush_va) == 0) & (value(flush_cpumask) == 0)
    setup.at_quiescence("the_mailbox_is_empty", empty)
    assert holds(setup)
