"""Changing address spaces: switch_mm, enter_lazy_tlb, leave_mm, and the switch of threads.

It must not know any hypervisor. Source: include/asm-i386/mmu_context.h, arch/i386/kernel/smp.c
and kernel/sched.c, Linux 2.6.21.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.errors import ModelError
from smpmmu.engine.routines import bug_on, irqs_enabled, routine
from smpmmu.engine.steps import (
    Format,
    Part,
    Word,
    fetch_and,
    fetch_or,
    load,
    local_irq_disable,
    local_irq_enable,
    store,
)
from smpmmu.kernel.mm import INIT_MM

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct
    from smpmmu.machine.cpu import Cpu

TLBSTATE_OK = 1
TLBSTATE_LAZY = 2
STATE_SHIFT = 3
"""cpu_tlbstate as a word: active_mm below, the state above."""


def cpu_tlbstate(cpu: Cpu) -> Word:
    """Return the word of this CPU's cpu_tlbstate; only it and its interrupts touch it."""
    states = ((TLBSTATE_OK << STATE_SHIFT, "OK"), (TLBSTATE_LAZY << STATE_SHIFT, "LAZY"))
    state = TLBSTATE_LAZY if cpu.lazy else TLBSTATE_OK
    initial = state << STATE_SHIFT | loaded_at_first(cpu).number
    return Word(
        f"{cpu.name}.tlbstate",
        5,
        initial,
        owner=cpu.name,
        format=Format((*states, (1, "mm1"), (2, "mm2"), (4, "mm4"))),
        part=Part("registers", "cpu_tlbstate", cpu.name),
    )


def loaded_at_first(cpu: Cpu) -> MmStruct:
    """Return the address space that a CPU which changes it begins with.

    Raises:
        ModelError: its first CR3 is of none that it knows.
    """
    for mm in cpu.mms:
        if mm.pgd == cpu.root:
            found: MmStruct = mm
            return found
    msg = f"{cpu.name} begins with CR3 {cpu.root:#x}, which is of none of its address spaces"
    raise ModelError(msg)


async def tlbstate(cpu: Cpu) -> tuple[int, int]:
    """Return this CPU's (state, number of its active_mm); no step if they never change."""
    if not cpu.switches:
        return TLBSTATE_OK, cpu.mm.number
    both = await load(cpu_tlbstate(cpu))
    return both >> STATE_SHIFT, both & INIT_MM.number


async def set_tlbstate(cpu: Cpu, state: int, mm: MmStruct) -> None:
    """Write cpu_tlbstate.

    Model: state and active_mm are two stores in the C; only this CPU reads them, with interrupts
    off in between, or in an order that shows the same.
    """
    await store(cpu_tlbstate(cpu), state << STATE_SHIFT | mm.number)


@routine
async def enter_lazy_tlb(cpu: Cpu, mm: MmStruct) -> None:
    """Keep `mm` loaded for a kernel thread that needs no user memory.

    C: enter_lazy_tlb
    """
    state, active_mm = await tlbstate(cpu)
    if state == TLBSTATE_OK:
        bug_on(active_mm != mm.number, "lazy_cpu_keeps_the_mm_it_has_loaded")
        await set_tlbstate(cpu, TLBSTATE_LAZY, mm)


@routine
async def switch_mm(cpu: Cpu, prev: MmStruct, next: MmStruct) -> None:  # noqa: A002  as in C
    """Load the address space `next`, and drop out of the flushes of `prev`.

    C: switch_mm
    Model: the LDT is left out: no translation depends on it.
    """
    me = 1 << cpu.number
    if prev != next:
        # From here a flush of prev leaves this CPU out; it drops all of prev below.
        await fetch_and(prev.cpu_vm_mask, prev.cpu_vm_mask.mask & ~me)
        await set_tlbstate(cpu, TLBSTATE_OK, next)
        # The bit is set before CR3 is loaded: a flush in between is one too many, not too few.
        await fetch_or(next.cpu_vm_mask, me)
        await cpu.pv.write_cr3(cpu, next.pgd)
        return
    _, active_mm = await tlbstate(cpu)
    bug_on(active_mm != next.number, "switch_mm_knows_what_is_loaded")
    await set_tlbstate(cpu, TLBSTATE_OK, next)
    if not await fetch_or(next.cpu_vm_mask, me, me):
        # leave_mm came in between: what was flushed since then was not flushed here.
        await cpu.pv.write_cr3(cpu, next.pgd)


@routine
async def leave_mm(cpu: Cpu) -> None:
    """Give up a borrowed mm: no more flushes for it, and nothing of it loaded.

    C: leave_mm

    Raises:
        ModelError: the mm is none of the CPU's `mms`.
    """
    state, active_mm = await tlbstate(cpu)
    bug_on(state == TLBSTATE_OK, "leave_mm_only_when_lazy")
    known = {each.number: each for each in cpu.mms}
    if active_mm not in known:
        msg = f"{cpu.name} leaves mm{active_mm}, which is none of its address spaces"
        raise ModelError(msg)
    mm = known[active_mm]
    await fetch_and(mm.cpu_vm_mask, mm.cpu_vm_mask.mask & ~(1 << cpu.number))
    await cpu.pv.write_cr3(cpu, INIT_MM.pgd)


@routine
async def context_switch(cpu: Cpu, prev: MmStruct, next: MmStruct | None) -> Cpu:  # noqa: A002
    """Switch this CPU from a thread of `prev` to one of `next`, or to a kernel thread (None).

    Returns the CPU as the next thread sees it; what `cpu` was must not be used any more.

    C: context_switch, with interrupts off as schedule() has them under its runqueue's lock
    Model: runqueues are left out; who runs where is the scenario's choice.
    """
    bug_on(not await irqs_enabled(), "schedule_with_interrupts_on")
    await local_irq_disable()
    if next is None:
        await enter_lazy_tlb(cpu, prev)
    else:
        await switch_mm(cpu, prev, next)
    await local_irq_enable()
    return replace(cpu, mm=next or prev, kernel_thread=next is None)
