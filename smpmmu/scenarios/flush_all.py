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
from smpmmu.kernel.mm import VmAreaStruct
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

ONLINE = (0, 1)
MM = address_space(Flush.UNDER_PTL, ONLINE)
FINISHED = (
    "smp_call_function, arch/i386/kernel/smp.c, waits until the function has finished everywhere; "
    "on_each_cpu then calls it here"
)


async def write_protect_for_good(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Take the right to write away, flush everything, and take the page for final."""
    mm = vma.vm_mm
    await spin_lock(mm.pte_lockptr(ADDR))
    await ptep_set_wrprotect(cpu, mm, ADDR, mm.pte_offset(ADDR))
    await spin_unlock(mm.pte_lockptr(ADDR))
    await flush_tlb_all(cpu, ONLINE)
    await promise(cpu.memory.page(PAGE))


def online(number: int, guest: Memory, hypervisor: Hypervisor | None) -> Cpu:
    """Return a vCPU that has MM loaded."""
    walked = guest if hypervisor is None else shadow_of(guest, (TABLE,), hypervisor, number)
    pv = native if hypervisor is None else vmi
    return Cpu(number, guest, walked, MM.pgd, pv, MM, (ADDR,), hypervisor=hypervisor, linux=Linux())


@scenario(
    variant("native", holds(FINISHED), hypervisor=None),
    variant("vmi", holds(FINISHED), hypervisor=Hypervisor()),
)
def flush_all(setup: Setup, *, hypervisor: Hypervisor | None) -> None:
    """A write-protects a page and flushes everything; A and B write: nothing after the promise."""
    guest = guest_memory(TOUCHED)
    cpu0, cpu1 = (online(number, guest, hypervisor) for number in ONLINE)
    for cpu in (cpu0, cpu1):
        install_interrupts(setup, cpu, call_function=True)
        install_evictor(setup, cpu)
    write = call(user_write, cpu0, ADDR)
    setup.cpu(0, write, call(write_protect_for_good, cpu0, VmAreaStruct(MM)), write)
    setup.cpu(1, call(user_write, cpu1, ADDR), call(user_write, cpu1, ADDR))
    page = value(guest.page(PAGE))
    written = page >> VERSION_SHIFT
    setup.sometimes("the page was promised to be final", page & PAGE_FROZEN != 0)
    setup.sometimes("every write went through", finished("cpu1") & (written == 3))
    setup.sometimes("protection stopped a write", finished("cpu1") & (written < 3))
