"""A CPU write-protects a page and drops everything everywhere before it relies on that.

    cpu0                               cpu1
    write the page                     write the page
    spin_lock(ptl)                     write the page
    ptep_set_wrprotect(pte)
    spin_unlock(ptl)
    flush_tlb_all
    the page is final
    write the page

flush_tlb_all is for kernel mappings, but no less is dropped than by a flush of the page: here, and
on every other CPU, before it returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.hypervisor.shadow import Hypervisor, shadow_of
from smpmmu.hypervisor.vmi import vmi
from smpmmu.kernel.context import context_switch
from smpmmu.kernel.mm import INIT_MM, VmAreaStruct
from smpmmu.kernel.paravirt import Linux, native
from smpmmu.kernel.pgtable import ptep_set_wrprotect
from smpmmu.kernel.smp import flush_tlb_all, install_interrupts
from smpmmu.machine.cpu import Cpu
from smpmmu.machine.memory import PAGE_FROZEN, VERSION_SHIFT
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import user_write
from smpmmu.scenario import Setup, holds, scenario, variant
from smpmmu.scenarios.common import (
    ADDR,
    PAGE,
    TABLE,
    TOUCHED,
    Flush,
    address_space,
    guest_memory,
    install_evictor,
    promise,
)

if TYPE_CHECKING:
    from smpmmu.machine.memory import Memory

MM = address_space(Flush.UNDER_PTL, (0, 1, 2))
FINISHED = (
    "smp_call_function, arch/i386/kernel/smp.c, waits until the function has finished everywhere; "
    "on_each_cpu then calls it here"
)
LEFT = "do_flush_tlb_all, arch/i386/kernel/smp.c: a CPU that only borrows its mm leaves it"


async def write_protect_for_good(cpu: Cpu, vma: VmAreaStruct, online: tuple[int, ...]) -> None:
    """Take the right to write away, flush everything, and take the page for final."""
    mm = vma.vm_mm
    await spin_lock(mm.pte_lockptr(ADDR))
    await ptep_set_wrprotect(cpu, mm, ADDR, mm.pte_offset(ADDR))
    await spin_unlock(mm.pte_lockptr(ADDR))
    await flush_tlb_all(cpu, online)
    await promise(cpu.memory.page(PAGE))


def vcpu(
    setup: Setup, number: int, guest: Memory, hypervisor: Hypervisor | None, *, idles: bool
) -> Cpu:
    """Return a vCPU that has MM loaded, with both kinds of flush's interrupts."""
    walked = guest if hypervisor is None else shadow_of(guest, (TABLE,), hypervisor, number)
    cpu = Cpu(
        number, guest, walked, MM.pgd, native if hypervisor is None else vmi, MM, (ADDR,),
        mms=(MM, INIT_MM) if idles else (), hypervisor=hypervisor, linux=Linux(),
    )  # fmt: skip
    install_interrupts(setup, cpu, call_function=True)
    install_evictor(setup, cpu)
    return cpu


async def use_and_idle(cpu: Cpu) -> None:
    """Write to the page, and give the CPU to the idle thread."""
    await user_write(cpu, ADDR)
    await context_switch(cpu, MM, None)


@scenario(
    variant("native", holds(FINISHED), hypervisor=None),
    variant("vmi", holds(FINISHED), hypervisor=Hypervisor()),
    variant("native_three_cpus", holds(FINISHED), hypervisor=None, online=(0, 1, 2)),
    variant("native_one_cpu", holds("there is nobody to call"), hypervisor=None, online=(0,)),
    variant("native_idle", holds(LEFT), hypervisor=None, idles=True),
)
def flush_all(
    setup: Setup,
    *,
    hypervisor: Hypervisor | None,
    online: tuple[int, ...] = (0, 1),
    idles: bool = False,
) -> None:
    """A write-protects a page and flushes everything; all write: nothing after the promise."""
    guest = guest_memory(TOUCHED)
    cpu0, *rest = (
        vcpu(setup, number, guest, hypervisor, idles=idles and number != 0) for number in online
    )
    write = call(user_write, cpu0, ADDR)
    setup.cpu(0, write, call(write_protect_for_good, cpu0, VmAreaStruct(MM), online), write)
    page = value(guest.page(PAGE))
    promised, written = page & PAGE_FROZEN != 0, page >> VERSION_SHIFT
    setup.sometimes("the page was promised to be final", promised)
    for cpu in rest:
        if idles:
            setup.cpu(cpu.number, call(use_and_idle, cpu))
            left = value(MM.cpu_vm_mask) >> cpu.number & 1 == 0
            setup.sometimes("the idle CPU left the address space", left)
            continue
        again = call(user_write, cpu, ADDR)
        setup.cpu(cpu.number, again, *([again] if len(online) == 2 else []))
    if rest and not idles:
        setup.sometimes("every write went through", finished("cpu1") & (written == 3))
        setup.sometimes("protection stopped a write", finished("cpu1") & promised & (written < 3))
