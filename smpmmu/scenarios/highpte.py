"""A CPU write-protects entries in two page tables that it can only map for a moment (HIGHPTE).

    cpu0: as fork does                            cpu1
    for each of two page tables:                  write the page
      kmap_atomic_pte: map the table              write the page
      spin_lock(ptl)
      ptep_set_wrprotect(pte) [pte_update]
      [flush_tlb_page]
      spin_unlock(ptl)
      kunmap_atomic
    flush_tlb_mm
    the page is promised to be final

Here the update is deferred, and the queue has the entry by the address of the short mapping. Where
tables lie in low memory the flush at the end is early enough for who forks. But the address leads
to the table only until pte_unmap_unlock: after that to nothing, or to the next table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import routine
from smpmmu.hypervisor.shadow import Hypervisor
from smpmmu.hypervisor.vmi import vmi
from smpmmu.kernel.highmem import FIX_KMAP_BEGIN, KMAP_TABLE, kmap_atomic_pte, kunmap_atomic
from smpmmu.kernel.mm import MmStruct, VmAreaStruct
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.pgtable import ptep_set_wrprotect
from smpmmu.kernel.smp import flush_tlb_mm, flush_tlb_page
from smpmmu.machine.entries import KERNPG_TABLE, PAGE_TABLE, entry
from smpmmu.machine.memory import PAGE_FROZEN, VERSION_SHIFT, Memory, pgd_index
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE, user_write
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    COMMENT,
    OTHER_ADDR,
    OTHER_TABLE,
    PAGE,
    PGD,
    TABLE,
    TOUCHED,
    promise,
    vcpu,
)

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

SECOND_PAGE = 0x5
VMI = Hypervisor()
WALKED = Hypervisor(highpte=FIX_KMAP_BEGIN)
REGISTERED = Hypervisor(highpte=FIX_KMAP_BEGIN, registered=True)
AT_UNMAP = Linux()
AT_MAP = Linux(kunmap_flushes=False)

LASTS = (
    "fork's own flush drains its queue before it tells the others; the address still is the entry's"
)
WHILE_MAPPED = f"{COMMENT}: before pte_unmap_unlock takes the mapping away"
GONE = (
    "kunmap_atomic empties the mapping's entry before its INVLPG drains the queue: the address "
    "leads nowhere, and the update is lost (that it is looked up in the guest's tables when it is "
    "applied is assumed; unverified)"
)
NEXT = (
    "kmap_atomic writes the mapping's entry before its INVLPG drains the queue: the address leads "
    "to the next table, and the update is of the wrong entry (assumed as before; unverified)"
)
TOLD = (
    "vmi_kmap_atomic_pte (9a1c13e91f1): the hypervisor has been told of the table, and is told of "
    "the next one only after the INVLPG that drains"
)


@routine
async def protect(cpu: Cpu, vma: VmAreaStruct, address: int, *, on_time: bool) -> None:
    """Write-protect one entry, in a table that is mapped for the time.

    C: copy_pte_range, mm/memory.c, without the copy: pte_offset_map_lock, pte_unmap_unlock
    """
    mm = vma.vm_mm
    vaddr = await kmap_atomic_pte(cpu, mm.page_table(address))
    await spin_lock(mm.pte_lockptr(address))
    await ptep_set_wrprotect(cpu, mm, address, mm.pte_offset(address))
    if on_time:
        await flush_tlb_page(cpu, vma, address)
    await spin_unlock(mm.pte_lockptr(address))
    await kunmap_atomic(cpu, vaddr)


async def fork(cpu: Cpu, vma: VmAreaStruct, *, on_time: bool) -> None:
    """Write-protect both pages, flush, and take the first one for final."""
    for address in (ADDR, OTHER_ADDR):
        await protect(cpu, vma, address, on_time=on_time)
    await flush_tlb_mm(cpu, vma.vm_mm)
    await promise(cpu.memory.page(PAGE))


@scenario(
    variant("low_late", holds(LASTS), hypervisor=VMI),
    variant("walked_on_time", holds(WHILE_MAPPED), hypervisor=WALKED, on_time=True),
    variant("walked_on_time_map_flushes", holds(WHILE_MAPPED), hypervisor=WALKED, on_time=True,
            linux=AT_MAP),
    variant("walked_late", violated(NO_WRITE_AFTER_PROMISE, GONE), hypervisor=WALKED),
    variant("walked_late_map_flushes", violated(NO_WRITE_AFTER_PROMISE, NEXT), hypervisor=WALKED,
            linux=AT_MAP),
    variant("registered_late", holds(TOLD), hypervisor=REGISTERED),
    variant("registered_late_map_flushes", holds(TOLD), hypervisor=REGISTERED, linux=AT_MAP),
)  # fmt: skip
def highpte(
    setup: Setup, *, hypervisor: Hypervisor, on_time: bool = False, linux: Linux = AT_UNMAP
) -> None:
    """Updates of entries in two short-mapped tables are deferred; somebody writes to the page."""
    mm = MmStruct(1, PGD, ((0, TABLE), (1, OTHER_TABLE)), (0, 1))
    vma = VmAreaStruct(mm)
    guest = Memory((
        (PGD, 0, entry(TABLE, PAGE_TABLE)),
        (PGD, 1, entry(OTHER_TABLE, PAGE_TABLE)),
        (PGD, pgd_index(FIX_KMAP_BEGIN), entry(KMAP_TABLE, KERNPG_TABLE)),
        (TABLE, 1, entry(PAGE, TOUCHED)),
        (OTHER_TABLE, 0, entry(SECOND_PAGE, TOUCHED)),
    ))  # fmt: skip
    pages = ((ADDR, OTHER_ADDR, FIX_KMAP_BEGIN), (ADDR, OTHER_ADDR))
    deferring = replace(vmi, pte_update=vmi.pte_update_defer)
    tables = (TABLE, OTHER_TABLE, KMAP_TABLE)
    cpu0, cpu1 = (
        vcpu(setup, n, mm, guest, hypervisor, tables=tables, linux=linux, pages=pages[n],
             pv=deferring)
        for n in (0, 1)
    )  # fmt: skip
    setup.cpu(0, call(fork, cpu0, vma, on_time=on_time))
    setup.cpu(1, call(user_write, cpu1, ADDR), call(user_write, cpu1, ADDR))
    page = value(guest.page(PAGE))
    setup.sometimes("the page was promised to be final", page & PAGE_FROZEN != 0)
    setup.sometimes("every write went through", finished("cpu1") & (page >> VERSION_SHIFT == 2))
    setup.sometimes("protection stopped a write", finished("cpu1") & (page >> VERSION_SHIFT < 2))
