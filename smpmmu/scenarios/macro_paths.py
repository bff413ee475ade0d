"""The kernel paths that call the first patch's macros, each with those that contend with it.

It is no scenario itself; `macros_as_written.py` has the variants and what is expected of them.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import any_of, finished, value
from smpmmu.engine.local import call
from smpmmu.hypervisor.vmi import vmi
from smpmmu.kernel.context import context_switch
from smpmmu.kernel.fork import dup_mmap
from smpmmu.kernel.mm import INIT_MM, MmStruct, VmAreaStruct
from smpmmu.kernel.msync import msync_pte_range
from smpmmu.kernel.munmap import unmap_region
from smpmmu.kernel.page_writeback import pg_dirty
from smpmmu.kernel.reclaim import shrink_zone, unmap_and_move
from smpmmu.kernel.rmap import page_referenced_one, try_to_unmap_one
from smpmmu.machine.entries import PAGE_ACCESSED, PAGE_DIRTY, PAGE_PRESENT
from smpmmu.machine.memory import (
    NON_PAE,
    OWNER_SHIFT,
    PAGE_FROZEN,
    PAGE_OWNER,
    PAGE_SIZE,
    VERSION_SHIFT,
    Memory,
    Paging,
)
from smpmmu.machine.walker import user_read, user_write
from smpmmu.properties.promises import NO_WRITE_LOST
from smpmmu.scenarios.common import (
    ADDR,
    PAGE,
    PGD,
    PMD,
    READ_ONLY,
    TABLE,
    TOUCHED,
    Flush,
    Judge,
    demand_lock_rule,
    guest_memory,
    page_of,
    promise,
    vcpu,
)
from smpmmu.scenarios.dirty_writeback import DISK, write_back
from smpmmu.scenarios.permission_increase import write_and_handle_faults
from smpmmu.scenarios.reliant_flusher import rely_on_protection
from smpmmu.scenarios.unmap_free import SOMEBODY_ELSE, reuse

if TYPE_CHECKING:
    from smpmmu.engine.expressions import Expr
    from smpmmu.hypervisor.shadow import Hypervisor
    from smpmmu.kernel.paravirt import Linux
    from smpmmu.machine.cpu import Cpu
    from smpmmu.scenario import Setup

BORROWED, NEXT = MmStruct(2, 0x11, cpus=(0,)), MmStruct(4, 0x31)
"""What a kernel thread has loaded, and what is loaded after it."""
CHILD_TABLE = 0x22
CHILD = MmStruct(4, 0x21, ((0, CHILD_TABLE),))

RULE = Judge.LOCK_RULE


class Walker(enum.Enum):
    """Who looks for accessed bits."""

    THREAD = "thread"
    """A thread of the address space, in direct reclaim."""
    KSWAPD = "kswapd"
    """A kernel thread, which has some other address space loaded."""
    BORROWER = "borrower"
    """A kernel thread that has just this address space loaded."""


class Contender(enum.Enum):
    """Who else works on the entry, beside user accesses."""

    NOBODY = "nobody"
    READER = "reader"
    """Sees the entry read-only, shoots down, and relies on it."""
    RECLAIM = "reclaim"
    """kswapd: clears A, and takes the page if it stays clear."""
    MIGRATION = "migration"
    """A kernel thread takes the page, used or not."""
    MUNMAP = "munmap"


async def fork(cpu: Cpu, vma: VmAreaStruct, child: MmStruct, *, promises: bool) -> None:
    """Share a page with a child, for which it must not change from now on."""
    await dup_mmap(cpu, child, vma, ADDR, ADDR + PAGE_SIZE)
    if promises:
        await promise(cpu.memory.page(page_of(cpu.memory.paging)))


def version(cpu: Cpu) -> Expr:
    """Return how often the page was written."""
    return value(cpu.memory.page(page_of(cpu.memory.paging))) >> VERSION_SHIFT


def reused(cpu: Cpu) -> Expr:
    """Return that the page's frame belongs to somebody else by now."""
    page = value(cpu.memory.page(page_of(cpu.memory.paging)))
    return page & PAGE_OWNER == SOMEBODY_ELSE << OWNER_SHIFT


