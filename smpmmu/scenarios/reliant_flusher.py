"""A CPU write-protects a page; another one sees that and relies on its own shootdown.

    cpu0                          cpu1                             cpu2
    spin_lock(ptl)                spin_lock(ptl)                   write the page
    ptep_set_wrprotect(pte)       if pte is read-only:             write the page
      [pte_update]                  flush_tlb_page
    [flush_tlb_page]                the page is final (copied)
    spin_unlock(ptl)              spin_unlock(ptl)
    [flush_tlb_page]

Natively the flush may come late: whoever relies on the entry does its own shootdown, and that
cures every TLB. With a deferred hook it may not: the shadow stays writable until cpu0 drains its
queue, and a TLB that was shot down fills again from the shadow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import all_of, finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import load
from smpmmu.hypervisor.shadow import Hypervisor
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.kernel.pgtable import ptep_set_wrprotect
from smpmmu.kernel.smp import flush_tlb_mm, flush_tlb_page
from smpmmu.machine.entries import PAGE_PRESENT, PAGE_RW
from smpmmu.machine.memory import NON_PAE, PAGE_FROZEN, VERSION_SHIFT, Paging
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE, user_write
from smpmmu.scenario import Expected, Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    COMMENT,
    TOUCHED,
    UNTOUCHED,
    Flush,
    Hook,
    address_space,
    guest_memory,
    page_of,
    promise,
    rows,
    unlock_and_flush,
    vcpus,
)

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

TORN = (
    "a shadow filled from an entry that was read before another CPU changed it outlives the "
    "change; KVM had this (f7d9c7b7b90)"
)


async def write_protect(
    cpu: Cpu, vma: VmAreaStruct, flush: Flush, further: int = 0, addr: int = ADDR
) -> None:
    """Take the right to write away; a range walks over `further` empty entries before its flush."""
    mm = vma.vm_mm
    await spin_lock(mm.pte_lockptr(addr))
    await ptep_set_wrprotect(cpu, mm, addr, mm.pte_offset(addr))
    if further:
        await spin_unlock(mm.pte_lockptr(addr))
        for index in range(1, 1 + further):
            await load(cpu.memory.at(mm.pmd_offset(index << mm.paging.pmd_shift)), PAGE_PRESENT)
        await flush_tlb_page(cpu, vma, addr)
        return
    await unlock_and_flush(cpu, vma, flush, addr)


async def rely_on_protection(
    cpu: Cpu,
    vma: VmAreaStruct,
    *,
    flushes: bool = True,
    whole_mm: bool = False,
    addr: int = ADDR,
    frame: int | None = None,
) -> None:
    """Take a read-only page for final, once everybody has been shot down or at once."""
    mm = vma.vm_mm
    await spin_lock(mm.pte_lockptr(addr))
    if not await load(cpu.memory.at(mm.pte_offset(addr)), PAGE_RW):
        if whole_mm:
            await flush_tlb_mm(cpu, mm)
        elif flushes:
            await flush_tlb_page(cpu, vma, addr)
        await promise(cpu.memory.page(page_of(mm.paging) if frame is None else frame))
    await spin_unlock(mm.pte_lockptr(addr))


def expect(hook: Hook, flush: Flush) -> Expected:
    """Return what the earlier check says in its columns F1 and F1rev."""
    if hook.deferred and flush.late:
        return violated(NO_WRITE_AFTER_PROMISE, COMMENT)
    if not flush.late:
        return holds(COMMENT)
    return holds("whoever relies on the entry does its own shootdown, which cures every TLB")


@scenario(
    *rows(expect),
    variant(
        "immediate_untouched_page",
        holds("as immediate_after_unlock; a hidden fault reads the primary, which is never wrong"),
        hook=Hook.IMMEDIATE,
        flush=Flush.AFTER_UNLOCK,
        pte=UNTOUCHED,
    ),
    variant(
        "deferred_untouched_page",
        holds(COMMENT),
        hook=Hook.DEFERRED,
        flush=Flush.UNDER_PTL,
        pte=UNTOUCHED,
    ),
    variant(
        "deferred_torn_fault",
        violated(NO_WRITE_AFTER_PROMISE, TORN),
        hook=Hook.DEFERRED,
        flush=Flush.UNDER_PTL,
        pte=UNTOUCHED,
        hypervisor=Hypervisor(fault_is_atomic=False),
    ),
    variant(
        "deferred_private_shadows",
        holds("every vCPU's own flush fetches its shadow anew from the primary, as it cures TLBs"),
        hook=Hook.DEFERRED,
        flush=Flush.AFTER_UNLOCK,
        hypervisor=Hypervisor(private=True),
    ),
    variant(
        "deferred_ipis_do_not_drain",
        violated(NO_WRITE_AFTER_PROMISE, "as deferred_after_unlock, with a queue kept for longer"),
        hook=Hook.DEFERRED,
        flush=Flush.AFTER_UNLOCK,
        hypervisor=Hypervisor(ipis_drain=False),
    ),
    variant(
        "deferred_range",
        violated(NO_WRITE_AFTER_PROMISE, COMMENT),
        hook=Hook.DEFERRED,
        flush=Flush.AFTER_UNLOCK,
        further=6,
        writes=4,
    ),
    cpus=range(3, 65),
)
def reliant_flusher(
    setup: Setup,
    *,
    hook: Hook,
    flush: Flush,
    pte: int = TOUCHED,
    hypervisor: Hypervisor | None = None,
    further: int = 0,
    writes: int = 2,
    paging: Paging = NON_PAE,
    cpus: int = 3,
) -> None:
    """A write-protects a page; B sees it under the ptl, shoots down, and relies on it.

    Of more CPUs than three, the others write.
    """
    numbers, most = tuple(range(cpus)), writes * (cpus - 2)
    mm = address_space(flush, numbers, paging)
    vma = VmAreaStruct(mm)
    guest = guest_memory(pte, paging, max(6, most.bit_length()))
    all_cpus = vcpus(setup, hook, mm, numbers, hypervisor=hypervisor, guest=guest)
    setup.cpu(0, call(write_protect, all_cpus[0], vma, flush, further))
    setup.cpu(1, call(rely_on_protection, all_cpus[1], vma))
    for cpu in all_cpus[2:]:
        setup.cpu(cpu.number, *(call(user_write, cpu, ADDR) for _ in range(writes)))
    page = value(guest.page(page_of(paging)))
    setup.sometimes("the page was promised to be final", page & PAGE_FROZEN != 0)
    written, done = page >> VERSION_SHIFT, all_of(*(finished(c.name) for c in all_cpus[2:]))
    setup.sometimes("every write went through", done & (written == most))
    setup.sometimes("protection stopped a write", done & (written < most))
