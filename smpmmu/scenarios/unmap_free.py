"""A CPU write-protects a page; another one unmaps it and frees it.

    cpu0                          cpu1                            cpu2
    spin_lock(ptl)                spin_lock(ptl)                  write the page
    ptep_set_wrprotect(pte)       if pte is present:              read the page
      [pte_update]                  ptep_clear_flush(pte)
    [flush_tlb_page]                free the page
    spin_unlock(ptl)              spin_unlock(ptl)
    [flush_tlb_page]              [allocate it for somebody else]

The one who unmaps rewrites the entry through an immediate hook, so a record that re-reads the
entry late finds it gone and does no harm. One that holds the old value, or is applied some time
after it was read, brings the old translation back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import load
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.kernel.page_alloc import alloc_page, free_page
from smpmmu.kernel.pgtable import ptep_clear_flush
from smpmmu.machine.entries import PAGE_PRESENT
from smpmmu.machine.memory import NON_PAE, OWNER_SHIFT, PAGE_OWNER, VERSION_SHIFT, Paging
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, user_read, user_write
from smpmmu.scenario import Expected, Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    COMMENT,
    Flush,
    Hook,
    address_space,
    page_of,
    rows,
    vcpus,
)
from smpmmu.scenarios.reliant_flusher import write_protect

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

SOMEBODY_ELSE = 2


async def unmap(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Unmap the page and free it, under the lock as reclaim does.

    C: try_to_unmap_one, mm/rmap.c, for a page that nothing else keeps
    """
    mm = vma.vm_mm
    await spin_lock(mm.pte_lockptr(ADDR))
    ptep = mm.pte_offset(ADDR)
    if await load(cpu.memory.at(ptep), PAGE_PRESENT):
        await ptep_clear_flush(cpu, vma, ADDR, ptep)
        await free_page(cpu, page_of(mm.paging))
    await spin_unlock(mm.pte_lockptr(ADDR))


async def reuse(cpu: Cpu) -> None:
    """Allocate a frame for somebody else, if there is one."""
    await alloc_page(cpu, (page_of(cpu.memory.paging),), SOMEBODY_ELSE)


def unmapped_while_used(
    setup: Setup, cpu1: Cpu, cpu2: Cpu, vma: VmAreaStruct, *, reused: bool = False
) -> None:
    """Let cpu1 unmap and free the page that cpu2 writes and reads, and perhaps reuse its frame."""
    setup.cpu(1, call(unmap, cpu1, vma), *([call(reuse, cpu1)] if reused else []))
    setup.cpu(2, call(user_write, cpu2, ADDR), call(user_read, cpu2, ADDR))
    page = value(cpu1.memory.page(page_of(vma.vm_mm.paging)))
    owner = page & PAGE_OWNER
    setup.sometimes("the frame was freed", owner == 0)
    if reused:
        setup.sometimes("the frame was reused", owner == SOMEBODY_ELSE << OWNER_SHIFT)
    setup.sometimes("the page was used first", finished("cpu2") & (page >> VERSION_SHIFT != 0))
    setup.sometimes("unmapping stopped the use", finished("cpu2") & (page >> VERSION_SHIFT == 0))


def expect(hook: Hook, flush: Flush) -> Expected:
    """Return what the earlier check says in its column F3 wp, and an argument."""
    if not flush.late:
        return holds(COMMENT)
    if hook is Hook.DEFERRED_VALUE:
        return violated(
            NO_ACCESS_TO_FREED_FRAME, "the old value is installed after the entry was cleared"
        )
    if hook is Hook.DEFERRED_TORN:
        if flush is Flush.PTL_RETAKEN:
            return holds(
                "the drain runs under the ptl again, or in the other's shootdown, when the entry "
                "is already clear; so nobody changes the entry between its two steps"
            )
        return violated(
            NO_ACCESS_TO_FREED_FRAME, "the entry is cleared between its two reads of the drain"
        )
    return holds("who unmaps rewrites the entry through the immediate hook, and flushes")


@scenario(
    *rows(expect),
    *(
        variant(f"{hook.value}_after_unlock_reused", expect(hook, Flush.AFTER_UNLOCK), hook=hook,
                flush=Flush.AFTER_UNLOCK, reused=True)
        for hook in (Hook.NATIVE, Hook.DEFERRED, Hook.DEFERRED_VALUE)
    ),
)  # fmt: skip
def unmap_free(
    setup: Setup, *, hook: Hook, flush: Flush, reused: bool = False, paging: Paging = NON_PAE
) -> None:
    """A write-protects a page; B unmaps it and frees it; C uses it."""
    mm = address_space(flush, (0, 1, 2), paging)
    vma = VmAreaStruct(mm)
    cpu0, cpu1, cpu2 = vcpus(setup, hook, mm, (0, 1, 2))
    setup.cpu(0, call(write_protect, cpu0, vma, flush))
    unmapped_while_used(setup, cpu1, cpu2, vma, reused=reused)
