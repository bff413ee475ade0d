"""Who clears an entry looks at the mask while its store still waits in the store buffer.

    cpu0                                    cpu1
    pte = 0                                 set the bit in cpu_vm_mask (locked)
    [mfence]                                load CR3
    is anybody in cpu_vm_mask? flush        read the page: the walk fills the TLB
    free the page                           read the page

Each of two stores comes before a load of what the other one stores (Dekker): on sequentially
consistent memory one of the loads sees the other's store, with store buffers perhaps neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import load, store
from smpmmu.kernel.context import context_switch
from smpmmu.kernel.mm import INIT_MM, MmStruct
from smpmmu.kernel.page_alloc import free_page
from smpmmu.kernel.paravirt import Linux, native
from smpmmu.kernel.smp import flush_tlb_others, install_interrupts
from smpmmu.machine.cpu import Cpu
from smpmmu.machine.memory import PAGE_OWNER
from smpmmu.machine.store_buffer import StoreBuffer, buffered_load, buffered_store, drain_store
from smpmmu.machine.store_buffer import mfence as fence
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, user_read
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import ADDR, PAGE, install_evictor
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


BARRIER = (
    "71b3c126e611 (4.5): a full barrier between the store to the entry and the load of the mask; "
    f"that it is CVE-2016-2069 is {UNVERIFIED}"
)


@scenario(
    variant("defect", violated(NO_ACCESS_TO_FREED_FRAME, BARRIER), buffered=True),
    variant("repair", holds(BARRIER), buffered=True, mfence=True),
    variant("sequentially_consistent", holds("the bug needs the store buffer"), buffered=False),
)
def switch_mm_store_buffer(setup: Setup, *, buffered: bool, mfence: bool = False) -> None:
    """A clears an entry and finds nobody to tell; B comes to the address space just then."""
    mm = one_mm(0)
    guest = memory()
    cpu0, cpu1 = native_cpu(setup, 0, mm, guest), newcomer(setup, mm, guest)
    buffer = None
    if buffered:
        buffer = StoreBuffer(0, (guest.at(mm.pte_offset(ADDR)),), 1)
        setup.hardware(0, "drain", call(drain_store, buffer))
    setup.cpu(0, call(clear_and_flush, cpu0, mm, buffer, mfence=mfence))
    setup.cpu(1, call(come, cpu1, mm))
    freed = value(guest.page(PAGE)) & PAGE_OWNER == 0
    cached = value(cpu1.tlb(ADDR)) != 0
    setup.sometimes("the page was freed", finished("cpu1") & freed)
    setup.sometimes("the page was in use before", cached & ~freed)
    setup.sometimes("nothing of it stayed cached", freed & ~cached & finished("cpu1"))
