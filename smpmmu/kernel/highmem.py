"""Short mappings of high pages, each at an address of its CPU and use; interrupts map, too.

It must not know any hypervisor. Source: arch/i386/mm/highmem.c and include/asm-i386/pgtable.h,
Linux 2.6.21, with the flushes of lazy MMU mode of 49f19710512.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, routine
from smpmmu.engine.steps import load
from smpmmu.kernel.mm import INIT_MM
from smpmmu.kernel.pageattr import PAGE_KERNEL
from smpmmu.kernel.paravirt import arch_flush_lazy_mmu_mode
from smpmmu.kernel.pgtable import pte_clear, set_pte
from smpmmu.machine.entries import entry
from smpmmu.machine.memory import NON_PAE, pte_index

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

KMAP_TABLE = 0x7E
"""The frame of the page table for the addresses of kmap_atomic, which every directory links."""
FIX_KMAP_BEGIN = 0xFFF9D000
"""The address of KM_BOUNCE_READ on CPU 0; here the one use there is."""
KMAP_SLOT_IS_EMPTY = "kmap_atomic_finds_its_slot_empty"


def kmap_pte(vaddr: int) -> int:
    """Return the physical address of the entry for an address of kmap_atomic."""
    return NON_PAE.entry_at(KMAP_TABLE, pte_index(vaddr))


@routine
async def kmap_atomic(cpu: Cpu, page: int) -> int:
    """Map a page for this CPU alone; return its address.

    C: kmap_atomic
    Model: without PAE; one use (km_type), so that a CPU has one address.
    """
    vaddr = FIX_KMAP_BEGIN
    slot = kmap_pte(vaddr)
    if cpu.linux.kunmap_flushes:
        bug_on(await load(cpu.memory.at(slot)), KMAP_SLOT_IS_EMPTY)
    await set_pte(cpu, slot, entry(page, PAGE_KERNEL))
    if not cpu.linux.kunmap_flushes:
        await cpu.pv.flush_tlb_single(cpu, vaddr)
    # An interrupt may be here while the CPU holds updates back.
    if cpu.linux.kmap_flushes:
        await arch_flush_lazy_mmu_mode(cpu)
    return vaddr


async def kmap_atomic_pte(cpu: Cpu, page: int) -> int:
    """Map a page table for this CPU alone; return the address.

    C: kmap_atomic_pte (9a1c13e91f1)
    Model: one use (KM_PTE0). Linux's own accesses go to the table as it lies in memory: what it has
    mapped is what it means.
    """
    vaddr = await kmap_atomic(cpu, page)
    await cpu.pv.set_linear_mapping(cpu, vaddr, page)
    return vaddr


@routine
async def kunmap_atomic(cpu: Cpu, vaddr: int) -> None:
    """Take the mapping away.

    C: kunmap_atomic
    """
    if cpu.linux.kunmap_flushes:
        await kpte_clear_flush(cpu, kmap_pte(vaddr), vaddr)
    if cpu.linux.kmap_flushes:
        await arch_flush_lazy_mmu_mode(cpu)


async def kpte_clear_flush(cpu: Cpu, ptep: int, vaddr: int) -> None:
    """Empty an entry of the kernel's, and flush it on this CPU, the only one that uses it.

    C: kpte_clear_flush, __flush_tlb_one
    """
    await pte_clear(cpu, INIT_MM, vaddr, ptep)
    await cpu.pv.flush_tlb_single(cpu, vaddr)
