"""A thread unmaps the last page of a page table, and the table; another mm takes the frame.

    cpu0                               cpu1                      cpu2, another address space
    zap: clear the entry               write the page            pte_alloc_one: the freed frame
    pmd_clear                          read the page             alloc_pt, set_pmd, set_pte_at
    [release_pt]                                                 use its page
    tlb_remove_page (flush and free
      if there is no room for more)
    tlb_finish_mmu: flush, free

The hook stands between pmd_clear, after which nothing leads to the table, and tlb_remove_page,
which may flush and free on the spot. A draft of the patch had it after that. With `walker`, cpu1
goes from the page to the table (rmap), clears A there with a deferred update, and flushes late.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import routine
from smpmmu.engine.steps import load
from smpmmu.hypervisor.page_types import (
    FREE_FRAMES_ARE_NORMAL,
    ONLY_ANNOUNCED_FRAMES_ARE_RELEASED,
    ONLY_ANNOUNCED_FRAMES_ARE_UPDATED,
    PD,
    PT,
    TABLES_ARE_UNLINKED_WHEN_RELEASED,
)
from smpmmu.hypervisor.shadow import Hypervisor, Record
from smpmmu.kernel.free_pgtables import (
    anon_vma_lock,
    on_anon_vma,
    page_table_present,
    unmap_region,
)
from smpmmu.kernel.mm import MmStruct, VmAreaStruct
from smpmmu.kernel.page_hooks import PageHooks, Place
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.pgalloc import handle_mm_fault
from smpmmu.kernel.pgtable import ptep_clear_flush_young
from smpmmu.kernel.rmap import page_check_address
from smpmmu.kernel.smp import flush_tlb_page
from smpmmu.machine.entries import PAGE_ACCESSED, PAGE_PRESENT, PAGE_TABLE, entry
from smpmmu.machine.memory import (
    NON_PAE,
    OWNER_SHIFT,
    PAGE_OWNER,
    PAGE_SIZE,
    VERSION_SHIFT,
    Memory,
    Paging,
)
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, user_read, user_write
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.allocation import (
    MAPPED_PAGES_ARE_REACHABLE,
    NATIVELY,
    By,
    demand_normal_when_free,
    directories,
    free,
    hypervisor_of,
    links,
    must_reach,
    vcpu,
)
from smpmmu.scenarios.common import (
    ADDR,
    CLEAN,
    PAGE,
    PGD,
    TABLE,
    TOUCHED,
    UNTOUCHED,
    in_both_modes,
    page_of,
)

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

OTHER_PGD, OTHER_PAGE = 0x11, 0x13
FULL, ROOM = 2, 3
"""Pages that a mmu_gather holds: with two, the page table is the one that fills it."""


class Late(enum.Enum):
    """Where a walker from the page to its table flushes."""

    UNDER_PTL = "under_ptl"
    UNDER_RMAP_LOCK = "under_rmap_lock"
    AFTER_BOTH = "after_both"


DRAFT = "a draft of the patch (2006-03-13, i386 Vmi mmu changes) released after tlb_remove_page"
BEFORE_POOL = "c119ecce894: we must release pages before returning the page to any free pool"
PINNED = (
    "free_pgtables takes the mapping off the page's list, under its lock, before it frees the "
    "table: a walker that flushes under that lock or a tighter one has drained its queue by then"
)
A_IS_CLEAR = "A is clear in the old value, so that it plants an empty entry: a hidden fault"
DRAINED_BY_FLUSH = (
    "the walker's CPU is told of the flush before the frame is freed, and so drains its queue when "
    "the frame is no table of anybody"
)
NOT_PINNED = "nothing keeps the table once the ptl and the rmap lock are gone"
PLANTED = f"{NOT_PINNED}: the old value is planted in the table of somebody else"


@routine
async def clear_young(cpu: Cpu, vma: VmAreaStruct, late: Late) -> None:
    """Go from the page to its entry and clear A, as page_referenced does, but flush as told."""
    await spin_lock(anon_vma_lock)
    ptl = vma.vm_mm.pte_lockptr(ADDR)
    if not await load(on_anon_vma(vma)) or not await page_table_present(cpu, vma.vm_mm, ADDR):
        await spin_unlock(anon_vma_lock)
        return
    pte = await page_check_address(cpu, PAGE, vma.vm_mm, ADDR)
    young = False
    if pte:
        young = await ptep_clear_flush_young(cpu, vma, ADDR, pte)
        if late is Late.UNDER_PTL:
            await flush_tlb_page(cpu, vma, ADDR)
        await spin_unlock(ptl)
    if young and late is Late.UNDER_RMAP_LOCK:
        await flush_tlb_page(cpu, vma, ADDR)
    await spin_unlock(anon_vma_lock)
    if young and late is Late.AFTER_BOTH:
        # The table may be gone by now, and its frame somebody else's.
        await flush_tlb_page(cpu, vma, ADDR)


async def reuse(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Use a page of the other address space, whose table needs a frame, if there is one."""
    if not await handle_mm_fault(cpu, vma, ADDR, OTHER_PAGE, UNTOUCHED):
        must_reach(cpu, await user_read(cpu, ADDR))


