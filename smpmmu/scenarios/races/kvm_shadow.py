"""A shadow entry is made from a guest's entry that was read before the table was write-protected.

vcpu0                                   vcpu1
page fault: read the guest's entry      change the entry: the table is not shadowed yet
lock(mmu_lock)                          page fault below the same table:
the table is shadowed already             lock(mmu_lock); shadow and protect the table
[read the entry again]                    fill; unlock
fill the shadow entry; unlock
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import any_of, finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import AGAIN, Again, retry
from smpmmu.engine.steps import Word, load, store, xchg
from smpmmu.hypervisor.kvm import (
    kick,
    kvm_flush_remote_tlbs,
    leave_guest,
    mmu_lock,
    rmap_write_protect,
    vcpu_enter_guest,
)
from smpmmu.hypervisor.trapping import store_entry
from smpmmu.kernel.mm import MmStruct
from smpmmu.kernel.paravirt import native
from smpmmu.machine.cpu import Cpu
from smpmmu.machine.entries import FRAME, PAGE_PRESENT, PAGE_TABLE, entry
from smpmmu.machine.memory import VERSION_SHIFT, Memory
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import Access, user_write
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
)
from smpmmu.scenarios.races.common import UNVERIFIED

if TYPE_CHECKING:
    from collections.abc import Iterable

SECOND_PGD, SECOND_PAGE = 0x8, 0x9
BEFORE, AFTER = entry(PAGE, TOUCHED), entry(SECOND_PAGE, TOUCHED)
VCPUS = (0, 1)
SHADOWED = Word(f"table {TABLE:#x} shadowed", 1)
"""Whether there is a shadow page for the guest's table, which then is write-protected."""
SHADOW_AGREES = "a_protected_table_and_its_shadow_agree_at_rest"


class Rereads(enum.Enum):
    """When a fault compares the guest's entry with what it walked."""

    NEW = "new"
    """It has made the shadow page itself."""
    LOOKED_UP = "looked_up"
    """It has made the shadow page, or found it and linked it."""
    ALWAYS = "always"


def tables() -> Iterable[tuple[int, int, int]]:
    """Return what both roots of the guest have: the table, and a mapping of it, elsewhere."""
    for root in (PGD, SECOND_PGD):
        yield root, 0, entry(TABLE, PAGE_TABLE)
        yield root, 1, entry(OTHER_TABLE, PAGE_TABLE)
    yield OTHER_TABLE, 0, entry(TABLE, TOUCHED)


GUEST = Memory((*tables(), (TABLE, 1, BEFORE)))
SHADOW = Memory(tuple((f, i, v) for f, i, v in tables() if (f, i) in (
    (PGD, 1), (SECOND_PGD, 1), (OTHER_TABLE, 0))), "shadow ")  # fmt: skip
GPTE, SPTE = GUEST.table(TABLE, 1), SHADOW.table(TABLE, 1)
MAPPING = SHADOW.table(OTHER_TABLE, 0)


async def guest_write(cpu: Cpu, rereads: Rereads) -> None:
    """Write to the page; faults are KVM's."""
    await retry(write_once, cpu, rereads)


async def write_once(cpu: Cpu, rereads: Rereads) -> Access | Again:
    """Try once."""
    if await user_write(cpu, ADDR) is Access.DONE:
        return Access.DONE
    await leave_guest(cpu)
    await page_fault(cpu, rereads)
    await vcpu_enter_guest(cpu)
    return AGAIN


