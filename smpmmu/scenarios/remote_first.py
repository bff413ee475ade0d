"""As `reliant_flusher` with one actor, whose flush tells the others before it flushes itself.

    cpu0                               cpu1
    spin_lock(ptl)                     write the page
    ptep_set_wrprotect(pte)            write the page
      [pte_update]
    [flush_tlb_page, remote first]
    spin_unlock(ptl)
    [flush_tlb_page, remote first]
    the page is final (copied)

Linux flushes the local CPU first. Natively the order does not matter. With a deferred hook the
local INVLPG is what drains the queue, so the others must be told after it: told before, they fill
again from the stale shadow, and even a flush under the lock is too late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.kernel.paravirt import Linux
from smpmmu.machine.memory import NON_PAE, PAGE_FROZEN, VERSION_SHIFT, Paging
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE, user_write
from smpmmu.scenario import Expected, Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    Flush,
    Hook,
    address_space,
    page_of,
    promise,
    rows,
    vcpus,
)
from smpmmu.scenarios.reliant_flusher import write_protect

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

DRAIN = "the queue is drained by the local flush alone, after the others have answered"


async def write_protect_for_good(cpu: Cpu, vma: VmAreaStruct, flush: Flush) -> None:
    """Take the right to write away, flush, and then take the page for final."""
    await write_protect(cpu, vma, flush)
    await promise(cpu.memory.page(page_of(vma.vm_mm.paging)))


def expect(hook: Hook, flush: Flush) -> Expected:
    """Return what the earlier check says in its column F5."""
    if hook.deferred:
        return violated(NO_WRITE_AFTER_PROMISE, DRAIN)
    return holds("without a queue it does not matter who is flushed first")


def local_first(hook: Hook, flush: Flush) -> Expected:
    """Return that the order which Linux has repairs every row."""
    return holds("the local flush drains the queue before anybody else is told")


@scenario(
    *rows(expect, linux=Linux(local_first=False)),
    variant("deferred_under_ptl_local_first", local_first(Hook.DEFERRED, Flush.UNDER_PTL),
            hook=Hook.DEFERRED, flush=Flush.UNDER_PTL, linux=Linux()),
    variant("deferred_after_unlock_local_first", local_first(Hook.DEFERRED, Flush.AFTER_UNLOCK),
            hook=Hook.DEFERRED, flush=Flush.AFTER_UNLOCK, linux=Linux()),
    *(
        variant(f"native_under_ptl_{name}", holds("who flushes drops what it has cached itself"),
                hook=Hook.NATIVE, flush=Flush.UNDER_PTL, linux=linux, writes=True)
        for name, linux in (("writes", Linux(local_first=False)), ("local_first_writes", Linux()))
    ),
)  # fmt: skip
def remote_first(
    setup: Setup,
    *,
    hook: Hook,
    flush: Flush,
    linux: Linux,
    writes: bool = False,
    paging: Paging = NON_PAE,
) -> None:
    """A write-protects a page and flushes, the others first; then it relies on its own flush.

    A may be a CPU that `writes` to the page too, before and after.
    """
    mm = address_space(flush, (0, 1), paging)
    vma = VmAreaStruct(mm)
    cpu0, cpu1 = vcpus(setup, hook, mm, (0, 1), linux=linux)
    own = (call(user_write, cpu0, ADDR),) if writes else ()
    setup.cpu(0, *own, call(write_protect_for_good, cpu0, vma, flush), *own)
    setup.cpu(1, call(user_write, cpu1, ADDR), call(user_write, cpu1, ADDR))
    page = value(cpu0.memory.page(page_of(paging)))
    written = page >> VERSION_SHIFT
    setup.sometimes("the page was promised to be final", page & PAGE_FROZEN != 0)
    through = 3 if writes else 2
    setup.sometimes("every write went through", finished("cpu1") & (written == through))
    setup.sometimes("protection stopped a write", finished("cpu1") & (written < through))
