"""Direct page tables: the walker reads the guest's own, which the hypervisor writes for it.

In lazy MMU mode the accessors' writes wait in a queue of the vCPU, so that the entry itself, and
not only a shadow of it, is behind. What the kernel writes by itself (a locked exchange or clearing
of a bit) is there at once. It must not know Linux beyond the hook table. Source: the commit message
of 3dc90795144, which speaks of such an implementation; Xen's multicalls are one. That a page fault
does not drain the queue is as there (unverified).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.routines import instruction, routine
from smpmmu.engine.steps import Part, Word, load, store, xchg
from smpmmu.kernel.paravirt import LazyMode, native
from smpmmu.machine.entries import ENTRY, Address

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

SLOTS = 5
"""Writes that a queue has room for; a full one is applied, which is always allowed."""
QUEUES = "writes held back"


def held(cpu: Cpu, slot: int) -> Word:
    """Return a slot of a vCPU's queue: the physical address of an entry, or 0."""
    part = Part(QUEUES, f"slot {slot}", cpu.name, Address(entry_size=cpu.memory.paging.entry_size))
    return Word(f"{cpu.name}.held[{slot}]", 32, owner=cpu.name, part=part)


def held_value(cpu: Cpu, slot: int) -> Word:
    """Return the value that is to be written to the slot's entry."""
    name, part = f"{cpu.name}.held_value[{slot}]", Part(QUEUES, f"slot {slot}, value", cpu.name)
    width = cpu.memory.paging.entry_bits
    return Word(name, width, owner=cpu.name, format=ENTRY, part=part)


def mode(cpu: Cpu) -> Word:
    """Return whether a vCPU is in lazy MMU mode."""
    return Word(f"{cpu.name}.lazy_mode", 1, owner=cpu.name)


@routine
async def apply(cpu: Cpu) -> None:
    """Write what is held back, oldest first."""
    for slot in range(SLOTS):
        ptep = await xchg(held(cpu, slot), 0)
        if not ptep:
            return
        await native.set_pte(cpu, ptep, await xchg(held_value(cpu, slot), 0))


@instruction
async def direct_set_pte(cpu: Cpu, ptep: int, pteval: int) -> None:
    """Write an entry, now or when lazy MMU mode is left."""
    if not await load(mode(cpu)):
        await native.set_pte(cpu, ptep, pteval)
        return
    for slot in range(SLOTS):
        if not await load(held(cpu, slot)):
            break
    else:
        await apply(cpu)
        slot = 0
    await store(held_value(cpu, slot), pteval)
    await store(held(cpu, slot), ptep)


async def direct_set_pte_at(cpu: Cpu, mm: object, addr: int, ptep: int, pteval: int) -> None:
    """Write an entry, now or when lazy MMU mode is left."""
    await direct_set_pte(cpu, ptep, pteval)


@instruction
async def direct_set_lazy_mode(cpu: Cpu, to: LazyMode) -> None:
    """Write what is held back, then enter or leave the mode, or stay as it is."""
    await apply(cpu)
    if to is not LazyMode.FLUSH:
        await store(mode(cpu), int(to is LazyMode.MMU))


@instruction
async def direct_flush_tlb_single(cpu: Cpu, addr: int) -> None:
    """Write what is held back, then execute INVLPG."""
    await apply(cpu)
    await native.flush_tlb_single(cpu, addr)


@instruction
async def direct_flush_tlb_user(cpu: Cpu) -> None:
    """Write what is held back, then load CR3 with what it holds."""
    await apply(cpu)
    await native.flush_tlb_user(cpu)


@instruction
async def direct_flush_tlb_kernel(cpu: Cpu) -> None:
    """Write what is held back, then drop everything."""
    await apply(cpu)
    await native.flush_tlb_kernel(cpu)


@instruction
async def direct_write_cr3(cpu: Cpu, root: int) -> None:
    """Write what is held back, then load CR3."""
    await apply(cpu)
    await native.write_cr3(cpu, root)


direct = replace(
    native,
    set_pte=direct_set_pte,
    set_pte_at=direct_set_pte_at,
    flush_tlb_single=direct_flush_tlb_single,
    flush_tlb_user=direct_flush_tlb_user,
    flush_tlb_kernel=direct_flush_tlb_kernel,
    write_cr3=direct_write_cr3,
    set_lazy_mode=direct_set_lazy_mode,
)
"""Without PAE: whose other accessors hold nothing back here."""
