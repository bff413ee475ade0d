"""The dirty mark of a page, as distinct from the D bits of the entries that map it.

It must not know any hypervisor. Source: mm/page-writeback.c, Linux 2.6.21.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.steps import Word, fetch_or

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu


def pg_dirty(pfn: int) -> Word:
    """Return the bit PG_dirty of a page."""
    return Word(f"page {pfn:#x} dirty", 1)


async def set_page_dirty(cpu: Cpu, pfn: int) -> None:
    """Mark a page to be written back.

    C: set_page_dirty, __set_page_dirty_nobuffers
    Model: the radix tree's tag is left out: who writes back looks at the page.
    """
    await fetch_or(pg_dirty(pfn), 1)
