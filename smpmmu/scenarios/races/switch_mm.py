"""Who clears an entry looks at the mask while its store still waits in the store buffer.

    cpu0                                    cpu1
    pte = 0                                 set the bit in cpu_vm_mask (locked)
    [mfence]                                load CR3
    is anybody in cpu_vm_mask? flush        read the page: the walk fills the TLB
    free the page                           read the page

Each of two stores comes before a load of what the other one stores (Dekker): on sequentially
consistent memory one of the loads sees the other's store, with store buffers perhaps neither. It
came back in 2025, the other way round: who switches stores loaded_mm and loads tlb_gen, who
flushes adds to tlb_gen and loads loaded_mm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import (
    Word,
    fetch_add,
    load,
    local_irq_disable,
    local_irq_enable,
    store,
)
from smpmmu.kernel.context import context_switch
from smpmmu.kernel.mm import INIT_MM, MmStruct
from smpmmu.kernel.page_alloc import free_page
from smpmmu.kernel.paravirt import Linux, native
from smpmmu.kernel.pgtable import ptep_get_and_clear
from smpmmu.kernel.smp import flush_tlb_others, install_interrupts
from smpmmu.machine.cpu import Cpu, load_cr3
from smpmmu.machine.entries import entry
from smpmmu.machine.memory import PAGE_OWNER
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.store_buffer import StoreBuffer, buffered_load, buffered_store, drain_store
from smpmmu.machine.store_buffer import mfence as fence
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, user_read
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import ADDR, PAGE, TOUCHED, install_evictor
from smpmmu.scenarios.races.common import ANOTHER, UNVERIFIED, memory, native_cpu, one_mm

if TYPE_CHECKING:
    from smpmmu.machine.memory import Memory


async def clear_and_flush(
    cpu: Cpu, mm: MmStruct, buffer: StoreBuffer | None, *, mfence: bool
) -> None:
    """Clear the entry with a plain store, flush who uses the address space, and free the page.

    C: pte_clear, flush_tlb_page, native_flush_tlb_others, arch/x86/mm/tlb.c, Linux 4.4
    Model: the ptl is left out: cpu1 takes no lock.
    """
    pte = cpu.memory.at(mm.pte_offset(ADDR))
    if buffer is None:
        await store(pte, 0)
        cpumask = await load(mm.cpu_vm_mask)
    else:
        await buffered_store(buffer, pte, 0)
        if mfence:
            await fence(buffer)
        # Without the fence the entry may still be found by whoever sets a bit from here on.
        cpumask = await buffered_load(buffer, mm.cpu_vm_mask)
        # INVLPG is a serialising instruction: from here on nothing waits in the buffer.
        await fence(buffer)
    await cpu.pv.flush_tlb_single(cpu, ADDR)
    if cpumask & ~(1 << cpu.number):
        await flush_tlb_others(cpu, cpumask & ~(1 << cpu.number), mm, ADDR)
    await free_page(cpu, PAGE)


async def come(cpu: Cpu, mm: MmStruct) -> None:
    """Give the CPU to a thread of the address space, which reads the page twice.

    C: switch_mm, whose bit is set by a locked instruction, and so ordered before the load of CR3
    """
    there = await context_switch(cpu, ANOTHER, mm)
    await user_read(there, ADDR)
    await user_read(there, ADDR)


def newcomer(setup: Setup, mm: MmStruct, guest: Memory) -> Cpu:
    """Return the CPU that runs another address space at first."""
    cpu = Cpu(
        1, guest, guest, ANOTHER.pgd, native, ANOTHER, (ADDR,), mms=(mm, ANOTHER, INIT_MM),
        linux=Linux(),
    )  # fmt: skip
    install_interrupts(setup, cpu)
    install_evictor(setup, cpu)
    return cpu


# 2025: address spaces whose translations stay cached while another one is loaded (PCID).

SWITCHING, LOADED = 1, 2
LOADED_MM = Word("cpu1.loaded_mm", 2)
"""At first another address space; then LOADED_MM_SWITCHING; then this one."""
TLB_GEN = Word("mm1.tlb_gen", 1)
"""How often the address space was flushed; cpu1's own count of it is 0."""


async def flush_by_loaded_mm(cpu: Cpu, mm: MmStruct) -> None:
    """Clear the entry, flush who has the address space loaded, and free the page.

    C: flush_tlb_mm_range, inc_mm_tlb_gen, should_flush_tlb, arch/x86/mm/tlb.c, Linux 6.17
    Model: what changes memory are locked instructions, so that nothing waits in this CPU's buffer.
    """
    await spin_lock(mm.pte_lockptr(ADDR))
    await ptep_get_and_clear(cpu, mm, ADDR, mm.pte_offset(ADDR))
    await spin_unlock(mm.pte_lockptr(ADDR))
    await fetch_add(TLB_GEN, 1)
    if await load(LOADED_MM):
        await flush_tlb_others(cpu, 1 << 1, mm, ADDR)
    await free_page(cpu, PAGE)


