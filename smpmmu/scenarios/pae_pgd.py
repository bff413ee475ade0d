"""In PAE: a root with its three directories is made or given back, and others want the directories.

    cpu0: pgd_alloc, pgd_free                    cpu1: pgd_alloc for another mm
    for each entry of the user's part:           the same; it gets directories that cpu0 has
      kmem_cache_alloc(pmd_cache)                given back, announces them, links a page table
      [alloc_pd]                                 in one, and uses a page
      set_pgd
    if one fails: for each that was made:
      [release_pd]
      kmem_cache_free(pmd_cache)
    run on it, leave it; mmdrop: pgd_free
      [release_pd] for each directory
      kmem_cache_free(pmd_cache)

The root itself is never announced: a processor keeps its entries since it loaded CR3. So nobody
looks at an entry before that, and alloc_pd may stand on either side of set_pgd; and the entries may
still lead to directories that are released, if no processor keeps them. It does not: who has the
root loaded holds a reference, and drops it when it has loaded another one (`borrowed`).
"""

from __future__ import annotations

import enum
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import all_of, any_of, finished, implies, value
from smpmmu.engine.local import call
from smpmmu.hypervisor.page_types import (
    FREE_FRAMES_ARE_NORMAL,
    NORMAL,
    ONLY_ANNOUNCED_FRAMES_ARE_RELEASED,
    PD,
    TABLES_ARE_ANNOUNCED_WHEN_LINKED,
    page_type,
)
from smpmmu.kernel.context import context_switch
from smpmmu.kernel.mm import MmStruct, VmAreaStruct
from smpmmu.kernel.page_alloc import install_shortage
from smpmmu.kernel.page_hooks import PageHooks, Place
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.pgalloc import handle_mm_fault
from smpmmu.kernel.pgd import SLAB_IN_USE, mmdrop, pgd_alloc, pgd_cache
from smpmmu.kernel.slab import pmd_cache
from smpmmu.machine.entries import PAGE_PRESENT, PAGE_TABLE, entry
from smpmmu.machine.memory import PAE, Memory
from smpmmu.machine.walker import user_read
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.allocation import (
    MAPPED_PAGES_ARE_REACHABLE,
    MERGED,
    NATIVELY,
    By,
    free,
    hypervisor_of,
    judges_promises,
    must_reach,
    vcpu,
)
from smpmmu.scenarios.common import ADDR, HIGH_PAGE, PGD, PMD, TOUCHED, UNTOUCHED

if TYPE_CHECKING:
    from smpmmu.engine.expressions import Expr
    from smpmmu.machine.cpu import Cpu

NO_FREED_DIRECTORY_IS_KEPT = "no_processor_keeps_a_freed_directory"
"""The entries of the root that a processor keeps lead to no directory that is back in its slab."""
KEPT_DIRECTORIES_ARE_ANNOUNCED = "kept_directories_are_announced"
"""They lead to directories that the hypervisor knows."""
LAST_REFERENCE_FREES = "nobody_has_the_root_when_all_have_dropped_it"
NOTHING_IS_LEAKED = "every_directory_is_in_its_slab_or_in_use"

A_PGD, B_PGD, B_TABLE, OLD_TABLE, OLD_PAGE = 0x31, 0x32, 0x40, 0x41, 0x13
PMDS, SPARE = (0x50, 0x51, 0x52), 0x53
"""Directories that there is memory for: enough for one root. SPARE is one more."""
MM = MmStruct(1, PGD, cpus=(0, 1), paging=PAE)
A, B = MmStruct(2, A_PGD, paging=PAE), MmStruct(4, B_PGD, paging=PAE)
BORROWED = replace(A, cpus=(0, 1), references=2)


class Does(enum.Enum):
    """What happens to cpu0's root."""

    LIFE = "life"
    """It is made, loaded, left and freed; cpu1 makes another one."""
    MAKE = "make"
    """It is made, if there is memory; nobody else is there."""
    ONE_ROOT = "one_root"
    """It is made, loaded, left and freed; cpu1 makes one of the same root, if it gets it."""
    BORROWED = "borrowed"
    """Both CPUs have it loaded, cpu0 as a borrower; both leave it; cpu1 makes another one."""


