"""Physical memory: frames, which are page tables or data as they are used; geometry of tables.

A word comes into being when it is first touched, so tables have their true geometry at no cost.
It must not know who walks the tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from smpmmu.engine.steps import Format, Part, Step, Word, store, xchg
from smpmmu.machine.entries import ENTRY, HIGH, LOW, PAGE_SHIFT, PAGE_TABLES

PAGE_SIZE = 1 << PAGE_SHIFT


@dataclass(frozen=True, slots=True)
class Paging:
    """The geometry of page tables.

    Attributes:
        entry_size: of an entry, in bytes.
        levels: (shift, number of entries) of a table of each level, from the root on.
    """

    entry_size: int
    levels: tuple[tuple[int, int], ...]

    @property
    def entry_bits(self) -> int:
        """Bits of an entry."""
        return self.entry_size * 8

    @property
    def is_pae(self) -> bool:
        """Whether entries have two words, and the root's are kept in the processor."""
        return self.entry_bits == 64

    @property
    def pmd_shift(self) -> int:
        """Address bits below which a page table tells pages apart."""
        return self.levels[-2][0]

    @property
    def ptrs_per_pgd(self) -> int:
        """Entries of the root."""
        return self.levels[0][1]

    @property
    def ptrs_per_pte(self) -> int:
        """Entries of a page table, which are pages of a large page too."""
        return self.levels[-1][1]

    def entry_at(self, table: int, index: int) -> int:
        """Return the physical address of entry `index` of the table in frame `table`."""
        return (table << PAGE_SHIFT) + index * self.entry_size


NON_PAE = Paging(4, ((22, 1024), (PAGE_SHIFT, 1024)))
"""A page directory and page tables; Linux folds its pmd into the pgd."""
PAE = Paging(8, ((30, 4), (21, 512), (PAGE_SHIFT, 512)))
"""A page-directory-pointer table (Linux's pgd), page directories (pmd) and page tables."""

PAGE_FROZEN = 0x1
"""Ghost bit of a data frame: somebody was promised that it no longer changes."""
PAGE_OWNER = 0xE
"""Ghost bits of a data frame: number of the address space it is allocated to, 0 if it is free."""
OWNER_SHIFT = 1
VERSION_SHIFT = 4
"""Above it, a data frame counts the writes to it; more than fit are a model error."""
PAGE_DATA = Format(
    flags=((PAGE_FROZEN, "frozen"), (0x2, "mm1"), (0x4, "mm2"), (0x8, "mm4")),
    frame_shift=VERSION_SHIFT,
)


@dataclass(frozen=True, slots=True)
class Contents(Format):
    """How reports show a data frame: whose it is, and how often it was written to."""

    def show(self, value: int) -> str:
        """Return the owner, whether somebody was promised that it stays, and the writes."""
        owner, writes = (value & PAGE_OWNER) >> OWNER_SHIFT, value >> VERSION_SHIFT
        whose = f"mm{owner}" if owner else "free"
        frozen = ", promised to stay" if value & PAGE_FROZEN else ""
        return f"{whose}, {writes} write{'' if writes == 1 else 's'}{frozen}"


CONTENTS = Contents()


@dataclass(frozen=True, slots=True)
class Memory:
    """What memory holds at first.

    Attributes:
        entries: page-table entries as (frame, index, value), the rest zero.
        prefix: what names of table entries begin with, to tell shadow tables from the guest's.
        owners: data frames as (frame, number of an address space or 0); the rest belong to 1.
        paging: the geometry of page tables.
        version_bits: of a data frame's count of writes.
    """

    entries: tuple[tuple[int, int, int], ...] = ()
    prefix: str = ""
    owners: tuple[tuple[int, int], ...] = ()
    paging: Paging = NON_PAE
    version_bits: int = 6

    def table(self, frame: int, index: int) -> Word:
        """Return entry `index` of the table in `frame`."""
        found = [v for f, i, v in self.entries if (f, i) == (frame, index)]
        row = f"{frame:#x}[{index}]"
        part = Part(PAGE_TABLES, row, self.prefix.rstrip() or "primary")
        initial = found[-1] if found else 0
        return Word(self.prefix + row, self.paging.entry_bits, initial, format=ENTRY, part=part)

    def at(self, address: int) -> Word:
        """Return the table entry at a physical address, which is what a `ptep` is."""
        return self.table(address >> PAGE_SHIFT, address % PAGE_SIZE // self.paging.entry_size)

    def page(self, frame: int) -> Word:
        """Return a data frame, as one word: its version and its ghost bits."""
        owner = dict(self.owners).get(frame, 1)
        name = f"page {frame:#x}"
        part = Part("data pages", name, format=CONTENTS)
        width = VERSION_SHIFT + self.version_bits
        return Word(name, width, owner << OWNER_SHIFT, format=PAGE_DATA, part=part)


def pgd_index(addr: int, paging: Paging = NON_PAE) -> int:
    """Return the index of `addr` in the root: without PAE, the page directory."""
    return _index(addr, paging.levels[0])


def pmd_index(addr: int, paging: Paging = NON_PAE) -> int:
    """Return the index of `addr` in its page directory."""
    return _index(addr, paging.levels[-2])


def pte_index(addr: int, paging: Paging = NON_PAE) -> int:
    """Return the index of `addr` in its page table."""
    return _index(addr, paging.levels[-1])


def pgd_indices(pages: tuple[int, ...], paging: Paging = NON_PAE) -> tuple[int, ...]:
    """Return the indices of the root that addresses in `pages` have, each once."""
    return tuple(dict.fromkeys(pgd_index(addr, paging) for addr in pages))


def pmd_indices(pages: tuple[int, ...], paging: Paging = NON_PAE) -> tuple[int, ...]:
    """Return the indices of a page directory that addresses in `pages` have, each once."""
    return tuple(dict.fromkeys(pmd_index(addr, paging) for addr in pages))


def pte_indices(pages: tuple[int, ...], paging: Paging = NON_PAE) -> tuple[int, ...]:
    """Return the indices of a page table that addresses in `pages` have, each once."""
    return tuple(dict.fromkeys(pte_index(addr, paging) for addr in pages))


def _index(addr: int, level: tuple[int, int]) -> int:
    shift, entries = level
    return addr >> shift & entries - 1


# The two words of an entry with PAE, each written by a store of its own.


def store_low(word: Word, value: int) -> Step:
    """Write the low word of an entry; of one that has no other, all."""
    if word.width == 32:
        return store(word, value)
    return _store_half(word, value, LOW, "low")


def store_high(word: Word, value: int) -> Step:
    """Write the high word of an entry."""
    return _store_half(word, value, HIGH, "high")


def xchg_low(word: Word, value: int) -> Step:
    """Write the low word of an entry with a locked instruction; return what it was."""
    if word.width == 32:
        return xchg(word, value)
    label = f"xchg low {word.name} = {ENTRY.show(value & LOW)}"
    return Step(label, word, and_mask=HIGH, xor_mask=value & LOW, returns=LOW)


def _store_half(word: Word, value: int, half: int, name: str) -> Step:
    label = f"store {name} {word.name} = {ENTRY.show(value & half)}"
    return Step(label, word, and_mask=~half, xor_mask=value & half)
