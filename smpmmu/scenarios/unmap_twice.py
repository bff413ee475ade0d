"""Two CPUs take the same page away: munmap by a thread, migration by the kernel.

    cpu0                                     cpu1
    spin_lock(ptl)                           if pte is present:
    if pte is present: clear it                spin_lock(ptl)
    spin_unlock(ptl)                           if pte still maps the page: clear it
    flush, free the page if it was there       flush, spin_unlock(ptl), free the page
    the frame is allocated to somebody else

The look without the lock only saves taking it. Whoever frees a page because of what the entry held
before it had the lock frees it a second time, when it is somebody else's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import implies, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, store
from smpmmu.hypervisor.shadow import Holds, Hypervisor
from smpmmu.kernel.munmap import unmap_region
from smpmmu.kernel.page_alloc import alloc_page
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.reclaim import shrink_zone, unmap_and_move
from smpmmu.machine.memory import OWNER_SHIFT, PAGE_OWNER
from smpmmu.machine.walker import user_write
from smpmmu.properties.lock_rule import SHADOW_NO_MORE_PERMISSIVE
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    PAGE,
    TOUCHED,
    Judge,
    demand_lock_rule,
    guest_memory,
    vcpu,
)
from smpmmu.scenarios.macro_paths import kernel_thread, mapping
from smpmmu.scenarios.mprotect import OUTLIVES, RULE, lazily
from smpmmu.scenarios.unmap_free import SOMEBODY_ELSE

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

allocated = Word("the frame was allocated", 1)
NO_FRAME_FREED_TWICE = "no_frame_is_freed_twice"
DRAINED = (
    "whoever finds the entry empty frees nothing, and the flush before this CPU frees the page "
    "drains what is held back; so the late form breaks the rule here and harms nobody"
)
UNDER_PTL = "page_check_address, mm/rmap.c: the entry is looked at again under the ptl"


async def allocate(cpu: Cpu) -> None:
    """Allocate the frame for somebody else, and note whether it was free."""
    if await alloc_page(cpu, (PAGE,), SOMEBODY_ELSE):
        await store(allocated, 1)


@scenario(
    *(
        variant(f"{name}_{how}", holds(UNDER_PTL), hypervisor=hypervisor, migration=migration)
        for how, migration in (("migration", True), ("reclaim", False))
        for name, hypervisor in (("native", None), ("vmi", Hypervisor()))
    ),
    variant("lazy_rule", holds(RULE), hypervisor=lazily(Holds.UPDATES), migration=True,
            judged=Judge.LOCK_RULE),
    variant("lazy_left_late", holds(DRAINED), hypervisor=lazily(Holds.UPDATES), migration=True,
            linux=Linux(lazy_mmu_left_late=True)),
    variant("lazy_left_late_rule", violated(SHADOW_NO_MORE_PERMISSIVE, OUTLIVES),
            hypervisor=lazily(Holds.UPDATES), migration=True,
            linux=Linux(lazy_mmu_left_late=True), judged=Judge.LOCK_RULE),
)  # fmt: skip
def unmap_twice(
    setup: Setup,
    *,
    hypervisor: Hypervisor | None,
    migration: bool,
    linux: Linux | None = None,
    judged: Judge = Judge.PROMISES,
) -> None:
    """A unmaps a page and frees it, and so does B from the other side: it is freed once."""
    vma = mapping(0)
    guest = guest_memory(TOUCHED)
    cpu0 = vcpu(setup, 0, vma.vm_mm, guest, hypervisor, linux=linux)
    cpu1 = kernel_thread(setup, 1, guest, hypervisor)
    write, unmap = call(user_write, cpu0, ADDR), call(unmap_region, cpu0, vma, ADDR, frees=True)
    setup.cpu(0, write, unmap, call(allocate, cpu0))
    take = unmap_and_move if migration else shrink_zone
    setup.cpu(1, call(take, cpu1, PAGE, (vma,), ADDR))
    if judged is Judge.LOCK_RULE:
        ptl, ptep = vma.vm_mm.pte_lockptr(ADDR), vma.vm_mm.pte_offset(ADDR)
        demand_lock_rule(setup, [cpu0, cpu1], ptl, ptep)
    owner = value(guest.page(PAGE)) & PAGE_OWNER
    kept = owner == SOMEBODY_ELSE << OWNER_SHIFT
    setup.at_quiescence(NO_FRAME_FREED_TWICE, implies(value(allocated) == 1, kept))
    setup.sometimes("the frame was reused", kept)
    setup.sometimes("the frame was free", owner == 0)
