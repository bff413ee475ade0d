"""Second-level tables: what a guest takes for physical memory, as its host has mapped it.

The guest's walk goes through them for each of its tables and for the page itself, and its TLB keeps
the guest's entry and the host's combined: INVLPG and loads of CR3 in the guest drop it by the
guest's address, the host by address or all at once. It must not know KVM. Source: nested paging of
AMD's and EPT of Intel's manuals, from memory (unverified).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.engine.errors import ModelError
from smpmmu.engine.routines import AGAIN, Again, indivisible
from smpmmu.engine.steps import load, store
from smpmmu.machine.cpu import FLUSH_IS_ONE
from smpmmu.machine.entries import (
    FRAME,
    PAGE_DIRTY,
    PAGE_RW,
    PAGE_SHIFT,
    allows,
    entry,
    pfn_of,
)
from smpmmu.machine.marking import mark
from smpmmu.machine.memory import Memory, pmd_index, pte_index

if TYPE_CHECKING:
    from smpmmu.engine.steps import Word
    from smpmmu.machine.cpu import Cpu


@dataclass(frozen=True, slots=True)
class Nested:
    """The second-level tables of a guest: two levels, as those of AMD under a host without PAE.

    Attributes:
        memory: what has the tables.
        root: the frame of their root, the same for all vCPUs.
    """

    memory: Memory
    root: int

    def __post_init__(self) -> None:
        if self.memory.paging.is_pae:
            msg = "second-level tables have 32-bit entries; expected memory without PAE"
            raise ModelError(msg)

    def directory(self, gfn: int) -> Word:
        """Return the entry of the root for a guest's frame."""
        return self.memory.table(self.root, pmd_index(gfn << PAGE_SHIFT))

    def leaf(self, pde: int, gfn: int) -> Word:
        """Return the entry for a guest's frame of the table that `pde` leads to."""
        return self.memory.table(pfn_of(pde), pte_index(gfn << PAGE_SHIFT))


def both(leaf: int, second: int) -> int:
    """Return what a TLB keeps of a guest's leaf entry and of the second level's for its frame.

    D is kept where both have it: a write through what is kept sets none.
    """
    rights = leaf & (second | ~(PAGE_RW | PAGE_DIRTY))
    return rights & ~FRAME | entry(pfn_of(second), 0)


async def second_level(cpu: Cpu, nested: Nested, gfn: int, *, write: bool) -> int | Again:
    """Return the second level's leaf entry for a guest's frame; 0 if it does not allow the access.

    A and D are set as in any table.
    """
    directory = nested.directory(gfn)
    pde = await load(directory)
    if not allows(pde, write=write):
        return 0
    if isinstance(await mark(cpu, directory, pde, write=False), Again):
        return AGAIN
    leaf = nested.leaf(pde, gfn)
    pte = await load(leaf)
    return await mark(cpu, leaf, pte, write=write) if allows(pte, write=write) else 0


@indivisible(FLUSH_IS_ONE)
async def flush_context(cpu: Cpu) -> None:
    """Drop all that is cached of a guest, global or not, and abort its walks in flight.

    Instruction: INVEPT of a single context; an entry to the guest that flushes its ASID
    """
    for addr in cpu.pages:
        await store(cpu.tlb(addr), 0)
