"""A thread defers an update, moves to another CPU, and does its flush there.

    cpu0                               cpu1
    spin_lock(ptl)                     write the page          (a sibling)
    ptep_set_wrprotect(pte)            ... the thread arrives: switch_mm
      [pte_update]                     [flush_tlb_page]
    [flush_tlb_page]                   the page is final
    spin_unlock(ptl)                   write the page          (the sibling again)
    ... the thread leaves: switch_mm

The queue stays behind on cpu0, which has loaded another address space and is in no mask any more:
no shootdown reaches it. Whether the load of CR3 drains the queue decides, and is not known.
Natively cpu0 has dropped its translations with that load and owes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, store, wait_until
from smpmmu.hypervisor.shadow import Hypervisor
from smpmmu.kernel.context import context_switch
from smpmmu.kernel.mm import INIT_MM, MmStruct, VmAreaStruct
from smpmmu.kernel.pgtable import ptep_set_wrprotect
from smpmmu.kernel.smp import flush_tlb_mm, flush_tlb_page
from smpmmu.machine.memory import NON_PAE, PAGE_FROZEN, VERSION_SHIFT, Paging
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE, user_write
from smpmmu.scenario import Expected, Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    COMMENT,
    Flush,
    Hook,
    address_space,
    flush_late,
    install_walker,
    page_of,
    promise,
    rows,
    vcpus,
)
from smpmmu.scenarios.reliant_flusher import rely_on_protection

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

OTHER_MM = MmStruct(number=2, pgd=0x11)
KEEPS = Hypervisor(cr3_drains=False)
LEFT_BEHIND = "the thread's flush leaves out the CPU whose queue holds its update"
WINDOW = (
    "between leaving the mask and loading CR3, in switch_mm, a shootdown leaves the CPU out "
    "although its queue is still full"
)
moved = Word("the thread has left cpu0", 1)


async def begin_on_cpu0(
    cpu: Cpu, vma: VmAreaStruct, flush: Flush, following: MmStruct | None
) -> None:
    """Take the right to write away, and give the CPU to a thread of `following`, or to idle."""
    mm = vma.vm_mm
    await spin_lock(mm.pte_lockptr(ADDR))
    await ptep_set_wrprotect(cpu, mm, ADDR, mm.pte_offset(ADDR))
    if not flush.late:
        await flush_tlb_page(cpu, vma, ADDR)
    await spin_unlock(mm.pte_lockptr(ADDR))
    await context_switch(cpu, mm, following)
    # finish_task_switch: only now can the thread run elsewhere.
    await store(moved, 1)


async def finish_on_cpu1(cpu: Cpu, vma: VmAreaStruct, flush: Flush) -> None:
    """Go on with the thread where it left off: flush if that is still to do, then rely on it."""
    await wait_until(moved, 1)
    await context_switch(cpu, vma.vm_mm, vma.vm_mm)
    if flush.late:
        await flush_late(cpu, vma, flush)
    await promise(cpu.memory.page(page_of(vma.vm_mm.paging)))


async def flush_something(cpu: Cpu, mm: MmStruct) -> None:
    """Flush the mm for a reason of one's own, as a sibling's munmap does."""
    await flush_tlb_mm(cpu, mm)


def drains(hook: Hook, flush: Flush) -> Expected:
    """Return that all is well if the load of CR3 drains: the thread arrives after the load."""
    if not flush.late:
        return holds(COMMENT)
    return holds("cpu0 drained and flushed when it loaded another CR3, before the thread arrived")


def keeps(hook: Hook, flush: Flush) -> Expected:
    """Return what the earlier check says in its column F4."""
    if hook.deferred and flush.late:
        return violated(NO_WRITE_AFTER_PROMISE, LEFT_BEHIND)
    return drains(hook, flush)


@scenario(
    *rows(drains, hypervisor=Hypervisor()),
    *rows(keeps, "_cr3_keeps", hypervisor=KEEPS),
    variant(
        "deferred_idle_after_unlock",
        violated(
            NO_WRITE_AFTER_PROMISE,
            "as two_cpus_speculation: cpu1's walker fills between its own flush and cpu0's "
            "leave_mm, which drains",
        ),
        hook=Hook.DEFERRED,
        flush=Flush.AFTER_UNLOCK,
        hypervisor=Hypervisor(),
        idle=True,
        walker=True,
    ),
    variant(
        "deferred_idle_after_unlock_no_walker",
        holds("the idle thread keeps the mm: the shootdown reaches cpu0, whose leave_mm drains"),
        hook=Hook.DEFERRED,
        flush=Flush.AFTER_UNLOCK,
        hypervisor=Hypervisor(),
        idle=True,
    ),
    variant(
        "deferred_idle_after_unlock_cr3_keeps",
        violated(NO_WRITE_AFTER_PROMISE, "leave_mm loads CR3, which drains nothing"),
        hook=Hook.DEFERRED,
        flush=Flush.AFTER_UNLOCK,
        hypervisor=KEEPS,
        idle=True,
    ),
    variant(
        "native_idle_after_unlock",
        holds("the idle thread keeps the mm: the shootdown reaches cpu0, which leaves it"),
        hook=Hook.NATIVE,
        flush=Flush.AFTER_UNLOCK,
        hypervisor=KEEPS,
        idle=True,
        walker=True,
    ),
    variant(
        "deferred_sibling_relies",
        violated(NO_WRITE_AFTER_PROMISE, WINDOW),
        hook=Hook.DEFERRED,
        flush=Flush.AFTER_UNLOCK,
        hypervisor=Hypervisor(),
        sibling_relies=True,
    ),
    variant(
        "immediate_sibling_relies",
        holds("nothing is queued, and what cpu0 has cached of the mm no thread on it uses"),
        hook=Hook.IMMEDIATE,
        flush=Flush.AFTER_UNLOCK,
        hypervisor=Hypervisor(),
        sibling_relies=True,
    ),
)
def mask_omits_deferrer(
    setup: Setup,
    *,
    hook: Hook,
    flush: Flush,
    hypervisor: Hypervisor,
    idle: bool = False,
    sibling_relies: bool = False,
    walker: bool = False,
    paging: Paging = NON_PAE,
) -> None:
    """A thread write-protects on one CPU and flushes on another; the first is in no mask."""
    mm = address_space(flush, (0, 1), paging)
    vma = VmAreaStruct(mm)
    mms = (mm, OTHER_MM, INIT_MM)
    cpu0, cpu1 = vcpus(setup, hook, mm, (0, 1), mms=mms, hypervisor=hypervisor)
    setup.cpu(0, call(begin_on_cpu0, cpu0, vma, flush, None if idle else OTHER_MM))
    write = call(user_write, cpu1, ADDR)
    finish = call(finish_on_cpu1, cpu1, vma, flush)
    sibling = (call(flush_something, cpu1, mm),) if idle else ()
    if sibling_relies:
        setup.cpu(1, call(rely_on_protection, cpu1, vma), write, finish)
    else:
        setup.cpu(1, write, *sibling, finish, write)
    if walker:
        install_walker(setup, cpu1)
    page = value(cpu0.memory.page(page_of(paging)))
    promised, written = page & PAGE_FROZEN != 0, page >> VERSION_SHIFT
    attempts = 1 if sibling_relies else 2
    setup.sometimes("a write went through before the promise", promised & (written != 0))
    stopped = finished("cpu1") & promised & (written < attempts)
    setup.sometimes("protection stopped a write", stopped)
    if idle:
        gone = value(mm.cpu_vm_mask) & 1 == 0
        setup.sometimes("the idle CPU left the address space", gone)
