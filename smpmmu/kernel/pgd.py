"""Page directories: allocation through their slab, and the list of those in use.

It must not know any hypervisor. Source: arch/i386/mm/pgtable.c, Linux 2.6.21 without PAE, with the
hooks of c119ecce894; mm/slab.c as far as it decides when constructor and destructor run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, holds, routine
from smpmmu.engine.steps import TAKEN, Word, cmpxchg, load, store
from smpmmu.kernel.mm import INIT_MM
from smpmmu.kernel.page_alloc import alloc_page, free_page
from smpmmu.kernel.page_hooks import Place
from smpmmu.machine.memory import PTRS_PER_PGD, pgd_indices
from smpmmu.machine.spinlock import (
    spin_lock,
    spin_lock_irqsave,
    spin_unlock,
    spin_unlock_irqrestore,
    spinlock,
)

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

USER_PTRS_PER_PGD = 768
KERNEL_PGD_PTRS = PTRS_PER_PGD - USER_PTRS_PER_PGD
GFP_KERNEL = INIT_MM.number
"""Whose a page of the kernel's own is."""

pgd_lock = spinlock("pgd_lock")

SLAB_NONE, SLAB_FREE, SLAB_IN_USE, SLAB_GOING = 0, 1, 2, 3


def pgd_cache(cpu: Cpu) -> Word:
    """Return the state of the one slab: a page with one directory. What is free is constructed."""
    listed = cpu.linux.listed & cpu.linux.pgds[-1][0]
    return Word("pgd_cache", 2, SLAB_FREE if listed else SLAB_NONE)


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
    for index in pgd_indices(cpu.pages):
        if index >= USER_PTRS_PER_PGD:
            entry = await load(cpu.memory.table(INIT_MM.pgd, index))
            # Whoever changes swapper_pg_dir here must find this directory on the list later.
            await store(cpu.memory.table(pgd, index), entry)


async def paravirt_alloc_pd_clone(cpu: Cpu, pgd: int) -> None:
    """Announce a directory with the kernel's entries in it.

    C: paravirt_alloc_pd_clone, as pgd_ctor calls it
    """
    await cpu.pv.alloc_pd_clone(cpu, pgd, INIT_MM.pgd, USER_PTRS_PER_PGD, KERNEL_PGD_PTRS)


@routine
async def pgd_ctor(cpu: Cpu, pgd: int) -> None:
    """Make a directory of a page: the kernel's entries, and its place on the list.

    C: pgd_ctor
    """
    place = cpu.linux.page_hooks.clone
    for index in pgd_indices(cpu.pages):
        if index < USER_PTRS_PER_PGD:
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


@routine
async def pgd_alloc(cpu: Cpu) -> int:
    """Return a directory with the kernel's entries in it; 0 if there is no memory.

    C: pgd_alloc, kmem_cache_alloc(pgd_cache)
    Model: without PAE there is nothing to undo (out_oom): the one allocation fails before the
    constructor has run.
    """
    frame: int = cpu.linux.pgds[-1][1]
    if await cmpxchg(pgd_cache(cpu), SLAB_FREE, SLAB_IN_USE) & TAKEN:
        return frame
    pgd = await alloc_page(cpu, (frame,), GFP_KERNEL)
    if not pgd:
        return 0
    await pgd_ctor(cpu, pgd)
    await store(pgd_cache(cpu), SLAB_IN_USE)
    return pgd


async def pgd_free(cpu: Cpu) -> None:
    """Give a directory back to its slab, where it stays constructed and listed.

    C: pgd_free, kmem_cache_free(pgd_cache(cpu), pgd)
    """
    await store(pgd_cache(cpu), SLAB_FREE)


@routine
async def kmem_cache_shrink(cpu: Cpu) -> None:
    """Give the page of a free directory back.

    C: kmem_cache_shrink, slab_destroy
    """
    if await cmpxchg(pgd_cache(cpu), SLAB_FREE, SLAB_GOING) & TAKEN:
        pgd = cpu.linux.pgds[-1][1]
        await pgd_dtor(cpu, pgd)
        await free_page(cpu, pgd)
        await store(pgd_cache(cpu), SLAB_NONE)
