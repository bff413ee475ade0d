"""Taking a page from its users: reclaim and migration.

It must not know any hypervisor. Source: mm/vmscan.c and mm/migrate.c, Linux 2.6.21.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.kernel.page_alloc import free_page
from smpmmu.kernel.rmap import Swap, page_referenced, try_to_unmap

if TYPE_CHECKING:
    from smpmmu.kernel.mm import VmAreaStruct
    from smpmmu.machine.cpu import Cpu


async def shrink_zone(
    cpu: Cpu, pfn: int, vmas: tuple[VmAreaStruct, ...], address: int, *, frees: bool = True
) -> None:
    """Look twice at a page, and take it if nobody used it in between.

    C: shrink_zone: shrink_active_list, then shrink_page_list
    Model: of the first look only what it does to entries. What is dirty is written out before it is
    freed, and no translation depends on that. It `frees` the page unless somebody else keeps it.
    """
    await page_referenced(cpu, pfn, vmas, address)
    if await try_to_unmap(cpu, pfn, vmas, address, migration=False) is Swap.SUCCESS and frees:
        await free_page(cpu, pfn)


async def unmap_and_move(
    cpu: Cpu, pfn: int, vmas: tuple[VmAreaStruct, ...], address: int, *, frees: bool = True
) -> None:
    """Take a page, used or not.

    C: unmap_and_move
    Model: the copy, and its being mapped instead, are left out: whoever faults finds no page.
    """
    if await try_to_unmap(cpu, pfn, vmas, address, migration=True) is Swap.SUCCESS and frees:
        await free_page(cpu, pfn)
