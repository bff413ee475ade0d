"""Two threads touch the same region first: each brings a page table, and one is linked.

    cpu0                                   cpu1
    pte_alloc_one                          pte_alloc_one
    spin_lock(page_table_lock)             spin_lock(page_table_lock)
    if pmd is present: free mine           if pmd is present: free mine
    else:                                  else:
      alloc_pt(mine)                         alloc_pt(mine)
      set_pmd(mine)                          set_pmd(mine)
    spin_unlock(page_table_lock)           spin_unlock(page_table_lock)
    set_pte_at; use the page               set_pte_at; use the page

The hook stands in pmd_populate: under the lock, where it is known whose table it will be, and
before the link, after which others walk and fill it. If a table is announced as soon as it is
allocated, the loser frees a frame that is still typed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import all_of, finished, value
from smpmmu.engine.local import call
from smpmmu.hypervisor.page_types import (
    FREE_FRAMES_ARE_NORMAL,
    NORMAL,
    PD,
    TABLES_ARE_ANNOUNCED_WHEN_LINKED,
)
from smpmmu.kernel.mm import MmStruct, VmAreaStruct
from smpmmu.kernel.page_alloc import install_shortage
from smpmmu.kernel.page_hooks import PageHooks, Place
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.pgalloc import handle_mm_fault
from smpmmu.machine.entries import entry
from smpmmu.machine.memory import NON_PAE, VERSION_SHIFT, Memory, Paging
from smpmmu.machine.walker import Access, user_write
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.allocation import (
    MAPPED_PAGES_ARE_REACHABLE,
    MERGED,
    NATIVELY,
    REUSABLE,
    By,
    demand_normal_when_free,
    directory,
    free,
    hypervisor_of,
    links,
    must_reach,
    vcpu,
)
from smpmmu.scenarios.common import ADDR, PGD, TOUCHED, UNTOUCHED, in_both_modes, page_of

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

OLD_PAGE = 0x13
MM = MmStruct(1, PGD, cpus=(0, 1))
VMA = VmAreaStruct(MM)
AFTER = PageHooks(populate=Place.AFTER)
MISSING = PageHooks(populate=Place.MISSING)
EARLY = PageHooks(populate=Place.EARLY)
UNKNOWN_LINK = "a walker or set_pte can reach a table that the hypervisor takes for data"
NEVER_SHADOWED = "nothing is shadowed behind a directory entry that leads to an unknown frame"


async def touch(cpu: Cpu) -> None:
    """Use the page for the first time, as a program does: fault, and try again."""
    if await user_write(cpu, ADDR) is Access.DONE:
        return
    if not await handle_mm_fault(cpu, VMA, ADDR, page_of(cpu.memory.paging), UNTOUCHED):
        must_reach(cpu, await user_write(cpu, ADDR))


@scenario(
    *in_both_modes(
    variant("native", holds(NATIVELY), by=By.NATIVE),
    variant("native_left_over", holds("pte_alloc_one: __GFP_ZERO"), by=By.NATIVE, left_over=True),
    variant("vmi", holds(f"{MERGED}: in pmd_populate, before the link"), by=By.PAGE_TYPES),
    variant("vmi_promises", holds(f"{MERGED}: in pmd_populate, before the link"), by=By.PROMISES),
    variant("vmi_out_of_memory", holds("a frame that was never had is never announced"),
            by=By.PAGE_TYPES, short=True),
    variant("not_announced", violated(TABLES_ARE_ANNOUNCED_WHEN_LINKED, UNKNOWN_LINK),
            by=By.PAGE_TYPES, hooks=MISSING),
    variant("not_announced_promises", violated(MAPPED_PAGES_ARE_REACHABLE, NEVER_SHADOWED),
            by=By.PROMISES, hooks=MISSING),
    variant("announced_after_link", violated(TABLES_ARE_ANNOUNCED_WHEN_LINKED, UNKNOWN_LINK),
            by=By.PAGE_TYPES, hooks=AFTER),
    variant("announced_after_link_promises",
            holds("nobody fills the table before the lock is free, and what comes first is a "
                  "hidden fault, which looks again"),
            by=By.PROMISES, hooks=AFTER),
    variant("announced_when_allocated",
            violated(FREE_FRAMES_ARE_NORMAL, "the loser frees a table that it has announced"),
            by=By.PAGE_TYPES, hooks=EARLY),
    )
)  # fmt: skip
def pte_alloc_race(
    setup: Setup,
    *,
    by: By,
    hooks: PageHooks | None = None,
    short: bool = False,
    left_over: bool = False,
    paging: Paging = NON_PAE,
) -> None:
    """Two threads need the same page table: when is it announced, and whose?"""
    linux = Linux(page_hooks=hooks or PageHooks(), frames=REUSABLE, short=short)
    owners = tuple((frame, 0) for frame in REUSABLE)
    # Somebody else's table was there: where it has led to belongs to nobody here.
    old = tuple((frame, 1, entry(OLD_PAGE, TOUCHED)) for frame in REUSABLE if left_over)
    guest = Memory(
        (*links(paging, (PGD,), ADDR), *old), owners=(*owners, (OLD_PAGE, 0)), paging=paging
    )
    pd = directory(paging, PGD, ADDR)
    hypervisor = hypervisor_of(by, ((pd, PD), *((frame, NORMAL) for frame in REUSABLE)))
    cpus = [vcpu(setup, n, MM, guest, hypervisor, (ADDR,), linux=linux) for n in (0, 1)]
    for cpu in cpus:
        setup.cpu(cpu.number, call(touch, cpu))
    if short:
        install_shortage(setup)
    else:  # what takes the memory is hardware of cpu0
        setup.symmetric(0, 1)
    demand_normal_when_free(setup, cpus[0], REUSABLE)
    linked = value(guest.table(pd, 0))
    first, second = (free(cpus[0], frame) for frame in REUSABLE)
    written = value(guest.page(page_of(paging))) >> VERSION_SHIFT
    both = finished("cpu0") & finished("cpu1")
    setup.sometimes("a table was freed by its loser", all_of(both, linked != 0, first | second))
    setup.sometimes("both had a table", ~first & ~second)
    setup.sometimes("both used the page", written == 2)
    if short:
        setup.sometimes("there was no memory", all_of(both, linked == 0))
