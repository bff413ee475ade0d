"""Guests with second-level tables: who changes an entry there must flush what was combined with it.

nested_flush_by_address       host                         guest
take the entry away          read the page at two addresses
flush [one address | all]    read it at both again
free the page

mmu_notifier_fault            host                         vCPU, out of the guest
notify: take the entry away  look the page up
unmap the page, drop it      lock(mmu_lock)
notify: it is done           [look whether it was unmapped]
enter it; unlock
"""

from __future__ import annotations

from dataclasses import dataclass

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import AGAIN, Again, retry, routine
from smpmmu.engine.steps import Word, load, store
from smpmmu.hypervisor.kvm import (
    Kvm,
    kick,
    kvm_flush_remote_tlbs,
    leave_guest,
    mmu_lock,
    vcpu_enter_guest,
)
from smpmmu.hypervisor.mmu_notifier import (
    Retry,
    invalidate_range_end,
    invalidate_range_start,
    kvm_unmap_hva,
    mmu_notifier_retry,
    mmu_notifier_seq,
)
from smpmmu.kernel.gup import get_user_page, page_count, put_page
from smpmmu.kernel.mm import MmStruct, VmAreaStruct
from smpmmu.kernel.munmap import zap_pte_range
from smpmmu.kernel.page_alloc import free_page
from smpmmu.kernel.paravirt import Linux, native
from smpmmu.kernel.smp import flush_tlb_mm
from smpmmu.machine.cpu import Cpu, invlpg
from smpmmu.machine.entries import PAGE_GLOBAL, PAGE_PRESENT, PAGE_TABLE, entry
from smpmmu.machine.memory import PAGE_OWNER, Memory
from smpmmu.machine.nested import Nested
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, Access, user_read, user_write
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    PAGE,
    PGD,
    TABLE,
    TOUCHED,
    install_evictor,
    install_walker,
)
from smpmmu.scenarios.races.common import UNVERIFIED

GFN, ALIAS = 0x30, 0x2000
"""What the guest takes for the page's frame, and a second address of it there."""
SECOND_ROOT, SECOND_TABLE = 0x18, 0x19
HOST_PGD, HOST_TABLE, HVA = 0x20, 0x21, 0x1000
"""The tables and the address by which the host's process has the page."""
GUEST_MM = MmStruct(1, PGD, ((0, TABLE),))
"""Its number is that of the host's process, whose memory all of it is."""


def guest_memory(flags: int = TOUCHED, *, host: bool = False) -> Memory:
    """Return the guest's tables, and those by which the `host` has the page.

    The guest's lie at frames of the same number in the host's memory.
    """
    page = entry(GFN, flags)
    entries = ((PGD, 0, entry(TABLE, PAGE_TABLE)), (TABLE, 1, page), (TABLE, 2, page))
    of_host = ((HOST_PGD, 0, entry(HOST_TABLE, PAGE_TABLE)), (HOST_TABLE, 1, entry(PAGE, TOUCHED)))
    return Memory((*entries, *(of_host if host else ())))


def second_level(pte: int) -> Nested:
    """Return the tables of the second level, with this entry for the page."""
    frames = [(SECOND_TABLE, frame, entry(frame, TOUCHED)) for frame in (PGD, TABLE)]
    root = (SECOND_ROOT, 0, entry(SECOND_TABLE, PAGE_TABLE))
    return Nested(Memory((root, *frames, (SECOND_TABLE, GFN, pte)), "nested "), SECOND_ROOT)


def vcpu(
    setup: Setup,
    number: int,
    guest: Memory,
    nested: Nested,
    senders: tuple[int, ...],
    *,
    pages: tuple[int, ...] = (ADDR,),
    kvm: Kvm | None = None,
) -> Cpu:
    """Return a vCPU of the guest, which is kicked by `senders`."""
    cpu = Cpu(number, guest, guest, PGD, native, GUEST_MM, pages, nested=nested,
              hypervisor=kvm or Kvm())  # fmt: skip
    setup.irq(number, "kick", call(kick, cpu, senders))
    install_evictor(setup, cpu)
    return cpu


# nested_flush_by_address


async def unmap_and_free(
    cpu: Cpu, spte: Word, vcpus: tuple[int, ...], *, flushes: bool = True
) -> None:
    """Take the page from the guest, flush, and free it.

    C: kvm_mmu_notifier_invalidate_range_start, kvm_unmap_hva; then the host's put_page
    Model: no vCPU faults the page in meanwhile, which is the business of mmu_notifier_fault.
    """
    await spin_lock(mmu_lock)
    if await kvm_unmap_hva(spte) and flushes:
        await kvm_flush_remote_tlbs(cpu, vcpus)
    await spin_unlock(mmu_lock)
    await free_page(cpu, PAGE)


async def flush_own(cpu: Cpu, addr: int) -> None:
    """Flush one page, as the guest's kernel does for reasons of its own.

    C: __flush_tlb_one, in the guest; it makes the processor drop the combined entry, no more
    """
    await invlpg(cpu, addr)


