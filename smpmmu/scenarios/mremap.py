"""A thread moves a page to another address; a sibling uses it; others take the page.

    cpu0: mremap                        cpu1                       cpu2
    spin_lock(old ptl, new ptl)         write at the old address   look for the page at the new
    enter lazy mode                     read there                 address, clear its entry,
    ptep_clear_flush(old pte)                                      flush that address, free the page
    set_pte_at(new pte)
    leave lazy mode, spin_unlock(both)

Whoever takes the page at its new address flushes there. What is cached of the old address must be
gone by then; and who can come to the new entry comes by its lock. So the flush is before the unlock
(eb66ae030829, CVE-2018-18281, took it back there).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import finished, implies, value
from smpmmu.engine.local import call
from smpmmu.hypervisor.shadow import Holds, Hypervisor, Record
from smpmmu.kernel.mm import INIT_MM, MmStruct, VmAreaStruct
from smpmmu.kernel.mremap import sys_mremap
from smpmmu.kernel.munmap import unmap_mapping_range
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.reclaim import unmap_and_move
from smpmmu.machine.entries import PAGE_NX, PAGE_PRESENT, PAGE_TABLE, entry
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
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import ADDR, OTHER_TABLE, PGD, PMD, TABLE, TOUCHED, page_of, vcpu
from smpmmu.scenarios.mprotect import OUTLIVES, RULE, lazily

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

NO_ENTRY_OUTLIVES_TRUNCATION = "no_entry_outlives_truncation"


class Beside(enum.Enum):
    """Who takes the page."""

    MIGRATION = "migration"
    """A kernel thread, at the new address, by way of the page."""
    TRUNCATION = "truncation"
    """Another process, at both addresses, the old one first."""
    TRUNCATION_NEW_FIRST = "truncation_new_first"


IN_MACRO = "ptep_clear_flush, mm/mremap.c: flushed before the page is at its new address"
LATE = (
    "eb66ae030829 (CVE-2018-18281): once the locks are gone the page can be taken at its new "
    "address, whose flush leaves what is cached of the old one"
)
EVERYTHING = "tlb_finish_mmu flushes all of the mm on i386, so the old address as well"
SUBTLE = (
    "move_ptes, mm/mremap.c: i_mmap_lock keeps truncation out, which could have been at the new "
    "address already, and be at the old one only when the page is gone from there"
)
SRC_FIRST = "whoever looks at the old address first finds the page there or at the new one"
DRAINED = "the flush in ptep_clear_flush drains what the mode holds back, before it tells others"
FLUSH_HELD = (
    "the flush here waits, the IPIs do not: another CPU fills again from the shadow of the old "
    "entry, and nobody flushes that address once the mode is left"
)
SUPERSEDED = "ptep_get_and_clear notifies at once; what is cached is flushed after the locks"


async def truncate(cpu: Cpu, vma: VmAreaStruct, addresses: tuple[int, ...]) -> None:
    """Truncate the file to nothing, while other processes have it mapped."""
    await unmap_mapping_range(cpu, vma, addresses)


LATELY = Linux(mremap_flushes_locked=False)
UNLOCKED = Linux(mremap_locks_file=False)
CVE = Linux(mremap_flushes_locked=False, mremap_locks_file=False, zap_flushes_page=True)


@scenario(
    *(
        variant(name, expected, beside=beside, hypervisor=hypervisor, linux=linux, **more)
        for name, expected, beside, hypervisor, linux, more in (
            ("native", holds(IN_MACRO), Beside.MIGRATION, None, Linux(), {}),
            ("native_pae", holds(IN_MACRO), Beside.MIGRATION, None, Linux(), {"paging": PAE}),
            ("native_one_lock", holds(IN_MACRO), Beside.MIGRATION, None, Linux(),
             {"split": False}),
            ("native_flushed_late", violated(NO_ACCESS_TO_FREED_FRAME, LATE), Beside.MIGRATION,
             None, LATELY, {}),
            ("native_flushed_late_one_lock", violated(NO_ACCESS_TO_FREED_FRAME, LATE),
             Beside.MIGRATION, None, LATELY, {"split": False}),
            ("vmi", holds(IN_MACRO), Beside.MIGRATION, Hypervisor(), Linux(), {}),
            ("vmi_value", holds(IN_MACRO), Beside.MIGRATION, Hypervisor(record=Record.VALUE),
             Linux(), {}),
            ("vmi_flushed_late", violated(NO_ACCESS_TO_FREED_FRAME, LATE), Beside.MIGRATION,
             Hypervisor(), LATELY, {}),
            ("lazy_updates", holds(DRAINED), Beside.MIGRATION, lazily(Holds.UPDATES), Linux(), {}),
            ("lazy_updates_value", holds(DRAINED), Beside.MIGRATION,
             lazily(Holds.UPDATES, Record.VALUE), Linux(), {}),
            ("lazy_updates_value_new", holds(RULE), Beside.MIGRATION,
             lazily(Holds.UPDATES, Record.VALUE), Linux(), {"uses_new": True}),
            ("lazy_left_late_value_new", violated(NO_ACCESS_TO_FREED_FRAME, OUTLIVES),
             Beside.MIGRATION, lazily(Holds.UPDATES, Record.VALUE),
             Linux(lazy_mmu_left_late=True), {"uses_new": True}),
            ("lazy_flushes", violated(NO_ACCESS_TO_FREED_FRAME, FLUSH_HELD), Beside.MIGRATION,
             lazily(Holds.FLUSHES), Linux(), {}),
            ("truncated_native", holds(IN_MACRO), Beside.TRUNCATION, None, Linux(), {}),
            ("truncated_native_new_first", holds(SUBTLE), Beside.TRUNCATION_NEW_FIRST, None,
             Linux(), {}),
            ("truncated_unlocked", holds(SRC_FIRST), Beside.TRUNCATION, None, UNLOCKED, {}),
            ("truncated_unlocked_new_first", violated(NO_ENTRY_OUTLIVES_TRUNCATION, SUBTLE),
             Beside.TRUNCATION_NEW_FIRST, None, UNLOCKED, {}),
            ("truncated_flushed_late", holds(EVERYTHING), Beside.TRUNCATION, None,
             Linux(mremap_flushes_locked=False, mremap_locks_file=False), {}),
            ("truncated_flushed_late_by_page", violated(NO_ACCESS_TO_FREED_FRAME, LATE),
             Beside.TRUNCATION, None, CVE, {}),
            ("truncated_by_page", holds(IN_MACRO), Beside.TRUNCATION, None,
             Linux(mremap_locks_file=False, zap_flushes_page=True), {}),
            ("truncated_vmi", holds(IN_MACRO), Beside.TRUNCATION, Hypervisor(), Linux(), {}),
            ("truncated_lazy", holds(DRAINED), Beside.TRUNCATION,
             lazily(Holds.UPDATES, Record.VALUE), Linux(), {}),
        )
    ),
)  # fmt: skip
def mremap(
    setup: Setup,
    *,
    beside: Beside,
    hypervisor: Hypervisor | None,
    linux: Linux,
    split: bool = True,
    uses_new: bool = False,
    paging: Paging = NON_PAE,
) -> None:
    """A moves a page; B uses it where it was, or is; C takes it where it is."""
    new = 1 << paging.pmd_shift
    pmds = ((0, PMD),) if paging.is_pae else ()
    mm = MmStruct(1, PGD, ((0, TABLE), (1, OTHER_TABLE)), (0, 1), split, pmds, paging)
    vma = VmAreaStruct(mm, vm_file=beside is not Beside.MIGRATION)
    page, directory = page_of(paging), PMD if paging.is_pae else PGD
    guest = Memory(
        (
            *([(PGD, 0, entry(PMD, PAGE_PRESENT))] if paging.is_pae else []),
            (directory, pmd_index(ADDR, paging), entry(TABLE, PAGE_TABLE)),
            (directory, pmd_index(new, paging), entry(OTHER_TABLE, PAGE_TABLE)),
            (TABLE, 1, entry(page, TOUCHED) | (PAGE_NX if paging.is_pae else 0)),
        ),
        paging=paging,
    )
    cpu0, cpu1, cpu2 = (
        vcpu(
            setup, n, mm if n < 2 else INIT_MM, guest, hypervisor, linux=linux,
            tables=(TABLE, OTHER_TABLE), pages=(ADDR, new), kernel_thread=n == 2,
        )
        for n in range(3)
    )  # fmt: skip
    setup.cpu(0, call(sys_mremap, cpu0, vma, ADDR, ADDR + PAGE_SIZE, new))
    then = new if uses_new else ADDR
    setup.cpu(1, call(user_write, cpu1, ADDR), call(user_read, cpu1, then))
    addresses = (ADDR, new) if beside is Beside.TRUNCATION else (new, ADDR)
    migration = call(unmap_and_move, cpu2, page, (vma,), new)
    taking = call(truncate, cpu2, vma, addresses)
    setup.cpu(2, migration if beside is Beside.MIGRATION else taking)
    old_pte, new_pte = (value(guest.at(mm.pte_offset(addr))) for addr in (ADDR, new))
    if beside is not Beside.MIGRATION:
        gone = (old_pte == 0) & (new_pte == 0)
        setup.at_quiescence(NO_ENTRY_OUTLIVES_TRUNCATION, implies(finished("cpu2"), gone))
    owner = value(guest.page(page)) & PAGE_OWNER
    version = value(guest.page(page)) >> VERSION_SHIFT
    setup.sometimes("the page was moved and used", (new_pte != 0) & (version != 0))
    setup.sometimes("the page was moved and freed", finished("cpu0") & (owner == 0))
    setup.sometimes("moving stopped the use", finished("cpu1") & (version == 0))
