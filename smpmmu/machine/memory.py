"""Physical memory: frames of 1024 words, which are page tables or data as they are used.

A word comes into being when it is first touched, so tables have their true geometry at no cost.
It must not know who walks the tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from smpmmu.engine.steps import Format, Word
from smpmmu.machine.entries import ENTRY, PAGE_SHIFT

PAGE_SIZE = 1 << PAGE_SHIFT
ENTRY_SIZE = 4
PGDIR_SHIFT = 22
PTRS_PER_PGD = 1024
PTRS_PER_PTE = 1024

PAGE_FROZEN = 0x1
"""Ghost bit of a data frame: somebody was promised that it no longer changes."""
PAGE_OWNER = 0xE
"""Ghost bits of a data frame: number of the address space it is allocated to, 0 if it is free."""
OWNER_SHIFT = 1
VERSION_SHIFT = 4
"""Above it, a data frame counts the writes to it; 64 of them are a model error."""
PAGE_DATA = Format(
    flags=((PAGE_FROZEN, "frozen"), (0x2, "mm1"), (0x4, "mm2"), (0x8, "mm4")),
    frame_shift=VERSION_SHIFT,
)


@dataclass(frozen=True, slots=True)
class Memory:
    """What memory holds at first.

    Attributes:
        entries: page-table entries as (frame, index, value), the rest zero.
        prefix: what names of table entries begin with, to tell shadow tables from the guest's.
        owners: data frames as (frame, number of an address space or 0); the rest belong to 1.
    """

    entries: tuple[tuple[int, int, int], ...] = ()
    prefix: str = ""
    owners: tuple[tuple[int, int], ...] = ()

    def table(self, frame: int, index: int) -> Word:
        """Return entry `index` of the table in `frame`."""
        found = [v for f, i, v in self.entries if (f, i) == (frame, index)]
        name = f"{self.prefix}{frame:#x}[{index}]"
        return Word(name, 32, found[-1] if found else 0, format=ENTRY)

    def at(self, address: int) -> Word:
        """Return the table entry at a physical address, which is what a `ptep` is."""
        return self.table(address >> PAGE_SHIFT, address % PAGE_SIZE // ENTRY_SIZE)

    def page(self, frame: int) -> Word:
        """Return a data frame, as one word: its version and its ghost bits."""
        owner = dict(self.owners).get(frame, 1)
        return Word(f"page {frame:#x}", 10, owner << OWNER_SHIFT, format=PAGE_DATA)


def pgd_index(addr: int) -> int:
    """Return the index of `addr` in the page directory."""
    return addr >> PGDIR_SHIFT & PTRS_PER_PGD - 1


def pte_index(addr: int) -> int:
    """Return the index of `addr` in its page table."""
    return addr >> PAGE_SHIFT & PTRS_PER_PTE - 1


def pgd_indices(pages: tuple[int, ...]) -> tuple[int, ...]:
    """Return the indices of a page directory that addresses in `pages` have, each once."""
    return tuple(dict.fromkeys(pgd_index(addr) for addr in pages))


def pte_indices(pages: tuple[int, ...]) -> tuple[int, ...]:
    """Return the indices of a page table that addresses in `pages` have, each once."""
    return tuple(dict.fromkeys(pte_index(addr) for addr in pages))