def mapping(*cpus: int, paging: Paging = NON_PAE) -> VmAreaStruct:
    """Return a mapping of an address space that `cpus` have loaded."""
    pmds = ((0, PMD),) if paging.is_pae else ()
    return VmAreaStruct(MmStruct(1, PGD, ((0, TABLE),), cpus, pmds=pmds, paging=paging))


def judge_by_lock_rule(setup: Setup, cpus: list[Cpu], vma: VmAreaStruct) -> None:
    """Let cpu1 use the page, unmap it in direct reclaim, and use it again; demand the rule.

    The page stays allocated, so that no promise is at stake.
    """
    cpu1 = cpus[1]
    setup.cpu(
        1,
        call(user_write, cpu1, ADDR),
        call(try_to_unmap_one, cpu1, page_of(vma.vm_mm.paging), vma, ADDR, migration=True),
        call(user_read, cpu1, ADDR),
    )
    pte = vma.vm_mm.pte_offset(ADDR)
    demand_lock_rule(setup, cpus, vma.vm_mm.pte_lockptr(ADDR), pte)
    unmapped = value(cpus[0].memory.at(pte)) == 0
    setup.sometimes("the page was used, then unmapped", unmapped & (version(cpus[0]) != 0))


def kernel_thread(setup: Setup, number: int, guest: Memory, hypervisor: Hypervisor | None) -> Cpu:
    """Return a CPU of kswapd, which has an address space loaded that is not at issue."""
    return vcpu(setup, number, INIT_MM, guest, hypervisor, kernel_thread=True)


def access_flags(
    setup: Setup, hypervisor: Hypervisor | None, judged: Judge, paging: Paging
) -> None:
    """ptep_set_access_flags: two CPUs fault for the right to write; kswapd takes the page."""
    vma, page = mapping(0, 1, paging=paging), page_of(paging)
    guest = guest_memory(READ_ONLY, paging)
    cpus = [vcpu(setup, n, vma.vm_mm, guest, hypervisor) for n in (0, 1)]
    setup.cpu(0, call(write_and_handle_faults, cpus[0], vma, Flush.UNDER_PTL))
    if judged is RULE:
        judge_by_lock_rule(setup, cpus, vma)
        setup.sometimes("the right was given", version(cpus[0]) == 2)
        return
    setup.cpu(1, call(write_and_handle_faults, cpus[1], vma, Flush.UNDER_PTL))
    cpu2 = kernel_thread(setup, 2, guest, hypervisor)
    setup.cpu(2, call(shrink_zone, cpu2, page, (vma,), ADDR), call(reuse, cpu2))
    pte = value(guest.table(TABLE, 1))
    marked = any_of(version(cpu2) == 0, pte & PAGE_DIRTY != 0, value(pg_dirty(page)) != 0)
    setup.at_quiescence(NO_WRITE_LOST, marked)
    setup.sometimes("both writes went through", version(cpu2) == 2)
    setup.sometimes("the frame was reused", reused(cpu2))
    setup.sometimes("the page was unmapped first", finished("cpu0") & (version(cpu2) == 0))


