"""A thread gives up two pages; the mmu_gather is full, and frees them under the ptl.

    cpu0: madvise(MADV_DONTNEED)             cpu1
    spin_lock(ptl)                           write the first page
    ptep_get_and_clear(first) [pte_update]   read the second page
    tlb_remove_page: if there is no room:
      flush_tlb_mm, free the page            device
    the same for the second                  an interrupt of cpu0 takes a free frame
    spin_unlock(ptl)
    tlb_finish_mmu: flush_tlb_mm, free

With room for pages they are freed after a flush that comes late, when the ptl is free. That is well
with hooks that act at once. Updates that are deferred (as all are in lazy MMU mode) are drained by
the flush before anything is freed. If lazy MMU mode holds back the flush as well, pages are freed
that the shadow still maps. On one CPU alone pages are freed before the flush (fast mode):
nobody else is there to use them, and the next user access here comes after the flush.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import all_of, finished, value
from smpmmu.engine.local import call
from smpmmu.hypervisor.shadow import Holds, Hypervisor, Record, shadow_of
from smpmmu.hypervisor.vmi import vmi
from smpmmu.kernel.free_pgtables import zap_page_range
from smpmmu.kernel.mm import INIT_MM, INIT_MM_NUMBER, MmStruct, VmAreaStruct
from smpmmu.kernel.page_alloc import alloc_page
from smpmmu.kernel.paravirt import Linux, native
from smpmmu.kernel.smp import install_interrupts
from smpmmu.machine.cpu import FIRST_DEVICE_VECTOR, Cpu, request_interrupt, take_interrupt
from smpmmu.machine.entries import PAGE_TABLE, entry
from smpmmu.machine.memory import OWNER_SHIFT, PAGE_OWNER, PAGE_SIZE, VERSION_SHIFT, Memory
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, user_read, user_write, write_page
from smpmmu.properties.lock_rule import SHADOW_NO_MORE_PERMISSIVE
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    PAGE,
    PGD,
    TABLE,
    TOUCHED,
    Judge,
    demand_lock_rule,
    install_evictor,
    install_walker,
)
from smpmmu.scenarios.mprotect import OUTLIVES, RULE

if TYPE_CHECKING:
    from smpmmu.engine.expressions import Expr

SECOND, SECOND_PAGE = ADDR + PAGE_SIZE, 0x5
ONE, ROOM = 1, 3
"""Pages that a mmu_gather holds before it flushes and frees them."""

FLUSHED_FIRST = "tlb_flush_mmu, include/asm-generic/tlb.h: pages are freed after the flush"
DRAINED = (
    "the flush of a mmu_gather begins on its own CPU, whose queue it drains before anything is "
    "freed (VMI specification, 5: TLB flushes drain implicitly)"
)
UNHOOKED = "8ecb8950695 (2.6.20): without its hook the shadow maps on what was freed"
LAZY_DRAINED = (
    "a flush in lazy MMU mode is done at once, and drains what was held back (VMI specification, 5)"
)
QUEUED = (
    "zap_pte_range, mm/memory.c: in lazy MMU mode a flush may be held back as well (Xen's is one "
    "of a batch, KVM's local one is queued; 096d14a3b57), but the pages are freed at once"
)
LEFT_BEFORE = (
    "the later rework of the mmu_gather (from memory: Linux 3.0; unverified): zap_pte_range leaves "
    "lazy MMU mode and the ptl before it flushes"
)
ALONE = (
    "tlb_fast_mode, include/asm-generic/tlb.h: on one CPU nobody else is there, and who frees goes "
    "back to the user after the flush"
)
NOT_ALONE = "tlb_fast_mode: another CPU goes on using what is cached there, until the flush"

VMI = Hypervisor()
TORN = Hypervisor(record=Record.TORN)
VALUE = Hypervisor(record=Record.VALUE)


async def take_a_frame(cpu: Cpu, frames: tuple[int, ...]) -> None:
    """Allocate a frame for the kernel, as an interrupt handler does, and write to it."""
    await take_interrupt(cpu, FIRST_DEVICE_VECTOR)
    pfn = await alloc_page(cpu, frames, INIT_MM_NUMBER)
    if pfn:
        await write_page(replace(cpu, mm=INIT_MM), pfn)


def install_device(setup: Setup, cpu: Cpu, frames: tuple[int, ...]) -> None:
    """Give a vCPU a device whose interrupts allocate one of `frames`."""
    setup.daemon(cpu.number, "device", call(request_interrupt, cpu, FIRST_DEVICE_VECTOR))
    there = replace(cpu, in_interrupt=True)
    setup.irq(cpu.number, "device", call(take_a_frame, there, frames))


@scenario(
    variant("native_full", holds(FLUSHED_FIRST), hypervisor=None),
    variant("native_room", holds(FLUSHED_FIRST), hypervisor=None, gather=ROOM),
    variant("vmi_full", holds(FLUSHED_FIRST), hypervisor=VMI),
    variant("vmi_room", holds(FLUSHED_FIRST), hypervisor=VMI, gather=ROOM),
    variant("unhooked_full", violated(NO_ACCESS_TO_FREED_FRAME, UNHOOKED), hypervisor=VMI,
            linux=Linux(get_and_clear_hooked=False)),
    *(
        variant(f"deferred{name}_{'full' if gather == ONE else 'room'}", holds(DRAINED),
                hypervisor=hypervisor, gather=gather, defers=True)
        for gather in (ONE, ROOM)
        for name, hypervisor in (("", VMI), ("_torn", TORN), ("_value", VALUE))
    ),
    *(
        variant(f"lazy{name}_{how}", expected, hypervisor=replace(record, lazy=held), linux=linux)
        for name, record in (("", VMI), ("_value", VALUE))
        for how, expected, held, linux in (
            ("full", holds(LAZY_DRAINED), Holds.UPDATES, None),
            ("flush_queued_full", violated(NO_ACCESS_TO_FREED_FRAME, QUEUED), Holds.FLUSHES, None),
            ("flush_queued_left_first", holds(LEFT_BEFORE), Holds.FLUSHES,
             Linux(zap_flushes_after_lazy=True)),
        )
    ),
    *(
        variant(name, expected, hypervisor=replace(VMI, lazy=Holds.UPDATES), gather=gather,
                linux=linux, judged=Judge.LOCK_RULE)
        for name, expected, gather, linux in (
            ("lazy_room_rule", holds(RULE), ROOM, None),
            ("lazy_left_first_rule", holds(RULE), ONE, Linux(zap_flushes_after_lazy=True)),
            ("lazy_room_left_late_rule", violated(SHADOW_NO_MORE_PERMISSIVE, OUTLIVES), ROOM,
             Linux(lazy_mmu_left_late=True)),
        )
    ),
    variant("fast_native", holds(ALONE), hypervisor=None, fast=True),
    variant("fast_vmi", holds(ALONE), hypervisor=VMI, fast=True),
    variant("fast_deferred", holds(ALONE), hypervisor=VMI, fast=True, defers=True),
    variant("fast_two_cpus", violated(NO_ACCESS_TO_FREED_FRAME, NOT_ALONE), hypervisor=None,
            fast=True, cpus=(0, 1)),
)  # fmt: skip
def mmu_gather(
    setup: Setup,
    *,
    hypervisor: Hypervisor | None,
    gather: int = ONE,
    linux: Linux | None = None,
    defers: bool = False,
    fast: bool = False,
    cpus: tuple[int, ...] = (),
    judged: Judge = Judge.PROMISES,
) -> None:
    """Two pages are unmapped and freed, one by one or together, while others use them."""
    numbers = cpus or ((0,) if fast else (0, 1))
    mm = MmStruct(1, PGD, ((0, TABLE),), numbers)
    vma = VmAreaStruct(mm, ADDR, ADDR + 2 * PAGE_SIZE)
    kernel = replace(linux or Linux(), gather=gather, online=(0,) if fast else numbers)
    guest = Memory((
        (PGD, 0, entry(TABLE, PAGE_TABLE)),
        (TABLE, 1, entry(PAGE, TOUCHED)),
        (TABLE, 2, entry(SECOND_PAGE, TOUCHED)),
    ))  # fmt: skip
    deferring = replace(vmi, pte_update=vmi.pte_update_defer) if defers else vmi
    machines = [
        two_pages(n, mm, guest, hypervisor, kernel, native if hypervisor is None else deferring)
        for n in numbers
    ]
    cpu0 = machines[0]
    for cpu in machines:
        install_interrupts(setup, cpu)
        install_evictor(setup, cpu)
    zap = call(zap_page_range, cpu0, vma, ADDR, 2 * PAGE_SIZE)
    first, second = (value(guest.page(page)) for page in (PAGE, SECOND_PAGE))
    setup.sometimes("both pages were freed", all_of(not_ours(first), not_ours(second)))
    if len(numbers) == 1:
        install_device(setup, cpu0, (PAGE, SECOND_PAGE))
        install_walker(setup, cpu0)
        use = call(user_write, cpu0, ADDR)
        setup.cpu(0, use, zap, call(user_read, cpu0, ADDR), call(user_read, cpu0, SECOND))
        taken = INIT_MM_NUMBER << OWNER_SHIFT
        setup.sometimes("an interrupt took the frame", first & PAGE_OWNER == taken)
        return
    if judged is Judge.LOCK_RULE:
        demand_lock_rule(setup, machines, mm.pte_lockptr(ADDR), mm.pte_offset(ADDR))
    cpu1 = machines[1]
    setup.cpu(0, zap)
    setup.cpu(1, call(user_write, cpu1, ADDR), call(user_read, cpu1, SECOND))
    one_gone = all_of(not_ours(first), second & PAGE_OWNER != 0)
    setup.sometimes("the first page was freed before the second", one_gone)
    setup.sometimes("the page was used first", finished("cpu1") & (first >> VERSION_SHIFT != 0))
    setup.sometimes("unmapping stopped the use", finished("cpu1") & (first >> VERSION_SHIFT == 0))


def two_pages(number: int, mm: MmStruct, guest: Memory, hypervisor: Hypervisor | None,
              linux: Linux, pv: object) -> Cpu:  # fmt: skip
    """Return a vCPU that uses both pages."""
    walked = guest if hypervisor is None else shadow_of(guest, (TABLE,), hypervisor, number)
    return Cpu(
        number, guest, walked, mm.pgd, pv, mm, (ADDR, SECOND), hypervisor=hypervisor, linux=linux
    )


def not_ours(page: Expr) -> Expr:
    """Return the truth that a page does not belong to the address space any more."""
    return page & PAGE_OWNER != 1 << OWNER_SHIFT
