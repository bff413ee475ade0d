"""A walker that sets A and D in an entry which was cleared since it looked at P: an erratum.

    cpu0                              cpu1
    clear the entry                   write the page: the walk has read the entry, and sets A and D
    flush                             in what is there by now; the write faults
                                      the fault finds an entry that is neither present nor none

The processor makes no access that is not allowed; it is what Linux takes the entry for that is
wrong. Linux of 2016; each function says which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import bug_on
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.kernel.munmap import unmap_region
from smpmmu.kernel.pgtable import ptep_clear_flush, ptep_get_and_clear, read_pte, set_pte_at
from smpmmu.kernel.smp import flush_tlb_mm
from smpmmu.machine.entries import PAGE_ACCESSED, PAGE_DIRTY, PAGE_PRESENT, entry
from smpmmu.machine.marking import Marking
from smpmmu.machine.memory import PAGE_OWNER, VERSION_SHIFT
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, Access, user_write
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import ADDR, PAGE, UNTOUCHED
from smpmmu.scenarios.races.common import memory, native_cpu, one_mm

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

NO_WRONG_SWAP_ENTRY = "no_fault_finds_a_swap_entry_that_nobody_made"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an entry that is not present keeps the type and the offset of a swap entry.

    Attributes:
        type_shift: the lowest of the five bits of the type.
        offset_shift: the lowest bit of the offset.
    """

    type_shift: int
    offset_shift: int

    def swp_entry_to_pte(self, type_: int, offset: int) -> int:
        """Return the entry of the page table.

        C: __swp_entry, __swp_entry_to_pte
        """
        return type_ << self.type_shift | offset << self.offset_shift

    def pte_to_swp_entry(self, pte: int) -> tuple[int, int]:
        """Return type and offset.

        C: __pte_to_swp_entry, __swp_type, __swp_offset
        """
        return pte >> self.type_shift & 0x1F, pte >> self.offset_shift


OLD = Layout(1, 9)
"""The type in bits 1 to 5, of which the highest is A."""
MOVED = Layout(9, 14)
"""As moved up, so that A and D hit nothing (00839ee3b299)."""
TYPE, OFFSET = 1, 5


@dataclass(frozen=True, slots=True)
class Swap:
    """How Linux reads and makes entries that are not present.

    Attributes:
        layout: of swap entries.
        none_ignores: pte_none does not look at A and D (97e3c602ccbd).
    """

    layout: Layout = OLD
    none_ignores: bool = False

    def pte_none(self, pte: int) -> bool:
        """Whether nothing was ever put into the entry.

        C: pte_none, arch/x86/include/asm/pgtable.h
        """
        return pte & ~(PAGE_ACCESSED | PAGE_DIRTY if self.none_ignores else 0) == 0


async def try_to_unmap_one(cpu: Cpu, vma: VmAreaStruct, layout: Layout, *, batched: bool) -> None:
    """Put a swap entry in the place of the page's.

    C: try_to_unmap_one, try_to_unmap_flush, Linux 4.6; `batched` with TTU_BATCH_FLUSH
    """
    mm = vma.vm_mm
    pte = mm.pte_offset(ADDR)
    await spin_lock(mm.pte_lockptr(ADDR))
    if batched:
        # A walk that has read the entry may go on until the flush.
        await ptep_get_and_clear(cpu, mm, ADDR, pte)
    else:
        await ptep_clear_flush(cpu, vma, ADDR, pte)
    await set_pte_at(cpu, mm, ADDR, pte, layout.swp_entry_to_pte(TYPE, OFFSET))
    await spin_unlock(mm.pte_lockptr(ADDR))
    if batched:
        await flush_tlb_mm(cpu, mm)


async def write(cpu: Cpu, vma: VmAreaStruct, swap: Swap, *, swapped: bool) -> None:
    """Write to the page; if that faults, look what has become of it."""
    if await user_write(cpu, ADDR) is Access.FAULT:
        await handle_pte_fault(cpu, vma, swap, swapped=swapped)


