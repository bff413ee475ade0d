"""Changing address spaces: what is cached afterwards, and which flushes reach the CPU meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smpmmu.engine.expressions import all_of, finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import bug_on
from smpmmu.engine.steps import (
    Word,
    fetch_and,
    fetch_or,
    local_irq_disable,
    local_irq_enable,
    store,
)
from smpmmu.kernel.context import (
    STATE_SHIFT,
    TLBSTATE_LAZY,
    TLBSTATE_OK,
    context_switch,
    cpu_tlbstate,
    enter_lazy_tlb,
    leave_mm,
    set_tlbstate,
    switch_mm,
)
from smpmmu.kernel.mm import INIT_MM, MmStruct, VmAreaStruct
from smpmmu.kernel.pgtable import ptep_set_wrprotect
from smpmmu.kernel.smp import flush_tlb_mm, flush_tlb_page, install_interrupts
from smpmmu.machine.cpu import INVALIDATE_TLB_VECTOR, Cpu, irr
from smpmmu.machine.entries import PAGE_PRESENT, PAGE_RW, PAGE_SHIFT, PAGE_TABLE, entry
from smpmmu.machine.memory import PAGE_FROZEN, VERSION_SHIFT, Memory
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import Access, user_read, user_write
from smpmmu.scenario import Setup
from smpmmu.scenarios.common import install_walker
from tests.machines import (
    ADDR,
    OTHER_PAGE,
    PAGE,
    PGD,
    TABLE,
    TOUCHED,
    alone,
    ended,
    holds,
    labels,
    vcpu,
    violated,
)

SECOND_PGD, SECOND_TABLE = 0x11, 0x12
FIRST = MmStruct(1, PGD, ((0, TABLE),), (0,))
SECOND = MmStruct(2, SECOND_PGD, ((0, SECOND_TABLE),), (1,))
SHARED = MmStruct(1, PGD, ((0, TABLE),), (0, 1))
BOTH = Memory(
    (
        (PGD, 0, entry(TABLE, PAGE_TABLE)),
        (TABLE, 1, entry(PAGE, TOUCHED)),
        (SECOND_PGD, 0, entry(SECOND_TABLE, PAGE_TABLE)),
        (SECOND_TABLE, 1, entry(OTHER_PAGE, TOUCHED)),
    )
)
FLUSHED = Word("the flush has returned", 1)
LAZY = Word("cpu0 is lazy", 1)
STALE = "nothing_stale_is_cached"


def first_cpu(mm: MmStruct = FIRST) -> Cpu:
    return vcpu(0, BOTH, mm, mms=(mm, SECOND, INIT_MM))


async def use_and_switch(cpu: Cpu) -> None:
    """Cache a page of the first address space, and load the second."""
    await user_write(cpu, ADDR)
    await context_switch(cpu, FIRST, SECOND)


async def mask_last(cpu: Cpu, prev: MmStruct, following: MmStruct) -> None:
    """Do what context_switch does, with the bit in the mask set after CR3 is loaded."""
    await local_irq_disable()
    await fetch_and(prev.cpu_vm_mask, ~(1 << cpu.number))
    await set_tlbstate(cpu, TLBSTATE_OK, following)
    await cpu.pv.write_cr3(cpu, following.pgd)
    await fetch_or(following.cpu_vm_mask, 1 << cpu.number)
    await local_irq_enable()


def test_nothing_of_the_old_address_space_stays_cached() -> None:
    setup = Setup()
    cpu = first_cpu()
    setup.cpu(0, call(use_and_switch, cpu))
    install_walker(setup, cpu)
    tlb = value(cpu.tlb(ADDR))
    old, new = (tlb >> PAGE_SHIFT == frame for frame in (PAGE, OTHER_PAGE))
    setup.always(STALE, implies(finished("cpu0"), ~old))
    setup.always("the_new_comes_with_cr3", implies(new, value(cpu.cr3) == SECOND_PGD))
    setup.sometimes("the old was cached", old)
    setup.sometimes("the new is cached", finished("cpu0") & new)
    assert holds(setup)


def test_masks_state_and_cr3_after_a_switch() -> None:
    run = alone(call(context_switch, first_cpu(), FIRST, SECOND))
    values = ended(run)
    assert (values["mm1.cpu_vm_mask"], values["mm2.cpu_vm_mask"]) == (0, 0b11)
    assert values["cpu0.cr3"] == SECOND_PGD
    assert values["cpu0.tlbstate"] == TLBSTATE_OK << STATE_SHIFT | SECOND.number
    told = ["clear 1 in mm1.cpu_vm_mask", "set 1 in mm2.cpu_vm_mask", "store cpu0.cr3 = 0x11"]
    assert [label for label in labels(run) if label in told] == told
    assert (labels(run)[0], labels(run)[-1]) == ("cli", "sti")  # no interrupt lands inside


async def protect(cpu: Cpu, mm: MmStruct) -> None:
    """Take the right to write away, and flush, under the lock."""
    await spin_lock(mm.pte_lockptr(ADDR))
    await ptep_set_wrprotect(cpu, mm, ADDR, mm.pte_offset(ADDR))
    await flush_tlb_page(cpu, VmAreaStruct(mm), ADDR)
    await spin_unlock(mm.pte_lockptr(ADDR))
    await store(FLUSHED, 1)


def flushed_meanwhile(*, mask_first: bool) -> Setup:
    """Let cpu0 load the second address space while cpu1 write-protects a page of it."""
    setup = Setup()
    cpu0 = first_cpu()
    cpu1 = vcpu(1, BOTH, SECOND)
    setup.cpu(0, call(context_switch if mask_first else mask_last, cpu0, FIRST, SECOND))
    setup.cpu(1, call(protect, cpu1, SECOND))
    for cpu in (cpu0, cpu1):
        install_interrupts(setup, cpu)
    install_walker(setup, cpu0)
    tlb = value(cpu0.tlb(ADDR))
    writable = (tlb >> PAGE_SHIFT == OTHER_PAGE) & (tlb & PAGE_RW != 0)
    setup.always(STALE, implies(value(FLUSHED) == 1, ~writable))
    setup.sometimes("the writable entry was cached", writable)
    pending = value(irr(0, INVALIDATE_TLB_VECTOR)) == 1
    too_many = pending & (value(cpu0.cr3) == PGD)
    if mask_first:
        setup.sometimes("a shootdown arrived before CR3 was loaded", too_many)
    return setup


def test_a_flush_in_between_is_one_too_many_and_not_one_too_few() -> None:
    assert holds(flushed_meanwhile(mask_first=True))
    assert violated(flushed_meanwhile(mask_first=False)) == STALE


def test_a_flush_of_the_old_one_need_not_wait_for_a_cpu_that_leaves() -> None:
    setup = Setup()
    cpu0 = first_cpu(SHARED)
    cpu1 = vcpu(1, BOTH, SHARED)
    setup.cpu(0, call(user_write, cpu0, ADDR), call(context_switch, cpu0, SHARED, SECOND))
    setup.cpu(1, call(protect, cpu1, SHARED))
    for cpu in (cpu0, cpu1):
        install_interrupts(setup, cpu)
    install_walker(setup, cpu0)
    tlb = value(cpu0.tlb(ADDR))
    writable = (tlb >> PAGE_SHIFT == PAGE) & (tlb & PAGE_RW != 0)
    both = (value(FLUSHED) == 1) & finished("cpu0")
    setup.always(STALE, implies(both, ~writable))
    # It is legal only because no thread on cpu0 can use it before CR3 is loaded.
    setup.sometimes("left out with the entry cached", (value(FLUSHED) == 1) & writable)
    assert holds(setup)


async def idle_and_back(cpu: Cpu, mm: MmStruct) -> None:
    """Give the CPU to the idle thread, and back to a thread of the same address space."""
    await user_write(cpu, ADDR)
    await context_switch(cpu, mm, None)
    await context_switch(cpu, mm, mm)
    bug_on(await user_read(cpu, ADDR) is Access.FAULT, "the_address_space_is_there_again")
    await user_write(cpu, ADDR)


async def protect_for_good(cpu: Cpu, mm: MmStruct) -> None:
    """Write-protect the page and promise that it no longer changes."""
    await protect(cpu, mm)
    await fetch_or(cpu.memory.page(PAGE), PAGE_FROZEN)


def test_back_from_idle_cr3_is_loaded_if_a_shootdown_made_the_cpu_leave() -> None:
    setup = Setup()
    cpu0 = first_cpu(SHARED)
    cpu1 = vcpu(1, BOTH, SHARED)
    setup.cpu(0, call(idle_and_back, cpu0, SHARED))
    setup.cpu(1, call(protect_for_good, cpu1, SHARED))
    for cpu in (cpu0, cpu1):
        install_interrupts(setup, cpu)
    install_walker(setup, cpu0)
    mask, cr3 = value(SHARED.cpu_vm_mask), value(cpu0.cr3)
    back = all_of(
        finished("cpu0"), mask & 1 != 0, cr3 == PGD,
        value(cpu_tlbstate(cpu0)) == TLBSTATE_OK << STATE_SHIFT | SHARED.number,
    )  # fmt: skip
    setup.always("all_is_as_before", implies(finished("cpu0"), back))
    written = value(BOTH.page(PAGE)) >> VERSION_SHIFT
    setup.sometimes("the idle CPU left", cr3 == INIT_MM.pgd)
    setup.sometimes("the last write went through", finished("cpu0") & (written == 2))
    setup.sometimes("the last write was stopped", finished("cpu0") & (written == 1))
    assert holds(setup)


async def lazy_and_back(cpu: Cpu, *, leaves: bool) -> None:
    """Go to idle and back; in between the CPU leaves the address space or does not."""
    await context_switch(cpu, FIRST, None)
    if leaves:
        await leave_mm(cpu)
    await store(LAZY, 1)
    await context_switch(cpu, FIRST, FIRST)


@pytest.mark.parametrize("leaves", [False, True])
def test_back_from_idle_nothing_is_loaded_unless_the_cpu_left(*, leaves: bool) -> None:
    run = alone(call(lazy_and_back, first_cpu(), leaves=leaves))
    values = ended(run)
    back = labels(run)[labels(run).index("store cpu0 is lazy = 1") :]
    assert ("store cpu0.cr3 = 1" in back) == leaves
    assert ("store cpu0.cr3 = 0x7f" in labels(run)) == leaves
    assert values["mm1.cpu_vm_mask"] == 1
    assert values["cpu0.tlbstate"] == TLBSTATE_OK << STATE_SHIFT | FIRST.number


def test_a_lazy_cpu_keeps_its_mask_and_cr3() -> None:
    run = alone(call(context_switch, first_cpu(), FIRST, None))
    values = ended(run)
    assert values["cpu0.tlbstate"] == TLBSTATE_LAZY << STATE_SHIFT | FIRST.number
    assert not [label for label in labels(run) if "cr3" in label or "mask" in label]


async def twice_lazy(cpu: Cpu) -> None:
    await enter_lazy_tlb(cpu, FIRST)
    await enter_lazy_tlb(cpu, FIRST)


def test_from_idle_to_another_kernel_thread_nothing_changes() -> None:
    run = alone(call(twice_lazy, first_cpu()))
    assert [label for label in labels(run) if label.startswith("store")] == [
        "store cpu0.tlbstate = LAZY-mm1"
    ]


def test_a_lazy_cpu_that_left_is_told_nothing_and_has_nothing() -> None:
    run = alone(call(user_write, first_cpu(), ADDR), call(lazy_then_leave, first_cpu()))
    values = ended(run)
    assert (values["cpu0.cr3"], values["cpu0.tlb[0x1]"]) == (INIT_MM.pgd, 0)
    assert values["mm1.cpu_vm_mask"] == 0
    assert values["cpu0.tlbstate"] == TLBSTATE_LAZY << STATE_SHIFT | FIRST.number


async def lazy_then_leave(cpu: Cpu) -> None:
    await context_switch(cpu, FIRST, None)
    await leave_mm(cpu)


async def lazy_and_flush(cpu: Cpu) -> None:
    """Flush, as a kernel thread, the address space that it borrows."""
    await enter_lazy_tlb(cpu, FIRST)
    await flush_tlb_mm(replace(cpu, kernel_thread=True), FIRST)


def test_a_kernel_thread_that_flushes_what_it_borrows_leaves_it() -> None:
    run = alone(call(lazy_and_flush, first_cpu()))
    assert ended(run)["cpu0.cr3"] == INIT_MM.pgd
    assert ended(run)["mm1.cpu_vm_mask"] == 0


def test_leaving_what_is_in_use_is_a_violation() -> None:
    for cpu in (first_cpu(), vcpu()):
        setup = Setup()
        setup.cpu(0, call(user_write, cpu, ADDR), call(leave_mm, cpu))
        assert violated(setup) == "leave_mm_only_when_lazy"


def test_being_lazy_about_what_is_not_loaded_is_a_violation() -> None:
    setup = Setup()
    setup.cpu(0, call(enter_lazy_tlb, first_cpu(), SECOND))
    assert violated(setup) == "lazy_cpu_keeps_the_mm_it_has_loaded"


async def switch_with_interrupts_off(cpu: Cpu) -> None:
    await local_irq_disable()
    await context_switch(cpu, FIRST, SECOND)


def test_to_switch_with_interrupts_off_is_a_violation() -> None:
    setup = Setup()
    setup.cpu(0, call(switch_with_interrupts_off, first_cpu()))
    assert violated(setup) == "schedule_with_interrupts_on"


def test_to_switch_between_threads_of_what_is_not_loaded_is_a_violation() -> None:
    setup = Setup()
    setup.cpu(0, call(switch_mm, first_cpu(), SECOND, SECOND))
    assert violated(setup)


async def unmapped(cpu: Cpu) -> None:
    """Read where the kernel's own directory has nothing for user code."""
    await lazy_then_leave(cpu)
    bug_on(await user_read(cpu, ADDR) is Access.DONE, "swapper_maps_no_user_page")


def test_the_kernels_own_directory_maps_no_user_page() -> None:
    run = alone(call(unmapped, first_cpu()))
    assert ended(run)["cpu0.tlb[0x1]"] & PAGE_PRESENT == 0