BEFORE_FREE = f"{MERGED}: released before it goes back to its slab"
LOADED_FIRST = "the hypervisor takes the root over at the load of CR3, and knows none of this"
STRIPPED = "by then it is a directory of somebody else, who loses what it maps"
NOT_LOADED = "nobody has loaded the root yet, and it is not shadowed itself"
ROOT_LAST = "pgd_free, pgd_alloc: the root goes back when nobody looks for its directories any more"
LAST_REFERENCE = (
    "finish_task_switch, kernel/sched.c: a borrowed address space is dropped when another is loaded"
)


def giving_up(place: Place) -> PageHooks:
    """Return the hooks as merged, but for release_pd where memory has run out."""
    return PageHooks(out_of_memory=place)


def freeing(place: Place) -> PageHooks:
    """Return the hooks as merged, but for release_pd in pgd_free."""
    return PageHooks(pgd_free=place)


async def have_one(cpu: Cpu, mm: MmStruct) -> None:
    """Make an address space, run on it, and give it up, if there is memory for it."""
    if not await pgd_alloc(cpu):
        return
    there = await context_switch(cpu, MM, mm)
    back = await context_switch(there, mm, MM)
    await mmdrop(back, mm)


async def leave(cpu: Cpu, mm: MmStruct, *, drops_first: bool = False) -> None:
    """Go on to another address space, and drop the one that was loaded."""
    if drops_first:
        await mmdrop(cpu, mm)
    after = await context_switch(cpu, mm, MM)
    if not drops_first:
        await mmdrop(after, mm)


async def have_and_use(cpu: Cpu, mm: MmStruct) -> None:
    """Make an address space and use a page of it, if there is memory for it."""
    if not await pgd_alloc(cpu):
        return
    there = await context_switch(cpu, MM, mm)
    if not await handle_mm_fault(there, VmAreaStruct(mm), ADDR, HIGH_PAGE, UNTOUCHED):
        must_reach(there, await user_read(there, ADDR))


def demand(setup: Setup, cpus: list[Cpu]) -> None:
    """Demand what becomes of every directory, in the slab, in use, and kept by a processor."""
    pmds: tuple[int, ...] = cpus[0].linux.pmds
    in_slab = {pmd: value(pmd_cache) & 1 << n != 0 for n, pmd in enumerate(pmds)}
    if judges_promises(cpus[0]):
        name, right = NO_FREED_DIRECTORY_IS_KEPT, {pmd: ~in_slab[pmd] for pmd in pmds}
    else:
        types = {pmd: value(page_type(cpus[0], pmd)) for pmd in pmds}
        normal = [implies(in_slab[pmd], types[pmd] == NORMAL) for pmd in pmds]
        setup.always(FREE_FRAMES_ARE_NORMAL, all_of(*normal))
        name, right = KEPT_DIRECTORIES_ARE_ANNOUNCED, {pmd: types[pmd] == PD for pmd in pmds}
    kept = [(value(cpu.pdpte(0)) == link(pmd), pmd) for cpu in cpus for pmd in pmds]
    setup.always(name, all_of(*(implies(keeps, right[pmd]) for keeps, pmd in kept)))
    idle = [in_slab[pmd] | free(cpus[0], pmd) for pmd in pmds]
    used = any_of(*(value(pgd_cache(cpus[0], r)) == SLAB_IN_USE for r in (A_PGD, B_PGD)))
    three = implies(used, at_least(idle, len(pmds) - 3) & ~at_least(idle, len(pmds) - 2))
    setup.at_quiescence(NOTHING_IS_LEAKED, implies(~used, all_of(*idle)) & three)


def at_least(truths: list[Expr], number: int) -> Expr:
    """Return the truth that `number` of `truths` hold."""
    return any_of(*(all_of(*each) for each in combinations(truths, number)))


