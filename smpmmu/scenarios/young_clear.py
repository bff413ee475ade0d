"""A CPU clears an entry's accessed bit; another one unmaps the page and frees it.

    cpu0                               cpu1                          cpu2
    spin_lock(ptl)                     spin_lock(ptl)                write the page
    ptep_clear_flush_young(pte)        if pte is present:            write the page
      [pte_update]                       ptep_clear_flush(pte)
    [flush_tlb_page]                     free the page
    spin_unlock(ptl)                   spin_unlock(ptl)
    [flush_tlb_page]

A stale accessed bit is a wrong heuristic and no more, so that a late flush is harmless, unless what
is applied late brings back an entry that is gone. The variants called `accessed` ask for the
heuristic itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.local import call
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.kernel.pgtable import ptep_clear_flush_young
from smpmmu.machine.memory import NON_PAE, Paging
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME
from smpmmu.properties.accessed import USE_AFTER_FLUSH_IS_SEEN
from smpmmu.scenario import Expected, Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    CLEAN,
    COMMENT,
    TOUCHED,
    Flush,
    Hook,
    Judge,
    address_space,
    flush_late,
    rows,
    vcpus,
)
from smpmmu.scenarios.idle_page import SEEN, SEEN_NATIVELY, UNSEEN, judge_by_accessed_bit
from smpmmu.scenarios.unmap_free import unmapped_while_used

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

DIRTY_PAGE = "the earlier check, column F3 young: with D set no fault sets A again"


async def age(cpu: Cpu, vma: VmAreaStruct, flush: Flush) -> None:
    """Clear the accessed bit.

    C: page_referenced_one, mm/rmap.c, without its walk to the entry
    """
    mm = vma.vm_mm
    ptep = mm.pte_offset(ADDR)
    await spin_lock(mm.pte_lockptr(ADDR))
    young = await ptep_clear_flush_young(cpu, vma, ADDR, ptep)
    await spin_unlock(mm.pte_lockptr(ADDR))
    if flush.late and young:
        await flush_late(cpu, vma, flush)


def expect(hook: Hook, flush: Flush) -> Expected:
    """Return what follows from the earlier check (column F3 young) and an argument.

    The check had a page whose D is set. Here it is writable and clean, so that the user's
    first write is a hidden fault, which sets A again while the update is still queued.
    """
    if not flush.late:
        return holds(COMMENT)
    if hook is Hook.DEFERRED_TORN and flush is not Flush.PTL_RETAKEN:
        return violated(
            NO_ACCESS_TO_FREED_FRAME,
            "a hidden fault for writing sets A again; a drain that read the entry then applies it "
            "after it was unmapped (the earlier check has a page that is dirty from the start)",
        )
    if hook is Hook.DEFERRED_VALUE:
        return violated(
            NO_ACCESS_TO_FREED_FRAME,
            "a hidden fault for writing sets A again before the value is captured, so that it is "
            "installed as present after the entry was cleared (the earlier check has a page "
            "that is dirty from the start)",
        )
    return holds("an accessed bit is a heuristic; who unmaps the page flushes by itself")


def seen(hook: Hook, flush: Flush) -> Expected:
    """Return what follows for the accessed bit from the lock rule, whose clause on A it needs."""
    if hook is Hook.NATIVE:
        return holds(SEEN_NATIVELY)
    return (
        violated(USE_AFTER_FLUSH_IS_SEEN, UNSEEN) if hook.deferred and flush.late else holds(SEEN)
    )


@scenario(
    *rows(expect),
    variant(
        "deferred_torn_after_unlock_dirty_page",
        holds(DIRTY_PAGE),
        hook=Hook.DEFERRED_TORN,
        flush=Flush.AFTER_UNLOCK,
        pte=TOUCHED,
    ),
    variant(
        "deferred_value_after_unlock_dirty_page",
        holds(DIRTY_PAGE),
        hook=Hook.DEFERRED_VALUE,
        flush=Flush.AFTER_UNLOCK,
        pte=TOUCHED,
    ),
    *(
        variant(f"{hook.value}_{flush.value}_accessed", seen(hook, flush), hook=hook, flush=flush,
                judged=Judge.ACCESSED)
        for hook in Hook
        for flush in (Flush.UNDER_PTL, Flush.AFTER_UNLOCK)
    ),
)  # fmt: skip
def young_clear(
    setup: Setup,
    *,
    hook: Hook,
    flush: Flush,
    pte: int = CLEAN,
    paging: Paging = NON_PAE,
    judged: Judge = Judge.PROMISES,
) -> None:
    """A clears the accessed bit; B unmaps the page and frees it; C uses it."""
    if judged is Judge.ACCESSED:
        vma = VmAreaStruct(address_space(flush, (0, 1)))
        cpus = vcpus(setup, hook, vma.vm_mm, (0, 1), flush=flush, pte=pte)
        setup.cpu(0, call(age, cpus[0], vma, flush))
        judge_by_accessed_bit(setup, cpus[1], vma)
        return
    mm = address_space(flush, (0, 1, 2), paging)
    vma = VmAreaStruct(mm)
    cpu0, cpu1, cpu2 = vcpus(setup, hook, mm, (0, 1, 2), flush=flush, pte=pte)
    setup.cpu(0, call(age, cpu0, vma, flush))
    unmapped_while_used(setup, cpu1, cpu2, vma)
