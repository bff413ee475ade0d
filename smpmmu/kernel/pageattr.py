"""Changing the attributes of the kernel's linear map: large pages are split, and put back.

It must not know any hypervisor. Source: arch/i386/mm/pageattr.c, Linux 2.6.21, with the hooks of
c119ecce894. That kernel mappings are not executable in PAE is left out: nothing here depends on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, holds, irqs_enabled, routine
from smpmmu.engine.steps import Word, fetch_add, fetch_or, load, store
from smpmmu.kernel.mm import INIT_MM, pmd_offset, pte_offset_kernel
from smpmmu.kernel.page_alloc import alloc_page, free_page
from smpmmu.kernel.page_hooks import Place
from smpmmu.kernel.pgd import pgd_list, pgd_lock
from smpmmu.kernel.pgtable import set_pte, set_pte_atomic
from smpmmu.kernel.smp import flush_tlb_all
from smpmmu.machine.entries import (
    FLAGS,
    KERNPG_TABLE,
    PAGE_GLOBAL,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    PAGE_SHIFT,
    entry,
)
from smpmmu.machine.memory import pte_index, pte_indices
from smpmmu.machine.spinlock import (
    spin_lock_irq,
    spin_lock_irqsave,
    spin_unlock_irq,
    spin_unlock_irqrestore,
    spinlock,
)

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

PAGE_OFFSET = 0xC0000000
PAGE_KERNEL = KERNPG_TABLE | PAGE_GLOBAL
PAGE_KERNEL_RO = PAGE_KERNEL & ~PAGE_RW
PAGE_KERNEL_LARGE = PAGE_KERNEL | PAGE_PSE
PAGE_TABLE_OF_KERNEL = PAGE_KERNEL & ~PAGE_GLOBAL
ENOMEM = -12

cpa_lock = spinlock("cpa_lock")
df_list = Word("df_list", 4)
"""Split tables that are to be freed after a flush, a bit for each by its place in Linux.frames."""


def page_private(cpu: Cpu, pfn: int) -> Word:
    """Return the count of entries in a split table that deviate from the rest."""
    deviating = [
        value
        for frame, _, value in cpu.memory.entries
        if frame == pfn and value & PAGE_PRESENT and value & FLAGS != PAGE_KERNEL
    ]
    return Word(f"page_private({pfn:#x})", 3, len(deviating))


def first_of_large(cpu: Cpu, address: int) -> int:
    """Return the first frame of the large page of the linear map that `address` lies in."""
    return (address - PAGE_OFFSET) >> PAGE_SHIFT & ~(cpu.memory.paging.ptrs_per_pte - 1)


async def lookup_address(cpu: Cpu, address: int) -> tuple[int, int]:
    """Return the entry that maps `address` for the kernel, and what it holds.

    C: lookup_address
    Holds: cpa_lock
    """
    pmd = await pmd_offset(cpu, INIT_MM.pgd, address)
    value = await load(cpu.memory.at(pmd))
    if value & PAGE_PSE:
        return pmd, value
    pte = pte_offset_kernel(cpu, value, address)
    return pte, await load(cpu.memory.at(pte))


@routine
async def split_large_page(cpu: Cpu, address: int, prot: int, ref_prot: int) -> int:
    """Return a table that maps what a large page does, but for `address` with `prot`; 0 if none.

    C: split_large_page
    Holds: cpa_lock, which it drops while it allocates
    Model: entries for addresses that nobody uses are left out.
    """
    await spin_unlock_irq(cpa_lock)
    # Another CPU may split the same page here, and nobody looks again.
    base = await alloc_page(cpu, cpu.linux.frames, INIT_MM.number)
    paging = cpu.memory.paging
    indices = pte_indices(cpu.pages, paging)
    if base and cpu.linux.page_hooks.split_zeroed:
        for index in indices:
            await store(cpu.memory.table(base, index), 0)
    await spin_lock_irq(cpa_lock)
    if not base:
        return 0
    hook = cpu.linux.page_hooks.split
    if hook is Place.BEFORE:
        await cpu.pv.alloc_pt(cpu, base)
    first = first_of_large(cpu, address)
    for index in indices:
        flags = prot if index == pte_index(address, paging) else ref_prot
        await set_pte(cpu, paging.entry_at(base, index), entry(first + index, flags))
    if hook is Place.AFTER:
        await cpu.pv.alloc_pt(cpu, base)
    return base


@routine
async def set_pmd_pte(cpu: Cpu, kpte: int, address: int, pte: int) -> None:
    """Change a directory entry of the kernel, in swapper_pg_dir and all copies.

    In PAE there are none: all roots lead to the one directory of the kernel.

    C: set_pmd_pte; with the knob pgd_locked as in 2.6.25
    """
    if cpu.memory.paging.is_pae:
        await set_pte_atomic(cpu, kpte, pte)
        return
    flags = await irqs_enabled()
    locked = cpu.linux.page_hooks.pgd_locked
    if locked:
        flags = await spin_lock_irqsave(pgd_lock)
    await set_pte_atomic(cpu, kpte, pte)
    # A directory may be copied from swapper_pg_dir here, and is listed once the lock is free.
    if not locked:
        flags = await spin_lock_irqsave(pgd_lock)
    listed = await load(pgd_list(cpu))
    for bit, pgd in cpu.linux.pgds:
        if listed & bit:
            await set_pte_atomic(cpu, await pmd_offset(cpu, pgd, address), pte)
    await spin_unlock_irqrestore(pgd_lock, flags)


async def revert_page(cpu: Cpu, address: int) -> None:
    """Put the large page back.

    C: revert_page
    """
    linear = await pmd_offset(cpu, INIT_MM.pgd, address)
    large = entry(first_of_large(cpu, address), PAGE_KERNEL_LARGE)
    await set_pmd_pte(cpu, linear, address, large)


@routine
async def change_one_page(cpu: Cpu, address: int, prot: int) -> int:
    """Give the page at `address` the attributes `prot`; 0, or -ENOMEM.

    C: __change_page_attr
    Holds: cpa_lock
    """
    bug_on(not await holds(cpa_lock), "cpa_lock_held_in_change_page_attr")
    kpte, value = await lookup_address(cpu, address)
    table = kpte >> PAGE_SHIFT
    page = (address - PAGE_OFFSET) >> PAGE_SHIFT
    if prot != PAGE_KERNEL:
        if value & PAGE_PSE:
            table = await split_large_page(cpu, address, prot, PAGE_KERNEL)
            if not table:
                return ENOMEM
            if cpu.linux.page_hooks.split_rechecks:
                again, now = await lookup_address(cpu, address)
                if not now & PAGE_PSE:
                    # Another CPU has split it. Ours is known to the hypervisor, and to nobody else.
                    await cpu.pv.release_pt(cpu, table)
                    await free_page(cpu, table)
                    await set_pte_atomic(cpu, again, entry(page, prot))
                    await fetch_add(page_private(cpu, again >> PAGE_SHIFT), 1)
                    return 0
            await set_pmd_pte(cpu, kpte, address, entry(table, PAGE_TABLE_OF_KERNEL))
            if cpu.linux.page_hooks.split is Place.LATE:
                await cpu.pv.alloc_pt(cpu, table)
        else:
            await set_pte_atomic(cpu, kpte, entry(page, prot))
        await fetch_add(page_private(cpu, table), 1)
        return 0
    bug_on(value & PAGE_PSE, "only_split_pages_are_put_back")
    await set_pte_atomic(cpu, kpte, entry(page, PAGE_KERNEL))
    private = await fetch_add(page_private(cpu, table), -1, 7)
    bug_on(private == 0, "page_private_counts_deviating_entries")
    if private == 1:
        await put_back(cpu, table, address)
    return 0


async def put_back(cpu: Cpu, table: int, address: int) -> None:
    """Replace a table in which nothing deviates any more, and leave it to global_flush_tlb.

    C: __change_page_attr, its end
    """
    place = cpu.linux.page_hooks.revert
    if place is Place.BEFORE:
        await cpu.pv.release_pt(cpu, table)
    # Other CPUs use the linear map all the time, and all directories still lead to the table.
    await fetch_or(df_list, 1 << cpu.linux.frames.index(table))
    await revert_page(cpu, address)
    if place is Place.AFTER:
        await cpu.pv.release_pt(cpu, table)


async def change_page_attr(cpu: Cpu, address: int, prot: int) -> int:
    """Give the page at `address` of the linear map the attributes `prot`; 0, or -ENOMEM.

    C: change_page_attr, with numpages = 1
    """
    flags = await spin_lock_irqsave(cpa_lock)
    err = await change_one_page(cpu, address, prot)
    await spin_unlock_irqrestore(cpa_lock, flags)
    return err


@routine
async def global_flush_tlb(cpu: Cpu) -> None:
    """Flush everything everywhere, and free the tables that were replaced before.

    C: global_flush_tlb
    """
    bug_on(not await irqs_enabled(), "global_flush_tlb_with_interrupts_on")
    await spin_lock_irq(cpa_lock)
    # list_replace_init: cpa_lock alone keeps another CPU from adding a table in between.
    replaced = await load(df_list)
    await store(df_list, 0)
    await spin_unlock_irq(cpa_lock)
    await flush_tlb_all(cpu, cpu.linux.online)
    for number, pfn in enumerate(cpu.linux.frames):
        if replaced >> number & 1:
            await free_page(cpu, pfn)


def linear(pfn: int) -> int:
    """Return where the linear map has a frame: __va of it."""
    return PAGE_OFFSET + (pfn << PAGE_SHIFT)
