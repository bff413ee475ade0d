"""A thread clears the accessed bits of its pages through /proc; another CPU unmaps one of them.

    cpu0                                 cpu1                          cpu2
    for each page table:                 spin_lock(ptl)                write the page
      spin_lock(its ptl)                 if pte is present:            read the page
      ptep_test_and_clear_young(pte)       ptep_clear_flush(pte)
        [pte_update_defer]                 free the page
      spin_unlock(its ptl)               spin_unlock(ptl)
      cond_resched                       allocate it for somebody else
    flush_tlb_mm

As Linux had it from 2.6.22-rc1 to rc4, against the comment above pte_update: one flush at the very
end, after all locks are gone. The repair of rc5 was the immediate hook; a flush under each lock
would have done as well. The bug breaks the lock rule at once. A promise it breaks only if the
hypervisor's records bring back what they held when the entry was still there. cond_resched may even
move the thread to another CPU before it flushes, and leave the queue behind.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, store, wait_until
from smpmmu.hypervisor.shadow import Hypervisor, Record
from smpmmu.kernel.context import context_switch
from smpmmu.kernel.mm import MmStruct, VmAreaStruct
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.reclaim import unmap_and_move
from smpmmu.kernel.smp import flush_tlb_mm
from smpmmu.kernel.task_mmu import clear_refs_smap, walk_pmd_range
from smpmmu.machine.entries import PAGE_ACCESSED, PAGE_PRESENT, PAGE_TABLE, entry
from smpmmu.machine.memory import (
    NON_PAE,
    PAE,
    PAGE_OWNER,
    PAGE_SIZE,
    VERSION_SHIFT,
    Memory,
    Paging,
    pmd_index,
)
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, user_read, user_write
from smpmmu.properties.accessed import USE_AFTER_FLUSH_IS_SEEN
from smpmmu.properties.lock_rule import SHADOW_NO_MORE_PERMISSIVE
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    CLEAN,
    OTHER_ADDR,
    OTHER_TABLE,
    PAGE,
    PGD,
    PMD,
    TABLE,
    TOUCHED,
    Flush,
    Judge,
    address_space,
    guest_memory,
    vcpu,
)
from smpmmu.scenarios.idle_page import (
    NEVER_SEEN,
    SEEN,
    SEEN_NATIVELY,
    UNSEEN,
    judge_by_accessed_bit,
)
from smpmmu.scenarios.macro_paths import judge_by_lock_rule
from smpmmu.scenarios.mask_omits_deferrer import OTHER_MM
from smpmmu.scenarios.unmap_free import unmapped_while_used

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

OTHER_PAGE = 0x5
TABLES = (TABLE, OTHER_TABLE)

AS_MERGED = Linux()
IMMEDIATE = Linux(test_and_clear_deferred=False)
LOCKED_FLUSH = Linux(clear_refs_flushes_locked=True)

VMI = Hypervisor()
TORN = Hypervisor(record=Record.TORN)
VALUE = Hypervisor(record=Record.VALUE)
CR3_KEEPS = Hypervisor(cr3_drains=False)
CR3_KEEPS_VALUE = Hypervisor(record=Record.VALUE, cr3_drains=False)
UNTRACKED = Hypervisor(tracking=False)
UNTRACKED_TORN = Hypervisor(record=Record.TORN, tracking=False)
UNTRACKED_VALUE = Hypervisor(record=Record.VALUE, tracking=False)

BUG = (
    "d6f8bb1310d (2.6.22-rc5), which repairs 0013572b2ae: clear_refs gives the ptl back while the "
    "update is still deferred"
)
CHOSEN = "d6f8bb1310d (2.6.22-rc5): the hook at once, and one flush at the end as before"
NOT_CHOSEN = (
    "the comment above pte_update in 789e6ac0a7c; turned down for clear_refs since it multiplies "
    "the flushes"
)
NATIVELY = "a stale accessed bit is a wrong heuristic; whoever unmaps the page flushes by itself"
HARMLESS = (
    "the entry is read when the record is applied: once it is gone, nothing is installed; before "
    "that a stale shadow costs an accessed bit, which is a heuristic"
)
DIRTY_PAGE = (
    "A is clear in what is applied, which therefore installs nothing; with D set in the shadow no "
    "fault sets A again"
)
CLEAN_PAGE = (
    "the first write is a hidden fault, which sets A again before the record takes the entry's "
    "value; applied after the page was unmapped, it installs what is gone"
)
NO_TRACKING = (
    "the shadow does not ask for A: the value taken when A was cleared is a present entry, and is "
    "installed after the page was unmapped"
)


LEFT_BEHIND = (
    f"{CLEAN_PAGE}; the queue stays on a CPU that is in no mask, so that not even the thread's "
    "own flush drains it"
)
moved = Word("the thread has left cpu0", 1)


def two_tables(pte: int, paging: Paging) -> Memory:
    """Return memory with two page tables, in which ADDR is mapped with the flags `pte`."""
    directory = PMD if paging.is_pae else PGD
    other = (
        (directory, pmd_index(OTHER_ADDR, paging), entry(OTHER_TABLE, PAGE_TABLE)),
        (OTHER_TABLE, 0, entry(OTHER_PAGE, TOUCHED)),
    )
    one = guest_memory(pte, paging)
    return replace(one, entries=one.entries + other)


async def begin_on_cpu0(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Walk over the first page table; in cond_resched another thread is given the CPU."""
    await walk_pmd_range(cpu, vma, ADDR, ADDR + PAGE_SIZE)
    await context_switch(cpu, vma.vm_mm, OTHER_MM)
    # finish_task_switch: only now can the thread run elsewhere.
    await store(moved, 1)


