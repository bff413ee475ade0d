"""Page directories: allocation through their slab, and the list of those in use.

Without PAE a directory is the root, has a copy of the kernel's entries, and is on pgd_list. With it
three directories (pmd) are made for every root, whose fourth entry leads to the kernel's one; the
root itself is never announced, nor listed. It must not know any hypervisor. Source:
arch/i386/mm/pgtable.c, Linux 2.6.21, with the hooks of c119ecce894; mm/slab.c as far as it decides
when constructor and destructor run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, holds, routine
from smpmmu.engine.steps import TAKEN, Word, cmpxchg, fetch_add, load, store
from smpmmu.kernel.mm import INIT_MM
from smpmmu.kernel.page_alloc import alloc_page, free_page
from smpmmu.kernel.page_hooks import Place
from smpmmu.kernel.slab import GFP_KERNEL, kmem_cache_alloc_pmd, kmem_cache_free_pmd
from smpmmu.machine.entries import FRAME, PAGE_PRESENT, entry, pfn_of
from smpmmu.machine.memory import pgd_index, pgd_indices
from smpmmu.machine.spinlock import (
    spin_lock,
    spin_lock_irqsave,
    spin_unlock,
    spin_unlock_irqrestore,
    spinlock,
)

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct
    from smpmmu.machine.cpu import Cpu

PAGE_OFFSET = 0xC0000000

pgd_lock = spinlock("pgd_lock")

SLAB_NONE, SLAB_FREE, SLAB_IN_USE = 0, 1, 2


def user_ptrs_per_pgd(cpu: Cpu) -> int:
    """Return how many entries of a root are a user's: USER_PTRS_PER_PGD."""
    return pgd_index(PAGE_OFFSET, cpu.memory.paging)


def pgd_cache(cpu: Cpu, pgd: int) -> Word:
    """Return the state of the one slab: a page with one root. What is free is constructed.

    With PAE several roots share a page, each with its state; one that leads anywhere is in use.
    """
    if cpu.memory.paging.is_pae:
        used = cpu.memory.table(pgd, 0).initial
        return Word(f"pgd_cache[{pgd:#x}]", 2, SLAB_IN_USE if used else SLAB_NONE)
    return Word("pgd_cache", 2, SLAB_FREE if cpu.linux.listed & listing(cpu, pgd) else SLAB_NONE)


def pgd_list(cpu: Cpu) -> Word:
    """Return the word of the list: a bit for each directory, by the number of its mm."""
    return Word("pgd_list", 3, cpu.linux.listed)


def listing(cpu: Cpu, pgd: int) -> int:
    """Return the bit of the directory in frame `pgd`."""
    bits: dict[int, int] = {frame: bit for bit, frame in cpu.linux.pgds}
    return bits[pgd]


async def pgd_list_add(cpu: Cpu, bit: int) -> None:
    """Put a directory on the list.

    C: pgd_list_add
    Holds: pgd_lock
    """
    bug_on(not await holds(pgd_lock), "pgd_lock_held_in_pgd_list_add")
    await store(pgd_list(cpu), await load(pgd_list(cpu)) | bit)


async def pgd_list_del(cpu: Cpu, bit: int) -> None:
    """Take a directory off the list; taking off what is off already changes nothing here.

    C: pgd_list_del
    Holds: pgd_lock
    """
    bug_on(not await holds(pgd_lock), "pgd_lock_held_in_pgd_list_del")
    await store(pgd_list(cpu), await load(pgd_list(cpu)) & ~bit)


@routine
async def clone_pgd_range(cpu: Cpu, pgd: int) -> None:
    """Copy the kernel's entries from swapper_pg_dir, a word at a time.

    C: clone_pgd_range
    Model: entries for addresses that nobody uses are left out.
    """
    for index in pgd_indices(cpu.pages, cpu.memory.paging):
        if index >= user_ptrs_per_pgd(cpu):
            copied = await load(cpu.memory.table(INIT_MM.pgd, index))
            # Whoever changes swapper_pg_dir here must find this directory on the list later.
            await store(cpu.memory.table(pgd, index), copied)