async def come_back(
    cpu: Cpu, buffer: StoreBuffer | None, *, mfence: bool, reads_first: bool = False
) -> None:
    """Load an address space again, whose translations are good unless it was flushed meanwhile.

    C: switch_mm_irqs_off, choose_new_asid, load_new_mm_cr3
    Model: the bit in mm_cpumask is set already, as it is only cleared lazily. A load of CR3 that
    flushes nothing is an empty buffer and no more; it serialises.
    """
    await local_irq_disable()
    if reads_first:
        stale = await load(TLB_GEN)
        await store(LOADED_MM, SWITCHING)
    elif buffer is None:
        await store(LOADED_MM, SWITCHING)
        stale = await load(TLB_GEN)
    else:
        await buffered_store(buffer, LOADED_MM, SWITCHING)
        if mfence:
            await fence(buffer)
        # Without the fence who flushes may still find another address space loaded.
        stale = await buffered_load(buffer, TLB_GEN)
        await fence(buffer)
    if stale:
        await load_cr3(cpu, cpu.root)
    await store(LOADED_MM, LOADED)
    await local_irq_enable()


def come_back_while_flushed(
    setup: Setup, *, buffered: bool, mfence: bool, reads_first: bool
) -> None:
    """A clears an entry while B comes back to the address space, with the page still cached."""
    mm = one_mm(1)
    guest = memory()
    cpu0 = native_cpu(setup, 0, mm, guest, ())
    cpu1 = native_cpu(setup, 1, mm, guest, cached=((ADDR, entry(PAGE, TOUCHED)),))
    buffer = None
    if buffered:
        buffer = StoreBuffer(1, (LOADED_MM,), 1)
        setup.hardware(1, "drain", call(drain_store, buffer))
    setup.cpu(0, call(flush_by_loaded_mm, cpu0, mm))
    setup.cpu(1, call(come_back, cpu1, buffer, mfence=mfence, reads_first=reads_first),
              call(user_read, cpu1, ADDR))  # fmt: skip
    demand_use(setup, guest, cpu1)


def demand_use(setup: Setup, guest: Memory, cpu: Cpu) -> None:
    """Ask that the page is freed, and used before, and dropped."""
    freed = value(guest.page(PAGE)) & PAGE_OWNER == 0
    cached = value(cpu.tlb(ADDR)) != 0
    setup.sometimes("the page was freed", finished("cpu1") & freed)
    setup.sometimes("the page was in use before", cached & ~freed)
    setup.sometimes("nothing of it stayed cached", freed & ~cached & finished("cpu1"))


AGAIN_2025 = (
    "83b0177a6c48 (6.18), of 209954cbc7d0: a full barrier between the store to loaded_mm and the "
    "load of tlb_gen"
)
REORDERED = (
    "the patch of 83b0177a6c48 for the stable trees 6.1 to 6.12, where it is the code itself that "
    "loads first"
)
BARRIER = (
    "71b3c126e611 (4.5): a full barrier between the store to the entry and the load of the mask; "
    f"that it is CVE-2016-2069 is {UNVERIFIED}"
)


@scenario(
    variant("defect", violated(NO_ACCESS_TO_FREED_FRAME, BARRIER), buffered=True),
    variant("repair", holds(BARRIER), buffered=True, mfence=True),
    variant("sequentially_consistent", holds("the bug needs the store buffer"), buffered=False),
    variant("loaded_mm_defect", violated(NO_ACCESS_TO_FREED_FRAME, AGAIN_2025), buffered=True,
            comes_back=True),
    variant("loaded_mm_repair", holds(AGAIN_2025), buffered=True, mfence=True, comes_back=True),
    variant("loaded_mm_sequential", holds("the bug needs the store buffer"), buffered=False,
            comes_back=True),
    variant("loaded_mm_reordered", violated(NO_ACCESS_TO_FREED_FRAME, REORDERED), buffered=False,
            comes_back=True, reads_first=True),
)  # fmt: skip
def switch_mm_store_buffer(
    setup: Setup,
    *,
    buffered: bool,
    mfence: bool = False,
    comes_back: bool = False,
    reads_first: bool = False,
) -> None:
    """A clears an entry and finds nobody to tell; B comes to the address space just then."""
    if comes_back:
        come_back_while_flushed(setup, buffered=buffered, mfence=mfence, reads_first=reads_first)
        return
    mm = one_mm(0)
    guest = memory()
    cpu0, cpu1 = native_cpu(setup, 0, mm, guest), newcomer(setup, mm, guest)
    buffer = None
    if buffered:
        buffer = StoreBuffer(0, (guest.at(mm.pte_offset(ADDR)),), 1)
        setup.hardware(0, "drain", call(drain_store, buffer))
    setup.cpu(0, call(clear_and_flush, cpu0, mm, buffer, mfence=mfence))
    setup.cpu(1, call(come, cpu1, mm))
    demand_use(setup, guest, cpu1)
