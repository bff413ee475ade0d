"""A CPU write-protects a page; another one sees that and relies on it without a flush.

    cpu0                          cpu1
    spin_lock(ptl)                write the page
    ptep_set_wrprotect(pte)       spin_lock(ptl)
      [pte_update]                if pte is read-only: the page is final
    [flush_tlb_page]              spin_unlock(ptl)
    spin_unlock(ptl)              write the page
    [flush_tlb_page]

That is what page_mkclean_one does with a clean read-only entry, and what zap_pte_range does with an
empty one: what is restrictive is trusted not to be cached anywhere. It needs the flush under the
lock even natively, so here a late flush is a bug with any hook.
"""

from __future__ import annotations

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.machine.memory import NON_PAE, PAGE_FROZEN, VERSION_SHIFT, Paging
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE, user_write
from smpmmu.scenario import Expected, Setup, holds, scenario, violated
from smpmmu.scenarios.common import ADDR, COMMENT, Flush, Hook, address_space, page_of, rows, vcpus
from smpmmu.scenarios.reliant_flusher import rely_on_protection, write_protect

NATIVELY = (
    "an actor that does not flush relies on the TLBs too (Linux until 3ea277194daa: flushes "
    "batched outside the ptl, skipped by who sees the entry changed)"
)


def expect(hook: Hook, flush: Flush) -> Expected:
    """Return what the earlier check says in its column F1skip."""
    return violated(NO_WRITE_AFTER_PROMISE, NATIVELY) if flush.late else holds(COMMENT)


@scenario(*rows(expect))
def reliant_skipper(setup: Setup, *, hook: Hook, flush: Flush, paging: Paging = NON_PAE) -> None:
    """A write-protects a page; B sees it under the ptl, and relies on it without a flush."""
    mm = address_space(flush, (0, 1), paging)
    vma = VmAreaStruct(mm)
    cpu0, cpu1 = vcpus(setup, hook, mm, (0, 1))
    setup.cpu(0, call(write_protect, cpu0, vma, flush))
    setup.cpu(
        1,
        call(user_write, cpu1, ADDR),
        call(rely_on_protection, cpu1, vma, flushes=False),
        call(user_write, cpu1, ADDR),
    )
    page = value(cpu0.memory.page(page_of(paging)))
    setup.sometimes("the page was promised to be final", page & PAGE_FROZEN != 0)
    setup.sometimes("both writes went through", finished("cpu1") & (page >> VERSION_SHIFT == 2))
    setup.sometimes("protection stopped a write", finished("cpu1") & (page >> VERSION_SHIFT < 2))
