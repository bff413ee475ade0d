"""An address of the kernel's own is given back and mapped anew, to another page.

    cpu0                                 cpu1
                                         write to the area, and give it up
    ptep_get_and_clear(pte)
    flush_tlb_all
    the old page is somebody else's
    set_pte_at(pte, the new page)
                                         write to the area

Nobody flushes when an absent entry becomes present. So the flush that follows the clearing must
leave the old page nowhere, and nothing must bring it back from a shadow before the entry is set.
Natively that is so although flush_tlb_all tells the others first: what they drop they can only
fetch again from the entry, which is empty.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, fetch_or, store, wait_until
from smpmmu.hypervisor.page_types import NORMAL, PD, PT
from smpmmu.hypervisor.vmi import vmi
from smpmmu.kernel.mm import INIT_MM, MmStruct
from smpmmu.kernel.pageattr import PAGE_KERNEL
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.vmalloc import VMALLOC_START, map_vm_area, unmap_vm_area
from smpmmu.machine.entries import KERNPG_TABLE, entry
from smpmmu.machine.memory import (
    NON_PAE,
    PAGE_FROZEN,
    VERSION_SHIFT,
    Memory,
    Paging,
    pmd_index,
    pte_index,
)
from smpmmu.machine.supervisor import kernel_write
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.allocation import (
    By,
    directories,
    hypervisor_of,
    links,
    must_reach,
    vcpu,
)
from smpmmu.scenarios.common import PGD, in_both_modes, install_walker

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

MM = MmStruct(1, PGD, cpus=(0, 1))
ROOTS = (INIT_MM.pgd, MM.pgd)
TABLE, OLD, NEW = 0x40, 0x51, 0x52

area = Word("area", 2)
"""Whose turn it is: cpu1 uses the area (0), cpu0 maps it anew (1), cpu1 uses it again (2)."""

FLUSHED = "unmap_kernel_range flushes on all CPUs before anybody can have the page or the address"
TOLD = "8ecb8950695: ptep_get_and_clear notifies, so that the shadow has lost the page by then"
NOT_TOLD = (
    "before 8ecb8950695 nothing tells of the clearing: a walk after the flush finds the old page "
    "in the shadow"
)
LATER = (
    "on_each_cpu tells the others first and drains this CPU's queue after that: in between another "
    "CPU's walk finds the old page in the shadow; so the hook must not be deferred here"
)


async def map_anew(cpu: Cpu) -> None:
    """Take the area away from its page, give that to somebody, and map another one."""
    await wait_until(area, 1)
    await unmap_vm_area(cpu, VMALLOC_START, frees_table=False)
    await fetch_or(cpu.memory.page(OLD), PAGE_FROZEN)
    await map_vm_area(cpu, VMALLOC_START, NEW)
    await store(area, 2)


async def use_twice(cpu: Cpu) -> None:
    """Write to the area while it is this CPU's, give it up, and write to the one mapped anew."""
    must_reach(cpu, await kernel_write(cpu, VMALLOC_START))
    await store(area, 1)
    await wait_until(area, 2)
    must_reach(cpu, await kernel_write(cpu, VMALLOC_START))


@scenario(
    *in_both_modes(
        variant("native", holds(FLUSHED), by=By.NATIVE),
        variant("vmi", holds(TOLD), by=By.PROMISES),
        variant("get_and_clear_unhooked", violated(NO_WRITE_AFTER_PROMISE, NOT_TOLD),
                by=By.PROMISES, hooked=False),
        variant("get_and_clear_deferred", violated(NO_WRITE_AFTER_PROMISE, LATER),
                by=By.PROMISES, deferred=True),
    ),
)  # fmt: skip
def vmalloc_reuse(
    setup: Setup, *, by: By, hooked: bool = True, deferred: bool = False, paging: Paging = NON_PAE
) -> None:
    """An area of the kernel's own is unmapped on one CPU and mapped anew while another has it."""
    known = directories(paging, ROOTS, VMALLOC_START)
    index = pmd_index(VMALLOC_START, paging)
    tables = tuple((pd, index, entry(TABLE, KERNPG_TABLE)) for pd in known)
    mapped = (TABLE, pte_index(VMALLOC_START, paging), entry(OLD, PAGE_KERNEL))
    guest = Memory((*links(paging, ROOTS, VMALLOC_START), *tables, mapped), paging=paging)
    types = (*((pd, PD) for pd in known), (TABLE, PT), (OLD, NORMAL), (NEW, NORMAL))
    hypervisor = hypervisor_of(by, types)
    linux = Linux(get_and_clear_hooked=hooked)
    cpu0, cpu1 = (
        vcpu(setup, n, MM, guest, hypervisor, (VMALLOC_START,), linux=linux) for n in (0, 1)
    )
    if deferred:
        cpu0 = replace(cpu0, pv=replace(vmi, pte_update=vmi.pte_update_defer))
    setup.cpu(0, call(map_anew, cpu0))
    setup.cpu(1, call(use_twice, cpu1))
    install_walker(setup, cpu1)
    setup.sometimes("the new page was written", value(guest.page(NEW)) >> VERSION_SHIFT != 0)
