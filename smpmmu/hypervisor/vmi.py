"""VMI's hooks: a shadow kept in step by notifications, with a queue of deferred ones per vCPU.

A deferred update waits in the queue of the vCPU that made it, and is applied at that vCPU's next
INVLPG or page fault, its own or an interrupt's. It must not know Linux beyond the hook table.
Source: arch/i386/kernel/vmi.c, Linux 2.6.21, and the VMI specification 2.0 (2006-03-13). The
queue being one per vCPU is inferred; when the address is read is unverified, hence the knobs.
"""

from __future__ import annotations

from smpmmu.engine.routines import instruction, routine
from smpmmu.engine.steps import Word, load, store, xchg
from smpmmu.hypervisor.shadow import demand_page, sync_entry
from smpmmu.kernel.paravirt import ParavirtOps
from smpmmu.machine.cpu import Cpu, invlpg

DEFERRED_SLOTS = 2
"""Records that a queue holds; a full one is drained, which is always allowed."""


def deferred(cpu: Cpu, slot: int) -> Word:
    """Return a slot of a vCPU's queue: the physical address of an entry, or 0."""
    return Word(f"{cpu.name}.deferred[{slot}]", 32, owner=cpu.name)


@routine
async def drain(cpu: Cpu) -> None:
    """Apply and empty this vCPU's queue, oldest first."""
    for slot in range(DEFERRED_SLOTS):
        ptep = await xchg(deferred(cpu, slot), 0)
        if not ptep:
            return
        await sync_entry(cpu.memory.at(ptep))


@instruction
async def vmi_update_pte(cpu: Cpu, mm: object, addr: int, ptep: int) -> None:
    """Bring the shadow of an entry up to date now.

    C: vmi_update_pte
    """
    await sync_entry(cpu.memory.at(ptep))


@instruction
async def vmi_update_pte_defer(cpu: Cpu, mm: object, addr: int, ptep: int) -> None:
    """Queue the entry until this vCPU flushes; at once if `mm` is not the current one.

    C: vmi_update_pte_defer, with is_current_as
    """
    if mm != cpu.mm:
        await sync_entry(cpu.memory.at(ptep))
        return
    for slot in range(DEFERRED_SLOTS):
        if not await load(deferred(cpu, slot)):
            await store(deferred(cpu, slot), ptep)
            return
    await drain(cpu)
    await store(deferred(cpu, 0), ptep)


@instruction
async def vmi_flush_tlb_single(cpu: Cpu, addr: int) -> None:
    """Drain the queue, then drop the translation of `addr`: VMI_InvalPage."""
    await drain(cpu)
    await invlpg(cpu, addr)


@routine
async def vmi_page_fault(cpu: Cpu, addr: int, *, write: bool) -> bool:
    """Drain the queue, then try to answer the fault from the primary."""
    await drain(cpu)
    return await demand_page(cpu, addr, write=write)


@routine
async def vmi_page_fault_torn(cpu: Cpu, addr: int, *, write: bool) -> bool:
    """As `vmi_page_fault`, by a hypervisor that fills the shadow from an entry read before."""
    await drain(cpu)
    return await demand_page(cpu, addr, write=write, torn=True)


vmi = ParavirtOps(
    pte_update=vmi_update_pte,
    pte_update_defer=vmi_update_pte_defer,
    flush_tlb_single=vmi_flush_tlb_single,
    page_fault=vmi_page_fault,
)
