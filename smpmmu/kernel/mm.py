"""struct mm_struct and vm_area_struct, as far as page-table code reads them.

Fields that change are words; the records are frozen. It must not know any hypervisor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.engine.steps import Format, Part, Word, load
from smpmmu.machine.entries import FRAME, pfn_of
from smpmmu.machine.memory import NON_PAE, Paging, pgd_index, pmd_index, pte_index
from smpmmu.machine.rwsem import rwsem
from smpmmu.machine.spinlock import spinlock

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

NR_CPUS = 8
INIT_MM_NUMBER = 7
SHOOTDOWNS = "shootdowns"
"""Reports show in this table what flushes are told by."""


def cpus_format(many: int) -> Format:
    """Return how reports show a mask of so many CPUs."""
    return Format(tuple((1 << number, f"cpu{number}") for number in range(many)))


CPUS = cpus_format(NR_CPUS)


@dataclass(frozen=True, slots=True)
class MmStruct:
    """An address space.

    Attributes:
        number: 1 to 7; what flush_mm and cpu_tlbstate hold for a pointer to it.
        pgd: frame of the root of its tables: the page directory but in PAE.
        tables: (address >> PMD_SHIFT, frame) of the page tables.
        cpus: CPUs that have it loaded at first.
        split: each page table has a lock of its own (NR_CPUS >= SPLIT_PTLOCK_CPUS).
        pmds: (index in the root, frame) of the page directories in PAE.
        paging: the geometry of its tables.
        references: mm_count at first: one of its users, one for each CPU that borrows it.
    """

    number: int
    pgd: int
    tables: tuple[tuple[int, int], ...] = ()
    cpus: tuple[int, ...] = ()
    split: bool = False
    pmds: tuple[tuple[int, int], ...] = ()
    paging: Paging = NON_PAE
    references: int = 1

    @property
    def is_init(self) -> bool:
        """Whether it is init_mm, whose entries no page-table lock guards."""
        return self.number == INIT_MM_NUMBER

    @property
    def page_table_lock(self) -> Word:
        """The lock of all page tables where they have none of their own."""
        return spinlock("ptl" if self.number == 1 else f"ptl{self.number}")

    @property
    def mmap_sem(self) -> Word:
        """What guards the mappings."""
        return rwsem("mmap_sem" if self.number == 1 else f"mmap_sem{self.number}")

    @property
    def cpu_vm_mask(self) -> Word:
        """Which CPUs must be told of a flush."""
        initial = sum(1 << cpu for cpu in self.cpus)
        name = f"mm{self.number}.cpu_vm_mask"
        part = Part(SHOOTDOWNS, name, format=cpus_format(self.nr_cpus))
        return Word(name, self.nr_cpus, initial, part=part)

    @property
    def nr_cpus(self) -> int:
        """How many CPUs a mask has bits for: NR_CPUS, or more where more run it at first."""
        return max(NR_CPUS, max(self.cpus, default=0) + 1)

    @property
    def mm_count(self) -> Word:
        """How often it is referred to; who drops the last reference frees the root."""
        return Word(f"mm{self.number}.mm_count", 2, self.references)

    def pte_lockptr(self, addr: int) -> Word:
        """Return the lock that guards the entry for `addr`.

        C: pte_lockptr, include/linux/mm.h
        """
        if not self.split:
            return self.page_table_lock
        return spinlock(f"{self.page_table_lock.name}[{self.page_table(addr):#x}]")

    def page_table(self, addr: int) -> int:
        """Return the frame of the page table for `addr`."""
        return dict(self.tables)[addr >> self.paging.pmd_shift]

    def pte_offset(self, addr: int) -> int:
        """Return the physical address of the entry for `addr` in its page table."""
        return self.paging.entry_at(self.page_table(addr), pte_index(addr, self.paging))

    def pmd_offset(self, addr: int) -> int:
        """Return the physical address of the entry for `addr` in its page directory."""
        directory = self.pgd
        if self.paging.is_pae:
            directory = dict(self.pmds)[pgd_index(addr, self.paging)]
        return self.paging.entry_at(directory, pmd_index(addr, self.paging))

    def pud_offset(self, addr: int) -> int:
        """Return the physical address of the entry for `addr` in the root."""
        return self.paging.entry_at(self.pgd, pgd_index(addr, self.paging))


INIT_MM = MmStruct(number=INIT_MM_NUMBER, pgd=0x7F)
"""The kernel's own address space; nothing is mapped for user code in swapper_pg_dir."""


async def pmd_offset(cpu: Cpu, pgd: int, addr: int) -> int:
    """Return the physical address of the entry for `addr` in its page directory.

    In PAE the directory is found through the root in frame `pgd`; without, the root is it.

    C: pgd_offset, pud_offset, pmd_offset
    """
    paging, directory = cpu.memory.paging, pgd
    if paging.is_pae:
        directory = pfn_of(await load(cpu.memory.table(pgd, pgd_index(addr, paging)), FRAME))
    return paging.entry_at(directory, pmd_index(addr, paging))


def pte_offset_kernel(cpu: Cpu, pmdval: int, addr: int) -> int:
    """Return the physical address of the entry for `addr` in the table that a directory entry has.

    C: pte_offset_kernel, pte_offset_map
    """
    paging = cpu.memory.paging
    return paging.entry_at(pfn_of(pmdval), pte_index(addr, paging))


VM_READ, VM_WRITE, VM_EXEC = 0x1, 0x2, 0x4
VM_FLAGS = Format(flags=((VM_READ, "R"), (VM_WRITE, "W"), (VM_EXEC, "X")))


@dataclass(frozen=True, slots=True)
class VmAreaStruct:
    """A mapping, readable and writable at first.

    Attributes:
        vm_mm: its address space.
        vm_start: its first address; where it begins and ends matters to who unmaps it whole.
        vm_end: the first address after it.
        vm_file: it maps a file.
        shared: it is a shared one (VM_SHARED).
        notifies: its first write to a clean page must fault (vma_wants_writenotify), so that the
            page is accounted as dirty.
    """

    vm_mm: MmStruct
    vm_start: int = 0
    vm_end: int = 0
    vm_file: bool = False
    shared: bool = False
    notifies: bool = False

    @property
    def vm_flags(self) -> Word:
        """What the mapping allows: those of its flags that change; mmap_sem guards them."""
        name = f"mm{self.vm_mm.number}.vm_flags"
        return Word(name, 3, VM_READ | VM_WRITE, format=VM_FLAGS)
