"""Two races of Xen: a shadow filled from a walk that is out of date, and a flush that is too early.

xen_oos_read_to_use             v1                     v2                   v3
walk: entry is RW      make it RO           load CR3: resync
lock; fill; unlock                            the table

xsa401_typeref_early_flush      A                      B
[flush]                map the page, write, unmap it
make it a page table   write through what is cached
[flush]
check it, use it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import AGAIN, Again, retry
from smpmmu.engine.steps import store
from smpmmu.hypervisor.trapping import store_entry
from smpmmu.hypervisor.xen import (
    PGT_L1_PAGE_TABLE,
    PGT_TYPE,
    PGT_WRITABLE_PAGE,
    TypeFlush,
    emulate_write,
    get_page_type,
    invalidate_interrupt,
    out_of_sync,
    page_fault,
    paging_lock,
    put_page_type,
    resync,
    type_info,
)
from smpmmu.kernel.paravirt import native
from smpmmu.machine.cpu import Cpu
from smpmmu.machine.entries import PAGE_PRESENT, PAGE_RW, PAGE_TABLE, entry
from smpmmu.machine.memory import PAGE_FROZEN, VERSION_SHIFT, Memory
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE, Access, user_write
from smpmmu.properties.lock_rule import no_more_permissive
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    OTHER_ADDR,
    OTHER_TABLE,
    PAGE,
    PGD,
    TABLE,
    TOUCHED,
    install_evictor,
    promise,
)
from smpmmu.scenarios.races.common import memory, one_mm

if TYPE_CHECKING:
    from smpmmu.engine.steps import Word

MM = one_mm()
RW, RO = entry(PAGE, TOUCHED), entry(PAGE, TOUCHED & ~PAGE_RW)
IN_SYNC = "what_is_in_sync_allows_no_more_than_the_guest"


def vcpu(setup: Setup, number: int, guest: Memory, walked: Memory, *pages: int) -> Cpu:
    """Return a guest's vCPU, which answers Xen's shootdowns."""
    cpu = Cpu(number, guest, walked, PGD, native, MM, pages)
    setup.irq(number, "invalidate", call(invalidate_interrupt, cpu))
    install_evictor(setup, cpu)
    return cpu


# xen_oos_read_to_use


async def guest_write(cpu: Cpu, gl1e: Word, sl1e: Word, *, rereads: bool) -> None:
    """Write to the page; a fault is Xen's, unless the guest's own entry forbids the write."""
    await retry(write_once, cpu, gl1e, sl1e, rereads=rereads)


async def write_once(cpu: Cpu, gl1e: Word, sl1e: Word, *, rereads: bool) -> bool | Again:
    """Try once; after a fault that changed nothing the guest is told, and gives up."""
    if await user_write(cpu, ADDR) is Access.DONE:
        return True
    if not await page_fault(cpu, gl1e, sl1e, rereads=rereads):
        return AGAIN
    return await user_write(cpu, ADDR) is Access.DONE


async def make_read_only(cpu: Cpu, gl1e: Word, sl1e: Word, vcpus: int) -> None:
    """Store to the guest's own table, as any store; Xen does it where it traps."""
    if await store_entry(cpu, OTHER_ADDR, 1, RO) is Access.FAULT:
        await emulate_write(cpu, gl1e, sl1e, RO, vcpus)


REREAD = "Xen 24488e9b29 (2010): after the last resync, under the lock, read gl1e again"