async def finish_on_cpu1(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Go on with the thread where it left off: the other page table, then the flush."""
    await wait_until(moved, 1)
    await context_switch(cpu, vma.vm_mm, vma.vm_mm)
    await clear_refs_smap(cpu, vma, (OTHER_ADDR,))


def migrating(setup: Setup, guest: Memory, hypervisor: Hypervisor, linux: Linux) -> None:
    """Let the walk go on from cpu0 to cpu1, between accesses of a sibling there.

    The page is then taken on cpu1, whose flush cpu0 is not told of; who runs on cpu0 next flushes
    for a reason of its own, which drains what is left there.
    """
    mm = MmStruct(1, PGD, ((0, TABLE), (1, OTHER_TABLE)), (0, 1), split=True)
    vma = VmAreaStruct(mm)
    cpu0, cpu1 = (
        vcpu(setup, n, mm, guest, hypervisor, tables=TABLES, linux=linux, mms=(mm, OTHER_MM))
        for n in (0, 1)
    )
    after = replace(cpu0, mm=OTHER_MM)
    setup.cpu(0, call(begin_on_cpu0, cpu0, vma), call(flush_tlb_mm, after, OTHER_MM))
    setup.cpu(
        1,
        call(user_write, cpu1, ADDR),
        call(finish_on_cpu1, cpu1, vma),
        call(unmap_and_move, cpu1, PAGE, (vma,), ADDR),
        call(user_read, cpu1, ADDR),
    )
    page = value(guest.page(PAGE))
    freed, version = page & PAGE_OWNER == 0, page >> VERSION_SHIFT
    setup.sometimes("the page was used, then freed", freed & (version != 0))
    setup.sometimes("the page was freed before cpu0 flushed", freed & ~finished("cpu0"))


@scenario(
    variant("native", holds(NATIVELY), hypervisor=None),
    variant("as_merged", holds(HARMLESS), hypervisor=VMI),
    variant("as_merged_dirty_page", holds(HARMLESS), hypervisor=VMI, pte=TOUCHED),
    variant("as_merged_rule", violated(SHADOW_NO_MORE_PERMISSIVE, BUG), hypervisor=VMI,
            judged=Judge.LOCK_RULE),
    variant("immediate", holds(CHOSEN), hypervisor=VMI, linux=IMMEDIATE),
    variant("immediate_rule", holds(CHOSEN), hypervisor=VMI, linux=IMMEDIATE,
            judged=Judge.LOCK_RULE),
    variant("flush_under_ptl", holds(NOT_CHOSEN), hypervisor=VMI, linux=LOCKED_FLUSH),
    variant("flush_under_ptl_rule", holds(NOT_CHOSEN), hypervisor=VMI, linux=LOCKED_FLUSH,
            judged=Judge.LOCK_RULE),
    variant("as_merged_torn", violated(NO_ACCESS_TO_FREED_FRAME, CLEAN_PAGE), hypervisor=TORN),
    variant("as_merged_torn_dirty_page", holds(DIRTY_PAGE), hypervisor=TORN, pte=TOUCHED),
    variant("as_merged_value", violated(NO_ACCESS_TO_FREED_FRAME, CLEAN_PAGE), hypervisor=VALUE),
    variant("as_merged_value_dirty_page", holds(DIRTY_PAGE), hypervisor=VALUE, pte=TOUCHED),
    variant("immediate_value", holds(CHOSEN), hypervisor=VALUE, linux=IMMEDIATE),
    variant("flush_under_ptl_torn", holds(NOT_CHOSEN), hypervisor=TORN, linux=LOCKED_FLUSH),
    variant("flush_under_ptl_value", holds(NOT_CHOSEN), hypervisor=VALUE, linux=LOCKED_FLUSH),
    variant("flush_under_ptl_value_rule", holds(NOT_CHOSEN), hypervisor=VALUE, linux=LOCKED_FLUSH,
            judged=Judge.LOCK_RULE),
    variant("untracked_as_merged", holds(HARMLESS), hypervisor=UNTRACKED),
    variant("untracked_as_merged_torn", violated(NO_ACCESS_TO_FREED_FRAME, NO_TRACKING),
            hypervisor=UNTRACKED_TORN, pte=TOUCHED),
    variant("untracked_as_merged_value", violated(NO_ACCESS_TO_FREED_FRAME, NO_TRACKING),
            hypervisor=UNTRACKED_VALUE),
    variant("untracked_as_merged_value_dirty_page",
            violated(NO_ACCESS_TO_FREED_FRAME, NO_TRACKING), hypervisor=UNTRACKED_VALUE,
            pte=TOUCHED),
    variant("migrates", holds(HARMLESS), hypervisor=VMI, migrates=True),
    variant("migrates_cr3_keeps", holds(HARMLESS), hypervisor=CR3_KEEPS, migrates=True),
    variant("migrates_cr3_keeps_value", violated(NO_ACCESS_TO_FREED_FRAME, LEFT_BEHIND),
            hypervisor=CR3_KEEPS_VALUE, migrates=True),
    variant("migrates_cr3_keeps_value_immediate", holds(CHOSEN), hypervisor=CR3_KEEPS_VALUE,
            linux=IMMEDIATE, migrates=True),
    variant("migrates_cr3_keeps_value_flush_under_ptl", holds(NOT_CHOSEN),
            hypervisor=CR3_KEEPS_VALUE, linux=LOCKED_FLUSH, migrates=True),
    variant("untracked_immediate_value", holds(CHOSEN), hypervisor=UNTRACKED_VALUE,
            linux=IMMEDIATE),
    variant("untracked_flush_under_ptl_value", holds(NOT_CHOSEN), hypervisor=UNTRACKED_VALUE,
            linux=LOCKED_FLUSH),
    *(
        variant(f"{name}_accessed", expected, hypervisor=hypervisor, linux=linux,
                judged=Judge.ACCESSED)
        for name, expected, hypervisor, linux in (
            ("native", holds(SEEN_NATIVELY), None, AS_MERGED),
            ("as_merged", violated(USE_AFTER_FLUSH_IS_SEEN, UNSEEN), VMI, AS_MERGED),
            ("immediate", holds(SEEN), VMI, IMMEDIATE),
            ("flush_under_ptl", holds(SEEN), VMI, LOCKED_FLUSH),
            ("untracked_immediate", violated(USE_AFTER_FLUSH_IS_SEEN, NEVER_SEEN), UNTRACKED,
             IMMEDIATE),
        )
    ),
    variant("as_merged_pae", holds(HARMLESS), hypervisor=VMI, paging=PAE),
    variant("as_merged_rule_pae", violated(SHADOW_NO_MORE_PERMISSIVE, BUG), hypervisor=VMI,
            judged=Judge.LOCK_RULE, paging=PAE),
    variant("as_merged_value_pae", violated(NO_ACCESS_TO_FREED_FRAME, CLEAN_PAGE),
            hypervisor=VALUE, paging=PAE),
    variant("immediate_rule_pae", holds(CHOSEN), hypervisor=VMI, linux=IMMEDIATE,
            judged=Judge.LOCK_RULE, paging=PAE),
    variant("immediate_value_pae", holds(CHOSEN), hypervisor=VALUE, linux=IMMEDIATE, paging=PAE),
)  # fmt: skip
def clear_refs(
    setup: Setup,
    *,
    hypervisor: Hypervisor | None,
    linux: Linux = AS_MERGED,
    pte: int = CLEAN,
    judged: Judge = Judge.PROMISES,
    migrates: bool = False,
    paging: Paging = NON_PAE,
) -> None:
    """A clears accessed bits and flushes at the end; B unmaps a page and frees it; C uses it."""
    guest = two_tables(pte, paging)
    if migrates and hypervisor is not None:
        migrating(setup, guest, hypervisor, linux)
        return
    numbers = (0, 1, 2) if judged is Judge.PROMISES else (0, 1)
    mm = address_space(Flush.UNDER_OTHER_PTL, numbers, paging)
    vma = VmAreaStruct(mm)
    cpus = [
        vcpu(setup, number, mm, guest, hypervisor, tables=TABLES, linux=linux) for number in numbers
    ]
    setup.cpu(0, call(clear_refs_smap, cpus[0], vma, (ADDR, OTHER_ADDR)))
    if judged is Judge.LOCK_RULE:
        judge_by_lock_rule(setup, cpus, vma)
    elif judged is Judge.ACCESSED:
        judge_by_accessed_bit(setup, cpus[1], vma)
    else:
        unmapped_while_used(setup, cpus[1], cpus[2], vma)
    cleared = value(guest.at(mm.pte_offset(ADDR))) & (PAGE_PRESENT | PAGE_ACCESSED) == PAGE_PRESENT
    setup.sometimes("the accessed bit was cleared", cleared)
