"""A page directory is made, or given back, while another CPU changes an entry that all share.

    cpu0: pgd_ctor                      cpu1: change_page_attr, set_pmd_pte
    spin_lock_irqsave(pgd_lock)         set_pte in swapper_pg_dir
    copy the kernel's entries           spin_lock_irqsave(pgd_lock)
    [alloc_pd_clone]                    for each directory on pgd_list: set_pte
    put it on pgd_list                  spin_unlock_irqrestore(pgd_lock)
    spin_unlock_irqrestore(pgd_lock)    global_flush_tlb; rely on it

    cpu0: pgd_dtor
    [release_pd]
    spin_lock_irqsave(pgd_lock)
    take it off pgd_list
    spin_unlock_irqrestore(pgd_lock)
    free the page

Copy, announcement and listing are one critical section, so that whoever changes the kernel's
entries either is seen by the copy or finds the directory on the list. As merged the directory is
released while it is on the list, and who walks the list then writes to a frame that the hypervisor
takes for data.

With PAE the new root's last entry leads to the one directory that all have for the kernel. There is
nothing else to copy, no lock, no hook and no list; what cpu1 changes there, all find. (The root's
other directories are the business of `pae_pgd`.)
"""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import bug_on
from smpmmu.hypervisor.page_types import (
    CLONES_ARE_COPIES,
    FREE_FRAMES_ARE_NORMAL,
    NORMAL,
    ONLY_ANNOUNCED_FRAMES_ARE_RELEASED,
    ONLY_ANNOUNCED_FRAMES_ARE_UPDATED,
    PD,
)
from smpmmu.kernel.context import context_switch
from smpmmu.kernel.mm import INIT_MM, MmStruct
from smpmmu.kernel.page_alloc import install_shortage
from smpmmu.kernel.page_hooks import PageHooks, Place
from smpmmu.kernel.pageattr import PAGE_KERNEL_LARGE, linear
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.pgd import kmem_cache_shrink, pgd_alloc, pgd_free, pgd_list
from smpmmu.machine.entries import PAGE_PSE, PAGE_TABLE, entry
from smpmmu.machine.memory import (
    NON_PAE,
    PAE,
    PAGE_FROZEN,
    VERSION_SHIFT,
    Memory,
    Paging,
    pgd_index,
    pmd_index,
)
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE, Access, user_read
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.allocation import (
    NATIVELY,
    By,
    demand_normal_when_free,
    directories,
    free,
    hypervisor_of,
    links,
    vcpu,
)
from smpmmu.scenarios.change_page_attr import (
    PAGE,
    SPLIT,
    make_read_only,
    use,
    write,
)
from smpmmu.scenarios.common import ADDR, PGD, TABLE, TOUCHED

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

NEW_ROOTS_ARE_EMPTY = "nothing_is_mapped_in_a_new_address_space"
NEW_PGD, PMDS, OLD_PAGE = 0x31, (0x50, 0x51, 0x52), 0x13
MM, NEW_MM = MmStruct(1, PGD, cpus=(0, 1)), MmStruct(2, NEW_PGD)


class Does(enum.Enum):
    """What cpu0 does with the directory."""

    MAKE = "make"
    """It allocates it, and runs on it."""
    CYCLE = "cycle"
    """It allocates it, frees it, allocates it again from its slab, and runs on it."""
    DESTROY = "destroy"
    """The directory is in its slab, free and listed; its page is given back."""


UNDER_LOCK = "c119ecce894: clone the root while it is protected under the pgd lock"
SWAPPER_FIRST = (
    "set_pmd_pte writes swapper_pg_dir before it takes pgd_lock: between the copy and the "
    "announcement the original changes; vmi.c compares the user part alone"
)
ONE_SECTION = "2.6.25: swapper_pg_dir and all copies are changed in one critical section"
LOST_COPY = "the directory is not on the list when it is walked, and has the entry as it was"
LOST_CLONE = "the directory is listed; the walk's update falls into the copying of its shadow"
EARLY_CLONE = "the shadow is copied before the walk, of which the directory is not yet part"
STILL_LISTED = "55a8ba4b7f7 (2.6.29) releases after the list removal; as merged it is before"
STILL_WHOLE = "nothing is shadowed of a released frame, and nobody runs on it"
SHARED = "PAE: the kernel has one page directory, and every root leads to it"
FORGOTTEN = "6194ba6ff6c (2.6.25) lost the release; frames stayed typed as roots"

