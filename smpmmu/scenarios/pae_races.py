"""What may meet an entry of two words half written, and what else only PAE has.

It is no scenario itself; `pae_words.py` has the variants and what is expected of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import all_of, any_of, finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import AGAIN, Again, bug_on, retry
from smpmmu.engine.steps import Word, load, store, wait_until
from smpmmu.hypervisor.shadow import Hypervisor, shadow_of
from smpmmu.kernel.init import set_kernel_exec
from smpmmu.kernel.mm import INIT_MM, MmStruct, VmAreaStruct
from smpmmu.kernel.page_writeback import pg_dirty, set_page_dirty
from smpmmu.kernel.paravirt import Linux, ParavirtOps, native
from smpmmu.kernel.pgtable import (
    pte_clear,
    ptep_get_and_clear,
    read_pte,
    set_pte_at,
    set_pte_atomic,
    set_pte_present,
)
from smpmmu.kernel.pmd_alloc import pmd_alloc
from smpmmu.kernel.rmap import page_mkclean_one
from smpmmu.kernel.smp import flush_tlb_all, flush_tlb_page, install_interrupts
from smpmmu.machine.cpu import Cpu
from smpmmu.machine.entries import (
    FRAME,
    PAGE_DIRTY,
    PAGE_NX,
    PAGE_PCD,
    PAGE_PRESENT,
    PAGE_TABLE,
    entry,
    pfn_of,
)
from smpmmu.machine.memory import PAE, PAGE_FROZEN, VERSION_SHIFT, Memory, store_high, store_low
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import Access, user_execute, user_write
from smpmmu.properties.promises import NO_WRITE_LOST
from smpmmu.scenarios.common import (
    ADDR,
    CLEAN,
    HIGH_PAGE,
    PGD,
    PMD,
    TABLE,
    TOUCHED,
    Flush,
    address_space,
    guest_memory,
    install_evictor,
    install_walker,
    promise,
)

if TYPE_CHECKING:
    from smpmmu.engine.expressions import Expr
    from smpmmu.scenario import Setup

Change = Callable[[Cpu, MmStruct], Awaitable[None]]
NEW_PAGE = 0x200004
OTHER_PMD, OTHER_TABLE = 0x6, 0x7
WRONG_PAIRS = (0x3, 0x4, 0x100004, 0x200003)
"""The frames that a word of one entry names together with one of another, or with none."""
OLD, NEW = entry(HIGH_PAGE, TOUCHED) | PAGE_NX, entry(NEW_PAGE, TOUCHED) | PAGE_NX

NO_WRONG_PAIR = "no_tlb_pairs_words_of_two_entries"
NEVER_ABSENT = "a_kernel_mapping_is_never_found_absent"
WHOLE = "an_entry_is_taken_with_both_its_words"
EMPTY = "an_emptied_entry_is_empty_in_both_its_words"
NOT_EXECUTED = "nothing_is_executed_after_it_was_forbidden"
ONE_PAGE = "threads_share_their_pages"
EXECUTED = "what_may_be_executed_is"


# What cpu0 does to the entry; the ptl is held.


async def set_new(cpu: Cpu, mm: MmStruct) -> None:
    """Write the new entry, present or not before."""
    await set_pte_at(cpu, mm, ADDR, mm.pte_offset(ADDR), NEW)


async def set_new_present(cpu: Cpu, mm: MmStruct) -> None:
    """Replace the entry where it may be found absent."""
    await set_pte_present(cpu, mm, ADDR, mm.pte_offset(ADDR), NEW)


async def set_new_atomic(cpu: Cpu, mm: MmStruct) -> None:
    """Replace the entry at once."""
    await set_pte_atomic(cpu, mm.pte_offset(ADDR), NEW)


async def recache(cpu: Cpu, mm: MmStruct) -> None:
    """Change a flag of the entry, which may be found absent."""
    ptep = mm.pte_offset(ADDR)
    await set_pte_present(cpu, mm, ADDR, ptep, await read_pte(cpu, ptep) | PAGE_PCD)


async def recache_atomic(cpu: Cpu, mm: MmStruct) -> None:
    """Change a flag of the entry at once."""
    ptep = mm.pte_offset(ADDR)
    await set_pte_atomic(cpu, ptep, await read_pte(cpu, ptep) | PAGE_PCD)


async def clear(cpu: Cpu, mm: MmStruct) -> None:
    """Empty the entry."""
    await pte_clear(cpu, mm, ADDR, mm.pte_offset(ADDR))


async def take(cpu: Cpu, mm: MmStruct) -> None:
    """Empty the entry, and move its dirty mark to the page."""
    taken = await ptep_get_and_clear(cpu, mm, ADDR, mm.pte_offset(ADDR))
    bug_on(pfn_of(taken) != HIGH_PAGE, WHOLE)
    if taken & PAGE_DIRTY:
        await set_page_dirty(cpu, HIGH_PAGE)


async def take_without_xchg(cpu: Cpu, mm: MmStruct) -> None:
    """Empty the entry as ptep_get_and_clear may not, and move its dirty mark to the page."""
    word = cpu.memory.at(mm.pte_offset(ADDR))
    dirty = await load(word, PAGE_DIRTY)
    await store_low(word, 0)
    await store_high(word, 0)
    if dirty:
        await set_page_dirty(cpu, HIGH_PAGE)


async def change_and_flush(cpu: Cpu, vma: VmAreaStruct, change: Change) -> None:
    """Change the entry and flush, all under the ptl."""
    mm = vma.vm_mm
    await spin_lock(mm.pte_lockptr(ADDR))
    await change(cpu, mm)
    await flush_tlb_page(cpu, vma, ADDR)
    await spin_unlock(mm.pte_lockptr(ADDR))


async def run_in_the_kernel(mm: MmStruct) -> None:
    """Use no user memory."""
    await load(mm.cpu_vm_mask)


# The machine.


def memory(pte: int, pdpte: int = entry(PMD, PAGE_PRESENT)) -> Memory:
    """Return memory with these entries for ADDR, in which wrong pairs name nobody's frames."""
    below = [each for each in guest_memory(0, PAE).entries if each[0] == PMD]
    entries = ((PGD, 0, pdpte), *below, (TABLE, 1, pte))
    return Memory(entries, owners=tuple((frame, 0) for frame in WRONG_PAIRS), paging=PAE)


