"""Two CPUs write to a read-only page that may be written; both fault, one raises the right.

    cpu0                                     cpu1
    write the page: fault                    write the page: fault
    spin_lock(ptl)                           spin_lock(ptl)
    if pte is read-only:                     if pte is read-only: as cpu0
      ptep_set_access_flags(pte, writable)   else: flush_tlb_page, a spurious fault
        [pte_update_defer]                   spin_unlock(ptl)
      [flush_tlb_page]                       write the page again
    spin_unlock(ptl)
    [flush_tlb_page]
    write the page again

A control: whoever finds the shadow stricter than the primary faults, and the fault brings it up to
date. A late flush of a right that was given costs time only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import implies, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import AGAIN, Again, retry
from smpmmu.kernel.fault import Fault, handle_pte_fault
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.kernel.smp import cpumask_of
from smpmmu.machine.entries import PAGE_DIRTY
from smpmmu.machine.memory import NON_PAE, VERSION_SHIFT, Paging
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, Access, user_write
from smpmmu.properties.promises import NO_WRITE_LOST
from smpmmu.scenario import Expected, Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    COMMENT,
    READ_ONLY,
    TABLE,
    Flush,
    Hook,
    address_space,
    flush_late,
    page_of,
    rows,
    vcpus,
)
from smpmmu.scenarios.unmap_free import unmap

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

HARMLESS = "a shadow stricter than the primary is a hidden fault, which reads the primary"


async def write_and_handle_faults(cpu: Cpu, vma: VmAreaStruct, flush: Flush) -> None:
    """Write to the page; what flushes late is the thread's own fault handler."""
    await retry(write_or_fault, cpu, vma, flush)


async def write_or_fault(cpu: Cpu, vma: VmAreaStruct, flush: Flush) -> Access | Again:
    """Try the write once, and let Linux handle a fault."""
    if await user_write(cpu, ADDR) is Access.DONE:
        return Access.DONE
    fault = await handle_pte_fault(cpu, vma, ADDR, write=True)
    if flush.late:
        await flush_late(cpu, vma, flush)
    return Access.FAULT if fault is Fault.SIGBUS else AGAIN


def expect(hook: Hook, flush: Flush) -> Expected:
    """Return that a right given late is given all the same."""
    return holds(HARMLESS if flush.late else COMMENT)


def with_unmapping(hook: Hook, flush: Flush) -> Expected:
    """Return what an unmapping CPU adds: a right that comes back after the page was freed."""
    if flush.late and hook is Hook.DEFERRED_VALUE:
        return violated(NO_ACCESS_TO_FREED_FRAME, "the right is installed after the entry is gone")
    return holds(HARMLESS if flush.late else COMMENT)


@scenario(
    *rows(expect),
    variant("deferred_after_unlock_unmapped", with_unmapping(Hook.DEFERRED, Flush.AFTER_UNLOCK),
            hook=Hook.DEFERRED, flush=Flush.AFTER_UNLOCK, unmapped=True),
    variant("deferred_value_under_ptl_unmapped",
            with_unmapping(Hook.DEFERRED_VALUE, Flush.UNDER_PTL),
            hook=Hook.DEFERRED_VALUE, flush=Flush.UNDER_PTL, unmapped=True),
    variant("deferred_value_after_unlock_unmapped",
            with_unmapping(Hook.DEFERRED_VALUE, Flush.AFTER_UNLOCK),
            hook=Hook.DEFERRED_VALUE, flush=Flush.AFTER_UNLOCK, unmapped=True),
)  # fmt: skip
def permission_increase(
    setup: Setup, *, hook: Hook, flush: Flush, unmapped: bool = False, paging: Paging = NON_PAE
) -> None:
    """A raises a right late while B faults for it too: nobody loses anything, or waits for ever."""
    mm = address_space(flush, (0, 1), paging)
    vma = VmAreaStruct(mm)
    numbers = (0, 1, 2) if unmapped else (0, 1)
    cpu0, cpu1, *rest = vcpus(setup, hook, mm, numbers, pte=READ_ONLY, flush=flush)
    setup.cpu(0, call(write_and_handle_faults, cpu0, vma, flush))
    setup.cpu(1, call(write_and_handle_faults, cpu1, vma, Flush.UNDER_PTL))
    for cpu in rest:
        setup.cpu(cpu.number, call(unmap, cpu, vma))
    if flush is Flush.UNDER_PTL and not unmapped:  # whoever unmaps sends to both, one by one
        setup.symmetric(0, 1, bits=(mm.cpu_vm_mask, cpumask_of(mm)))
    page = value(cpu0.memory.page(page_of(paging))) >> VERSION_SHIFT
    pte = value(cpu0.memory.table(TABLE, 1))
    if not unmapped:
        setup.at_quiescence(NO_WRITE_LOST, implies(page != 0, pte & PAGE_DIRTY != 0))
        setup.at_quiescence("every_write_goes_through_at_last", page == 2)
    setup.sometimes("both writes went through", page == 2)
    if unmapped:
        setup.sometimes("the page was unmapped first", (pte == 0) & (page == 0))