async def paravirt_alloc_pd_clone(cpu: Cpu, pgd: int) -> None:
    """Announce a directory with the kernel's entries in it.

    C: paravirt_alloc_pd_clone, as pgd_ctor calls it
    """
    start = user_ptrs_per_pgd(cpu)
    count = cpu.memory.paging.ptrs_per_pgd - start
    await cpu.pv.alloc_pd_clone(cpu, pgd, INIT_MM.pgd, start, count)


@routine
async def pgd_ctor(cpu: Cpu, pgd: int) -> None:
    """Make a root of what the slab gives: the kernel's entries, and its place on the list.

    C: pgd_ctor
    """
    if cpu.memory.paging.is_pae:
        # No lock: the kernel's one entry never changes. User entries are written before any use.
        await clone_pgd_range(cpu, pgd)
        return
    place = cpu.linux.page_hooks.clone
    for index in pgd_indices(cpu.pages):
        if index < user_ptrs_per_pgd(cpu):
            await store(cpu.memory.table(pgd, index), 0)
    if not cpu.linux.page_hooks.copies_locked:
        await clone_pgd_range(cpu, pgd)
    if place is Place.EARLY:
        await paravirt_alloc_pd_clone(cpu, pgd)
    flags = await spin_lock_irqsave(pgd_lock)
    if cpu.linux.page_hooks.copies_locked:
        await clone_pgd_range(cpu, pgd)
    if place is Place.BEFORE:
        # set_pmd_pte changes swapper_pg_dir without pgd_lock, and then wants it for the list.
        await paravirt_alloc_pd_clone(cpu, pgd)
    await pgd_list_add(cpu, listing(cpu, pgd))
    await spin_unlock_irqrestore(pgd_lock, flags)
    if place is Place.AFTER:
        await paravirt_alloc_pd_clone(cpu, pgd)


@routine
async def pgd_dtor(cpu: Cpu, pgd: int, *, irqsave: bool = True) -> None:
    """Take a directory off the list before its page goes back.

    Without `irqsave`, pgd_lock is the plain lock that it is since a79e53d85683.

    C: pgd_dtor; `release_pd` AFTER is what 55a8ba4b7f7 (2.6.29) has
    """
    place = cpu.linux.page_hooks.dtor
    if place in (Place.BEFORE, Place.TWICE):
        await cpu.pv.release_pd(cpu, pgd)
    # Whoever holds pgd_lock now finds it on the list, and writes to it.
    if irqsave:
        flags = await spin_lock_irqsave(pgd_lock)
    else:
        await spin_lock(pgd_lock)
    await pgd_list_del(cpu, listing(cpu, pgd))
    if irqsave:
        await spin_unlock_irqrestore(pgd_lock, flags)
    else:
        await spin_unlock(pgd_lock)
    if place in (Place.AFTER, Place.TWICE):
        await cpu.pv.release_pd(cpu, pgd)


async def kmem_cache_alloc_pgd(cpu: Cpu) -> int:
    """Return a constructed root; 0 if there is no memory.

    C: kmem_cache_alloc(pgd_cache)
    """
    frame: int = cpu.linux.pgds[-1][1]
    if await cmpxchg(pgd_cache(cpu, frame), SLAB_FREE, SLAB_IN_USE) & TAKEN:
        return frame
    pgd = await alloc_page(cpu, (frame,), GFP_KERNEL)
    if not pgd:
        return 0
    await pgd_ctor(cpu, pgd)
    await store(pgd_cache(cpu, pgd), SLAB_IN_USE)
    return pgd


async def kmem_cache_free_pgd(cpu: Cpu, pgd: int) -> None:
    """Give a root back to its slab, where it stays constructed, and without PAE listed.

    C: kmem_cache_free(pgd_cache)
    """
    await store(pgd_cache(cpu, pgd), SLAB_FREE)


