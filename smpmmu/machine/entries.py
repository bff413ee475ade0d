"""Page-table entries of i386: a frame number above twelve flag bits, and with PAE NX on top.

They have 32 bits, or 64 with PAE, which the kernel writes as two words, `LOW` and `HIGH`. It must
not know where entries lie. Source: include/asm-i386/pgtable.h, Linux 2.6.21.
"""

from __future__ import annotations

from dataclasses import dataclass

from smpmmu.engine.steps import Format

PAGE_SHIFT = 12
LOW = 0xFFFFFFFF
"""The bits of an entry that pte_low holds: without PAE, all."""
HIGH = LOW << 32
"""The bits of an entry that pte_high holds."""
PAGE_BIT_RW = 1
PAGE_BIT_ACCESSED = 5
PAGE_BIT_DIRTY = 6
PAGE_BIT_NX = 63

PAGE_PRESENT = 0x001
PAGE_RW = 0x002
PAGE_USER = 0x004
PAGE_PWT = 0x008
PAGE_PCD = 0x010
PAGE_ACCESSED = 0x020
PAGE_DIRTY = 0x040
PAGE_FILE = PAGE_DIRTY
"""With PRESENT clear: a nonlinear file entry."""
PAGE_PSE = 0x080
PAGE_PROTNONE = PAGE_PSE
"""With PRESENT clear: present to Linux (PROT_NONE), absent to the processor."""
PAGE_GLOBAL = 0x100
PAGE_UNUSED1 = 0x200
PAGE_UNUSED2 = 0x400
PAGE_UNUSED3 = 0x800
PAGE_NX = 1 << PAGE_BIT_NX
"""What is mapped cannot be executed. Without PAE there is no such bit."""
PAGE_TABLE = PAGE_PRESENT | PAGE_RW | PAGE_USER | PAGE_ACCESSED | PAGE_DIRTY
"""What a page-directory entry of a user page table holds."""
KERNPG_TABLE = PAGE_PRESENT | PAGE_RW | PAGE_ACCESSED | PAGE_DIRTY
"""What a page-directory entry of a kernel page table holds."""
FLAGS = (1 << PAGE_SHIFT) - 1
FRAME = (1 << 52) - 1 & ~FLAGS
"""The bits of an entry that hold the frame."""

WALKING = PAGE_UNUSED3
"""In a TLB entry, where no software bit is kept: a speculative walk for the page is in flight."""

_NAMES = (
    (PAGE_PRESENT, "P"),
    (PAGE_RW, "RW"),
    (PAGE_USER, "US"),
    (PAGE_PWT, "PWT"),
    (PAGE_PCD, "PCD"),
    (PAGE_ACCESSED, "A"),
    (PAGE_DIRTY, "D"),
    (PAGE_PSE, "PSE"),
    (PAGE_GLOBAL, "G"),
    (PAGE_UNUSED1, "sw1"),
    (PAGE_UNUSED2, "sw2"),
    (PAGE_NX, "NX"),
)
ENTRY = Format(flags=(*_NAMES, (PAGE_UNUSED3, "sw3")), frame_shift=PAGE_SHIFT)
TLB_ENTRY = Format(flags=(*_NAMES, (WALKING, "walking")), frame_shift=PAGE_SHIFT)

PAGE_TABLES = "page tables"
"""Reports show entries in this table, the primary, its shadow and the root that a vCPU keeps."""


@dataclass(frozen=True, slots=True)
class Address(Format):
    """How reports show the physical address of an entry: by the name that the entry has."""

    entry_size: int = 4

    def show(self, value: int) -> str:
        """Return the frame of the table and the index in it."""
        if not value:
            return "0"
        frame, offset = value >> PAGE_SHIFT, value & FLAGS
        return f"{frame:#x}[{offset // self.entry_size}]"


def entry(pfn: int, flags: int) -> int:
    """Return the entry that maps frame `pfn` with `flags`."""
    return pfn << PAGE_SHIFT | flags


def pfn_of(value: int) -> int:
    """Return the frame that an entry maps."""
    return (value & FRAME) >> PAGE_SHIFT


def allows(value: int, *, write: bool, execute: bool = False, user: bool = True) -> bool:
    """Whether an entry of a page directory or page table allows an access.

    It is one by user code, or by the kernel, which CR0.WP keeps from writing too.
    """
    needed = PAGE_PRESENT | (PAGE_USER if user else 0) | (PAGE_RW if write else 0)
    return value & (needed | (PAGE_NX if execute else 0)) == needed


def small_page(pde: int, index: int) -> int:
    """Return what a TLB keeps of page `index` of the large page that a directory entry maps."""
    return entry(pfn_of(pde) + index, pde & (FLAGS | PAGE_NX) & ~PAGE_PSE)