def vcpus(
    setup: Setup,
    mm: MmStruct,
    guest: Memory,
    *,
    pv: ParavirtOps = native,
    hypervisor: Hypervisor | None = None,
    linux: Linux | None = None,
    root_changes: bool = False,
) -> list[Cpu]:
    """Return vCPUs that run `mm`, with their interrupts and evictors."""
    result = []
    for number in mm.cpus:
        walked = shadow_of(guest, (TABLE,), hypervisor, number) if hypervisor else guest
        cpu = Cpu(
            number, guest, walked, mm.pgd, pv, mm, (ADDR,), root_changes=root_changes,
            hypervisor=hypervisor, linux=linux or Linux(),
        )  # fmt: skip
        install_interrupts(setup, cpu, call_function=True)
        install_evictor(setup, cpu)
        result.append(cpu)
    return result


def written(guest: Memory, frame: int) -> Expr:
    """Return how often a page was written."""
    return value(guest.page(frame)) >> VERSION_SHIFT


# The races.


def changed_while_used(
    setup: Setup,
    *,
    change: Change,
    before: int = OLD,
    pv: ParavirtOps = native,
    hypervisor: Hypervisor | None = None,
    speculated: bool = False,
) -> None:
    """A changes an entry whose page B writes to; or B's walker alone comes across it."""
    mm = address_space(Flush.UNDER_PTL, (0, 1), PAE)
    guest = memory(before)
    cpu0, cpu1 = vcpus(setup, mm, guest, pv=pv, hypervisor=hypervisor)
    setup.cpu(0, call(change_and_flush, cpu0, VmAreaStruct(mm), change))
    if speculated:
        setup.cpu(1, call(run_in_the_kernel, mm))
        install_walker(setup, cpu1)
        cached = value(cpu1.tlb(ADDR)) & FRAME
        setup.always(NO_WRONG_PAIR, all_of(*(cached != entry(wrong, 0) for wrong in WRONG_PAIRS)))
        setup.sometimes("the walker cached the old page", cached == entry(HIGH_PAGE, 0))
        return
    setup.cpu(1, call(user_write, cpu1, ADDR), call(user_write, cpu1, ADDR))
    old, new = written(guest, HIGH_PAGE), written(guest, NEW_PAGE)
    if before & PAGE_PRESENT:
        setup.sometimes("the old page was written", old != 0)
    if change is clear:
        setup.at_quiescence(EMPTY, value(guest.table(TABLE, 1)) == 0)
    else:
        setup.sometimes("the new page was written", new != 0)
    if change is not set_new_atomic and hypervisor is None:
        setup.sometimes("the page was found absent", finished("cpu1") & (old + new < 2))


