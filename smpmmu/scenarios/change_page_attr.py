"""A CPU changes an attribute of the linear map, which every CPU uses all the time.

    cpu0: change_page_attr, read-only         cpu0: change_page_attr, back to PAGE_KERNEL
    spin_lock_irqsave(cpa_lock)               spin_lock_irqsave(cpa_lock)
    drop it, allocate a page, take it         set_pte in the table
    alloc_pt; fill the table                  release_pt
    set_pmd_pte: swapper_pg_dir, then         df_list; revert_page: set_pmd_pte
      all on pgd_list under pgd_lock          spin_unlock
    spin_unlock                               global_flush_tlb, which frees the table
    global_flush_tlb

    cpu1: reads and writes pages of the linear map, or changes another page of the same large one

As merged the table is released while every directory still leads to it, and between that and
revert_page the linear map is gone for whoever must fill a TLB. And it is announced as zeroed, which
it is not. That two CPUs may split the same page is older than the hooks: the second one undoes what
the first has done.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.hypervisor.page_types import (
    ANNOUNCED_FRAMES_ARE_ZERO,
    FREE_FRAMES_ARE_NORMAL,
    NORMAL,
    ONLY_ANNOUNCED_FRAMES_ARE_UPDATED,
    PD,
    PT,
    TABLES_ARE_UNLINKED_WHEN_RELEASED,
)
from smpmmu.kernel.mm import INIT_MM, MmStruct
from smpmmu.kernel.page_alloc import install_shortage
from smpmmu.kernel.page_hooks import PageHooks, Place
from smpmmu.kernel.pageattr import (
    PAGE_KERNEL,
    PAGE_KERNEL_LARGE,
    PAGE_KERNEL_RO,
    PAGE_TABLE_OF_KERNEL,
    global_flush_tlb,
    linear,
)
from smpmmu.kernel.pageattr import (
    change_page_attr as cpa,
)
from smpmmu.kernel.paravirt import Linux
from smpmmu.machine.entries import PAGE_PSE, entry
from smpmmu.machine.memory import (
    NON_PAE,
    PAGE_FROZEN,
    VERSION_SHIFT,
    Memory,
    Paging,
    pmd_index,
)
from smpmmu.machine.supervisor import kernel_read, kernel_write
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.allocation import (
    NATIVELY,
    By,
    demand_normal_when_free,
    free,
    hypervisor_of,
    judges_promises,
    links,
    must_reach,
    vcpu,
)
from smpmmu.scenarios.allocation import directories as directories_under
from smpmmu.scenarios.common import PGD, in_both_modes, promise

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

LINEAR_MAP_IS_ALWAYS_MAPPED = "linear_map_is_always_mapped"
"""The kernel never faults on a page of its linear map for reading; it could not answer."""

MM = MmStruct(1, PGD, cpus=(0, 1))
PAGE, OTHER_PAGE = 0x3, 0x5
"""Two pages that one large page of the linear map covers."""
SPLIT, OTHER_SPLIT = 0x40, 0x41
POISON = 0x5A5A5A5A
"""What a page holds that was not zeroed: as an entry it is not present."""
ROOTS = (INIT_MM.pgd, PGD)


class Does(enum.Enum):
    """What happens to the page."""

    SPLIT = "split"
    """cpu0 makes it read-only, where a large page maps it; cpu1 uses it."""
    REVERT = "revert"
    """cpu0 makes it writable again, the last one that deviates; cpu1 uses it."""
    BOTH = "both"
    """cpu0 makes it read-only; cpu1 does the same to another page of the large one."""


BEFORE_REPLACED = (
    "__change_page_attr in c119ecce894 releases the table, then replaces the entry that leads to it"
)
AFTER_REPLACED = "proposed here: release after revert_page, when no directory leads to the table"
NOT_ZEROED = (
    "vmi_allocate_pt always says VMI_PAGE_ZEROED; split_large_page has alloc_pages(GFP_KERNEL)"
)
SET_BEFORE_LINKED = "every entry is written through a hook before the table is linked"
FILL_IS_HOOKED = "set_pte fills what is taken for data"
TWICE_SPLIT = (
    "split_large_page drops cpa_lock to allocate, and what lookup_address found is not looked up "
    "again: the second table has the first one's page as it was before"
)
RECHECKED = "2.6.25: once it has its lock back it looks again whether the page is still large"

AS_MERGED = PageHooks()
ZEROED = PageHooks(split_zeroed=True)
REPAIRED = PageHooks(split_zeroed=True, revert=Place.AFTER)


async def make_read_only(cpu: Cpu, pfn: int) -> None:
    """Write-protect a page and rely on it, if there was memory for it."""
    if await cpa(cpu, linear(pfn), PAGE_KERNEL_RO):
        return
    await global_flush_tlb(cpu)
    if judges_promises(cpu):
        await promise(cpu.memory.page(pfn))


async def make_writable(cpu: Cpu, pfn: int) -> None:
    """Take the protection of a page back."""
    await cpa(cpu, linear(pfn), PAGE_KERNEL)
    await global_flush_tlb(cpu)


async def use(cpu: Cpu, pfn: int) -> None:
    """Read a page of the linear map, which works at any time."""
    must_reach(cpu, await kernel_read(cpu, linear(pfn)), LINEAR_MAP_IS_ALWAYS_MAPPED)


async def write(cpu: Cpu, pfn: int) -> None:
    """Write a page of the linear map, which is an oops if it is read-only by now."""
    await kernel_write(cpu, linear(pfn))


def kernel_directories(paging: Paging) -> tuple[int, ...]:
    """Return the directories with the linear map: of the kernel and of MM, or one for both."""
    return directories_under(paging, ROOTS, linear(PAGE))


def memory(does: Does, paging: Paging) -> Memory:
    """Return memory with the linear map as it is at first, in all directories."""
    garbage = [
        (frame, page, POISON) for frame in (SPLIT, OTHER_SPLIT) for page in (PAGE, OTHER_PAGE)
    ]
    owners = [(SPLIT, 0), (OTHER_SPLIT, 0)]
    pde = entry(0, PAGE_KERNEL_LARGE)
    if does is Does.REVERT:
        pde = entry(SPLIT, PAGE_TABLE_OF_KERNEL)
        owners[0] = (SPLIT, INIT_MM.number)
        garbage[:2] = [
            (SPLIT, PAGE, entry(PAGE, PAGE_KERNEL_RO)),
            (SPLIT, OTHER_PAGE, entry(OTHER_PAGE, PAGE_KERNEL)),
        ]
    index = pmd_index(linear(PAGE), paging)
    mapped = [(each, index, pde) for each in kernel_directories(paging)]
    above = links(paging, ROOTS, linear(PAGE))
    return Memory((*above, *mapped, *garbage), owners=tuple(owners), paging=paging)


@scenario(
    *in_both_modes(
    variant("split_native", holds(NATIVELY), by=By.NATIVE, does=Does.SPLIT),
    variant("split", violated(ANNOUNCED_FRAMES_ARE_ZERO, NOT_ZEROED), by=By.PAGE_TYPES,
            does=Does.SPLIT),
    variant("split_promises", holds(SET_BEFORE_LINKED), by=By.PROMISES, does=Does.SPLIT),
    variant("split_zeroed_page", holds("proposed here: __GFP_ZERO, so that the claim is true"),
            by=By.PAGE_TYPES, does=Does.SPLIT, hooks=ZEROED),
    variant("split_claims_nothing",
            holds("proposed here: announced without VMI_PAGE_ZEROED, the hypervisor looks itself"),
            by=By.PAGE_TYPES, does=Does.SPLIT, claims_zero=False),
    variant("split_out_of_memory", holds("-ENOMEM before anything is announced or linked"),
            by=By.PAGE_TYPES, does=Does.SPLIT, hooks=ZEROED, short=True),
    variant("split_not_announced",
            violated(ONLY_ANNOUNCED_FRAMES_ARE_UPDATED, FILL_IS_HOOKED),
            by=By.PAGE_TYPES, does=Does.SPLIT,
            hooks=PageHooks(split_zeroed=True, split=Place.MISSING)),
    variant("split_not_announced_promises",
            violated(LINEAR_MAP_IS_ALWAYS_MAPPED, "nothing is shadowed behind an unknown table"),
            by=By.PROMISES, does=Does.SPLIT, hooks=PageHooks(split=Place.MISSING)),
    variant("split_announced_after_fill",
            violated(ONLY_ANNOUNCED_FRAMES_ARE_UPDATED, FILL_IS_HOOKED), by=By.PAGE_TYPES,
            does=Does.SPLIT, hooks=PageHooks(split=Place.AFTER), claims_zero=False),
    variant("split_announced_after_fill_promises",
            holds("what was not heard of is filled by hidden faults once the table is known"),
            by=By.PROMISES, does=Does.SPLIT, hooks=PageHooks(split=Place.AFTER)),
    variant("split_announced_after_link",
            violated(ONLY_ANNOUNCED_FRAMES_ARE_UPDATED, FILL_IS_HOOKED),
            by=By.PAGE_TYPES, does=Does.SPLIT,
            hooks=PageHooks(split_zeroed=True, split=Place.LATE)),
    variant("split_announced_after_link_promises",
            violated(LINEAR_MAP_IS_ALWAYS_MAPPED, "until it is announced, nothing is shadowed"),
            by=By.PROMISES, does=Does.SPLIT, hooks=PageHooks(split=Place.LATE)),
    variant("revert_native", holds(NATIVELY), by=By.NATIVE, does=Does.REVERT),
    variant("revert", violated(TABLES_ARE_UNLINKED_WHEN_RELEASED, BEFORE_REPLACED),
            by=By.PAGE_TYPES, does=Does.REVERT),
    variant("revert_promises", violated(LINEAR_MAP_IS_ALWAYS_MAPPED, BEFORE_REPLACED),
            by=By.PROMISES, does=Does.REVERT),
    variant("revert_released_after", holds(AFTER_REPLACED), by=By.PAGE_TYPES, does=Does.REVERT,
            hooks=REPAIRED),
    variant("revert_released_after_promises", holds(AFTER_REPLACED), by=By.PROMISES,
            does=Does.REVERT, hooks=REPAIRED),
    variant("revert_not_released",
            violated(FREE_FRAMES_ARE_NORMAL, "global_flush_tlb frees a table that is still typed"),
            by=By.PAGE_TYPES, does=Does.REVERT, hooks=PageHooks(revert=Place.MISSING)),
    variant("both_native", violated(NO_WRITE_AFTER_PROMISE, f"natively too: {TWICE_SPLIT}"),
            by=By.NATIVE, does=Does.BOTH),
    variant("both_promises", violated(NO_WRITE_AFTER_PROMISE, TWICE_SPLIT), by=By.PROMISES,
            does=Does.BOTH),
    variant("both", holds("to the hypervisor the table that is lost is one like any other"),
            by=By.PAGE_TYPES, does=Does.BOTH, hooks=ZEROED),
    variant("both_native_rechecked", holds(RECHECKED), by=By.NATIVE, does=Does.BOTH,
            hooks=PageHooks(split_rechecks=True)),
    variant("both_rechecked", holds(RECHECKED), by=By.PAGE_TYPES, does=Does.BOTH,
            hooks=PageHooks(split_rechecks=True, split_zeroed=True)),
    variant("both_rechecked_promises", holds(RECHECKED), by=By.PROMISES, does=Does.BOTH,
            hooks=PageHooks(split_rechecks=True)),
    )
)  # fmt: skip
def change_page_attr(
    setup: Setup,
    *,
    by: By,
    does: Does,
    hooks: PageHooks = AS_MERGED,
    claims_zero: bool = True,
    short: bool = False,
    paging: Paging = NON_PAE,
) -> None:
    """A page of the linear map becomes read-only, or writable again: is it mapped all the while?"""
    directories = kernel_directories(paging)
    tables = ((SPLIT, PT if does is Does.REVERT else NORMAL), (OTHER_SPLIT, NORMAL))
    frames = (*((each, PD) for each in directories), *tables)
    hypervisor = hypervisor_of(by, frames, claims_zero=claims_zero)
    linux = Linux(
        page_hooks=hooks, frames=(SPLIT, OTHER_SPLIT), pgds=((1, PGD),), listed=1, short=short
    )
    guest = memory(does, paging)
    pages = (linear(PAGE), linear(OTHER_PAGE))
    cpu0, cpu1 = (vcpu(setup, n, MM, guest, hypervisor, pages, linux=linux) for n in (0, 1))
    page = value(guest.page(PAGE))
    pde = value(guest.table(directories[-1], pmd_index(linear(PAGE), paging)))
    written = page >> VERSION_SHIFT != 0
    if does is Does.REVERT:
        setup.cpu(0, call(make_writable, cpu0, PAGE))
        setup.cpu(1, call(use, cpu1, OTHER_PAGE))
        setup.sometimes("the large page was put back", pde == entry(0, PAGE_KERNEL_LARGE))
        setup.sometimes("the table was freed", free(cpu0, SPLIT))
    else:
        setup.cpu(0, call(make_read_only, cpu0, PAGE), call(write, cpu0, PAGE))
        setup.sometimes("the large page was split", pde & PAGE_PSE == 0)
        if by is not By.PAGE_TYPES:
            setup.sometimes("the page was promised", page & PAGE_FROZEN != 0)
    if does is Does.SPLIT:
        setup.cpu(1, call(use, cpu1, OTHER_PAGE), call(write, cpu1, PAGE))
        setup.sometimes("protection stopped both", finished("cpu0") & finished("cpu1") & ~written)
        if short:
            setup.sometimes("there was no memory", finished("cpu0") & (pde & PAGE_PSE != 0))
            install_shortage(setup)
    elif does is Does.BOTH:
        setup.cpu(1, call(make_read_only, cpu1, OTHER_PAGE))
        both = ~free(cpu0, SPLIT) & ~free(cpu0, OTHER_SPLIT)
        setup.sometimes("both had a table", both)
    demand_normal_when_free(setup, cpu0, (SPLIT, OTHER_SPLIT))
