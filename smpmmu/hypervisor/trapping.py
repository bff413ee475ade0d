"""Guests that write to their own page tables: stores that land in a table, or trap.

A table that a hypervisor shadows is mapped read-only to the guest, so that a store to it faults;
one that it does not shadow, or has let out of sync, is written like any page. It must not know
which hypervisor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import instruction
from smpmmu.engine.steps import store
from smpmmu.machine.walker import Access, translate

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu


@instruction
async def store_entry(cpu: Cpu, addr: int, index: int, value: int) -> Access:
    """Write an entry of the page table that is mapped at `addr`; FAULT if it traps."""
    pfn = await translate(cpu, addr, write=True)
    if pfn is None:
        return Access.FAULT
    if isinstance(pfn, Access):
        return pfn
    await store(cpu.memory.table(pfn, index), value)
    return Access.DONE