def taken_while_written(setup: Setup, *, change: Change) -> None:
    """A empties an entry whose clean page B writes to: is the mark of the write kept?"""
    mm = address_space(Flush.UNDER_PTL, (0, 1), PAE)
    guest = memory(entry(HIGH_PAGE, CLEAN) | PAGE_NX)
    cpu0, cpu1 = vcpus(setup, mm, guest)
    setup.cpu(0, call(change_and_flush, cpu0, VmAreaStruct(mm), change))
    setup.cpu(1, call(user_write, cpu1, ADDR))
    marked = value(pg_dirty(HIGH_PAGE)) != 0
    count = written(guest, HIGH_PAGE)
    setup.at_quiescence(NO_WRITE_LOST, any_of(count == 0, marked))
    setup.at_quiescence(EMPTY, value(guest.table(TABLE, 1)) == 0)
    setup.sometimes("the mark was moved", marked)
    setup.sometimes("the write came too late", finished("cpu1") & (count == 0))


async def write_back(cpu: Cpu, vma: VmAreaStruct, *, sync: bool) -> None:
    """Make every entry of the page clean and read-only, then take it for what is on disk.

    C: clear_page_dirty_for_io
    """
    await page_mkclean_one(cpu, HIGH_PAGE, vma, ADDR, sync=sync)
    await promise(cpu.memory.page(HIGH_PAGE))


def written_back_while_changed(setup: Setup, *, change: Change, sync: bool) -> None:
    """A changes an entry whose page B writes back; then C writes: does anybody notice?"""
    mm = address_space(Flush.UNDER_PTL, (0, 1, 2), PAE)
    guest = memory(OLD)
    cpu0, cpu1, cpu2 = vcpus(setup, mm, guest)
    vma = VmAreaStruct(mm)
    setup.cpu(0, call(change_and_flush, cpu0, vma, change))
    setup.cpu(1, call(write_back, cpu1, vma, sync=sync))
    setup.cpu(2, call(user_write, cpu2, ADDR))
    promised = value(guest.page(HIGH_PAGE)) & PAGE_FROZEN != 0
    count = written(guest, HIGH_PAGE)
    setup.sometimes("the write came first", promised & (count == 1))
    setup.sometimes("the write was noticed", promised & finished("cpu2") & (count == 0))


async def change_page_attr(cpu: Cpu, init_mm: MmStruct, *, atomic: bool) -> None:
    """Make a kernel page uncached and executable, with flags in both words, then flush.

    C: change_page_attr, global_flush_tlb
    Model: cpa_lock is left out: nobody else changes the entry.
    """
    ptep, pteval = init_mm.pte_offset(ADDR), OLD & ~PAGE_NX | PAGE_PCD
    if atomic:
        await set_pte_atomic(cpu, ptep, pteval)
    else:
        await set_pte_present(cpu, init_mm, ADDR, ptep, pteval)
    await flush_tlb_all(cpu, (0, 1))


async def use_kernel_mapping(cpu: Cpu) -> None:
    """Write to the kernel page: there is nobody who could handle a fault."""
    bug_on(await user_write(cpu, ADDR) is Access.FAULT, NEVER_ABSENT)


def kernel_space(cpus: tuple[int, ...]) -> MmStruct:
    """Return init_mm with the page at ADDR.

    In PAE all roots share the kernel's page directory, so that one root stands for all. The page
    may be used by user code too, as the vsyscall page: no other kind of access is needed then.
    """
    user = address_space(Flush.UNDER_PTL, cpus, PAE)
    return replace(user, number=INIT_MM.number)