AS_MERGED = PageHooks(split_zeroed=True)
"""But for the page of split_large_page, whose claim `change_page_attr` is about."""


async def make(cpu: Cpu, *, cycle: bool) -> None:
    """Have a new address space, and use the linear map in it."""
    if not await pgd_alloc(cpu):
        return
    if cycle:
        await pgd_free(cpu, NEW_PGD)
        if not await pgd_alloc(cpu):
            return
    there = await context_switch(cpu, MM, NEW_MM)
    if ADDR in cpu.pages:
        bug_on(await user_read(there, ADDR) is Access.DONE, NEW_ROOTS_ARE_EMPTY)
    await use(there, PAGE)
    await write(there, PAGE)


def hooks(**places: object) -> PageHooks:
    """Return the hooks as merged, but for `places`."""
    return PageHooks(split_zeroed=True, **places)  # type: ignore[arg-type]


@scenario(
    variant("native", holds(NATIVELY), by=By.NATIVE),
    variant("vmi", holds(f"{UNDER_LOCK}; vmi.c checks that the user part is zero"),
            by=By.PAGE_TYPES),
    variant("native_left_over", holds("pgd_ctor: memset of the user's part"), by=By.NATIVE,
            left_over=True, alone=True),
    variant("vmi_promises", holds(UNDER_LOCK), by=By.PROMISES),
    variant("vmi_out_of_memory", holds("the one allocation of pgd_alloc fails before its ctor"),
            by=By.PAGE_TYPES, short=True),
    variant("vmi_slab", holds("a directory in its slab stays constructed, announced and listed"),
            by=By.PAGE_TYPES, does=Does.CYCLE),
    variant("clone_compared", violated(CLONES_ARE_COPIES, SWAPPER_FIRST), by=By.PAGE_TYPES,
            compares_clones=True),
    variant("clone_compared_pgd_locked", holds(ONE_SECTION), by=By.PAGE_TYPES,
            compares_clones=True, hooks=hooks(pgd_locked=True)),
    variant("copied_before_lock", violated(NO_WRITE_AFTER_PROMISE, LOST_COPY), by=By.PROMISES,
            hooks=hooks(copies_locked=False)),
    variant("copied_before_lock_native", violated(NO_WRITE_AFTER_PROMISE, LOST_COPY),
            by=By.NATIVE, hooks=hooks(copies_locked=False)),
    variant("cloned_before_lock", violated(NO_WRITE_AFTER_PROMISE, EARLY_CLONE), by=By.PROMISES,
            hooks=hooks(clone=Place.EARLY)),
    variant("cloned_before_lock_page_types",
            holds("it is on the list and announced, whatever it was announced with"),
            by=By.PAGE_TYPES, hooks=hooks(clone=Place.EARLY)),
    variant("cloned_after_lock",
            violated(ONLY_ANNOUNCED_FRAMES_ARE_UPDATED, "it is on the list and not announced"),
            by=By.PAGE_TYPES, hooks=hooks(clone=Place.AFTER)),
    variant("cloned_after_lock_promises", violated(NO_WRITE_AFTER_PROMISE, LOST_CLONE),
            by=By.PROMISES, hooks=hooks(clone=Place.AFTER)),
    variant("cloned_after_lock_alone", holds("nobody else walks the list"),
            by=By.PAGE_TYPES, hooks=hooks(clone=Place.AFTER), alone=True),
    variant("not_cloned",
            violated(ONLY_ANNOUNCED_FRAMES_ARE_UPDATED, "it is on the list and not announced"),
            by=By.PAGE_TYPES, hooks=hooks(clone=Place.MISSING)),
    variant("destroyed", violated(ONLY_ANNOUNCED_FRAMES_ARE_UPDATED, STILL_LISTED),
            by=By.PAGE_TYPES, does=Does.DESTROY),
    variant("destroyed_promises", holds(STILL_WHOLE), by=By.PROMISES, does=Does.DESTROY),
    variant("destroyed_native", holds(NATIVELY), by=By.NATIVE, does=Does.DESTROY),
    variant("destroyed_released_after", holds(STILL_LISTED), by=By.PAGE_TYPES, does=Does.DESTROY,
            hooks=hooks(dtor=Place.AFTER)),
    variant("destroyed_not_released", violated(FREE_FRAMES_ARE_NORMAL, FORGOTTEN),
            by=By.PAGE_TYPES, does=Does.DESTROY, hooks=hooks(dtor=Place.MISSING)),
    variant("destroyed_released_twice",
            violated(ONLY_ANNOUNCED_FRAMES_ARE_RELEASED, "set_page_type: NORMAL already"),
            by=By.PAGE_TYPES, does=Does.DESTROY, hooks=hooks(dtor=Place.TWICE), alone=True),
    variant("native_pae", holds(SHARED), by=By.NATIVE, paging=PAE),
    variant("vmi_pae", holds(SHARED), by=By.PAGE_TYPES, paging=PAE),
    variant("vmi_promises_pae", holds(SHARED), by=By.PROMISES, paging=PAE),
)  # fmt: skip
def pgd_lifetime(
    setup: Setup,
    *,
    by: By,
    does: Does = Does.MAKE,
    hooks: PageHooks = AS_MERGED,
    compares_clones: bool = False,
    short: bool = False,
    alone: bool = False,
    left_over: bool = False,
    paging: Paging = NON_PAE,
) -> None:
    """A directory comes or goes, while the entries that all directories share are changed."""
    there = does is Does.DESTROY
    pages = (linear(PAGE), ADDR)[: 2 if left_over else 1]
    roots = (INIT_MM.pgd, PGD, NEW_PGD) if there else (INIT_MM.pgd, PGD)
    known = directories(paging, roots, linear(PAGE))
    new = (NEW_PGD,) if not there and not paging.is_pae else ()
    pmds = PMDS if paging.is_pae else ()
    frames = (*((each, PD) for each in known), *((each, NORMAL) for each in (*new, *pmds, SPLIT)))
    hypervisor = hypervisor_of(by, frames, compares_clones=compares_clones)
    pgds = ((MM.number, PGD), (NEW_MM.number, NEW_PGD))
    linux = Linux(
        page_hooks=hooks, frames=(SPLIT,), pgds=pgds, listed=0b11 if there else 0b01, short=short,
        pmds=pmds,
    )  # fmt: skip
    index = pmd_index(linear(PAGE), paging)
    guest = Memory(
        (
            *links(paging, roots, linear(PAGE)),
            *((each, index, entry(0, PAGE_KERNEL_LARGE)) for each in known),
            *(
                ((NEW_PGD, 0, entry(TABLE, PAGE_TABLE)), (TABLE, 1, entry(OLD_PAGE, TOUCHED)))
                if left_over
                else ()
            ),
        ),
        owners=tuple((each, 0) for each in (SPLIT, *pmds, *(() if there else (NEW_PGD,)))),
        paging=paging,
    )
    mms = () if there else (MM, NEW_MM)
    cpu0 = vcpu(setup, 0, MM, guest, hypervisor, pages, linux=linux, mms=mms)
    cpu1 = vcpu(setup, 1, MM, guest, hypervisor, pages, linux=linux)
    if there:
        setup.cpu(0, call(kmem_cache_shrink, cpu0))
        setup.sometimes("the directory was freed", free(cpu0, NEW_PGD))
    else:
        later = (call(make_read_only, replace(cpu0, mm=NEW_MM), PAGE),) if alone else ()
        setup.cpu(0, call(make, cpu0, cycle=does is Does.CYCLE), *later)
    page = value(guest.page(PAGE))
    if alone:
        if not there:
            written = page >> VERSION_SHIFT != 0
            setup.sometimes("the page was written in it", finished("cpu0") & written)
        return
    setup.cpu(1, call(make_read_only, cpu1, PAGE))
    if by is not By.PAGE_TYPES:
        setup.sometimes("the page was promised", page & PAGE_FROZEN != 0)
    listed = value(pgd_list(cpu0)) & NEW_MM.number != 0
    if paging.is_pae:
        listed = value(guest.table(NEW_PGD, pgd_index(linear(PAGE), paging))) != 0
    large = value(guest.table(known[0], index)) & PAGE_PSE != 0
    changed = ~listed if there else listed
    setup.sometimes("the root was made or freed before the change", changed & large)
    setup.sometimes("the change came before the root was made or freed", ~changed & ~large)
    demand_normal_when_free(setup, cpu0, (SPLIT, NEW_PGD))
    if there:
        return
    done = finished("cpu0") & finished("cpu1")
    setup.sometimes("the page was written before", done & (page >> VERSION_SHIFT != 0))
    setup.sometimes("protection came first", done & listed & (page >> VERSION_SHIFT == 0))
    if short:
        setup.sometimes("there was no memory for a directory", finished("cpu0") & ~listed)
        install_shortage(setup)