@scenario(
    variant("defect", violated(IN_SYNC, REREAD), rereads=False),
    variant("repair", holds(REREAD), rereads=True),
    variant("two_vcpus_defect", violated(IN_SYNC, REREAD), rereads=False, folded=True),
    variant("two_vcpus_repair", holds(REREAD), rereads=True, folded=True),
)
def xen_oos_read_to_use(setup: Setup, *, rereads: bool, folded: bool = False) -> None:
    """A walks the guest's tables; B lowers an entry, C resyncs the table; A uses what it walked.

    With `folded` B and C are one vCPU.
    """
    tables = ((PGD, 0, entry(TABLE, PAGE_TABLE)), (PGD, 1, entry(OTHER_TABLE, PAGE_TABLE)))
    mapping = (OTHER_TABLE, 0, entry(TABLE, TOUCHED))
    guest = Memory((*tables, mapping, (TABLE, 1, RW)))
    walked = Memory((*tables, mapping), "shadow ")
    numbers = (0, 1) if folded else (0, 1, 2)
    cpus = [vcpu(setup, n, guest, walked, ADDR, OTHER_ADDR) for n in numbers]
    everybody = sum(1 << n for n in numbers)
    gl1e, sl1e = guest.table(TABLE, 1), walked.table(TABLE, 1)
    sync = call(resync, cpus[-1], gl1e, sl1e, walked.table(OTHER_TABLE, 0), TABLE, everybody)
    lower = call(make_read_only, cpus[1], gl1e, sl1e, everybody)
    setup.cpu(0, call(guest_write, cpus[0], gl1e, sl1e, rereads=rereads))
    setup.cpu(1, lower, *([sync] if folded else []))
    if not folded:
        setup.cpu(2, sync)
    synced = value(out_of_sync(TABLE)) == 0
    settled = synced & (value(paging_lock) == 0)
    setup.always(IN_SYNC, implies(settled, no_more_permissive(sl1e, gl1e)))
    wrote = value(guest.page(PAGE)) >> VERSION_SHIFT != 0
    setup.sometimes("the write went through", finished("cpu0") & wrote)
    setup.sometimes("the guest's entry stopped it", finished("cpu0") & ~wrote)
    in_shadow = value(sl1e) & (PAGE_PRESENT | PAGE_RW) == PAGE_PRESENT
    setup.sometimes("the lowered entry was shadowed", settled & in_shadow)


# xsa401_typeref_early_flush


async def promote(cpu: Cpu, vcpus: int, flush: TypeFlush) -> None:
    """Make the page a page table, check what is in it, and use it."""
    if await get_page_type(cpu, PAGE, PGT_L1_PAGE_TABLE, vcpus, flush):
        await promise(cpu.memory.page(PAGE))


async def map_write_unmap(cpu: Cpu, vcpus: int) -> None:
    """Map the page writable, write to it, and unmap it with no flush.

    C: mod_l1_entry, get_page_from_l1e, put_page_from_l1e
    Model: the guest's table is its own, and only it asks for changes of it.
    """
    if not await get_page_type(cpu, PAGE, PGT_WRITABLE_PAGE, vcpus):
        return
    await store(cpu.memory.table(TABLE, 1), RW)
    await user_write(cpu, ADDR)
    await store(cpu.memory.table(TABLE, 1), 0)
    await put_page_type(cpu, PAGE)


FLUSH_LAST = "XSA-401, Xen 8cc5036bc3: commit the type, which keeps writers out, then flush"
WRONG_TYPE = (
    "XSA-408 (CVE-2022-33745), a regression of 8cc5036bc3: in shadow mode only changes from "
    "writable are flushed for, and the moved code asked for the new type, not the old one"
)


@scenario(
    variant("defect", violated(NO_WRITE_AFTER_PROMISE, FLUSH_LAST), flush=TypeFlush.EARLY),
    variant("repair", holds(FLUSH_LAST), flush=TypeFlush.ALL),
    variant("xsa408_defect", violated(NO_WRITE_AFTER_PROMISE, WRONG_TYPE),
            flush=TypeFlush.TO_WRITABLE),
    variant("xsa408_repair", holds(WRONG_TYPE), flush=TypeFlush.FROM_WRITABLE),
)  # fmt: skip
def xsa401_typeref_early_flush(setup: Setup, *, flush: TypeFlush) -> None:
    """A turns a page into a page table; B maps it for a moment, and writes to it afterwards."""
    guest = memory(0)
    cpu0 = Cpu(0, guest, guest, PGD, native, MM, ())
    cpu1 = vcpu(setup, 1, guest, guest, ADDR)
    everybody = 1 << 1
    setup.cpu(0, call(promote, cpu0, everybody, flush))
    setup.cpu(1, call(map_write_unmap, cpu1, everybody), call(user_write, cpu1, ADDR))
    page, kind = value(guest.page(PAGE)), value(type_info(PAGE)) & PGT_TYPE
    promised = page & PAGE_FROZEN != 0
    setup.sometimes("it became a page table", promised & (kind == PGT_L1_PAGE_TABLE))
    setup.sometimes("it was in use", finished("cpu0") & ~promised)
    setup.sometimes("it was written before", promised & (page >> VERSION_SHIFT != 0))
