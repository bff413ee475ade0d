"""A thread comes to a CPU while another CPU write-protects a page of its address space.

    cpu0                               cpu1
    spin_lock(ptl)                     switch_mm: set the bit in cpu_vm_mask, load CR3
    ptep_set_wrprotect(pte)            write the page
    flush_tlb_page: who is in the      write the page
      mask is told, and answers
    spin_unlock(ptl)
    the page is final

Who is in the mask, what cpu_tlbstate says and what CR3 holds must fit together at every moment: a
CPU that the flush leaves out, or that answers without flushing, goes on writing. Other CPUs come
and go meanwhile, and each changes the same mask.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import bug_on
from smpmmu.hypervisor.shadow import Hypervisor
from smpmmu.kernel.context import context_switch
from smpmmu.kernel.mm import INIT_MM, MmStruct, VmAreaStruct
from smpmmu.kernel.smp import flush_tlb_mm
from smpmmu.machine.memory import PAGE_FROZEN, VERSION_SHIFT
from smpmmu.machine.walker import Access, user_read, user_write
from smpmmu.scenario import Setup, holds, scenario, variant
from smpmmu.scenarios.common import (
    ADDR,
    PAGE,
    PGD,
    TABLE,
    TOUCHED,
    Flush,
    guest_memory,
    install_walker,
    vcpu,
)
from smpmmu.scenarios.mask_omits_deferrer import OTHER_MM
from smpmmu.scenarios.remote_first import write_protect_for_good

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu


class Comes(enum.Enum):
    """How the address space comes to be in use on a CPU, or goes."""

    ENTERS = "enters"
    """From a thread of another address space."""
    RETURNS = "returns"
    """From an idle thread that has borrowed it."""
    LEAVES = "leaves"
    """It goes: to a thread of another address space."""
    IDLES = "idles"
    """It goes: an idle thread borrows it."""

    @property
    def uses(self) -> bool:
        """Whether a thread uses the page on this CPU."""
        return self in (Comes.ENTERS, Comes.RETURNS)


A_MAPPED_PAGE_CAN_BE_READ = "a_mapped_page_can_be_read"
MASK_FIRST = (
    "switch_mm, include/asm-i386/mmu_context.h: the bit is set before CR3 is loaded, and the state "
    "before the bit; each mask is changed by locked instructions"
)
WAS_LAZY = (
    "switch_mm: a CPU that has left the mask while it was lazy finds its bit clear, and loads CR3"
)


async def idle(cpu: Cpu, mm: MmStruct) -> Cpu:
    """Give the CPU to the idle thread, which borrows `mm`."""
    return await context_switch(cpu, mm, None)


async def use(cpu: Cpu, prev: MmStruct, mm: MmStruct, *, writes: int) -> None:
    """Give the CPU to a thread of `mm`, which writes to the page."""
    there = await context_switch(cpu, prev, mm)
    for _ in range(writes):
        await user_write(there, ADDR)


async def read(cpu: Cpu) -> None:
    """Read the page: whatever was flushed, it is mapped, and its address space loaded."""
    bug_on(await user_read(cpu, ADDR) is not Access.DONE, A_MAPPED_PAGE_CAN_BE_READ)


async def flush_first(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Flush the mm for a reason of one's own, as a sibling's munmap does."""
    await flush_tlb_mm(cpu, vma.vm_mm)


@scenario(
    variant("native", holds(MASK_FIRST), comes=(Comes.ENTERS,), walker=True),
    variant("vmi", holds(MASK_FIRST), comes=(Comes.ENTERS,), hypervisor=Hypervisor(), walker=True),
    variant("two_enter", holds(MASK_FIRST), comes=(Comes.ENTERS, Comes.ENTERS), writes=2),
    variant("enters_while_left", holds(MASK_FIRST), comes=(Comes.ENTERS, Comes.LEAVES), writes=2),
    variant("enters_while_idled", holds(MASK_FIRST), comes=(Comes.ENTERS, Comes.IDLES), writes=2,
            flushes_first=True),
    variant("returns", holds(WAS_LAZY), comes=(Comes.RETURNS,), writes=2),
    variant("returns_flushed", holds(WAS_LAZY), comes=(Comes.RETURNS,), writes=2,
            flushes_first=True),
    variant("enters_while_returned", holds(WAS_LAZY), comes=(Comes.ENTERS, Comes.RETURNS),
            writes=2),
)  # fmt: skip
def enter_mm(
    setup: Setup,
    *,
    comes: tuple[Comes, ...],
    hypervisor: Hypervisor | None = None,
    writes: int = 1,
    walker: bool = False,
    flushes_first: bool = False,
) -> None:
    """A write-protects a page for good; its address space comes to other CPUs, and goes."""
    there = tuple(n for n, how in enumerate(comes, 1) if how is not Comes.ENTERS)
    mm = MmStruct(1, PGD, ((0, TABLE),), (0, *there))
    vma = VmAreaStruct(mm)
    mms = (mm, OTHER_MM, INIT_MM)
    guest = guest_memory(TOUCHED)
    cpu0 = vcpu(setup, 0, mm, guest, hypervisor)
    before = (call(flush_first, cpu0, vma),) if flushes_first else ()
    setup.cpu(0, *before, call(write_protect_for_good, cpu0, vma, Flush.UNDER_PTL))
    for number, how in enumerate(comes, 1):
        prev = OTHER_MM if how is Comes.ENTERS else mm
        cpu = vcpu(setup, number, prev, guest, hypervisor, mms=mms)
        if how is Comes.LEAVES:
            setup.cpu(number, call(context_switch, cpu, mm, OTHER_MM))
        elif how is Comes.IDLES:
            setup.cpu(number, call(idle, cpu, mm))
        elif how is Comes.ENTERS:
            setup.cpu(number, call(use, cpu, OTHER_MM, mm, writes=writes))
        else:
            borrows = replace(cpu, kernel_thread=True)
            come = call(use, borrows, mm, mm, writes=writes)
            setup.cpu(number, call(idle, cpu, mm), come, call(read, cpu))
        if walker:
            install_walker(setup, cpu)
    users = sum(how.uses for how in comes)
    page = value(guest.page(PAGE))
    promised, written = page & PAGE_FROZEN != 0, page >> VERSION_SHIFT
    setup.sometimes("a write went through before the promise", promised & (written != 0))
    setup.sometimes("protection stopped a write", finished("cpu1") & (written < users * writes))