@scenario(
    *in_both_modes(
    variant("native", holds(NATIVELY), by=By.NATIVE),
    variant("vmi", holds(BEFORE_POOL), by=By.PAGE_TYPES),
    variant("vmi_promises", holds(BEFORE_POOL), by=By.PROMISES),
    variant("vmi_room_left", holds(BEFORE_POOL), by=By.PAGE_TYPES, gather=ROOM),
    variant("released_after_remove", violated(FREE_FRAMES_ARE_NORMAL, DRAFT), by=By.PAGE_TYPES,
            free_tlb=Place.AFTER),
    variant("released_after_remove_promises",
            violated(MAPPED_PAGES_ARE_REACHABLE,
                     f"{DRAFT}: by then the frame is a table of somebody else, who loses it"),
            by=By.PROMISES, free_tlb=Place.AFTER),
    variant("released_after_remove_room_left",
            holds("while there is room, tlb_remove_page only remembers the page"),
            by=By.PAGE_TYPES, free_tlb=Place.AFTER, gather=ROOM),
    variant("released_before_unlink",
            violated(TABLES_ARE_UNLINKED_WHEN_RELEASED, "the directory still leads to the table"),
            by=By.PAGE_TYPES, free_tlb=Place.EARLY),
    variant("released_before_unlink_promises",
            holds("nobody has a right to the region any more, and the page goes after the flush"),
            by=By.PROMISES, free_tlb=Place.EARLY),
    variant("not_released", violated(FREE_FRAMES_ARE_NORMAL, BEFORE_POOL), by=By.PAGE_TYPES,
            free_tlb=Place.MISSING),
    variant("not_released_promises",
            holds("every entry was cleared through a hook, so that an old shadow is an empty one"),
            by=By.PROMISES, free_tlb=Place.MISSING),
    variant("released_twice",
            violated(ONLY_ANNOUNCED_FRAMES_ARE_RELEASED, "set_page_type: NORMAL already"),
            by=By.PAGE_TYPES, free_tlb=Place.TWICE, gather=ROOM),
    variant("released_twice_promises",
            violated(MAPPED_PAGES_ARE_REACHABLE, "as the draft's only one"),
            by=By.PROMISES, free_tlb=Place.TWICE),
    ),
    variant("walker_under_ptl", holds(PINNED), by=By.PAGE_TYPES, walker=Late.UNDER_PTL),
    variant("walker_under_rmap_lock", holds(PINNED), by=By.PAGE_TYPES,
            walker=Late.UNDER_RMAP_LOCK),
    variant("walker_after_both", violated(ONLY_ANNOUNCED_FRAMES_ARE_UPDATED, NOT_PINNED),
            by=By.PAGE_TYPES, walker=Late.AFTER_BOTH),
    variant("walker_after_both_promises",
            holds("a record of an address finds whatever entry is there now, and re-reads it"),
            by=By.PROMISES, walker=Late.AFTER_BOTH),
    *(
        variant(f"walker_{late.value}_value_{name}", expected, by=By.PROMISES, walker=late,
                record=Record.VALUE, tracking=tracking, ipis_drain=ipis_drain)
        for late, name, expected, tracking, ipis_drain in (
            (Late.AFTER_BOTH, "tracked", holds(A_IS_CLEAR), True, False),
            (Late.AFTER_BOTH, "untracked", holds(DRAINED_BY_FLUSH), False, True),
            (Late.AFTER_BOTH, "untracked_ipis_keep", violated(NO_ACCESS_TO_FREED_FRAME, PLANTED),
             False, False),
            (Late.UNDER_RMAP_LOCK, "untracked_ipis_keep", holds(PINNED), False, False),
        )
    ),
)  # fmt: skip
def page_table_free(
    setup: Setup,
    *,
    by: By,
    free_tlb: Place = Place.BEFORE,
    gather: int = FULL,
    walker: Late | None = None,
    record: Record = Record.ADDRESS,
    tracking: bool = True,
    ipis_drain: bool = True,
    paging: Paging = NON_PAE,
) -> None:
    """A page table is unmapped and freed while others use it, walk to it, or take its frame."""
    used, (pd, other_pd) = page_of(paging), directories(paging, (PGD, OTHER_PGD), ADDR)
    pmds = ((0, pd),) if paging.is_pae else ()
    mm = MmStruct(1, PGD, ((0, TABLE),), (0, 1), pmds=pmds, paging=paging)
    other = MmStruct(2, OTHER_PGD, cpus=(2,), paging=paging)
    vma, other_vma = VmAreaStruct(mm, ADDR, ADDR + PAGE_SIZE), VmAreaStruct(other)
    hooks = PageHooks(free_tlb=free_tlb)
    linux = Linux(page_hooks=hooks, frames=(TABLE,), gather=gather, macros_flush=walker is None)
    pte = TOUCHED if walker is None else CLEAN
    guest = Memory(
        (
            *links(paging, (PGD, OTHER_PGD), ADDR),
            (pd, 0, entry(TABLE, PAGE_TABLE)),
            (TABLE, 1, entry(used, pte)),
        ),
        owners=((OTHER_PAGE, 2),),
        paging=paging,
    )
    frames = ((pd, PD), (other_pd, PD), (TABLE, PT))
    knobs = Hypervisor(record=record, tracking=tracking, ipis_drain=ipis_drain)
    hypervisor = hypervisor_of(by, frames, knobs=knobs)
    cpu0, cpu1 = (vcpu(setup, n, mm, guest, hypervisor, (ADDR,), linux=linux) for n in (0, 1))
    cpu2 = vcpu(setup, 2, other, guest, hypervisor, (ADDR,), linux=linux, alone=True)
    setup.cpu(0, call(unmap_region, cpu0, (vma,)))
    if walker is None:
        setup.cpu(1, call(user_write, cpu1, ADDR), call(user_read, cpu1, ADDR))
    else:
        setup.cpu(1, call(user_write, cpu1, ADDR), call(clear_young, cpu1, vma, walker))
    setup.cpu(2, call(reuse, cpu2, other_vma))
    demand_normal_when_free(setup, cpu0, (TABLE,))
    owner = value(guest.page(TABLE)) & PAGE_OWNER
    page = value(guest.page(used)) >> VERSION_SHIFT
    setup.sometimes("the frame was reused", finished("cpu2") & (owner == 2 << OWNER_SHIFT))
    setup.sometimes("nobody wanted the frame", finished("cpu0") & free(cpu0, TABLE))
    setup.sometimes("the page was used first", finished("cpu1") & (page != 0))
    setup.sometimes("unmapping stopped the use", finished("cpu1") & (page == 0))
    if walker is not None:
        cleared = value(guest.table(TABLE, 1)) & (PAGE_PRESENT | PAGE_ACCESSED) == PAGE_PRESENT
        setup.sometimes("A was cleared", cleared)
