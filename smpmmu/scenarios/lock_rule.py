"""The lock rule itself: what the shadow and the queues hold whenever the lock is free.

    cpu0                          cpu1
    spin_lock(ptl)                write the page
    ptep_set_wrprotect(pte)       write the page
      [pte_update]
    [flush_tlb_page]
    spin_unlock(ptl)
    [flush_tlb_page]

Judged by the rule and by nothing else: at every moment in which the page-table lock is free, no
queue holds the entry, and its shadow allows no more than the entry does.
"""

from __future__ import annotations

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.machine.memory import NON_PAE, VERSION_SHIFT, Paging
from smpmmu.machine.walker import user_write
from smpmmu.properties.lock_rule import SHADOW_NO_MORE_PERMISSIVE
from smpmmu.scenario import Expected, Setup, holds, scenario, violated
from smpmmu.scenarios.common import (
    ADDR,
    COMMENT,
    Flush,
    Hook,
    address_space,
    demand_lock_rule,
    page_of,
    rows,
    vcpus,
)
from smpmmu.scenarios.reliant_flusher import write_protect


def expect(hook: Hook, flush: Flush) -> Expected:
    """Return what the comment asks for, read as a rule about the lock."""
    if hook.deferred and flush.late:
        return violated(SHADOW_NO_MORE_PERMISSIVE, COMMENT)
    if hook.deferred:
        return holds(COMMENT)
    return holds("nothing is ever queued: the shadow is up to date when the lock is released")


@scenario(*rows(expect))
def lock_rule(setup: Setup, *, hook: Hook, flush: Flush, paging: Paging = NON_PAE) -> None:
    """A write-protects a page: is the shadow as strict whenever the lock is free?"""
    mm = address_space(flush, (0, 1), paging)
    vma = VmAreaStruct(mm)
    cpus = vcpus(setup, hook, mm, (0, 1))
    setup.cpu(0, call(write_protect, cpus[0], vma, flush))
    setup.cpu(1, call(user_write, cpus[1], ADDR), call(user_write, cpus[1], ADDR))
    demand_lock_rule(setup, cpus, mm.pte_lockptr(ADDR), mm.pte_offset(ADDR))
    page = value(cpus[0].memory.page(page_of(paging))) >> VERSION_SHIFT
    setup.sometimes("every write went through", finished("cpu1") & (page == 2))
    setup.sometimes("protection stopped a write", finished("cpu1") & (page < 2))
