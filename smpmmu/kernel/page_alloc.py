"""Page frames being freed and allocated; a frame may come back as somebody else's.

It must not know any hypervisor. Source: mm/page_alloc.c, Linux 2.6.21. The lists of free frames
are left out: a frame is free if nobody owns it, which is the moment it could be handed out. What
the lists and zone->lock decide beyond that is only which free frame comes first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.local import call
from smpmmu.engine.routines import routine
from smpmmu.engine.steps import TAKEN, Step, When, Word, fetch_xor, load
from smpmmu.machine.memory import OWNER_SHIFT, PAGE_FROZEN, PAGE_OWNER

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu
    from smpmmu.scenario import Setup

memory_is_short = Word("memory is short", 1)
"""Others of whom nothing else is modelled have taken, or given back, the last free frame."""


async def others() -> None:
    """Take the last free frame, or give it back."""
    await fetch_xor(memory_is_short, 1)


def install_shortage(setup: Setup) -> None:
    """Let memory become short, and no longer, at any time: every allocation may fail."""
    setup.daemon(0, "others", call(others))


@routine
async def free_page(cpu: Cpu, pfn: int) -> None:
    """Give a frame back; from now on nobody may use it, and what was promised of it is void.

    C: __free_page
    """
    page = cpu.memory.page(pfn)
    await Step(f"free {page.name}", page, and_mask=page.mask & ~(PAGE_OWNER | PAGE_FROZEN))


@routine
async def alloc_page(cpu: Cpu, frames: tuple[int, ...], owner: int) -> int:
    """Take the first free frame of `frames` for address space `owner`; 0 if there is none.

    C: alloc_page
    """
    if cpu.linux.short and await load(memory_is_short):
        return 0
    for pfn in frames:
        page = cpu.memory.page(pfn)
        free = When(PAGE_OWNER, 0)
        label = f"allocate {page.name} to mm{owner} if it is free"
        if await Step(label, page, when=free, xor_mask=owner << OWNER_SHIFT) & TAKEN:
            return pfn
    return 0
