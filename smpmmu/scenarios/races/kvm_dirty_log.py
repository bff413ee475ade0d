"""Dirty logging takes the right to write away, and flushes when mmu_lock is free again.

A: get_dirty_log          B: kvm_mmu_get_page            G: the guest
lock(mmu_lock)            lock(mmu_lock)                 write the page
take W from the entry     if the entry has W:            write the page
[flush]                     take it away, and flush
unlock(mmu_lock)          unlock(mmu_lock)
[flush]                   the page is write-protected:
read it as a page table
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.hypervisor.kvm import (
    IN_GUEST_MODE,
    SPTE_MMU_WRITEABLE,
    kick,
    kvm_flush_remote_tlbs,
    leave_guest,
    mmu_lock,
    mode,
    rmap_write_protect,
    vcpu_enter_guest,
)
from smpmmu.machine.entries import PAGE_RW, entry
from smpmmu.machine.memory import PAGE_FROZEN, VERSION_SHIFT
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE, user_write
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import ADDR, PAGE, TABLE, TOUCHED, install_evictor, promise
from smpmmu.scenarios.races.common import memory, native_cpu, one_mm

if TYPE_CHECKING:
    from smpmmu.engine.steps import Word
    from smpmmu.machine.cpu import Cpu


async def kvm_vm_ioctl_get_dirty_log(
    cpu: Cpu, spte: Word, vcpus: tuple[int, ...], *, late: bool, software_bit: bool
) -> None:
    """Write-protect what was dirtied, so that the next write is noticed.

    C: kvm_vm_ioctl_get_dirty_log, write_protect_slot, arch/x86/kvm/x86.c, Linux 3.3
    """
    await spin_lock(mmu_lock)
    flush = await rmap_write_protect(cpu, (spte,), software_bit=software_bit)
    if flush and not late:
        await kvm_flush_remote_tlbs(cpu, vcpus)
    await spin_unlock(mmu_lock)
    if flush and late:
        await kvm_flush_remote_tlbs(cpu, vcpus)


async def kvm_mmu_get_page(
    cpu: Cpu, spte: Word, vcpus: tuple[int, ...], *, software_bit: bool
) -> None:
    """Shadow the page, which is a page table of the guest's: write-protect it, and read it.

    C: kvm_mmu_get_page, mmu_sync_children
    Model: of what is read nothing is kept: that the page stays as it is, is the promise.
    """
    await spin_lock(mmu_lock)
    if await rmap_write_protect(cpu, (spte,), pt_protect=True, software_bit=software_bit):
        await kvm_flush_remote_tlbs(cpu, vcpus)
    await promise(cpu.memory.page(PAGE))
    await spin_unlock(mmu_lock)


async def exit_and_shadow(
    cpu: Cpu, spte: Word, vcpus: tuple[int, ...], *, software_bit: bool
) -> None:
    """Leave the guest for a page fault elsewhere that needs the page shadowed, and go back."""
    await leave_guest(cpu)
    await kvm_mmu_get_page(cpu, spte, vcpus, software_bit=software_bit)
    await vcpu_enter_guest(cpu)


UNDER_LOCK = "6dbf79e7164e (3.4): flush before mmu_lock is dropped"
RELAXED = (
    "198c74f43f0f (3.16): late is legal if a software bit that dirty logging leaves alone decides "
    "whether the other flushes"
)


@scenario(
    variant("defect", violated(NO_WRITE_AFTER_PROMISE, UNDER_LOCK), late=True),
    variant("repair", holds(UNDER_LOCK), late=False),
    variant("late_with_software_bit", holds(RELAXED), late=True, software_bit=True),
    variant("two_agents_defect", violated(NO_WRITE_AFTER_PROMISE, UNDER_LOCK), late=True,
            folded=True),
    variant("two_agents_repair", holds(UNDER_LOCK), late=False, folded=True),
    variant("two_agents_late_with_software_bit", holds(RELAXED), late=True, software_bit=True,
            folded=True),
    variant("two_agents_cached_defect", violated(NO_WRITE_AFTER_PROMISE, UNDER_LOCK), late=True,
            folded=True, cached=True),
    variant("two_agents_cached_repair", holds(UNDER_LOCK), late=False, folded=True, cached=True),
)  # fmt: skip
def kvm_dirtylog_skip_flush(
    setup: Setup,
    *,
    late: bool,
    software_bit: bool = False,
    folded: bool = False,
    cached: bool = False,
) -> None:
    """A logs dirty pages; B shadows the page, and finds no right to take away; the guest writes.

    With `folded` the guest's writes are those of B's own vCPU, whose TLB may have the page `cached`
    at first, so that it need not write before.
    """
    guests = (1,) if folded else (1, 2)
    senders = (0, 1)
    tables = memory(entry(PAGE, TOUCHED | SPTE_MMU_WRITEABLE))
    cpu0, cpu1, cpu2 = (native_cpu(setup, n, one_mm(), tables) for n in range(3))
    if cached:
        cpu1 = replace(cpu1, cached=((ADDR, entry(PAGE, TOUCHED)),))
    for guest in (cpu1, cpu2):
        if guest.number in guests:
            setup.irq(guest.number, "kick", call(kick, guest, senders))
            install_evictor(setup, guest)
    spte = tables.table(TABLE, 1)
    setup.cpu(0, call(kvm_vm_ioctl_get_dirty_log, cpu0, spte, guests, late=late,
                      software_bit=software_bit))  # fmt: skip
    shadow = call(exit_and_shadow, cpu1, spte, guests, software_bit=software_bit)
    writer = cpu1 if folded else cpu2
    writes = call(user_write, writer, ADDR)
    if folded:
        setup.cpu(1, *([] if cached else [writes]), shadow, writes)
    else:
        setup.cpu(1, shadow)
        setup.cpu(2, writes, writes)
    page = value(tables.page(PAGE))
    written, promised = page >> VERSION_SHIFT, page & PAGE_FROZEN != 0
    done = finished(writer.name)
    setup.sometimes("the page was write-protected", promised & (value(spte) & PAGE_RW == 0))
    if not cached:
        setup.sometimes("every write came first" if not folded else "a write came first",
                        done & (written == (1 if folded else 2)))  # fmt: skip
    setup.sometimes("protection stopped a write", done & promised & (written < 2))
    inside = value(mode(writer.number)) == IN_GUEST_MODE
    setup.sometimes("the guest went on", promised & inside)
