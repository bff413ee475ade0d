"""Xen as far as races need it: its shootdown, the types of pages, and tables out of sync.

It must not know Linux. Source: xen/arch/x86/smp.c, mm.c and mm/shadow/multi.c, Xen 4.0 to 4.16.
"""

from __future__ import annotations

import enum

from smpmmu.engine.routines import AGAIN, Again, retry
from smpmmu.engine.steps import (
    TAKEN,
    Word,
    cmpxchg,
    fetch_add,
    fetch_and,
    load,
    store,
    wait_until,
)
from smpmmu.machine.cpu import INVALIDATE_TLB_VECTOR, Cpu, load_cr3, send_ipi, take_interrupt
from smpmmu.machine.entries import PAGE_RW
from smpmmu.machine.spinlock import spin_lock, spin_unlock, spinlock

flush_lock = spinlock("flush_lock")
flush_cpumask = Word("flush_cpumask", 8)
paging_lock = spinlock("paging_lock")


# Shootdown.


async def flush_tlb_mask(cpu: Cpu, mask: int) -> None:
    """Make the CPUs of `mask` drop what they have cached, this one as well if it is among them.

    C: flush_tlb_mask, flush_area_mask
    """
    if mask >> cpu.number & 1:
        await load_cr3(cpu, cpu.root)
    others = mask & ~(1 << cpu.number)
    if not others:
        return
    await spin_lock(flush_lock)
    await store(flush_cpumask, others)
    for number in range(8):
        if others >> number & 1:
            await send_ipi(number, INVALIDATE_TLB_VECTOR)
    await wait_until(flush_cpumask, 0)
    await spin_unlock(flush_lock)


async def invalidate_interrupt(cpu: Cpu) -> None:
    """Answer a shootdown.

    C: invalidate_interrupt
    """
    await take_interrupt(cpu, INVALIDATE_TLB_VECTOR)
    await load_cr3(cpu, cpu.root)
    await fetch_and(flush_cpumask, ~(1 << cpu.number) & 0xFF)


# Types of pages: a guest's page is writable, or a page table, and as what it is used is counted.

PGT_COUNT = 0xFF
PGT_WRITABLE_PAGE = 0x100
PGT_L1_PAGE_TABLE = 0x200
PGT_TYPE = 0x300


def type_info(pfn: int) -> Word:
    """Return page->u.inuse.type_info: the type, and how many references rely on it."""
    return Word(f"page {pfn:#x} type_info", 10, PGT_WRITABLE_PAGE)


class TypeFlush(enum.Enum):
    """Which changes of a page's type Xen flushes for, and when."""

    EARLY = "early"
    """All, before the new type is committed: as before 8cc5036bc3 (XSA-401)."""
    ALL = "all"
    """All, after it."""
    FROM_WRITABLE = "from_writable"
    """Those from a writable page: a guest in shadow mode."""
    TO_WRITABLE = "to_writable"
    """Those to a writable page: the same, from 8cc5036bc3 to XSA-408."""

    def wants(self, old: int, new: int) -> bool:
        """Whether a change of these type_info is flushed for after it."""
        writable = {TypeFlush.FROM_WRITABLE: old, TypeFlush.TO_WRITABLE: new}.get(self)
        if writable is None:
            return self is TypeFlush.ALL
        return writable & PGT_TYPE == PGT_WRITABLE_PAGE


async def get_page_type(
    cpu: Cpu, pfn: int, kind: int, vcpus: int, flush: TypeFlush = TypeFlush.ALL
) -> bool:
    """Take a reference to a page as a `kind` of page; False while it is used as another kind.

    Where the type changes, nobody refers to the page any more, but TLBs may.

    C: _get_page_type, xen/arch/x86/mm.c
    Model: the mask is all of the guest's CPUs; timestamps, which only make it smaller, are left
    out. Whether a page with its type is valid is left to the caller. In shadow mode the shadow of
    an entry is taken to change together with it.
    """
    x = await retry(change_type, cpu, pfn, kind, vcpus, flush)
    if x is None:
        return False
    if x & PGT_TYPE != kind and flush.wants(x, kind):
        await flush_tlb_mask(cpu, vcpus)
    return True


async def change_type(
    cpu: Cpu, pfn: int, kind: int, vcpus: int, flush: TypeFlush
) -> int | Again | None:
    """Try once; type_info as it was, or None if the type may not change."""
    x = await load(type_info(pfn))
    changed = x & PGT_TYPE != kind
    if changed and x & PGT_COUNT:
        return None
    if changed and flush is TypeFlush.EARLY:
        # The page is not this kind yet: it can be mapped, used and unmapped from here on.
        await flush_tlb_mask(cpu, vcpus)
    nx = x + 1 & PGT_COUNT | kind
    return x if await cmpxchg(type_info(pfn), x, nx) & TAKEN else AGAIN


async def put_page_type(cpu: Cpu, pfn: int) -> None:
    """Drop a reference. What it was mapped by may still be cached.

    C: _put_page_type
    """
    await fetch_add(type_info(pfn), -1)


# Shadows of tables that a guest may write to while they are out of sync.


def out_of_sync(pfn: int) -> Word:
    """Return whether a guest's page table is out of sync with its shadow, as it is at first."""
    return Word(f"table {pfn:#x} out of sync", 1, 1)


async def resync(cpu: Cpu, gl1e: Word, sl1e: Word, mapping: Word, table: int, vcpus: int) -> None:
    """Bring the shadow of a table up to date, and keep it so: stores to the table trap again.

    C: sh_resync_all, _sh_resync, sh_resync_l1; at a load of CR3
    Model: a table with one entry, and one writable mapping.
    """
    await spin_lock(paging_lock)
    if await load(out_of_sync(table)):
        await fetch_and(mapping, mapping.mask & ~PAGE_RW)
        await flush_tlb_mask(cpu, vcpus)
        await store(sl1e, await load(gl1e))
        await store(out_of_sync(table), 0)
    await spin_unlock(paging_lock)


async def emulate_write(cpu: Cpu, gl1e: Word, sl1e: Word, value: int, vcpus: int) -> None:
    """Do a store that trapped, and bring the shadow up to date.

    C: sh_x86_emulate_write, sh_validate_guest_pt_write
    """
    await spin_lock(paging_lock)
    await store(gl1e, value)
    await store(sl1e, value)
    await flush_tlb_mask(cpu, vcpus)
    await spin_unlock(paging_lock)


async def page_fault(cpu: Cpu, gl1e: Word, sl1e: Word, *, rereads: bool) -> bool:
    """Fill the shadow from what the walk of the guest's tables found; False to walk again.

    C: sh_page_fault, with shadow_check_gl1e where it `rereads`
    """
    walked = await load(gl1e)
    # The guest may write to the table, and somebody may resync it, until the lock is taken.
    await spin_lock(paging_lock)
    if rereads and await load(gl1e) != walked:
        await spin_unlock(paging_lock)
        return False
    await store(sl1e, walked)
    await spin_unlock(paging_lock)
    return True
