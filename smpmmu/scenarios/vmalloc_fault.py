"""Two CPUs map areas of the kernel's own; only init_mm has the page table, others copy its entry.

    cpu0                                       cpu1
    pte_alloc_one_kernel                       pte_alloc_one_kernel
    spin_lock(init_mm.page_table_lock)         spin_lock(init_mm.page_table_lock)
    if pmd is present: free mine               if pmd is present: free mine
    else: alloc_pt(mine), set_pmd              else: alloc_pt(mine), set_pmd
    spin_unlock(init_mm.page_table_lock)       spin_unlock(init_mm.page_table_lock)
    set_pte_at; use the area                   set_pte_at; use the area, or vmalloc_sync_all
      page fault: vmalloc_fault copies           page fault: vmalloc_fault copies
      the entry to the loaded directory          the entry to the loaded directory

Neither the copying nor the filling of the table takes a lock. So the announcement must come before
the link for the sake of everybody who sees it, and a table of the kernel is never released.

With PAE all roots lead to one directory of the kernel: nothing is copied, and nobody faults for it.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import all_of, finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import bug_on
from smpmmu.hypervisor.page_types import (
    NORMAL,
    ONLY_ANNOUNCED_FRAMES_ARE_UPDATED,
    PD,
    TABLES_ARE_ANNOUNCED_WHEN_LINKED,
    TABLES_ARE_UNLINKED_WHEN_RELEASED,
)
from smpmmu.kernel.mm import INIT_MM, MmStruct
from smpmmu.kernel.page_alloc import install_shortage
from smpmmu.kernel.page_hooks import PageHooks, Place
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.vmalloc import (
    VMALLOC_START,
    map_vm_area,
    unmap_vm_area,
    vmalloc_sync_all,
)
from smpmmu.kernel.vmalloc import (
    vmalloc_fault as do_vmalloc_fault,
)
from smpmmu.machine.memory import NON_PAE, PAE, PAGE_SIZE, Memory, Paging, pmd_index
from smpmmu.machine.supervisor import kernel_read
from smpmmu.machine.walker import Access
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.allocation import (
    MAPPED_PAGES_ARE_REACHABLE,
    MERGED,
    NATIVELY,
    REUSABLE,
    By,
    demand_normal_when_free,
    directories,
    free,
    hypervisor_of,
    links,
    must_reach,
    vcpu,
)
from smpmmu.scenarios.common import PGD, in_both_modes

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

MM, OTHER_MM = MmStruct(1, PGD, cpus=(0, 1)), MmStruct(2, 0x11)
AREAS = ((VMALLOC_START, 0x51), (VMALLOC_START + PAGE_SIZE, 0x52))
ROOTS = (INIT_MM.pgd, MM.pgd, OTHER_MM.pgd)


class Does(enum.Enum):
    """What follows the use of cpu0's area, or what cpu1 does instead of having one."""

    USE = "use"
    SYNC = "sync"
    """cpu1 brings all directories up to date."""
    UNMAP = "unmap"
    """cpu0 gives its area back."""
    UNMAP_TABLE = "unmap_table"
    """It frees the page table too."""


NO_TABLE_IS_LEFT = "no_table_is_left"
NO_LOCK = (
    "pte_alloc_kernel looks without a lock: another CPU fills and copies what it finds linked, "
    "and reaches a frame that is taken for data"
)
NEVER_FREED = (
    "vmalloc_fault takes no lock since kernel page tables are never freed: copies of the entry "
    "lead to it"
)
LOSERS_TABLE_IS_FREED = "one_table_is_linked_and_no_other_kept"
STILL_FILLED = (
    "with PAE the one directory leads to it, so that it can be unlinked; but another CPU has found "
    "it linked, without a lock, and fills it"
)


async def use(cpu: Cpu, addr: int) -> None:
    """Read the area; a page fault on the way there is vmalloc_fault's."""
    if await kernel_read(cpu, addr) is Access.DONE:
        return
    bug_on(not await do_vmalloc_fault(cpu, addr), "a_mapped_area_is_in_the_kernels_directory")
    must_reach(cpu, await kernel_read(cpu, addr))


async def vmap(cpu: Cpu, addr: int, page: int, does: Does) -> None:
    """Map an area, use it, and perhaps give it back."""
    if await map_vm_area(cpu, addr, page):
        return
    await use(cpu, addr)
    if does in (Does.UNMAP, Does.UNMAP_TABLE):
        await unmap_vm_area(cpu, addr, frees_table=does is Does.UNMAP_TABLE)


