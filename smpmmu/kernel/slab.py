"""The slab of page directories in PAE: what is free there is constructed, which is to say, zero.

It must not know any hypervisor. Source: arch/i386/mm/pgtable.c and mm/slab.c, Linux 2.6.21. The
slab of roots is in `pgd.py`, with its constructor and destructor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import routine
from smpmmu.engine.steps import Word, fetch_and, fetch_or, store
from smpmmu.kernel.mm import INIT_MM
from smpmmu.kernel.page_alloc import alloc_page
from smpmmu.machine.memory import pmd_indices

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

GFP_KERNEL = INIT_MM.number
"""Whose a page of the kernel's own is."""

pmd_cache = Word("pmd_cache", 8)
"""Page directories in their slab (PAE): a bit for each that is free, by its place in Linux.pmds."""


@routine
async def kmem_cache_alloc_pmd(cpu: Cpu) -> int:
    """Return a page directory that is zero; 0 if there is no memory (PAE).

    C: kmem_cache_alloc(pmd_cache), pmd_ctor
    Model: entries for addresses that nobody uses are not cleared. Whoever frees a directory has
    emptied it; only the constructor clears one.
    """
    pmds: tuple[int, ...] = cpu.linux.pmds
    for number, pmd in enumerate(pmds):
        if await fetch_and(pmd_cache, pmd_cache.mask & ~(1 << number), 1 << number):
            return pmd
    new = await alloc_page(cpu, pmds, GFP_KERNEL)
    if new:
        for index in pmd_indices(cpu.pages, cpu.memory.paging):
            await store(cpu.memory.table(new, index), 0)
    return new


async def kmem_cache_free_pmd(cpu: Cpu, pmd: int) -> None:
    """Give a page directory back to its slab, which may hand it out again at once (PAE).

    C: kmem_cache_free(pmd_cache)
    """
    await fetch_or(pmd_cache, 1 << cpu.linux.pmds.index(pmd))
