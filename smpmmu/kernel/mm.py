"""struct mm_struct and vm_area_struct, as far as page-table code reads them.

Fields that change are words; the records are frozen. It must not know any hypervisor.
"""

from __future__ import annotations

from dataclasses import dataclass

from smpmmu.engine.steps import Word
from smpmmu.machine.entries import PAGE_SHIFT
from smpmmu.machine.memory import ENTRY_SIZE, pgd_index, pte_index
from smpmmu.machine.spinlock import spinlock


@dataclass(frozen=True, slots=True)
class MmStruct:
    """An address space.

    Attributes:
        number: non-zero; what flush_mm and cpu_tlbstate hold for a pointer to it.
        pgd: frame of the page directory.
        tables: (directory index, frame) of the page tables.
        cpus: CPUs that have it loaded at first.
    """

    number: int
    pgd: int
    tables: tuple[tuple[int, int], ...]
    cpus: tuple[int, ...]

    @property
    def page_table_lock(self) -> Word:
        """The lock of all page tables (not split)."""
        return spinlock("ptl" if self.number == 1 else f"ptl{self.number}")

    @property
    def cpu_vm_mask(self) -> Word:
        """Which CPUs must be told of a flush."""
        initial = sum(1 << cpu for cpu in self.cpus)
        return Word(f"mm{self.number}.cpu_vm_mask", 8, initial)

    def pte_offset(self, addr: int) -> int:
        """Return the physical address of the entry for `addr` in its page table."""
        return (dict(self.tables)[pgd_index(addr)] << PAGE_SHIFT) + pte_index(addr) * ENTRY_SIZE


@dataclass(frozen=True, slots=True)
class VmAreaStruct:
    """A mapping; only its address space matters here."""

    vm_mm: MmStruct