def dirty(
    setup: Setup, hypervisor: Hypervisor | None, judged: Judge, pte: int, contender: Contender
) -> None:
    """ptep_clear_flush_dirty: the mark moves to the page; users write; it is written back."""
    vma = mapping(0, 1)
    guest = guest_memory(pte)
    cpus = [vcpu(setup, n, vma.vm_mm, guest, hypervisor) for n in (0, 1)]
    cpu0, cpu1 = cpus
    setup.cpu(0, call(msync_pte_range, cpu0, vma, ADDR, ADDR + PAGE_SIZE))
    if judged is RULE:
        judge_by_lock_rule(setup, cpus, vma)
        clean = value(guest.table(TABLE, 1)) & (PAGE_PRESENT | PAGE_DIRTY) == PAGE_PRESENT
        setup.sometimes("the mark was moved", clean & (value(pg_dirty(PAGE)) != 0))
        return
    setup.cpu(1, call(user_write, cpu1, ADDR), call(user_write, cpu1, ADDR))
    cpu2 = kernel_thread(setup, 2, guest, hypervisor)
    setup.cpu(2, call(write_back, cpu2))
    if contender is Contender.MIGRATION:
        cpu3 = kernel_thread(setup, 3, guest, hypervisor)
        setup.cpu(3, call(unmap_and_move, cpu3, PAGE, (vma,), ADDR, frees=False))
    entry_now, disk = value(guest.table(TABLE, 1)), value(DISK)
    marked = any_of(entry_now & PAGE_DIRTY != 0, value(pg_dirty(PAGE)) != 0)
    setup.at_quiescence(NO_WRITE_LOST, (version(cpu0) == disk) | marked)
    setup.sometimes("a page with writes was written back", finished("cpu2") & (disk != 0))
    setup.sometimes("a write marked the entry again", (disk != 0) & (entry_now & PAGE_DIRTY != 0))


def young(
    setup: Setup, hypervisor: Hypervisor | None, judged: Judge, pte: int, walker: Walker
) -> None:
    """ptep_clear_flush_young: A is cleared; a sibling unmaps and frees the page; another uses it.

    kswapd's CPU goes on to another address space, whose CR3 drains what is still queued.
    """
    foreign = walker is Walker.KSWAPD
    numbers = (0, 1) if judged is RULE else (0, 1, 2)
    vma = mapping(*(n for n in numbers if n or not foreign))
    mm = vma.vm_mm
    guest = guest_memory(pte)
    cpu0 = vcpu(
        setup, 0, BORROWED if foreign else mm, guest, hypervisor,
        mms={Walker.KSWAPD: (BORROWED, NEXT), Walker.BORROWER: (mm, INIT_MM)}.get(walker, ()),
        kernel_thread=walker is not Walker.THREAD,
    )  # fmt: skip
    before = (call(context_switch, cpu0, mm, None),) if walker is Walker.BORROWER else ()
    after = (call(context_switch, cpu0, BORROWED, NEXT),) if foreign else ()
    setup.cpu(0, *before, call(page_referenced_one, cpu0, PAGE, vma, ADDR), *after)
    others = [vcpu(setup, n, mm, guest, hypervisor) for n in numbers[1:]]
    if judged is RULE:
        judge_by_lock_rule(setup, [cpu0, *others], vma)
    else:
        cpu1, cpu2 = others
        setup.cpu(1, call(unmap_region, cpu1, vma, ADDR, frees=True), call(reuse, cpu1))
        setup.cpu(2, call(user_write, cpu2, ADDR), call(user_read, cpu2, ADDR))
        setup.sometimes("the frame was reused", reused(cpu1))
        setup.sometimes("the page was used first", finished("cpu2") & (version(cpu1) != 0))
        setup.sometimes("unmapping stopped the use", finished("cpu2") & (version(cpu1) == 0))
    cleared = value(guest.table(TABLE, 1)) & (PAGE_PRESENT | PAGE_ACCESSED) == PAGE_PRESENT
    setup.sometimes("the accessed bit was cleared", cleared)


