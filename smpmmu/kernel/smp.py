"""TLB shootdown: flush_tlb_page, flush_tlb_others and the interrupt that answers them.

It must not know any hypervisor. Source: arch/i386/kernel/smp.c, Linux 2.6.21.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.local import call
from smpmmu.engine.routines import bug_on, routine
from smpmmu.engine.steps import Word, fetch_and, fetch_or, load, store, wait_until
from smpmmu.machine.cpu import INVALIDATE_TLB_VECTOR, Cpu, send_ipi, take_interrupt
from smpmmu.machine.spinlock import spin_lock, spin_unlock, spinlock

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct, VmAreaStruct
    from smpmmu.scenario import Setup

NR_CPUS = 8
tlbstate_lock = spinlock("tlbstate_lock")
flush_mm = Word("flush_mm", 4)
flush_va = Word("flush_va", 32)
flush_cpumask = Word("flush_cpumask", NR_CPUS)


@routine
async def flush_tlb_page(cpu: Cpu, vma: VmAreaStruct, va: int) -> None:
    """Drop the translation of `va` here, then on every other CPU that has the mm loaded.

    C: flush_tlb_page
    Model: preemption is off throughout in the C and does not exist here; a current without an
    mm of its own (a kernel thread, leave_mm) is not modelled yet.
    """
    mm = vma.vm_mm
    cpu_mask = await load(mm.cpu_vm_mask) & ~(1 << cpu.number)
    if cpu.mm == mm:
        await cpu.pv.flush_tlb_single(cpu, va)
    # Until the others have answered, they may go on using what they have cached.
    if cpu_mask:
        await flush_tlb_others(cpu, cpu_mask, mm, va)


@routine
async def flush_tlb_others(cpu: Cpu, cpumask: int, mm: MmStruct, va: int) -> None:
    """Make the CPUs of `cpumask` drop `va` of `mm`, and wait until all have.

    C: flush_tlb_others
    """
    bug_on(cpumask == 0, "flush_tlb_others_has_somebody_to_tell")
    bug_on(cpumask & 1 << cpu.number, "flush_tlb_others_tells_others_only")
    await spin_lock(tlbstate_lock)
    await store(flush_mm, mm.number)
    await store(flush_va, va)
    await fetch_or(flush_cpumask, cpumask)
    for number in range(NR_CPUS):
        if cpumask >> number & 1:
            await send_ipi(number, INVALIDATE_TLB_VECTOR)
    # Interrupts are on here, so this CPU answers others while it waits.
    await wait_until(flush_cpumask, 0)
    await store(flush_mm, 0)
    await store(flush_va, 0)
    await spin_unlock(tlbstate_lock)


async def smp_invalidate_interrupt(cpu: Cpu) -> None:
    """Answer a shootdown: flush if it is about this CPU's mm, then acknowledge.

    C: smp_invalidate_interrupt
    Model: cpu_tlbstate is OK with the mm that the CPU began with; the lazy state and leave_mm are
    not modelled yet.
    """
    await take_interrupt(cpu, INVALIDATE_TLB_VECTOR)
    me = 1 << cpu.number
    if not await load(flush_cpumask, me):
        return
    if await load(flush_mm) == cpu.mm.number:
        va = await load(flush_va)
        await cpu.pv.flush_tlb_single(cpu, va)
    await fetch_and(flush_cpumask, flush_cpumask.mask & ~me)


def install_interrupts(setup: Setup, cpu: Cpu) -> None:
    """Give a vCPU its handlers."""
    setup.irq(cpu.number, "invalidate", call(smp_invalidate_interrupt, cpu))
