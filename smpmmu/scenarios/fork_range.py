"""A thread forks over two entries; siblings write, and others use the entries meanwhile.

    cpu0: fork                                  cpu1                    cpu2
    down_write(mmap_sem)                        write the first page    rely on the first entry,
    lock both ptls, enter lazy mode             write the second        take the second page,
    for each pte:                                 [fault: down_read,    or copy the first
      ptep_set_wrprotect(src) [pte_update]         copy the page]
      set_pte_at(dst)
    leave lazy mode, unlock both, perhaps after each
    flush_tlb_mm
    up_write(mmap_sem); the pages are the child's as well, and final

Fork drops its locks long before it flushes, and between entries if somebody waits. So the hook of
ptep_set_wrprotect is immediate, which in lazy MMU mode is: before the locks are dropped.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import all_of, finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import AGAIN, Again, retry, routine
from smpmmu.engine.steps import load
from smpmmu.hypervisor.direct import direct
from smpmmu.hypervisor.shadow import Holds, Hypervisor, Record
from smpmmu.hypervisor.vmi import vmi
from smpmmu.kernel.fault import Fault, do_page_fault
from smpmmu.kernel.fork import dup_mmap
from smpmmu.kernel.mm import INIT_MM, MmStruct, VmAreaStruct
from smpmmu.kernel.paravirt import Linux, native
from smpmmu.kernel.reclaim import unmap_and_move
from smpmmu.machine.entries import (
    FRAME,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_TABLE,
    entry,
)
from smpmmu.machine.memory import (
    NON_PAE,
    PAE,
    PAGE_FROZEN,
    PAGE_OWNER,
    PAGE_SIZE,
    VERSION_SHIFT,
    Memory,
    Paging,
)
from smpmmu.machine.rwsem import down_read, up_read
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import (
    NO_ACCESS_TO_FREED_FRAME,
    NO_WRITE_AFTER_PROMISE,
    Access,
    user_read,
    user_write,
)
from smpmmu.properties.lock_rule import SHADOW_NO_MORE_PERMISSIVE
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    PAGE,
    PGD,
    PMD,
    TABLE,
    TOUCHED,
    Judge,
    demand_lock_rule,
    promise,
    vcpu,
)
from smpmmu.scenarios.mprotect import OUTLIVES, RULE, lazily
from smpmmu.scenarios.reliant_flusher import rely_on_protection

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

CHILD_TABLE, SECOND = 0x22, 0x2000
SECOND_PAGE = 0x6
COPIES = (0x13, 0x14)
PAGES = ((ADDR, PAGE), (SECOND, SECOND_PAGE))
SHARED_IS_READ_ONLY = "a_page_of_parent_and_child_is_writable_for_neither"
SHARED_IS_CLEAN = "the_childs_entry_of_a_shared_mapping_is_clean_and_old"


class Beside(enum.Enum):
    """Who works on an entry beside the sibling that writes."""

    NOBODY = "nobody"
    READER = "reader"
    """Sees the first entry read-only, shoots down, and relies on it."""
    MIGRATION = "migration"
    """A kernel thread takes the second page from parent and child, and frees it."""
    COPIER = "copier"
    """A sibling's fault finds the first entry read-only, and copies the page."""


ANY_CPU_CURES = "whoever relies on an entry needs mmap_sem, or does a shootdown of its own"
AT_ONCE = "ptep_set_wrprotect in 789e6ac0a7c: it has no flush, so its hook is immediate"
IN_FORK = "789e6ac0a7c: deferred, it needs its flush under the lock; fork flushes after the last"
LOCAL_FIRST = "fork's own flush drains its queue before it tells others, and nobody else relies"
PLANTED = f"{IN_FORK}: the old value is planted after the page was taken"
NO_READ = "3dc90795144: what was held back must not be read back; fork goes on with its own copy"
READ_BACK = "3dc90795144: the entry that is read again may not have been written yet"
UNDER_MMAP_SEM = (
    "dup_mmap, kernel/fork.c: flushed before mmap_sem is given back; whoever copies a page takes "
    "it to be quiet, since it is read-only: what is written meanwhile would not be in the copy"
)
NO_MEMORY = "do_wp_page, mm/memory.c: oom, where the ptl was released before"
AS_IN_C = "copy_one_pte, mm/memory.c: the copy is old, and of a shared mapping clean"