def link(pmd: int) -> int:
    """Return the entry of a root that leads to a directory."""
    return entry(pmd, PAGE_PRESENT)


def made(guest: Memory, root: int, number: int) -> Expr:
    """Return the truth that just `number` entries of a root were written."""
    entries = [value(guest.table(root, i)) for i in range(3)]
    return all_of(*(e != 0 if i < number else e == 0 for i, e in enumerate(entries)))


@scenario(
    variant("native", holds(NATIVELY), by=By.NATIVE),
    variant("native_left_over", holds("pmd_ctor: memset"), by=By.NATIVE, left_over=True),
    variant("one_root_native", holds(ROOT_LAST), by=By.NATIVE, does=Does.ONE_ROOT),
    variant("one_root_out_of_memory_native", holds(ROOT_LAST), by=By.NATIVE, does=Does.ONE_ROOT,
            short=True),
    variant("vmi", holds(BEFORE_FREE), by=By.PAGE_TYPES),
    variant("vmi_promises", holds(BEFORE_FREE), by=By.PROMISES),
    variant("vmi_out_of_memory", holds("out_oom gives back what was made, whichever was missing"),
            by=By.PAGE_TYPES, does=Does.MAKE, short=True),
    variant("vmi_out_of_memory_promises", holds(BEFORE_FREE), by=By.PROMISES, short=True),
    variant("not_announced", violated(TABLES_ARE_ANNOUNCED_WHEN_LINKED, LOADED_FIRST),
            by=By.PAGE_TYPES, hooks=PageHooks(pmd=Place.MISSING)),
    variant("not_announced_promises",
            violated(MAPPED_PAGES_ARE_REACHABLE, "nothing is shadowed in an unknown directory"),
            by=By.PROMISES, hooks=PageHooks(pmd=Place.MISSING)),
    variant("announced_after_link", holds(NOT_LOADED), by=By.PAGE_TYPES,
            hooks=PageHooks(pmd=Place.AFTER)),
    variant("announced_after_link_promises", holds(NOT_LOADED), by=By.PROMISES,
            hooks=PageHooks(pmd=Place.AFTER)),
    *(
        variant(f"{name}_{how}", expected, by=by, hooks=hooks(place),
                short=hooks is giving_up and by is By.PROMISES)
        for name, hooks in (("given_up", giving_up), ("freed", freeing))
        for how, expected, by, place in (
            ("not_released", violated(FREE_FRAMES_ARE_NORMAL, BEFORE_FREE), By.PAGE_TYPES,
             Place.MISSING),
            ("released_after", violated(FREE_FRAMES_ARE_NORMAL, BEFORE_FREE), By.PAGE_TYPES,
             Place.AFTER),
            ("released_after_promises", violated(MAPPED_PAGES_ARE_REACHABLE, STRIPPED),
             By.PROMISES, Place.AFTER),
            ("released_twice",
             violated(ONLY_ANNOUNCED_FRAMES_ARE_RELEASED, "set_page_type: NORMAL already"),
             By.PAGE_TYPES, Place.TWICE),
        )
    ),
    variant("borrowed_native", holds(LAST_REFERENCE), by=By.NATIVE, does=Does.BORROWED),
    variant("borrowed", holds(LAST_REFERENCE), by=By.PAGE_TYPES, does=Does.BORROWED),
    variant("borrowed_promises", holds(LAST_REFERENCE), by=By.PROMISES, does=Does.BORROWED),
    variant("borrowed_dropped_before_switch_native",
            violated(NO_FREED_DIRECTORY_IS_KEPT, f"not so: {LAST_REFERENCE}"), by=By.NATIVE,
            does=Does.BORROWED, drops_first=True),
    variant("borrowed_dropped_before_switch",
            violated(KEPT_DIRECTORIES_ARE_ANNOUNCED, f"not so: {LAST_REFERENCE}"),
            by=By.PAGE_TYPES, does=Does.BORROWED, drops_first=True),
)  # fmt: skip
def pae_pgd(
    setup: Setup,
    *,
    by: By,
    does: Does = Does.LIFE,
    hooks: PageHooks | None = None,
    drops_first: bool = False,
    short: bool = False,
    left_over: bool = False,
) -> None:
    """A root comes or goes with its directories: when are they announced, when released?"""
    borrowed, alone = does is Does.BORROWED, does is Does.MAKE
    entries = ((PGD, 0, link(PMD)), *((A_PGD, i, link(p)) for i, p in enumerate(PMDS) if borrowed))
    if left_over:
        # Somebody else's directories were there, which led to a table of theirs.
        old = ((OLD_TABLE, 1, entry(OLD_PAGE, TOUCHED)),)
        entries = (*entries, *((p, 0, entry(OLD_TABLE, PAGE_TABLE)) for p in PMDS), *old)
    pmds = (*PMDS, SPARE) if does is Does.ONE_ROOT else PMDS
    free_at_first = (A_PGD, B_PGD, B_TABLE, *pmds)[1 if borrowed else 0 :]
    there = PMDS if borrowed else ()
    guest = Memory(
        entries,
        owners=((HIGH_PAGE, B.number),
                *((f, 0) for f in free_at_first if f not in there)),
        paging=PAE,
    )  # fmt: skip
    frames = ((PMD, PD), *((pmd, PD if borrowed else NORMAL) for pmd in pmds), (B_TABLE, NORMAL))
    hypervisor = hypervisor_of(by, frames)
    linux = Linux(page_hooks=hooks or PageHooks(), frames=(B_TABLE,), pmds=pmds, short=short)
    first = BORROWED if borrowed else MM
    one_root = does is Does.ONE_ROOT
    second = replace(B, pgd=A_PGD) if one_root else B
    mms = (MM, BORROWED if borrowed else A, second)
    roots = ((second.number, second.pgd), (A.number, A_PGD))
    cpus = [
        vcpu(setup, n, first, guest, hypervisor, (ADDR,), linux=replace(linux, pgds=pgds),
             mms=mms, alone=alone)
        for n, pgds in enumerate((roots, roots[::-1])[: 1 if alone else 2])
    ]  # fmt: skip
    demand(setup, cpus)
    if short:
        install_shortage(setup)
    if alone:
        setup.cpu(0, call(pgd_alloc, cpus[0]))
        none = finished("cpu0") & (value(pgd_cache(cpus[0], A_PGD)) != SLAB_IN_USE)
        for number in range(3):
            setup.sometimes(f"{number} directories were made", none & made(guest, A_PGD, number))
        setup.sometimes("there was no root", none & free(cpus[0], A_PGD))
        setup.sometimes("all were made", finished("cpu0") & made(guest, A_PGD, 3))
        return
    cpu0, cpu1 = cpus
    used = value(guest.table(B_TABLE, 1)) != 0
    setup.sometimes("another page was mapped", finished("cpu1") & used)
    if borrowed:
        setup.cpu(0, call(leave, replace(cpu0, kernel_thread=True), BORROWED,
                          drops_first=drops_first))  # fmt: skip
        setup.cpu(1, call(leave, cpu1, BORROWED), call(have_and_use, cpu1, B))
        in_use = value(pgd_cache(cpu0, A_PGD)) == SLAB_IN_USE
        setup.at_quiescence(LAST_REFERENCE_FREES, ~in_use)
        setup.sometimes("it was freed", ~in_use)
        return
    setup.cpu(0, call(have_one, cpu0, A))
    setup.cpu(1, call(have_and_use, cpu1, second))
    if one_root:
        has_it = value(pgd_cache(cpu0, A_PGD)) == SLAB_IN_USE
        setup.sometimes("the other got the root", finished("cpu0") & finished("cpu1") & has_it)
        return
    for number in range(3):
        given_up = finished("cpu1") & made(guest, B_PGD, number)
        setup.sometimes(f"the other had {number} directories, and gave up", given_up)
    again = all_of(*(value(guest.table(r, 0)) == link(PMDS[0]) for r in (A_PGD, B_PGD)))
    setup.sometimes("a directory came to the other", again)
