"""What the scenarios share that ask whether an accessed bit is lost. It is no scenario itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import value
from smpmmu.engine.local import call
from smpmmu.engine.steps import load, store
from smpmmu.machine.entries import PAGE_ACCESSED
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import user_read
from smpmmu.properties.accessed import USE_AFTER_FLUSH_IS_SEEN, use_is_seen, used_since_idle
from smpmmu.scenarios.common import ADDR

if TYPE_CHECKING:
    from smpmmu.kernel.mm import VmAreaStruct
    from smpmmu.machine.cpu import Cpu
    from smpmmu.scenario import Setup

SEEN = (
    "the shadow has no entry without A when the lock is free: who has nothing cached must walk, "
    "and sets A again"
)
SEEN_NATIVELY = "i386 without a hypervisor: who has nothing cached walks, and sets A again"
UNSEEN = (
    "a deferred update leaves the shadow present while A is clear: who has nothing cached fills "
    "its TLB from there, and no fault sets A"
)
NEVER_SEEN = "the shadow does not ask for A, so that no use after the first is ever seen"


async def use_if_idle(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Look whether the page is idle; if so drop what is cached here, and use it.

    C: __flush_tlb, which is what a switch to another address space and back comes to. Were it
        flush_tlb_page, its interrupt would drain the queue of the CPU that cleared A.
    """
    mm = vma.vm_mm
    await spin_lock(mm.pte_lockptr(ADDR))
    young = await load(cpu.memory.at(mm.pte_offset(ADDR)), PAGE_ACCESSED)
    await spin_unlock(mm.pte_lockptr(ADDR))
    if young:
        return
    await cpu.pv.flush_tlb_user(cpu)
    await user_read(cpu, ADDR)
    await store(used_since_idle, 1)


def judge_by_accessed_bit(setup: Setup, cpu: Cpu, vma: VmAreaStruct) -> None:
    """Let a CPU use the page, and use it again if it was idle; demand that this is seen."""
    use, again = call(user_read, cpu, ADDR), call(use_if_idle, cpu, vma)
    setup.cpu(cpu.number, use, again)
    gpte = cpu.memory.at(vma.vm_mm.pte_offset(ADDR))
    setup.at_quiescence(USE_AFTER_FLUSH_IS_SEEN, use_is_seen(gpte))
    setup.sometimes("an idle page was used", value(used_since_idle) == 1)