def kernel_mapping_changed(setup: Setup, *, atomic: bool) -> None:
    """A changes the attributes of a kernel page that B is using."""
    mm = address_space(Flush.UNDER_PTL, (0, 1), PAE)
    guest = memory(OLD)
    cpu0, cpu1 = vcpus(setup, mm, guest)
    setup.cpu(0, call(change_page_attr, cpu0, kernel_space((0, 1)), atomic=atomic))
    setup.cpu(1, call(use_kernel_mapping, cpu1), call(use_kernel_mapping, cpu1))
    cached = value(cpu1.tlb(ADDR))
    setup.sometimes("the page was used as it was", cached & PAGE_NX != 0)
    setup.sometimes("the page was used as it became", cached & PAGE_PCD != 0)


async def write_and_populate(cpu: Cpu, mm: MmStruct, new: int) -> None:
    """Write to the page; where there is no page directory, it is to be `new`."""
    await retry(write_or_populate, cpu, mm, new)


async def write_or_populate(cpu: Cpu, mm: MmStruct, new: int) -> Access | Again:
    """Try once.

    C: handle_mm_fault
    """
    if await user_write(cpu, ADDR) is Access.DONE:
        return Access.DONE
    await pmd_alloc(cpu, mm, ADDR, new)
    return AGAIN


def root_populated(
    setup: Setup, *, linux: Linux | None = None, cpus: tuple[int, ...] = (0, 1), two: bool = False
) -> None:
    """Threads of one mm fault for want of a page directory; one of them provides it.

    There are `two`, if so, that lead to different pages: only the first that is linked may count.
    """
    mm = address_space(Flush.UNDER_PTL, cpus, PAE)
    guest = memory(OLD, pdpte=0)
    if two:
        other = ((OTHER_PMD, 0, entry(OTHER_TABLE, PAGE_TABLE)), (OTHER_TABLE, 1, NEW))
        guest = replace(guest, entries=guest.entries + other)
    for cpu in vcpus(setup, mm, guest, linux=linux, root_changes=True):
        new = OTHER_PMD if two and cpu.number else PMD
        setup.cpu(cpu.number, call(write_and_populate, cpu, mm, new))
    one, another = written(guest, HIGH_PAGE), written(guest, NEW_PAGE)
    setup.sometimes("all wrote", one == len(cpus))
    if two:
        setup.sometimes("all wrote to the other page", another == len(cpus))
        setup.always(ONE_PAGE, any_of(one == 0, another == 0))


FORBIDDEN = Word("the page was made not executable", 1)


async def forbid_and_allow(cpu: Cpu, init_mm: MmStruct) -> None:
    """Execute a kernel page, forbid that, try again; then allow it, and try once more."""
    bug_on(await user_execute(cpu, ADDR) is Access.FAULT, EXECUTED)
    await set_kernel_exec(cpu, init_mm, ADDR, enable=False)
    await store(FORBIDDEN, 1)
    bug_on(await user_execute(cpu, ADDR) is Access.DONE, NOT_EXECUTED)
    await set_kernel_exec(cpu, init_mm, ADDR, enable=True)
    bug_on(await user_execute(cpu, ADDR) is Access.FAULT, EXECUTED)


async def execute_forbidden(cpu: Cpu) -> None:
    """Try to execute what was forbidden."""
    await wait_until(FORBIDDEN, 1)
    bug_on(await user_execute(cpu, ADDR) is Access.DONE, NOT_EXECUTED)


async def forbid(cpu: Cpu, init_mm: MmStruct) -> None:
    """Forbid that a kernel page is executed."""
    await set_kernel_exec(cpu, init_mm, ADDR, enable=False)
    await store(FORBIDDEN, 1)


def kernel_exec(
    setup: Setup,
    *,
    pv: ParavirtOps = native,
    hypervisor: Hypervisor | None = None,
    cpus: tuple[int, ...] = (0,),
) -> None:
    """NX of a kernel page is changed, with a deferred hook and a flush of one CPU."""
    mm, init_mm = address_space(Flush.UNDER_PTL, cpus, PAE), kernel_space(cpus)
    guest = memory(OLD & ~PAGE_NX)
    cpu0, *others = vcpus(setup, mm, guest, pv=pv, hypervisor=hypervisor)
    setup.cpu(0, call(forbid if others else forbid_and_allow, cpu0, init_mm))
    for cpu in others:
        setup.cpu(cpu.number, call(user_execute, cpu, ADDR), call(execute_forbidden, cpu))
    setup.sometimes("it was forbidden", value(FORBIDDEN) != 0)
