"""Rights of kernel mappings while Linux boots on one CPU.

It must not know any hypervisor. Source: arch/i386/mm/init.c, Linux 2.6.21, with the hook of
789e6ac0a7c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import routine
from smpmmu.engine.steps import load
from smpmmu.machine.entries import HIGH, PAGE_NX
from smpmmu.machine.memory import store_high

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct
    from smpmmu.machine.cpu import Cpu


@routine
async def set_kernel_exec(cpu: Cpu, init_mm: MmStruct, vaddr: int, *, enable: bool) -> bool:
    """Let the kernel page of `vaddr` be executed, or not; whether it could be before.

    C: set_kernel_exec
    Model: NX is enabled, and lookup_address finds the entry without reading the levels above it,
    which nobody changes. No lock is held: there is no other CPU yet.
    """
    word = cpu.memory.at(init_mm.pte_offset(vaddr))
    ret = not await load(word, PAGE_NX)
    # No locked instruction: in pte_high there is nothing that a walker marks.
    high = await load(word, HIGH)
    await store_high(word, high & ~PAGE_NX if enable else high | PAGE_NX)
    await cpu.pv.pte_update_defer(cpu, init_mm, vaddr, init_mm.pte_offset(vaddr))
    # __flush_tlb_all: of this CPU alone.
    await cpu.pv.flush_tlb_kernel(cpu)
    return ret
