"""Page-table entries of i386 without PAE: 32 bits, a frame number above twelve flag bits.

It must not know where entries lie. Source: include/asm-i386/pgtable.h, Linux 2.6.21.
"""

from __future__ import annotations

from smpmmu.engine.steps import Format

PAGE_SHIFT = 12
PAGE_BIT_RW = 1
PAGE_BIT_ACCESSED = 5
PAGE_BIT_DIRTY = 6

PAGE_PRESENT = 0x001
PAGE_RW = 0x002
PAGE_USER = 0x004
PAGE_PWT = 0x008
PAGE_PCD = 0x010
PAGE_ACCESSED = 0x020
PAGE_DIRTY = 0x040
PAGE_PSE = 0x080
PAGE_GLOBAL = 0x100
PAGE_TABLE = PAGE_PRESENT | PAGE_RW | PAGE_USER | PAGE_ACCESSED | PAGE_DIRTY
"""What a page-directory entry of a user page table holds."""

ENTRY = Format(
    flags=(
        (PAGE_PRESENT, "P"),
        (PAGE_RW, "RW"),
        (PAGE_USER, "US"),
        (PAGE_PWT, "PWT"),
        (PAGE_PCD, "PCD"),
        (PAGE_ACCESSED, "A"),
        (PAGE_DIRTY, "D"),
        (PAGE_PSE, "PSE"),
        (PAGE_GLOBAL, "G"),
    ),
    frame_shift=PAGE_SHIFT,
)


def entry(pfn: int, flags: int) -> int:
    """Return the entry that maps frame `pfn` with `flags`."""
    return pfn << PAGE_SHIFT | flags


def pfn_of(value: int) -> int:
    """Return the frame that an entry maps."""
    return value >> PAGE_SHIFT
