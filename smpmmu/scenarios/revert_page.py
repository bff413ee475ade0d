"""Two CPUs have pages in one split table; the last one puts the large page back.

Who is the last, and when is the table free?

    cpu0: change_page_attr, back to PAGE_KERNEL    cpu1: the same for another page of the table
    spin_lock_irqsave(cpa_lock)                    spin_lock_irqsave(cpa_lock)
    set_pte; page_private--, none left?            set_pte; page_private--, none left?
      df_list; revert_page; release_pt               df_list; revert_page; release_pt
    spin_unlock                                    spin_unlock
    global_flush_tlb: take df_list under           global_flush_tlb
      cpa_lock, flush_tlb_all, free

The count says who is the last, and cpa_lock keeps it and df_list whole. That a directory still
leads to a table on df_list does not matter: who puts a page back has interrupts off, so that a
flush waits for it. A walker that has read such a directory before may read the table after that: it
is free only when all have flushed.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import all_of, finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import store, wait_until
from smpmmu.hypervisor.page_types import NORMAL, PD, PT
from smpmmu.kernel.mm import INIT_MM
from smpmmu.kernel.page_alloc import alloc_page
from smpmmu.kernel.page_hooks import PageHooks, Place
from smpmmu.kernel.pageattr import (
    PAGE_KERNEL,
    PAGE_KERNEL_LARGE,
    PAGE_KERNEL_RO,
    PAGE_TABLE_OF_KERNEL,
    change_page_attr,
    global_flush_tlb,
    linear,
)
from smpmmu.kernel.paravirt import Linux
from smpmmu.machine.entries import entry
from smpmmu.machine.memory import (
    NON_PAE,
    PAGE_OWNER,
    Memory,
    Paging,
    pmd_index,
    pte_index,
)
from smpmmu.machine.supervisor import kernel_write
from smpmmu.scenario import Setup, holds, scenario, variant
from smpmmu.scenarios.allocation import (
    By,
    demand_normal_when_free,
    free,
    hypervisor_of,
    links,
    must_reach,
    vcpu,
)
from smpmmu.scenarios.change_page_attr import (
    MM,
    OTHER_PAGE,
    OTHER_SPLIT,
    PAGE,
    POISON,
    ROOTS,
    SPLIT,
    kernel_directories,
    make_read_only,
    use,
    write,
)
from smpmmu.scenarios.common import PGD, in_both_modes

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

WRITABLE_AGAIN = "a_page_that_was_put_back_is_writable"
EVERY_TABLE_IS_LINKED_OR_FREE = "every_table_is_linked_or_free"


class Does(enum.Enum):
    """What happens to the pages."""

    BACK = "back"
    """Both are read-only; cpu0 makes one writable again, cpu1 the other."""
    SPLIT = "split"
    """cpu0 makes one read-only and writable again; cpu1 makes the other read-only, for good."""
    REUSED = "reused"
    """cpu0 puts the last one back, cpu1 uses the other, cpu2 takes the table once it is free."""


COUNTED = "__change_page_attr: page_private counts what deviates, under cpa_lock"
FLUSHED = "global_flush_tlb frees tables after the flush, which a walk on another CPU delays"
REPAIRED = PageHooks(split_zeroed=True, split_rechecks=True, revert=Place.AFTER)


async def make_writable(cpu: Cpu, pfn: int) -> None:
    """Take the protection of a page back, and write to it."""
    await change_page_attr(cpu, linear(pfn), PAGE_KERNEL)
    await global_flush_tlb(cpu)
    must_reach(cpu, await kernel_write(cpu, linear(pfn)), WRITABLE_AGAIN)


async def protect_for_a_while(cpu: Cpu, pfn: int) -> None:
    """Write-protect a page, and take that back."""
    await change_page_attr(cpu, linear(pfn), PAGE_KERNEL_RO)
    await global_flush_tlb(cpu)
    await make_writable(cpu, pfn)


async def take_freed(cpu: Cpu) -> None:
    """Take the table's frame once it is free, for something else."""
    await wait_until(cpu.memory.page(SPLIT), 0, PAGE_OWNER)
    await alloc_page(cpu, (SPLIT,), MM.number)
    await store(cpu.memory.table(SPLIT, pte_index(linear(OTHER_PAGE), cpu.memory.paging)), POISON)