async def page_fault(cpu: Cpu, rereads: Rereads) -> None:
    """Fill the shadow from what a walk of the guest's tables finds, or have the guest try again.

    C: FNAME(page_fault), FNAME(walk_addr), FNAME(fetch), arch/x86/kvm/paging_tmpl.h, Linux 2.6.25
    """
    walked = await load(GPTE)
    # A store to the table traps only if the table is shadowed.
    await spin_lock(mmu_lock)
    link = SHADOW.table(cpu.root, 0)
    linked = await load(link) != 0
    is_new = False if linked else await kvm_mmu_get_page(cpu)
    compares = {Rereads.NEW: is_new, Rereads.LOOKED_UP: not linked, Rereads.ALWAYS: True}
    if compares[rereads] and await load(GPTE) != walked:
        await spin_unlock(mmu_lock)
        return
    if not linked:
        await store(link, entry(TABLE, PAGE_TABLE))
    await store(SPTE, walked)
    await spin_unlock(mmu_lock)


async def kvm_mmu_get_page(cpu: Cpu) -> bool:
    """Find the table's shadow page, or make it and write-protect the table; whether it is new.

    C: kvm_mmu_get_page
    Holds: mmu_lock
    """
    if await xchg(SHADOWED, 1):
        return False
    if await rmap_write_protect(cpu, (MAPPING,), pt_protect=True):
        await kvm_flush_remote_tlbs(cpu, VCPUS)
    return True


async def set_entry(cpu: Cpu) -> None:
    """Store to the guest's own table, as any store; KVM does it where it traps.

    C: emulator_write_phys, kvm_mmu_pte_write
    """
    if await store_entry(cpu, OTHER_ADDR, 1, AFTER) is Access.DONE:
        return
    await leave_guest(cpu)
    await store(GPTE, AFTER)
    await spin_lock(mmu_lock)
    await store(SPTE, 0)
    await kvm_flush_remote_tlbs(cpu, VCPUS)
    await spin_unlock(mmu_lock)
    await vcpu_enter_guest(cpu)


UNCONDITIONAL = "f7d9c7b7b902 (2.6.25): compare also where the shadow page was there before"
ONE_ROOT = (
    "found here: where both vCPUs use one root the table is linked already and nothing is "
    f"compared; KVM came to compare always in 2010 ({UNVERIFIED})"
)


@scenario(
    variant("defect", violated(SHADOW_AGREES, UNCONDITIONAL), rereads=Rereads.NEW),
    variant("repair", holds(UNCONDITIONAL), rereads=Rereads.LOOKED_UP),
    variant("one_root_repair_of_2008", violated(SHADOW_AGREES, ONE_ROOT),
            rereads=Rereads.LOOKED_UP, one_root=True),
    variant("one_root_always", holds(ONE_ROOT), rereads=Rereads.ALWAYS, one_root=True),
)  # fmt: skip
def kvm_shadow_stale_gpte(setup: Setup, *, rereads: Rereads, one_root: bool = False) -> None:
    """A reads a guest's entry; B changes it and has its table shadowed; A uses what it read.

    The table is shared by two address spaces, as those of the kernel are, or used in one.
    """
    mm = MmStruct(1, PGD)
    roots = (PGD, PGD) if one_root else (PGD, SECOND_PGD)
    cpu0, cpu1 = (Cpu(n, GUEST, SHADOW, roots[n], native, mm, (ADDR, OTHER_ADDR)) for n in VCPUS)
    for cpu in (cpu0, cpu1):
        setup.irq(cpu.number, "kick", call(kick, cpu, VCPUS))
        install_evictor(setup, cpu)
    setup.cpu(0, call(guest_write, cpu0, rereads))
    setup.cpu(1, call(set_entry, cpu1), call(guest_write, cpu1, rereads))
    shadow, primary = value(SPTE), value(GPTE)
    agree = any_of(shadow & PAGE_PRESENT == 0, shadow & FRAME == primary & FRAME)
    setup.at_quiescence(SHADOW_AGREES, agree)
    writes = {page: value(GUEST.page(page)) >> VERSION_SHIFT for page in (PAGE, SECOND_PAGE)}
    done = finished("cpu0") & finished("cpu1")
    setup.sometimes("both wrote to the new page", done & (writes[SECOND_PAGE] == 2))
    setup.sometimes("one wrote to the old page", done & (writes[PAGE] == 1))