async def set_pgd(cpu: Cpu, pgdp: int, pgdval: int) -> None:
    """Write an entry of the root through the accessor (PAE).

    C: set_pgd, which is set_pud
    """
    await cpu.pv.set_pud(cpu, pgdp, pgdval)


async def pmd_of(cpu: Cpu, pgd: int, i: int) -> int:
    """Return the page directory that entry `i` of a root leads to: __va(pgd_val(pgd[i]) - 1)."""
    return pfn_of(await load(cpu.memory.table(pgd, i), FRAME))


@routine
async def pgd_alloc(cpu: Cpu) -> int:
    """Return a root with the kernel's entries in it; 0 if there is no memory.

    C: pgd_alloc
    Model: without PAE there is nothing to undo: the one allocation fails before the constructor
    has run.
    """
    pgd = await kmem_cache_alloc_pgd(cpu)
    if not cpu.memory.paging.is_pae or not pgd:
        return pgd
    place = cpu.linux.page_hooks.pmd
    i, user = 0, user_ptrs_per_pgd(cpu)
    while i < user:
        pmd = await kmem_cache_alloc_pmd(cpu)
        if not pmd:
            break
        if place is Place.BEFORE:
            await cpu.pv.alloc_pd(cpu, pmd)
        # Nobody has loaded this root yet: no CPU can follow the entry.
        await set_pgd(cpu, cpu.memory.paging.entry_at(pgd, i), entry(pmd, PAGE_PRESENT))
        if place is Place.AFTER:
            await cpu.pv.alloc_pd(cpu, pmd)
        i += 1
    if i == user:
        return pgd
    # out_oom
    place = cpu.linux.page_hooks.out_of_memory
    for j in reversed(range(i)):
        pmd = await pmd_of(cpu, pgd, j)
        if place in (Place.BEFORE, Place.TWICE):
            await cpu.pv.release_pd(cpu, pmd)
        await kmem_cache_free_pmd(cpu, pmd)
        # It may be somebody else's by now.
        if place in (Place.AFTER, Place.TWICE):
            await cpu.pv.release_pd(cpu, pmd)
    await kmem_cache_free_pgd(cpu, pgd)
    return 0


@routine
async def pgd_free(cpu: Cpu, pgd: int) -> None:
    """Give a root back, and in PAE its directories, to which its entries still lead.

    C: pgd_free
    Model: without PAE user entries are empty by now, and nothing remains to be done for them.
    """
    if cpu.memory.paging.is_pae:
        place = cpu.linux.page_hooks.pgd_free
        for i in range(user_ptrs_per_pgd(cpu)):
            pmd = await pmd_of(cpu, pgd, i)
            if place in (Place.BEFORE, Place.TWICE):
                await cpu.pv.release_pd(cpu, pmd)
            await kmem_cache_free_pmd(cpu, pmd)
            # It may be somebody else's by now.
            if place in (Place.AFTER, Place.TWICE):
                await cpu.pv.release_pd(cpu, pmd)
    await kmem_cache_free_pgd(cpu, pgd)


@routine
async def mmdrop(cpu: Cpu, mm: MmStruct) -> None:
    """Give up a reference to an address space; the last one frees its root.

    C: mmdrop, __mmdrop, kernel/fork.c
    """
    if await fetch_add(mm.mm_count, -1, mm.mm_count.mask) == 1:
        await pgd_free(cpu, mm.pgd)


@routine
async def kmem_cache_shrink(cpu: Cpu) -> None:
    """Give the page of a free directory back.

    C: kmem_cache_shrink, slab_destroy; the page is off the slab's lists before its destructor runs
    """
    pgd: int = cpu.linux.pgds[-1][1]
    if await cmpxchg(pgd_cache(cpu, pgd), SLAB_FREE, SLAB_NONE) & TAKEN:
        await pgd_dtor(cpu, pgd)
        await free_page(cpu, pgd)