def memory(does: Does, paging: Paging) -> Memory:
    """Return memory with the linear map as it is at first, in all directories."""
    pde, owner = entry(SPLIT, PAGE_TABLE_OF_KERNEL), INIT_MM.number
    flags = {PAGE: PAGE_KERNEL_RO, OTHER_PAGE: PAGE_KERNEL_RO}
    if does is Does.REUSED:
        flags[OTHER_PAGE] = PAGE_KERNEL
    table = [(SPLIT, page, entry(page, flags[page])) for page in flags]
    if does is Does.SPLIT:
        pde, owner, table = entry(0, PAGE_KERNEL_LARGE), 0, []
    index = pmd_index(linear(PAGE), paging)
    mapped = [(each, index, pde) for each in kernel_directories(paging)]
    owners = ((SPLIT, owner), (OTHER_SPLIT, 0))
    return Memory((*links(paging, ROOTS, linear(PAGE)), *mapped, *table), owners=owners,
                  paging=paging)  # fmt: skip


@scenario(
    *in_both_modes(
        variant("native", holds(COUNTED), by=By.NATIVE),
        variant("vmi", holds(COUNTED), by=By.PAGE_TYPES),
        variant("vmi_promises", holds(COUNTED), by=By.PROMISES),
        variant("split_native", holds(COUNTED), by=By.NATIVE, does=Does.SPLIT),
        variant("split_vmi_promises", holds(COUNTED), by=By.PROMISES, does=Does.SPLIT),
        variant("reused_native", holds(FLUSHED), by=By.NATIVE, does=Does.REUSED),
    ),
)  # fmt: skip
def revert_page(setup: Setup, *, by: By, does: Does = Does.BACK, paging: Paging = NON_PAE) -> None:
    """A large page of the linear map is put back when nothing in its table deviates any more."""
    directories = kernel_directories(paging)
    tables = ((SPLIT, NORMAL if does is Does.SPLIT else PT), (OTHER_SPLIT, NORMAL))
    hypervisor = hypervisor_of(by, (*((each, PD) for each in directories), *tables))
    online = (0, 1, 2) if does is Does.REUSED else (0, 1)
    linux = Linux(page_hooks=REPAIRED, frames=(SPLIT, OTHER_SPLIT), pgds=((1, PGD),), listed=1,
                  online=online)  # fmt: skip
    guest = memory(does, paging)
    pages = (linear(PAGE), linear(OTHER_PAGE))
    cpu0, cpu1, *others = (
        vcpu(setup, n, MM, guest, hypervisor, pages, linux=linux) for n in online
    )
    pde = value(guest.table(directories[-1], pmd_index(linear(PAGE), paging)))
    large = pde == entry(0, PAGE_KERNEL_LARGE)
    if does is Does.REUSED:
        setup.cpu(0, call(make_writable, cpu0, PAGE))
        setup.cpu(1, call(use, cpu1, OTHER_PAGE))
        setup.cpu(2, call(take_freed, others[0]))
        setup.sometimes("it was taken early", finished("cpu2") & ~finished("cpu1"))
        return
    if does is Does.BACK:
        setup.cpu(0, call(make_writable, cpu0, PAGE))
        setup.cpu(1, call(make_writable, cpu1, OTHER_PAGE))
    else:
        setup.cpu(0, call(protect_for_a_while, cpu0, PAGE), call(write, cpu0, OTHER_PAGE))
        setup.cpu(1, call(make_read_only, cpu1, OTHER_PAGE))
        both = ~free(cpu0, SPLIT) & ~free(cpu0, OTHER_SPLIT)
        setup.sometimes("both had a table", both)
    setup.sometimes("one was done, and the other was not yet", finished("cpu0") & ~large)
    setup.sometimes("the large page was put back", finished("cpu0") & large)
    linked = [
        free(cpu0, table) == (pde != entry(table, PAGE_TABLE_OF_KERNEL))
        for table in (SPLIT, OTHER_SPLIT)
    ]
    setup.at_quiescence(EVERY_TABLE_IS_LINKED_OR_FREE, all_of(*linked))
    demand_normal_when_free(setup, cpu0, (SPLIT, OTHER_SPLIT))
