"""Entries of two words, and entries that the processor keeps: three races of PAE.

pae_pte_clear_order     cpu0 clears the high word, then the low one; a walker comes in between
pae_pmd_torn_read       cpu0 loads the high word, then the low one; cpu1 populates in between
pdpte_cached_pmd_freed  cpu0 clears an entry of the root, does INVLPG, and frees what it led to
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import bug_on
from smpmmu.engine.steps import Word, load, store
from smpmmu.kernel.mm import MmStruct, VmAreaStruct
from smpmmu.kernel.munmap import zap_pte_range
from smpmmu.kernel.page_alloc import alloc_page, free_page
from smpmmu.kernel.paravirt import native
from smpmmu.kernel.smp import flush_tlb_mm, flush_tlb_page
from smpmmu.machine.entries import HIGH, LOW, PAGE_NX, PAGE_PRESENT, PAGE_TABLE, entry, pfn_of
from smpmmu.machine.memory import OWNER_SHIFT, PAE, PAGE_OWNER, Memory, pmd_index
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, user_read
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    HIGH_PAGE,
    PGD,
    PMD,
    TABLE,
    TOUCHED,
    Flush,
    address_space,
    install_walker,
)
from smpmmu.scenarios.pae_races import NO_WRONG_PAIR, changed_while_used, clear
from smpmmu.scenarios.pae_words import HIGH_FIRST
from smpmmu.scenarios.races.common import UNVERIFIED, native_cpu

if TYPE_CHECKING:
    from smpmmu.kernel.paravirt import ParavirtOps
    from smpmmu.machine.cpu import Cpu

# pae_pte_clear_order

CLEAR_ORDER = f"6e5882cfa24 (2.6.17): P goes first, with the low word; the id is {UNVERIFIED}"


@scenario(
    variant("defect", violated(NO_WRONG_PAIR, CLEAR_ORDER), pv=HIGH_FIRST),
    variant("repair", holds(CLEAR_ORDER), pv=native),
    variant("used_defect", violated(NO_ACCESS_TO_FREED_FRAME, CLEAR_ORDER), pv=HIGH_FIRST,
            speculated=False),
    variant("used_repair", holds(CLEAR_ORDER), pv=native, speculated=False),
)  # fmt: skip
def pae_pte_clear_order(setup: Setup, *, pv: ParavirtOps, speculated: bool = True) -> None:
    """A clears the two words of an entry; a walker, or a thread, finds one of them cleared."""
    changed_while_used(setup, change=clear, pv=pv, speculated=speculated)


# pae_pmd_torn_read

HIGH_TABLE = 0x100002
"""A page table above 4 GiB (CONFIG_HIGHPTE), so that both words of its entry have its frame."""
TABLE_ENTRY = entry(HIGH_TABLE, PAGE_TABLE)
NO_HALF_OF_AN_ENTRY = "no_half_of_an_entry_is_used"
FOUND = Word("the entry was found", 1)


async def read_pmd(cpu: Cpu, pmdp: Word, *, low_first: bool) -> int:
    """Return an entry of the page directory, read as two words.

    C: pmd_read_atomic, arch/x86/include/asm/pgtable-3level.h, where it is `low_first`; else what
    a compiler may make of *pmd
    """
    if low_first:
        low = await load(pmdp, LOW)
        # Populated tables stay while mmap_sem is held: the high word goes with the low one.
        return low | await load(pmdp, HIGH) if low else 0
    high = await load(pmdp, HIGH)
    return await load(pmdp, LOW) | high


async def walk_page_range(cpu: Cpu, pmd: int, *, low_first: bool) -> None:
    """Look at a page table if there is one.

    C: mincore_pte_range and others, pmd_none_or_trans_huge_or_clear_bad; under mmap_sem for reading
    """
    pmdval = await read_pmd(cpu, cpu.memory.at(pmd), low_first=low_first)
    if pmdval & PAGE_PRESENT:
        bug_on(pfn_of(pmdval) != HIGH_TABLE, NO_HALF_OF_AN_ENTRY)
        await load(cpu.memory.table(pfn_of(pmdval), 1))
        await store(FOUND, 1)


async def populate(cpu: Cpu, pmd: int, value_: int) -> None:
    """Write an entry of the page directory at once.

    C: pmd_populate, set_64bit; by a thread that faults, under mmap_sem for reading
    """
    await store(cpu.memory.at(pmd), value_)


LOW_FIRST = (
    "26c191788f18 (3.5, CVE-2012-2373): the low word first; the steps are those of e4eed03fd065, "
    f"which speaks of it; of the former the title was read alone, and the CVE is {UNVERIFIED}"
)
STAYS = "e4eed03fd065: the fix rests on nobody clearing the entry meanwhile; the model is told so"


@scenario(
    variant("defect", violated(NO_HALF_OF_AN_ENTRY, LOW_FIRST), low_first=False),
    variant("repair", holds(LOW_FIRST), low_first=True),
    variant("repair_table_removed",
            violated(NO_HALF_OF_AN_ENTRY, f"argument: {STAYS}"), low_first=True, removed=True),
)  # fmt: skip
def pae_pmd_torn_read(setup: Setup, *, low_first: bool, removed: bool = False) -> None:
    """A reads an entry of two words while B writes it."""
    mm = address_space(Flush.UNDER_PTL, (0, 1), PAE)
    pmd, there = mm.pmd_offset(ADDR), TABLE_ENTRY if removed else 0
    guest = Memory(
        ((PGD, 0, entry(PMD, PAGE_PRESENT)), (PMD, pmd_index(ADDR, PAE), there)), paging=PAE
    )
    cpu0, cpu1 = (native_cpu(setup, n, mm, guest) for n in (0, 1))
    setup.cpu(0, call(walk_page_range, cpu0, pmd, low_first=low_first))
    setup.cpu(1, call(populate, cpu1, pmd, 0 if removed else TABLE_ENTRY))
    setup.sometimes("the table was found", value(FOUND) != 0)
    setup.sometimes("there was none", finished("cpu0") & (value(FOUND) == 0))


# pdpte_cached_pmd_freed

OTHER_TABLE, OTHER_PAGE = 0x6, 0x7
"""What somebody else has below the page directory once it is theirs."""
OTHER = 2


def mm_and_memory(cpus: tuple[int, ...]) -> tuple[MmStruct, Memory]:
    """Return an address space, and memory in which another one has a table and a page."""
    entries = (
        (PGD, 0, entry(PMD, PAGE_PRESENT)),
        (PMD, pmd_index(ADDR, PAE), entry(TABLE, PAGE_TABLE)),
        (TABLE, 1, entry(HIGH_PAGE, TOUCHED) | PAGE_NX),
        (OTHER_TABLE, 1, entry(OTHER_PAGE, TOUCHED) | PAGE_NX),
    )
    owners = ((OTHER_PAGE, OTHER),)
    return address_space(Flush.UNDER_PTL, cpus, PAE), Memory(entries, owners=owners, paging=PAE)


async def munmap(cpu: Cpu, vma: VmAreaStruct, *, full: bool) -> None:
    """Unmap the only page below an entry of the root, and free its page directory.

    C: unmap_region, free_pgd_range, tlb_flush_mmu; flush_tlb_mm_range, Linux 3.9, where it is
    not `full`
    Model: the page table is not freed, nor the page; what is at stake is the page directory.
    """
    mm = vma.vm_mm
    await zap_pte_range(cpu, vma, ADDR)
    await spin_lock(mm.page_table_lock)
    await store(cpu.memory.at(mm.pud_offset(ADDR)), 0)
    await spin_unlock(mm.page_table_lock)
    if full:
        await flush_tlb_mm(cpu, mm)
    else:
        # A range of few pages: INVLPG for each, which does not fetch the root's entries.
        await flush_tlb_page(cpu, vma, ADDR)
    await free_page(cpu, PMD)


async def reuse(cpu: Cpu) -> None:
    """Take the frame of the page directory, if it is free, as that of somebody else."""
    if await alloc_page(cpu, (PMD,), OTHER):
        index = pmd_index(ADDR, PAE)
        await store(cpu.memory.table(PMD, index), entry(OTHER_TABLE, PAGE_TABLE))


FULL = "1de14c3c5cbc (3.9): a full flush, which fetches the root's entries, once one was cleared"


@scenario(
    variant("defect", violated(NO_ACCESS_TO_FREED_FRAME, FULL), full=False),
    variant("repair", holds(FULL), full=True),
    variant("two_cpus_defect", violated(NO_ACCESS_TO_FREED_FRAME, FULL), full=False, cpus=(0, 1)),
    variant("two_cpus_repair", holds(FULL), full=True, cpus=(0, 1)),
)  # fmt: skip
def pdpte_cached_pmd_freed(setup: Setup, *, full: bool, cpus: tuple[int, ...] = (0,)) -> None:
    """A clears an entry of the root and frees what it led to; the processor still goes there."""
    mm, guest = mm_and_memory(cpus)
    vma = VmAreaStruct(mm)
    threads = [native_cpu(setup, n, mm, guest, root_changes=True) for n in cpus]
    cpu0, user = threads[0], threads[-1]
    unmap, reused = call(munmap, cpu0, vma, full=full), call(reuse, cpu0)
    if user is cpu0:
        setup.cpu(0, call(user_read, user, ADDR), unmap, reused, call(user_read, user, ADDR))
    else:
        setup.cpu(0, unmap, reused)
        setup.cpu(1, call(user_read, user, ADDR), call(user_read, user, ADDR))
        install_walker(setup, user)
    owner = value(guest.page(PMD)) & PAGE_OWNER
    setup.sometimes("the frame was reused", owner == OTHER << OWNER_SHIFT)
    setup.sometimes("it was read before", value(user.tlb(ADDR)) & PAGE_PRESENT != 0)