async def fork(cpu: Cpu, child: MmStruct, vma: VmAreaStruct, *, promises: bool) -> None:
    """Share two pages with a child, for which they must not change from now on."""
    await dup_mmap(cpu, child, vma, ADDR, SECOND + PAGE_SIZE)
    if promises:
        for _, page in PAGES:
            await promise(cpu.memory.page(page))


async def write(cpu: Cpu, vma: VmAreaStruct, addr: int) -> None:
    """Write to a page, and let Linux handle faults, until it is done or a signal ends it."""
    await retry(write_or_fault, cpu, vma, addr)


async def write_or_fault(cpu: Cpu, vma: VmAreaStruct, addr: int) -> Access | Again:
    """Try the write once."""
    if await user_write(cpu, addr) is Access.DONE:
        return Access.DONE
    fault = await do_page_fault(cpu, vma, addr, write=True)
    return AGAIN if fault is Fault.MINOR else Access.FAULT


@routine
async def copy_first(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Read the page for a copy if its entry is read-only: it must not change from then on.

    C: do_page_fault, do_wp_page up to cow_user_page; what comes then is the other sibling's fault
    """
    mm = vma.vm_mm
    await down_read(mm.mmap_sem)
    await spin_lock(mm.pte_lockptr(ADDR))
    writable = await load(cpu.memory.at(mm.pte_offset(ADDR)), PAGE_RW)
    await spin_unlock(mm.pte_lockptr(ADDR))
    if not writable:
        await promise(cpu.memory.page(PAGE))
    await up_read(mm.mmap_sem)


BREAK = Linux(copy_break=1)
LATE = Linux(copy_break=1, lazy_mmu_left_late=True)
REREAD = Linux(copy_rereads=True)
GENERIC = Linux(generic_wrprotect=True)
GENERIC_REREAD = Linux(generic_wrprotect=True, copy_rereads=True)
UPDATES, FLUSHES = lazily(Holds.UPDATES), lazily(Holds.FLUSHES)
UPDATES_VALUE, FLUSHES_VALUE = (
    lazily(back, Record.VALUE) for back in (Holds.UPDATES, Holds.FLUSHES)
)
VMI, VALUE = Hypervisor(), Hypervisor(record=Record.VALUE)
NOBODY, READER, MIGRATION, COPIER = Beside
RULES: dict[str, object] = {"judged": Judge.LOCK_RULE}
DEFERS: dict[str, object] = {"defers": True}


@scenario(
    *(
        variant(name, expected, hypervisor=hypervisor, beside=beside, linux=linux, **more)
        for name, expected, hypervisor, beside, linux, more in (
            ("native", holds(ANY_CPU_CURES), None, NOBODY, Linux(), {}),
            ("native_pae", holds(ANY_CPU_CURES), None, NOBODY, Linux(), {"paging": PAE}),
            ("native_break", holds(ANY_CPU_CURES), None, NOBODY, BREAK, {}),
            ("native_break_reader", holds(ANY_CPU_CURES), None, READER, BREAK, {}),
            ("native_break_migration", holds(ANY_CPU_CURES), None, MIGRATION, BREAK, {}),
            ("native_copier", holds(UNDER_MMAP_SEM), None, COPIER, Linux(), {}),
            ("native_out_of_memory", holds(NO_MEMORY), None, NOBODY, Linux(),
             {"copies": COPIES[:1]}),
            ("native_reread", holds("natively memory is written at once"), None, NOBODY, REREAD,
             {}),
            ("native_shared", holds(AS_IN_C), None, NOBODY, Linux(), {"shared": True}),
            ("vmi", holds(AT_ONCE), VMI, NOBODY, Linux(), {}),
            ("vmi_pae", holds(AT_ONCE), VMI, NOBODY, Linux(), {"paging": PAE}),
            ("vmi_break_reader", holds(AT_ONCE), VMI, READER, BREAK, {}),
            ("vmi_break_value_migration", holds(AT_ONCE), VALUE, MIGRATION, BREAK, {}),
            ("vmi_copier", holds(UNDER_MMAP_SEM), VMI, COPIER, Linux(), {}),
            ("vmi_break_rule", holds(AT_ONCE), VMI, NOBODY, BREAK, RULES),
            ("deferred", holds(LOCAL_FIRST), VMI, NOBODY, BREAK, DEFERS),
            ("deferred_reader", violated(NO_WRITE_AFTER_PROMISE, IN_FORK), VMI, READER, BREAK,
             DEFERS),
            ("deferred_value_migration", violated(NO_ACCESS_TO_FREED_FRAME, PLANTED), VALUE,
             MIGRATION, BREAK, DEFERS),
            ("deferred_rule", violated(SHADOW_NO_MORE_PERMISSIVE, IN_FORK), VMI, NOBODY, BREAK,
             DEFERS | RULES),
            ("lazy_updates_reader", holds(RULE), UPDATES, READER, BREAK, {}),
            ("lazy_updates_value_migration", holds(RULE), UPDATES_VALUE, MIGRATION, BREAK, {}),
            ("lazy_flushes_value_migration", holds(RULE), FLUSHES_VALUE, MIGRATION, BREAK, {}),
            ("lazy_rule", holds(RULE), UPDATES, NOBODY, BREAK, RULES),
            ("lazy_left_late", holds(LOCAL_FIRST), UPDATES, NOBODY, LATE, {}),
            ("lazy_left_late_reader", violated(NO_WRITE_AFTER_PROMISE, OUTLIVES), UPDATES, READER,
             LATE, {}),
            ("lazy_left_late_value_migration", violated(NO_ACCESS_TO_FREED_FRAME, OUTLIVES),
             UPDATES_VALUE, MIGRATION, LATE, {}),
            ("lazy_left_late_rule", violated(SHADOW_NO_MORE_PERMISSIVE, OUTLIVES), UPDATES,
             NOBODY, LATE, RULES),
            ("direct", holds(NO_READ), None, NOBODY, GENERIC, {"is_direct": True}),
            ("direct_reread", violated(SHARED_IS_READ_ONLY, READ_BACK), None, NOBODY,
             GENERIC_REREAD, {"is_direct": True}),
        )
    ),
)  # fmt: skip
def fork_range(
    setup: Setup,
    *,
    hypervisor: Hypervisor | None,
    beside: Beside,
    linux: Linux,
    judged: Judge = Judge.PROMISES,
    defers: bool = False,
    is_direct: bool = False,
    shared: bool = False,
    copies: tuple[int, ...] = COPIES,
    paging: Paging = NON_PAE,
) -> None:
    """A shares two pages with a child, B writes to them, C relies on, takes or copies one."""
    pmds = ((0, PMD),) if paging.is_pae else ()
    taken = beside is MIGRATION
    cpus = (0, 1, 2) if beside in (READER, COPIER) else (0, 1)
    mm = MmStruct(1, PGD, ((0, TABLE),), cpus, pmds=pmds, paging=paging)
    child = MmStruct(4, 0x21, ((0, CHILD_TABLE),), paging=paging)
    vma, child_vma = VmAreaStruct(mm, shared=shared), VmAreaStruct(child, shared=shared)
    root = ((PGD, 0, entry(PMD, PAGE_PRESENT)),) if paging.is_pae else ()
    guest = Memory(
        (
            *root, (PMD if paging.is_pae else PGD, 0, entry(TABLE, PAGE_TABLE)),
            *((TABLE, index + 1, entry(page, TOUCHED)) for index, (_, page) in enumerate(PAGES)),
        ),
        owners=tuple((page, 0) for page in copies),
        paging=paging,
    )  # fmt: skip
    kernel = replace(linux, copied=copies, copied_frees=False)
    pv = replace(vmi, pte_update=vmi.pte_update_defer) if defers else vmi
    bare = direct if is_direct else native
    cpu0, cpu1, *others = (
        vcpu(
            setup, n, INIT_MM if taken and n == 2 else mm, guest, hypervisor, linux=kernel,
            pv=vmi if n else pv, bare=bare, tables=(TABLE, CHILD_TABLE), pages=(ADDR, SECOND),
            kernel_thread=taken and n == 2,
        )
        for n in ((0, 1) if beside is NOBODY else (0, 1, 2))
    )  # fmt: skip
    final = judged is Judge.PROMISES and beside in (NOBODY, READER) and not shared
    setup.cpu(0, call(fork, cpu0, child, vma, promises=final))
    first = () if taken else (call(write, cpu1, vma, ADDR),)
    again = (call(user_read, cpu1, SECOND),) if taken else ()
    setup.cpu(1, *first, call(write, cpu1, vma, SECOND), *again)
    for cpu2 in others:
        both = (vma, child_vma)
        work = {
            READER: call(rely_on_protection, cpu2, vma),
            MIGRATION: call(unmap_and_move, cpu2, SECOND_PAGE, both, SECOND),
            COPIER: call(copy_first, cpu2, vma),
        }
        setup.cpu(2, work[beside])
    judge(setup, cpu0, cpu1, vma, child_vma, judged)
    pages = [value(guest.page(page)) for _, page in PAGES]
    if final:
        setup.sometimes("both pages are final", all_of(*(p & PAGE_FROZEN != 0 for p in pages)))
    if beside is COPIER:
        setup.sometimes("the first page was copied", pages[0] & PAGE_FROZEN != 0)
    if taken:
        setup.sometimes("the page was freed", pages[1] & PAGE_OWNER == 0)
    written = sum(((p >> VERSION_SHIFT) for p in pages[1:]), start=pages[0] >> VERSION_SHIFT)
    setup.sometimes("all was written before", finished("cpu1") & (written == (1 if taken else 2)))
    if not shared:
        setup.sometimes("a write was not in time", finished("cpu1") & (written == 0))


def judge(
    setup: Setup, cpu0: Cpu, cpu1: Cpu, vma: VmAreaStruct, child_vma: VmAreaStruct, judged: Judge
) -> None:
    """Demand of both pairs of entries what fork owes them."""
    mm, child = vma.vm_mm, child_vma.vm_mm
    free = (value(mm.pte_lockptr(ADDR)) == 0) & (value(child.pte_lockptr(ADDR)) == 0)
    truths = []
    for addr, _ in PAGES:
        own, copy = (value(cpu0.memory.at(each.pte_offset(addr))) for each in (mm, child))
        if vma.shared:
            truths.append(copy & (PAGE_ACCESSED | PAGE_DIRTY) == 0)
            continue
        same = free & (copy & PAGE_PRESENT != 0) & (own & FRAME == copy & FRAME)
        truths.append(implies(same, (own | copy) & PAGE_RW == 0))
    setup.always(SHARED_IS_CLEAN if vma.shared else SHARED_IS_READ_ONLY, all_of(*truths))
    copied = value(cpu0.memory.at(child.pte_offset(SECOND)))
    setup.sometimes("the child has the second page", copied & PAGE_PRESENT != 0)
    if judged is Judge.LOCK_RULE:
        demand_lock_rule(setup, [cpu0, cpu1], mm.pte_lockptr(ADDR), mm.pte_offset(ADDR))