def wrprotect(
    setup: Setup,
    hypervisor: Hypervisor | None,
    judged: Judge,
    contender: Contender,
    *,
    defers: bool,
    paging: Paging,
) -> None:
    """ptep_set_wrprotect: a CPU forks, with one flush at the end; a sibling writes meanwhile.

    If it `defers`, the hook is not the one that the macro has.
    """
    reads = contender is Contender.READER
    cpus = (0, 1) if judged is RULE else (0, 1, 2) if reads else (0, 2)
    vma, frame = mapping(*cpus, paging=paging), page_of(paging)
    mm, child_mm = vma.vm_mm, replace(CHILD, paging=paging)
    guest = guest_memory(TOUCHED, paging)
    tables = (TABLE, CHILD_TABLE)
    pv = replace(vmi, pte_update=vmi.pte_update_defer) if defers else vmi
    cpu0 = vcpu(setup, 0, mm, guest, hypervisor, tables=tables, pv=pv)
    taken = contender in (Contender.RECLAIM, Contender.MIGRATION)
    promises = judged is Judge.PROMISES and not taken
    setup.cpu(0, call(fork, cpu0, vma, child_mm, promises=promises))
    child = value(guest.table(CHILD_TABLE, 1))
    setup.sometimes("the child has the page", child != 0)
    if judged is RULE:
        cpu1 = vcpu(setup, 1, mm, guest, hypervisor, tables=tables)
        judge_by_lock_rule(setup, [cpu0, cpu1], vma)
        return
    cpu2 = vcpu(setup, 2, mm, guest, hypervisor, tables=tables)
    second = user_read if taken else user_write
    setup.cpu(2, call(user_write, cpu2, ADDR), call(second, cpu2, ADDR))
    setup.sometimes("protection stopped a write", finished("cpu2") & (version(cpu2) < 2))
    if reads:
        cpu1 = vcpu(setup, 1, mm, guest, hypervisor, tables=tables)
        setup.cpu(1, call(rely_on_protection, cpu1, vma))
    if taken:
        cpu1 = vcpu(setup, 1, INIT_MM, guest, hypervisor, tables=tables, kernel_thread=True)
        both = (vma, VmAreaStruct(child_mm))
        how = (
            call(shrink_zone, cpu1, frame, both, ADDR)
            if contender is Contender.RECLAIM
            else call(unmap_and_move, cpu1, frame, both, ADDR)
        )
        setup.cpu(1, how)
        setup.sometimes("the page was freed", value(guest.page(frame)) & PAGE_OWNER == 0)
        setup.sometimes("the child has no page", finished("cpu0") & (child == 0))
        return
    page = value(guest.page(frame))
    setup.sometimes("the page was promised to be final", page & PAGE_FROZEN != 0)
    setup.sometimes("every write went through", finished("cpu2") & (version(cpu2) == 2))


def get_and_clear(
    setup: Setup,
    hypervisor: Hypervisor | None,
    judged: Judge,
    contender: Contender,
    linux: Linux,
    paging: Paging,
) -> None:
    """ptep_get_and_clear: a CPU clears an entry, flushes, and frees the page; another uses it."""
    munmaps, frees = contender is Contender.MUNMAP, judged is Judge.PROMISES
    vma = mapping(*((0, 1) if munmaps else (1,)), paging=paging)
    guest, page = guest_memory(TOUCHED, paging), page_of(paging)
    cpu0 = vcpu(
        setup, 0, vma.vm_mm if munmaps else INIT_MM, guest, hypervisor, linux=linux,
        kernel_thread=not munmaps,
    )  # fmt: skip
    cpu1 = vcpu(setup, 1, vma.vm_mm, guest, hypervisor, linux=linux)
    how = {
        Contender.MUNMAP: call(unmap_region, cpu0, vma, ADDR, frees=frees),
        Contender.RECLAIM: call(shrink_zone, cpu0, page, (vma,), ADDR, frees=frees),
        Contender.MIGRATION: call(unmap_and_move, cpu0, page, (vma,), ADDR, frees=frees),
    }[contender]
    setup.cpu(0, how, *((call(reuse, cpu0),) if frees else ()))
    setup.cpu(1, call(user_write, cpu1, ADDR), call(user_read, cpu1, ADDR))
    if frees:
        setup.sometimes("the frame was reused", reused(cpu0))
    else:
        pte = vma.vm_mm.pte_offset(ADDR)
        demand_lock_rule(setup, [cpu0, cpu1], vma.vm_mm.pte_lockptr(ADDR), pte)
    setup.sometimes("the page was used first", finished("cpu1") & (version(cpu0) != 0))
    setup.sometimes("unmapping stopped the use", finished("cpu1") & (version(cpu0) == 0))
