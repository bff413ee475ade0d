"""KVM as far as races need it: mmu_lock, requests to vCPUs, guest mode, and shadow entries.

A vCPU runs guest code on its own CPU, through shadow tables that only KVM writes. Whoever flushes
makes a request of every vCPU, and makes those in guest mode leave it. It must not know Linux
beyond that. Source: virt/kvm/kvm_main.c, arch/x86/kvm/mmu.c and x86.c, Linux 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.engine.routines import AGAIN, Again, retry, routine
from smpmmu.engine.steps import (
    TAKEN,
    Word,
    cmpxchg,
    fetch_and,
    fetch_or,
    load,
    local_irq_disable,
    local_irq_enable,
    store,
    wait_until,
    xchg,
)
from smpmmu.machine.cpu import (
    CALL_FUNCTION_VECTOR,
    Cpu,
    invlpg,
    load_cr3,
    send_ipi,
    take_interrupt,
)
from smpmmu.machine.entries import PAGE_RW, PAGE_UNUSED2
from smpmmu.machine.nested import flush_context
from smpmmu.machine.spinlock import spinlock

if TYPE_CHECKING:
    from collections.abc import Iterable

mmu_lock = spinlock("mmu_lock")


@dataclass(frozen=True, slots=True)
class Kvm:
    """Knobs of KVM under guests with second-level tables.

    Attributes:
        flushed: the guest's addresses that a flush drops; empty for all that is cached.
    """

    flushed: tuple[int, ...] = ()


OUTSIDE_GUEST_MODE, IN_GUEST_MODE, EXITING_GUEST_MODE = 0, 1, 2
SPTE_MMU_WRITEABLE = PAGE_UNUSED2
"""In a shadow entry: the guest may write, whatever dirty logging has taken away (2014)."""


def mode(number: int) -> Word:
    """Return vcpu->mode of the vCPU on CPU `number`, which begins in guest mode."""
    return Word(f"vcpu{number}.mode", 2, IN_GUEST_MODE)


def requests(number: int) -> Word:
    """Return the bit KVM_REQ_TLB_FLUSH of the vCPU on CPU `number`."""
    return Word(f"vcpu{number}.requests", 1)


def unanswered(number: int) -> Word:
    """Return which CPUs have not yet answered the smp_call_function_many of CPU `number`."""
    return Word(f"cpu{number}.unanswered", 8)


@routine
async def kvm_flush_remote_tlbs(cpu: Cpu, vcpus: tuple[int, ...]) -> None:
    """Make every vCPU flush its TLB before it executes guest code again.

    C: kvm_flush_remote_tlbs, make_all_cpus_request
    """
    others = 0
    for number in vcpus:
        await fetch_or(requests(number), 1)
        if number == cpu.number:
            continue
        # One that is outside looks at its requests before it goes back.
        old = await cmpxchg(mode(number), IN_GUEST_MODE, EXITING_GUEST_MODE)
        if old & TAKEN or old == EXITING_GUEST_MODE:
            others |= 1 << number
    if others:
        await smp_call_function_many(cpu, others)


async def smp_call_function_many(cpu: Cpu, cpumask: int) -> None:
    """Interrupt other CPUs, and wait until they have answered: they are out of the guest then.

    C: smp_call_function_many(cpus, ack_flush, NULL, 1)
    """
    await store(unanswered(cpu.number), cpumask)
    for number in range(8):
        if cpumask >> number & 1:
            await send_ipi(number, CALL_FUNCTION_VECTOR)
    await wait_until(unanswered(cpu.number), 0)


async def kick(cpu: Cpu, senders: tuple[int, ...]) -> None:
    """Answer those who interrupt; in guest mode, leave it first, and go back after.

    C: the exit for an external interrupt, ack_flush, vcpu_enter_guest
    """
    await take_interrupt(cpu, CALL_FUNCTION_VECTOR)
    was_inside = await load(mode(cpu.number)) != OUTSIDE_GUEST_MODE
    if was_inside:
        await store(mode(cpu.number), OUTSIDE_GUEST_MODE)
    for sender in senders:
        await fetch_and(unanswered(sender), ~(1 << cpu.number) & 0xFF)
    if was_inside:
        await retry(enter_guest, cpu)


async def vcpu_enter_guest(cpu: Cpu) -> None:
    """Go (back) into guest mode, when what was requested is done.

    C: vcpu_enter_guest
    """
    await retry(enter_guest_irqs, cpu)


async def enter_guest_irqs(cpu: Cpu) -> bool | Again:
    """Try once, with interrupts off from before mode is set until the guest runs."""
    await local_irq_disable()
    entered = await enter_guest(cpu)
    await local_irq_enable()
    return entered


async def enter_guest(cpu: Cpu) -> bool | Again:
    """Do what was requested, then enter; AGAIN if something was requested in between."""
    if await xchg(requests(cpu.number), 0):
        await kvm_flush_tlb(cpu)
    await store(mode(cpu.number), IN_GUEST_MODE)
    if await load(requests(cpu.number)):
        await store(mode(cpu.number), OUTSIDE_GUEST_MODE)
        return AGAIN
    return True


async def kvm_flush_tlb(cpu: Cpu) -> None:
    """Drop what the vCPU has cached, before it executes guest code again.

    C: kvm_x86_ops->tlb_flush: without second-level tables a load of CR3; with them INVEPT, or the
    ASID flushed; INVVPID of an address, or INVLPGA, where Kvm says so
    """
    if cpu.nested is None:
        await load_cr3(cpu, cpu.root)
    elif cpu.hypervisor.flushed:
        for addr in cpu.hypervisor.flushed:
            await invlpg(cpu, addr)
    else:
        await flush_context(cpu)


async def leave_guest(cpu: Cpu) -> None:
    """Leave guest mode of one's own accord."""
    await store(mode(cpu.number), OUTSIDE_GUEST_MODE)


@routine
async def rmap_write_protect(
    cpu: Cpu, sptes: Iterable[Word], *, pt_protect: bool = False, software_bit: bool = False
) -> bool:
    """Take the right to write from all shadow entries of a page; whether TLBs must be flushed.

    With `software_bit` that is decided by SPTE_MMU_WRITEABLE for a page that becomes a page table
    (`pt_protect`), as dirty logging does not clear it.

    C: rmap_write_protect; spte_write_protect with 198c74f43f0f (3.16) where there is `software_bit`
    Holds: mmu_lock
    """
    flush = False
    for spte in sptes:
        old = await load(spte)
        writeable = old & PAGE_RW
        if software_bit and pt_protect:
            writeable |= old & SPTE_MMU_WRITEABLE
        if not writeable:
            continue
        cleared = PAGE_RW | (SPTE_MMU_WRITEABLE if pt_protect else 0)
        await fetch_and(spte, spte.mask & ~cleared)
        flush = True
    return flush