@scenario(
    *in_both_modes(
    variant("native", holds(NATIVELY), by=By.NATIVE),
    variant("vmi", holds(f"{MERGED}: in pmd_populate_kernel, before the link"), by=By.PAGE_TYPES),
    variant("vmi_promises", holds(f"{MERGED}: in pmd_populate_kernel, before the link"),
            by=By.PROMISES),
    variant("vmi_out_of_memory", holds("a frame that was never had is never announced"),
            by=By.PAGE_TYPES, short=True),
    variant("not_announced", violated(TABLES_ARE_ANNOUNCED_WHEN_LINKED, NO_LOCK),
            by=By.PAGE_TYPES, populate=Place.MISSING),
    variant("not_announced_promises",
            violated(MAPPED_PAGES_ARE_REACHABLE, "nothing is shadowed behind an unknown table"),
            by=By.PROMISES, populate=Place.MISSING),
    variant("announced_after_link", violated(TABLES_ARE_ANNOUNCED_WHEN_LINKED, NO_LOCK),
            by=By.PAGE_TYPES, populate=Place.AFTER),
    variant("announced_after_link_promises", violated(MAPPED_PAGES_ARE_REACHABLE, NO_LOCK),
            by=By.PROMISES, populate=Place.AFTER),
    ),
    variant("announced_after_link_alone", holds("nobody else finds it linked"), by=By.PROMISES,
            populate=Place.AFTER, alone=True),
    variant("vmi_sync", holds("vmalloc_sync_one copies what vmalloc_fault would"),
            by=By.PAGE_TYPES, does=Does.SYNC),
    variant("vmi_unmap", holds("unmapping clears entries and leaves the table"),
            by=By.PAGE_TYPES, does=Does.UNMAP),
    variant("table_freed", violated(TABLES_ARE_UNLINKED_WHEN_RELEASED, NEVER_FREED),
            by=By.PAGE_TYPES, does=Does.UNMAP_TABLE),
    variant("vmi_unmap_pae", holds("unmapping clears entries and leaves the table"),
            by=By.PAGE_TYPES, does=Does.UNMAP, paging=PAE),
    variant("table_freed_pae", violated(ONLY_ANNOUNCED_FRAMES_ARE_UPDATED, STILL_FILLED),
            by=By.PAGE_TYPES, does=Does.UNMAP_TABLE, paging=PAE),
    variant("table_freed_pae_alone", holds("nobody else has found it linked, nor copied the entry"),
            by=By.PAGE_TYPES, does=Does.UNMAP_TABLE, paging=PAE, alone=True),
)  # fmt: skip
def vmalloc_fault(
    setup: Setup,
    *,
    by: By,
    does: Does = Does.USE,
    populate: Place = Place.BEFORE,
    short: bool = False,
    alone: bool = False,
    paging: Paging = NON_PAE,
) -> None:
    """Kernel page tables are linked once, in init_mm, and copied where they are missed."""
    linux = Linux(page_hooks=PageHooks(populate=populate), frames=REUSABLE, short=short)
    owners = tuple((frame, 0) for frame in REUSABLE)
    guest = Memory(links(paging, ROOTS, VMALLOC_START), owners=owners, paging=paging)
    frames = tuple((frame, NORMAL) for frame in REUSABLE)
    known = directories(paging, ROOTS, VMALLOC_START)
    hypervisor = hypervisor_of(by, (*((each, PD) for each in known), *frames))
    pages = tuple(addr for addr, _ in AREAS)
    cpu0, cpu1 = (vcpu(setup, n, MM, guest, hypervisor, pages, linux=linux) for n in (0, 1))
    setup.cpu(0, call(vmap, cpu0, *AREAS[0], does))
    demand_normal_when_free(setup, cpu0, REUSABLE)
    index = pmd_index(VMALLOC_START, paging)
    copies = [value(guest.table(each, index)) for each in known]
    if alone:
        setup.sometimes("the entry was there", copies[0] != 0)
        if does is Does.UNMAP_TABLE:
            left = all_of(*(free(cpu0, each) for each in REUSABLE))
            setup.at_quiescence(NO_TABLE_IS_LEFT, left)
    elif does is Does.SYNC:
        setup.cpu(1, call(vmalloc_sync_all, cpu1, (MM, OTHER_MM), irqsave=True))
        setup.sometimes("all directories have the entry", (copies[1] != 0) & (copies[2] != 0))
    else:
        setup.cpu(1, call(vmap, cpu1, *AREAS[1], Does.USE))
        both = ~free(cpu0, REUSABLE[0]) & ~free(cpu0, REUSABLE[1])
        setup.sometimes("both had a table", both)
        setup.at_quiescence(LOSERS_TABLE_IS_FREED, ~both)
    if short:
        nothing = finished("cpu0") & finished("cpu1") & (copies[0] == 0)
        setup.sometimes("there was no memory", nothing)
        install_shortage(setup)
    if not paging.is_pae:
        setup.sometimes("the entry was copied", copies[1] != 0)
