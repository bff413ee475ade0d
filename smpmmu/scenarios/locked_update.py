"""A CPU changes an entry while another one's walker sets D in it, which must not be lost.

    cpu0                                     cpu1
    spin_lock(ptl)                           write the page
    clear_bit or xchg                          walk: set A and D
    flush, spin_unlock(ptl)                    write

The walker takes no lock. If the change were a load and a store it would put back what was there
before D was set, and the write would be in no file and no swap: hence locked instructions. The page
is clean at first, so that D is what the walker sets.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import any_of, finished, value
from smpmmu.engine.local import call
from smpmmu.hypervisor.shadow import Hypervisor
from smpmmu.kernel.page_writeback import pg_dirty
from smpmmu.kernel.rmap import page_referenced_one, try_to_unmap_one
from smpmmu.kernel.task_mmu import clear_refs_smap
from smpmmu.machine.entries import PAGE_DIRTY
from smpmmu.machine.memory import VERSION_SHIFT
from smpmmu.machine.walker import user_write
from smpmmu.properties.promises import NO_WRITE_LOST
from smpmmu.scenario import Setup, holds, scenario, variant
from smpmmu.scenarios.common import (
    ADDR,
    CLEAN,
    PAGE,
    TABLE,
    Flush,
    address_space,
    guest_memory,
    vcpu,
)
from smpmmu.scenarios.macro_paths import mapping
from smpmmu.scenarios.reliant_flusher import write_protect

if TYPE_CHECKING:
    from smpmmu.engine.local import Call
    from smpmmu.kernel.mm import VmAreaStruct
    from smpmmu.machine.cpu import Cpu

LOCKED = (
    "clear_bit, test_and_clear_bit and xchg are locked, include/asm-i386/bitops.h and system.h: "
    "what a walker sets is set before or after"
)


class Change(enum.Enum):
    """What is done to the entry."""

    WRPROTECT = "wrprotect"
    CLEAR_FLUSH_YOUNG = "clear_flush_young"
    TEST_AND_CLEAR_YOUNG = "test_and_clear_young"
    GET_AND_CLEAR = "get_and_clear"


def changing(change: Change, cpu: Cpu, vma: VmAreaStruct) -> Call:
    """Return the kernel path that makes the change."""
    match change:
        case Change.WRPROTECT:
            return call(write_protect, cpu, vma, Flush.UNDER_PTL)
        case Change.CLEAR_FLUSH_YOUNG:
            return call(page_referenced_one, cpu, PAGE, vma, ADDR)
        case Change.TEST_AND_CLEAR_YOUNG:
            return call(clear_refs_smap, cpu, vma, (ADDR,))
        case Change.GET_AND_CLEAR:
            return call(try_to_unmap_one, cpu, PAGE, vma, ADDR, migration=True)


@scenario(
    *(
        variant(f"{change.value}_{name}", holds(LOCKED), change=change, hypervisor=hypervisor)
        for change in Change
        for name, hypervisor in (("native", None), ("vmi", Hypervisor()))
    ),
)
def locked_update(setup: Setup, *, change: Change, hypervisor: Hypervisor | None) -> None:
    """A changes an entry by a locked instruction; B's walker sets D in it: no write is lost."""
    mm = address_space(Flush.UNDER_PTL, (0, 1))
    guest = guest_memory(CLEAN)
    cpu0, cpu1 = (vcpu(setup, number, mm, guest, hypervisor) for number in (0, 1))
    setup.cpu(0, changing(change, cpu0, mapping(0, 1)))
    setup.cpu(1, call(user_write, cpu1, ADDR))
    pte = value(guest.table(TABLE, 1))
    written = value(guest.page(PAGE)) >> VERSION_SHIFT != 0
    marked = any_of(pte & PAGE_DIRTY != 0, value(pg_dirty(PAGE)) != 0)
    setup.at_quiescence(NO_WRITE_LOST, any_of(~written, marked))
    setup.sometimes("the page was written first", written & ~finished("cpu0"))
    setup.sometimes("the entry was changed first", finished("cpu0") & ~written)