BY_ADDRESS = (
    "__kvm_tlb_flush_vmid_ipa, arch/arm64/kvm/hyp/tlb.c, a stated rule: the host knows the guest's "
    "frame and not its addresses, so that everything combined has to go; that x86 differs only in "
    f"its instructions is {UNVERIFIED}"
)
OWN = "argument: the guest does not know what its host changes, and when"


@scenario(
    variant("defect", violated(NO_ACCESS_TO_FREED_FRAME, BY_ADDRESS), kvm=Kvm((ADDR,))),
    variant("repair", holds(BY_ADDRESS), kvm=Kvm()),
    variant("speculating_repair", holds(BY_ADDRESS), kvm=Kvm(), pages=(ADDR,), speculates=True),
    variant("global_repair", holds(BY_ADDRESS), kvm=Kvm(), flags=TOUCHED | PAGE_GLOBAL),
    variant("one_address", holds("argument: the address that is flushed is the only one"),
            kvm=Kvm((ADDR,)), pages=(ADDR,)),
    variant("guests_own_flush", violated(NO_ACCESS_TO_FREED_FRAME, OWN), kvm=Kvm(),
            pages=(ADDR,), flushes=False),
    variant("one_vcpu_only", violated(NO_ACCESS_TO_FREED_FRAME, "argument: each vCPU has a TLB"),
            kvm=Kvm(), pages=(ADDR,), vcpus=(1, 2), flushed=(1,)),
    variant("every_vcpu", holds("argument: each vCPU has a TLB"), kvm=Kvm(), pages=(ADDR,),
            vcpus=(1, 2), flushed=(1, 2)),
)  # fmt: skip
def nested_flush_by_address(
    setup: Setup,
    *,
    kvm: Kvm,
    pages: tuple[int, ...] = (ADDR, ALIAS),
    flags: int = TOUCHED,
    flushes: bool = True,
    speculates: bool = False,
    vcpus: tuple[int, ...] = (1,),
    flushed: tuple[int, ...] = (1,),
) -> None:
    """The host takes a page from a guest that has it at two addresses; the guest goes on reading.

    Where the host never `flushes`, the guest does it for its own address, between its reads.
    """
    guest, nested = guest_memory(flags), second_level(entry(PAGE, TOUCHED))
    host = Cpu(0, guest, guest, PGD, native, GUEST_MM, ())
    spte = nested.memory.table(SECOND_TABLE, GFN)
    setup.cpu(0, call(unmap_and_free, host, spte, flushed, flushes=flushes))
    cpus = [vcpu(setup, n, guest, nested, (0,), pages=pages, kvm=kvm) for n in vcpus]
    for cpu in cpus:
        reads = [call(user_read, cpu, addr) for addr in pages]
        own = [] if flushes else [call(flush_own, cpu, ADDR)]
        setup.cpu(cpu.number, *reads, *own, *reads)
        if speculates:
            install_walker(setup, cpu)
    freed = value(guest.page(PAGE)) & PAGE_OWNER == 0
    cached = value(cpus[-1].tlb(pages[-1])) & PAGE_PRESENT != 0
    setup.sometimes("the page was freed", freed)
    setup.sometimes("it was in use before", cached & ~freed)
    setup.sometimes("a read after it was stopped", finished(cpus[-1].name) & freed & ~cached)


# mmu_notifier_fault

HOST_MM = MmStruct(GUEST_MM.number, HOST_PGD, ((0, HOST_TABLE),), (0,))
SPTE_MAPPED = TOUCHED
NOT_KEPT = "no_page_is_kept_that_nobody_refers_to"


@dataclass(frozen=True, slots=True)
class Fault:
    """How KVM handles a fault of the second level.

    Attributes:
        spte: the entry of the second level for the page.
        retry: what it looks at before it enters the page, or None to look at nothing.
        read_late: the sequence is read after the page was looked up.
    """

    spte: Word
    retry: Retry | None
    read_late: bool


async def guest_write(cpu: Cpu, fault: Fault) -> None:
    """Write to the page; the second level's faults are KVM's."""
    await retry(write_once, cpu, fault)


async def write_once(cpu: Cpu, fault: Fault) -> Access | Again:
    """Try once; with no page there the guest stops."""
    found = await user_write(cpu, ADDR)
    if found is not Access.EXIT:
        return found
    await leave_guest(cpu)
    if not await tdp_page_fault(cpu, fault):
        return found
    await vcpu_enter_guest(cpu)
    return AGAIN


@routine
async def tdp_page_fault(cpu: Cpu, fault: Fault) -> bool:
    """Look the page up for the guest and enter it into the second level; False if there is none.

    C: tdp_page_fault, __direct_map, arch/x86/kvm/mmu.c
    Model: the reference goes when the page is entered, as KVM does it since its entries hold none
    (unverified: recalled). Who is to try again does so by a fault of its own.
    """
    mmu_seq = 0 if fault.read_late else await load(mmu_notifier_seq)
    pfn = await get_user_page(cpu, HOST_MM, HVA)
    if not pfn:
        return False
    if fault.read_late:
        mmu_seq = await load(mmu_notifier_seq)
    # The host may unmap the page; the reference keeps the page, not its entry.
    await spin_lock(mmu_lock)
    if fault.retry is None or not await mmu_notifier_retry(mmu_seq, fault.retry):
        await store(fault.spte, entry(pfn, SPTE_MAPPED))
    await spin_unlock(mmu_lock)
    await put_page(cpu, pfn)
    return True