async def handle_pte_fault(cpu: Cpu, vma: VmAreaStruct, swap: Swap, *, swapped: bool) -> None:
    """Tell an entry that is none from one of a page that was swapped out.

    C: handle_pte_fault, do_swap_page, Linux 4.6
    Model: the page is not brought back; what the swap entry says is what matters.
    """
    pte = await read_pte(cpu, vma.vm_mm.pte_offset(ADDR))
    if pte & PAGE_PRESENT or swap.pte_none(pte):
        return
    made = swapped and swap.layout.pte_to_swp_entry(pte) == (TYPE, OFFSET)
    bug_on(not made, NO_WRONG_SWAP_ENTRY)


NONE = "97e3c602ccbd (4.8; the id is from memory, the patch was read): pte_none ignores A and D"
MOVE = "00839ee3b299 (4.8): the type of a swap entry moves up, where neither A nor D hits it"
CHECKS = "argument: a walker that looks at P when it sets A and D sets none where P is gone"
FLUSHED = "argument: the flush waits for the instruction of the walk, before the swap entry is made"
PLAIN = "argument: what was cleared is stored again; no processor is known to do so"


@scenario(
    variant("defect", violated(NO_WRONG_SWAP_ENTRY, NONE)),
    variant("repair", holds(NONE), swap=Swap(none_ignores=True)),
    variant("no_erratum", holds(CHECKS), marking=Marking.CHECKED),
    variant("swap_defect", violated(NO_WRONG_SWAP_ENTRY, MOVE), swap=Swap(none_ignores=True),
            batched=True),
    variant("swap_repair", holds(MOVE), swap=Swap(MOVED, none_ignores=True), batched=True),
    variant("swap_no_erratum", holds(CHECKS), marking=Marking.CHECKED, batched=True),
    variant("swap_flushed_first", holds(FLUSHED), swap=Swap(none_ignores=True), batched=False),
    variant("plain_store", violated(NO_ACCESS_TO_FREED_FRAME, PLAIN), marking=Marking.PLAIN,
            swap=Swap(MOVED, none_ignores=True)),
)  # fmt: skip
def stray_accessed_dirty(
    setup: Setup,
    *,
    marking: Marking = Marking.STRAY,
    swap: Swap = Swap(),
    batched: bool | None = None,
) -> None:
    """A unmaps a page and frees it, or swaps it out; B's write had read its entry.

    It is swapped out where that is `batched` or not.
    """
    swapped = batched is not None
    mm = one_mm(0, 1)
    vma, guest = VmAreaStruct(mm), memory(entry(PAGE, UNTOUCHED))
    cpu0, cpu1 = (replace(native_cpu(setup, n, mm, guest), marking=marking) for n in (0, 1))
    if swapped:
        unmap = call(try_to_unmap_one, cpu0, vma, swap.layout, batched=batched)
    else:
        unmap = call(unmap_region, cpu0, vma, ADDR, frees=True)
    setup.cpu(0, unmap)
    setup.cpu(1, *[call(write, cpu1, vma, swap, swapped=swapped)] * 2)
    page, pte = value(guest.page(PAGE)), value(guest.at(mm.pte_offset(ADDR)))
    both = finished("cpu0") & finished("cpu1")
    setup.sometimes("the page was written before", both & (page >> VERSION_SHIFT == 2))
    setup.sometimes("a write found it gone", both & (page >> VERSION_SHIFT < 2))
    gone = pte & PAGE_PRESENT == 0 if swapped else page & PAGE_OWNER == 0
    setup.sometimes("it was taken", both & gone)
    if marking is Marking.STRAY and batched is not False:
        stray = pte & (PAGE_PRESENT | PAGE_ACCESSED | PAGE_DIRTY) == PAGE_ACCESSED | PAGE_DIRTY
        setup.sometimes("the walker set bits in what is not present", stray)
