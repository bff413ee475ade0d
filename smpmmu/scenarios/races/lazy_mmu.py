"""Lazy MMU mode is left after the page-table lock, and what was held back is written too late.

    cpu0                              cpu1                          cpu2
    spin_lock(ptl)                    write the page: a fault       read the page
    enter lazy MMU mode                 spin_lock(ptl)
    load the entry; write it back,      map a copy of the page
      without A: this is held back      spin_unlock(ptl)
    [leave: write what is held back]    free the old page
    spin_unlock(ptl)
    [leave]

Page tables are direct here: what is held back is a write to the entry itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import load
from smpmmu.hypervisor.direct import direct
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.kernel.paravirt import (
    Linux,
    arch_enter_lazy_mmu_mode,
    arch_leave_lazy_mmu_mode,
    native,
)
from smpmmu.kernel.pgtable import set_pte_at
from smpmmu.kernel.smp import flush_tlb_mm
from smpmmu.machine.entries import PAGE_ACCESSED, entry
from smpmmu.machine.memory import PAGE_OWNER, VERSION_SHIFT
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, user_read
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import ADDR, PAGE, READ_ONLY
from smpmmu.scenarios.mprotect import write
from smpmmu.scenarios.races.common import ANOTHER, memory, native_cpu, one_mm

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

COPY = 0x6
"""The frame that the copy is made in."""


async def clear_young(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Take A from the entry, as an architecture does it whose walkers do not set it.

    C: ptep_test_and_clear_young, include/asm-generic/pgtable.h, in lazy MMU mode
    """
    mm = vma.vm_mm
    ptep = mm.pte_offset(ADDR)
    await spin_lock(mm.pte_lockptr(ADDR))
    await arch_enter_lazy_mmu_mode(cpu)
    pte = await load(cpu.memory.at(ptep))
    if pte & PAGE_ACCESSED:
        await set_pte_at(cpu, mm, ADDR, ptep, pte & ~PAGE_ACCESSED)
    await arch_leave_lazy_mmu_mode(cpu)
    await spin_unlock(mm.pte_lockptr(ADDR))
    # Whoever takes the lock now may replace the entry before it is written.
    await arch_leave_lazy_mmu_mode(cpu, late=True)
    await flush_tlb_mm(cpu, mm)


RULE = "6606c3e0da5 (2006), a stated rule: enter and leave lazy MMU mode under the ptl"


@scenario(
    variant("defect", violated(NO_ACCESS_TO_FREED_FRAME, RULE), late=True),
    variant("repair", holds(f"{RULE}; the fault looks at the entry again under it"), late=False),
    variant("nothing_held_back", holds("late, but natively nothing is held back"), late=True,
            holds_back=False),
)  # fmt: skip
def lazymmu_drain_after_unlock(setup: Setup, *, late: bool, holds_back: bool = True) -> None:
    """A's write to an entry is held back; B maps a copy instead and frees the page; C reads it.

    A runs in another address space, as who writes to /proc/PID/clear_refs: no flush interrupts it.
    """
    mm = one_mm(1, 2)
    vma, guest = VmAreaStruct(mm), memory(entry(PAGE, READ_ONLY), owners=((COPY, 0),))
    linux = Linux(copied=(COPY,), lazy_mmu_left_late=late)
    pv = direct if holds_back else native
    cpu0 = replace(native_cpu(setup, 0, ANOTHER, guest, pv=pv), linux=linux)
    cpu1, cpu2 = (replace(native_cpu(setup, n, mm, guest, pv=pv), linux=linux) for n in (1, 2))
    setup.cpu(0, call(clear_young, cpu0, vma))
    setup.cpu(1, call(write, cpu1, vma))
    setup.cpu(2, call(user_read, cpu2, ADDR))
    freed = value(guest.page(PAGE)) & PAGE_OWNER == 0
    written = value(guest.page(COPY)) >> VERSION_SHIFT != 0
    setup.sometimes("the copy was written", finished("cpu1") & freed & written)
    young = value(guest.at(mm.pte_offset(ADDR))) & PAGE_ACCESSED != 0
    setup.sometimes("A was cleared", finished("cpu0") & ~freed & ~young)