async def unmap_from_process(
    cpu: Cpu, spte: Word, vcpus: tuple[int, ...], *, late: bool = False
) -> None:
    """Unmap the page from the process that runs the guest, and drop the mapping's reference.

    C: zap_page_range, unmap_vmas, tlb_finish_mmu, Linux 2.6.27
    Model: the vCPU's CPU has nothing of the process's own mapping cached, and is not told.
    """
    vma = VmAreaStruct(HOST_MM)
    await invalidate_range_start(cpu, spte, vcpus, late=late)
    pfn = await zap_pte_range(cpu, vma, HVA)
    await invalidate_range_end()
    if pfn:
        await flush_tlb_mm(cpu, HOST_MM)
        await put_page(cpu, pfn)


async def change_in_process(
    cpu: Cpu, spte: Word, vcpus: tuple[int, ...], *, late: bool = False
) -> None:
    """Change how the process has the page, which stays.

    C: change_protection, write_protect_page (ksmd) and others
    Model: what is changed is left out; the guest would fault the page in anew.
    """
    await invalidate_range_start(cpu, spte, vcpus, late=late)
    await invalidate_range_end()


NOTIFIER = (
    "e930bffe95e1 (2.6.27): under mmu_lock, whether an invalidation is under way, and whether one "
    "has ended since before the page was looked up"
)
COUNT_ALONE = "argument: an invalidation that has ended no longer counts"
SEQUENCE_ALONE = "argument: one that has begun, but not ended, has not changed the sequence"
READ_LATE = (
    "the comment above the read of mmu_notifier_seq in arch/mips/kvm/mmu.c: it must not come after "
    "the look-up"
)
LATE = (
    "virt/kvm/kvm_main.c, which flushed after mmu_lock and came to flush under it (565f3be21746, "
    f"3.4; the id is {UNVERIFIED}): who comes second finds nothing to flush"
)


@scenario(
    variant("defect", violated(NO_ACCESS_TO_FREED_FRAME, NOTIFIER), retry=None),
    variant("repair", holds(NOTIFIER), retry=Retry()),
    variant("count_alone", violated(NO_ACCESS_TO_FREED_FRAME, COUNT_ALONE),
            retry=Retry(sequence=False)),
    variant("sequence_alone", violated(NO_ACCESS_TO_FREED_FRAME, SEQUENCE_ALONE),
            retry=Retry(count=False)),
    variant("read_late", violated(NO_ACCESS_TO_FREED_FRAME, READ_LATE), retry=Retry(),
            read_late=True),
    variant("late_flush_defect", violated(NO_ACCESS_TO_FREED_FRAME, LATE), retry=Retry(),
            late=True, two=True),
    variant("late_flush_repair", holds(LATE), retry=Retry(), two=True),
    variant("late_flush_alone", holds("argument: the page is not freed before start returns"),
            retry=Retry(), late=True),
    variant("two_vcpus", holds(NOTIFIER), retry=Retry(), vcpus=(1, 3)),
)  # fmt: skip
def mmu_notifier_fault(
    setup: Setup,
    *,
    retry: Retry | None,
    read_late: bool = False,
    late: bool = False,
    two: bool = False,
    vcpus: tuple[int, ...] = (1,),
) -> None:
    """The host unmaps a page while KVM looks it up for the guest, which then writes to it.

    With `two` the guest has the page at first, and another thread of the host changes it meanwhile.
    """
    guest = guest_memory(host=True)
    nested = second_level(entry(PAGE, SPTE_MAPPED) if two else 0)
    spte = nested.memory.table(SECOND_TABLE, GFN)
    hosts = [Cpu(n, guest, guest, HOST_PGD, native, HOST_MM, (), linux=Linux()) for n in (0, 2)]
    cpus = [vcpu(setup, n, guest, nested, (0, 2) if two else (0,)) for n in vcpus]
    setup.cpu(0, call(unmap_from_process, hosts[0], spte, vcpus, late=late))
    writes = 1 if two or len(vcpus) > 1 else 2
    for cpu in cpus:
        setup.cpu(cpu.number, *[call(guest_write, cpu, Fault(spte, retry, read_late))] * writes)
    if two:
        setup.cpu(2, call(change_in_process, hosts[1], spte, vcpus, late=late))
    freed = value(guest.page(PAGE)) & PAGE_OWNER == 0
    mapped = value(spte) & PAGE_PRESENT != 0
    cached = value(cpus[0].tlb(ADDR)) & PAGE_PRESENT != 0
    setup.at_quiescence(NOT_KEPT, freed & (value(page_count(PAGE)) == 0))
    setup.sometimes("the page was freed", finished("cpu0") & freed)
    setup.sometimes("the guest had it", cached & mapped & ~freed)
    setup.sometimes("the fault kept it for a while", value(page_count(PAGE)) == 1 + len(vcpus))
