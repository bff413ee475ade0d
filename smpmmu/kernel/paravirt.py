"""paravirt_ops: the table of hooks through which Linux and a hypervisor meet.

`native` fills it with what the bare machine does. It must not know any hypervisor; `kernel`
calls hooks only through `cpu.pv`. Source: include/asm-i386/paravirt.h, Linux 2.6.21, and the
patch "paravirt: update pte hook" (789e6ac0a7c).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from smpmmu.machine.cpu import Cpu, invlpg

Hook = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ParavirtOps:
    """The hooks.

    Attributes:
        pte_update: (cpu, mm, addr, ptep): an entry was changed other than by an accessor.
        pte_update_defer: the same, but may be held back until the flush that must follow.
        flush_tlb_single: (cpu, addr): INVLPG.
        page_fault: (cpu, addr, *, write): a walk found no right; True if it is to be retried.
    """

    pte_update: Hook
    pte_update_defer: Hook
    flush_tlb_single: Hook
    page_fault: Callable[..., Awaitable[bool]]


async def native_nop(cpu: Cpu, mm: object, addr: int, ptep: int) -> None:
    """Do nothing: the walker reads the primary itself."""


async def native_flush_tlb_single(cpu: Cpu, addr: int) -> None:
    """Execute INVLPG.

    C: native_flush_tlb_single
    """
    await invlpg(cpu, addr)


async def native_page_fault(cpu: Cpu, addr: int, *, write: bool) -> bool:
    """Give every fault to Linux."""
    return False


native = ParavirtOps(
    pte_update=native_nop,
    pte_update_defer=native_nop,
    flush_tlb_single=native_flush_tlb_single,
    page_fault=native_page_fault,
)
