"""A page table is freed while a CPU that only borrows the address space speculates through it.

cpu0                              cpu1 (a kernel thread)         cpu1's walker
clear the entries                 runs in the kernel             walk for the page at any time
[flush those that are not lazy]
[flush all; the lazy leave]
free the table; it is reused
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import value
from smpmmu.engine.local import call
from smpmmu.engine.steps import load, store
from smpmmu.kernel.mm import INIT_MM, MmStruct, VmAreaStruct
from smpmmu.kernel.munmap import zap_pte_range
from smpmmu.kernel.page_alloc import alloc_page, free_page
from smpmmu.kernel.paravirt import Linux, native
from smpmmu.kernel.smp import FLUSH_ALL, flush_tlb_mm, flush_tlb_others, install_interrupts
from smpmmu.machine.cpu import Cpu
from smpmmu.machine.entries import FRAME, PAGE_PRESENT, entry
from smpmmu.machine.memory import OWNER_SHIFT, PAGE_OWNER, Memory
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    PAGE,
    TABLE,
    TOUCHED,
    install_evictor,
    install_walker,
)
from smpmmu.scenarios.races.common import memory, native_cpu, one_mm

if TYPE_CHECKING:
    from smpmmu.engine.steps import Word

OTHER, OTHER_PAGE = 2, 0x7
LAZY = 1 << 1
"""The CPUs that are lazy, all the time, so that nobody need look."""
NOTHING_FROM_FREED_TABLES = "no_tlb_entry_comes_from_a_freed_table"


async def munmap(cpu: Cpu, vma: VmAreaStruct, *, tells_lazy: bool) -> None:
    """Unmap the only page of a page table, free the table, and let somebody else have it.

    C: unmap_region, free_pgtables, tlb_flush, tlb_finish_mmu; Linux 4.18 where it does not tell
    lazy CPUs, which flush when they come back to the address space
    """
    mm = vma.vm_mm
    await zap_pte_range(cpu, vma, ADDR)
    await store(cpu.memory.at(mm.pmd_offset(ADDR)), 0)
    if tells_lazy:
        await flush_tlb_mm(cpu, mm)
    else:
        await flush_not_lazy(cpu, mm)
    await free_page(cpu, TABLE)
    if await alloc_page(cpu, (TABLE,), OTHER):
        # Data of somebody else's, which would make an entry.
        await store(cpu.memory.table(TABLE, 1), entry(OTHER_PAGE, TOUCHED))


async def flush_not_lazy(cpu: Cpu, mm: MmStruct) -> None:
    """Flush the CPUs that use the address space, not those that only borrow it.

    C: native_flush_tlb_others with tlb_is_not_lazy, arch/x86/mm/tlb.c
    """
    cpumask = await load(mm.cpu_vm_mask) & ~(1 << cpu.number) & ~LAZY
    await cpu.pv.flush_tlb_user(cpu)
    if cpumask:
        await flush_tlb_others(cpu, cpumask, mm, FLUSH_ALL)


async def run_in_the_kernel(mask: Word) -> None:
    """Use no user memory."""
    await load(mask)


def kernel_thread(setup: Setup, mm: MmStruct, guest: Memory, *, caches: bool) -> Cpu:
    """Return the CPU of a kernel thread that has borrowed `mm`."""
    cpu = Cpu(
        1, guest, guest, mm.pgd, native, mm, (ADDR,), mms=(mm, INIT_MM), kernel_thread=True,
        lazy=True, caches_directory=caches, linux=Linux(),
    )  # fmt: skip
    install_interrupts(setup, cpu)
    install_evictor(setup, cpu)
    return cpu


TELL = "2ff6ddf19c0e (4.19): when tables are freed, lazy CPUs are told, and leave the mm, first"
IN_FLIGHT = "argument: no flush aborts the walk that has read the directory's entry already"


@scenario(
    variant("defect", violated(NOTHING_FROM_FREED_TABLES, TELL), tells_lazy=False),
    variant("repair", holds(TELL), tells_lazy=True),
    variant("in_flight_defect", violated(NOTHING_FROM_FREED_TABLES, IN_FLIGHT), tells_lazy=False,
            caches=False),
    variant("in_flight_repair", holds(TELL), tells_lazy=True, caches=False),
    variant("no_speculation", holds("argument: a kernel thread uses nothing that is mapped there"),
            tells_lazy=False, speculates=False),
)  # fmt: skip
def lazy_tlb_freed_table(
    setup: Setup, *, tells_lazy: bool, caches: bool = True, speculates: bool = True
) -> None:
    """A frees a page table and flushes who is not lazy; B's walker still goes through it.

    B's CPU `caches` entries of the page directory, or only walks take time.
    """
    mm = one_mm(0, 1)
    guest = memory(entry(PAGE, TOUCHED), owners=((OTHER_PAGE, OTHER),))
    cpu0 = native_cpu(setup, 0, mm, guest)
    cpu1 = kernel_thread(setup, mm, guest, caches=caches)
    setup.cpu(0, call(munmap, cpu0, VmAreaStruct(mm), tells_lazy=tells_lazy))
    setup.cpu(1, call(run_in_the_kernel, mm.cpu_vm_mask))
    if speculates:
        install_walker(setup, cpu1)
    cached = value(cpu1.tlb(ADDR))
    setup.always(NOTHING_FROM_FREED_TABLES, cached & FRAME != entry(OTHER_PAGE, 0))
    owner = value(guest.page(TABLE)) & PAGE_OWNER
    setup.sometimes("the table was reused", owner == OTHER << OWNER_SHIFT)
    if speculates:
        setup.sometimes("the walker cached the page", cached & PAGE_PRESENT != 0)
