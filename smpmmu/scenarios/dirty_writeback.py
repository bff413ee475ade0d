"""A CPU moves the dirty mark from an entry to its page; another writes the page to disk.

    cpu0                                     cpu1              cpu2
    spin_lock(ptl)                           write the page    if test_and_clear(page dirty):
    if ptep_clear_flush_dirty(pte):          write the page        write the page to disk
        set_page_dirty(page)
    spin_unlock(ptl)

As msync_pte_range had it until 2.6.18. With a late flush a CPU that has the entry cached dirty goes
on writing and leaves no mark, after the page was written back: the change is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import any_of, finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import routine
from smpmmu.engine.steps import Word, load, store, xchg
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.kernel.page_writeback import pg_dirty, set_page_dirty
from smpmmu.kernel.pgtable import ptep_clear_flush_dirty, ptep_test_and_clear_dirty
from smpmmu.kernel.smp import flush_tlb_page
from smpmmu.machine.entries import PAGE_DIRTY
from smpmmu.machine.memory import NON_PAE, VERSION_SHIFT, Paging
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import user_write
from smpmmu.properties.promises import NO_WRITE_LOST
from smpmmu.scenario import Expected, Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    COMMENT,
    TABLE,
    Flush,
    Hook,
    address_space,
    flush_late,
    page_of,
    rows,
    vcpus,
)

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

DISK = Word("disk", 6)
"""The version of the page that was written back last."""
NATIVELY = "a CPU with D cached writes without a mark until it is flushed, with any hook"


async def clean(cpu: Cpu, vma: VmAreaStruct, flush: Flush) -> None:
    """Move the dirty mark from the entry to the page.

    C: msync_pte_range, mm/msync.c, Linux 2.6.18
    """
    mm = vma.vm_mm
    ptep = mm.pte_offset(ADDR)
    await spin_lock(mm.pte_lockptr(ADDR))
    dirty = await ptep_clear_flush_dirty(cpu, vma, ADDR, ptep)
    if dirty:
        await set_page_dirty(cpu, page_of(mm.paging))
    await spin_unlock(mm.pte_lockptr(ADDR))
    if flush.late and dirty:
        await flush_late(cpu, vma, flush)


async def test_and_clean(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Move the dirty mark as `clean` does, with the macro that leaves the flush to its caller."""
    mm = vma.vm_mm
    await spin_lock(mm.pte_lockptr(ADDR))
    if await ptep_test_and_clear_dirty(cpu, vma, ADDR, mm.pte_offset(ADDR)):
        await flush_tlb_page(cpu, vma, ADDR)
        await set_page_dirty(cpu, page_of(mm.paging))
    await spin_unlock(mm.pte_lockptr(ADDR))


@routine
async def write_back(cpu: Cpu) -> None:
    """Write the page to disk if it is marked, clearing the mark first; the page lock is held.

    C: clear_page_dirty_for_io and writepage, as far as the page's own mark goes
    """
    pfn = page_of(cpu.memory.paging)
    if await xchg(pg_dirty(pfn), 0):
        version = await load(cpu.memory.page(pfn), ~0 << VERSION_SHIFT) >> VERSION_SHIFT
        await store(DISK, version)


def expect(hook: Hook, flush: Flush) -> Expected:
    """Return what the earlier check says in its column F2."""
    return violated(NO_WRITE_LOST, NATIVELY) if flush.late else holds(COMMENT)


@scenario(
    *rows(expect),
    *(
        variant(f"{hook.value}_under_ptl_test_and_clear", holds(COMMENT), hook=hook,
                flush=Flush.UNDER_PTL, test_and_clear=True)
        for hook in (Hook.NATIVE, Hook.DEFERRED, Hook.DEFERRED_VALUE)
    ),
)  # fmt: skip
def dirty_writeback(
    setup: Setup,
    *,
    hook: Hook,
    flush: Flush,
    test_and_clear: bool = False,
    paging: Paging = NON_PAE,
) -> None:
    """A clears D and marks the page; B writes it back; C writes: is the last write ever saved?"""
    mm = address_space(flush, (0, 1), paging)
    vma = VmAreaStruct(mm)
    cpu0, cpu1, cpu2 = vcpus(setup, hook, mm, (0, 1, 2), flush=flush)
    cleaning = call(clean, cpu0, vma, flush)
    setup.cpu(0, call(test_and_clean, cpu0, vma) if test_and_clear else cleaning)
    setup.cpu(1, call(user_write, cpu1, ADDR), call(user_write, cpu1, ADDR))
    setup.cpu(2, call(write_back, cpu2))
    page = value(cpu0.memory.page(page_of(paging))) >> VERSION_SHIFT
    pte = value(cpu0.memory.table(TABLE, 1))
    disk = value(DISK)
    saved = any_of(page == disk, pte & PAGE_DIRTY != 0, value(pg_dirty(page_of(paging))) != 0)
    setup.at_quiescence(NO_WRITE_LOST, saved)
    setup.sometimes("a page with writes was written back", finished("cpu2") & (disk != 0))
    setup.sometimes("a write marked the entry again", (disk != 0) & (pte & PAGE_DIRTY != 0))
