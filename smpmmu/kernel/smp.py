"""TLB shootdown: the flush_tlb family, and the interrupts that answer it.

It must not know any hypervisor. Source: arch/i386/kernel/smp.c, Linux 2.6.21.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.local import call
from smpmmu.engine.routines import bug_on, routine
from smpmmu.engine.steps import (
    Part,
    Word,
    fetch_add,
    fetch_and,
    fetch_or,
    load,
    local_irq_disable,
    local_irq_enable,
    store,
    wait_until,
)
from smpmmu.kernel.context import TLBSTATE_OK, leave_mm, tlbstate
from smpmmu.kernel.mm import CPUS, NR_CPUS, SHOOTDOWNS, cpus_format
from smpmmu.machine.cpu import (
    CALL_FUNCTION_VECTOR,
    INVALIDATE_TLB_VECTOR,
    Cpu,
    send_ipi,
    take_interrupt,
)
from smpmmu.machine.spinlock import spin_lock, spin_unlock, spinlock

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct, VmAreaStruct
    from smpmmu.scenario import Setup

FLUSH_ALL = 0xFFFFFFFF
tlbstate_lock = spinlock("tlbstate_lock")
flush_mm = Word("flush_mm", 4, part=Part(SHOOTDOWNS, "flush_mm"))
flush_va = Word("flush_va", 32, part=Part(SHOOTDOWNS, "flush_va"))
flush_cpumask = Word("flush_cpumask", NR_CPUS, part=Part(SHOOTDOWNS, "flush_cpumask", format=CPUS))


def cpumask_of(mm: MmStruct) -> Word:
    """Return flush_cpumask, as wide as the masks of an address space that many CPUs run."""
    if mm.nr_cpus == NR_CPUS:
        return flush_cpumask
    part = Part(SHOOTDOWNS, "flush_cpumask", format=cpus_format(mm.nr_cpus))
    return Word("flush_cpumask", mm.nr_cpus, part=part)


call_lock = spinlock("call_lock")
call_started = Word("call_data.started", 4, part=Part(SHOOTDOWNS, "call_data.started"))
call_finished = Word("call_data.finished", 4, part=Part(SHOOTDOWNS, "call_data.finished"))


@routine
async def flush_tlb_page(cpu: Cpu, vma: VmAreaStruct, va: int) -> None:
    """Drop the translation of `va` here, then on every other CPU that has the mm loaded.

    C: flush_tlb_page
    Model: preemption is off throughout in the C and does not exist here.
    """
    await _flush(cpu, vma.vm_mm, va)


@routine
async def flush_tlb_mm(cpu: Cpu, mm: MmStruct) -> None:
    """Drop every translation of `mm` here, then on every other CPU that has it loaded.

    C: flush_tlb_mm
    """
    await _flush(cpu, mm, FLUSH_ALL)


async def flush_tlb_range(cpu: Cpu, vma: VmAreaStruct, start: int, end: int) -> None:
    """Drop at least the translations of a range: i386 drops all of the mm.

    C: flush_tlb_range, include/asm-i386/tlbflush.h
    """
    await flush_tlb_mm(cpu, vma.vm_mm)


async def _flush(cpu: Cpu, mm: MmStruct, va: int) -> None:
    """Do what flush_tlb_page and flush_tlb_mm have in common, in the order that both have."""
    cpu_mask = await load(mm.cpu_vm_mask) & ~(1 << cpu.number)
    if cpu.linux.local_first:
        await _flush_here(cpu, mm, va)
    # Until the others have answered, they may go on using what they have cached.
    if cpu_mask:
        await flush_tlb_others(cpu, cpu_mask, mm, va)
    if not cpu.linux.local_first:
        await _flush_here(cpu, mm, va)


async def _flush_here(cpu: Cpu, mm: MmStruct, va: int) -> None:
    """Flush this CPU if `mm` is what it has loaded; a thread that borrowed it leaves it."""
    if cpu.mm.number != mm.number:
        return
    if cpu.kernel_thread:
        await leave_mm(cpu)
    elif va == FLUSH_ALL:
        await cpu.pv.flush_tlb_user(cpu)
    else:
        await cpu.pv.flush_tlb_single(cpu, va)


@routine
async def flush_tlb_others(cpu: Cpu, cpumask: int, mm: MmStruct, va: int) -> None:
    """Make the CPUs of `cpumask` drop `va` of `mm`, and wait until all have.

    C: flush_tlb_others
    """
    bug_on(cpumask == 0, "flush_tlb_others_has_somebody_to_tell")
    bug_on(cpumask & 1 << cpu.number, "flush_tlb_others_tells_others_only")
    flush_cpumask = cpumask_of(mm)
    await spin_lock(tlbstate_lock)
    await store(flush_mm, mm.number)
    await store(flush_va, va)
    await fetch_or(flush_cpumask, cpumask)
    for number in range(mm.nr_cpus):
        if cpumask >> number & 1:
            await send_ipi(number, INVALIDATE_TLB_VECTOR)
    # If interrupts are on here, as they must be, this CPU answers others while it waits.
    await wait_until(flush_cpumask, 0)
    await store(flush_mm, 0)
    await store(flush_va, 0)
    await spin_unlock(tlbstate_lock)


async def smp_invalidate_interrupt(cpu: Cpu) -> None:
    """Answer a shootdown: flush if it is about this CPU's mm, then acknowledge.

    C: smp_invalidate_interrupt
    Model: the acknowledgement of the APIC is left out; nothing depends on when it comes.
    """
    await take_interrupt(cpu, INVALIDATE_TLB_VECTOR)
    flush_cpumask = cpumask_of(cpu.mm)
    me = 1 << cpu.number
    if not await load(flush_cpumask, me):
        return
    state, active_mm = await tlbstate(cpu)
    if await load(flush_mm) == active_mm:
        if state == TLBSTATE_OK:
            va = await load(flush_va)
            if va == FLUSH_ALL:
                await cpu.pv.flush_tlb_user(cpu)
            else:
                await cpu.pv.flush_tlb_single(cpu, va)
        else:
            await leave_mm(cpu)
    await fetch_and(flush_cpumask, flush_cpumask.mask & ~me)


@routine
async def flush_tlb_all(cpu: Cpu, online: tuple[int, ...]) -> None:
    """Drop everything on every CPU of `online`.

    C: flush_tlb_all, on_each_cpu(do_flush_tlb_all)
    """
    await smp_call_function(cpu, online)
    await local_irq_disable()
    await do_flush_tlb_all(cpu)
    await local_irq_enable()


@routine
async def smp_call_function(cpu: Cpu, online: tuple[int, ...]) -> None:
    """Run do_flush_tlb_all on all other CPUs of `online`, and wait until they have.

    C: smp_call_function
    Model: there is one function to call, so call_data keeps the two counts alone.
    """
    others = [number for number in online if number != cpu.number]
    if not others:
        return
    await spin_lock(call_lock)
    await store(call_started, 0)
    await store(call_finished, 0)
    for number in others:
        await send_ipi(number, CALL_FUNCTION_VECTOR)
    await wait_until(call_started, len(others))
    await wait_until(call_finished, len(others))
    await spin_unlock(call_lock)


async def smp_call_function_interrupt(cpu: Cpu) -> None:
    """Answer smp_call_function.

    C: smp_call_function_interrupt
    """
    await take_interrupt(cpu, CALL_FUNCTION_VECTOR)
    await fetch_add(call_started, 1)
    await do_flush_tlb_all(cpu)
    await fetch_add(call_finished, 1)


async def do_flush_tlb_all(cpu: Cpu) -> None:
    """Drop everything here; a CPU that only borrows its mm leaves it.

    C: do_flush_tlb_all
    """
    await cpu.pv.flush_tlb_kernel(cpu)
    state, _ = await tlbstate(cpu)
    if state != TLBSTATE_OK:
        await leave_mm(cpu)


def install_interrupts(setup: Setup, cpu: Cpu, *, call_function: bool = False) -> None:
    """Give a vCPU its handlers: of shootdowns, and of smp_call_function where it is used."""
    there = replace(cpu, in_interrupt=True)
    setup.irq(cpu.number, "invalidate", call(smp_invalidate_interrupt, there))
    if call_function:
        setup.irq(cpu.number, "call_function", call(smp_call_function_interrupt, there))
