"""mprotect, mremap, fork, faults and short mappings: which accesses, in which order, as in C."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.local import call
from smpmmu.engine.run import Ending
from smpmmu.engine.steps import Word, store
from smpmmu.kernel.fault import Fault, do_page_fault
from smpmmu.kernel.fork import dup_mmap
from smpmmu.kernel.highmem import (
    FIX_KMAP_BEGIN,
    KMAP_SLOT_IS_EMPTY,
    KMAP_TABLE,
    kmap_atomic,
    kunmap_atomic,
)
from smpmmu.kernel.mm import VM_READ, VM_WRITE, MmStruct, VmAreaStruct
from smpmmu.kernel.mprotect import page_prot, sys_mprotect
from smpmmu.kernel.mremap import sys_mremap
from smpmmu.kernel.munmap import unmap_mapping_range
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.pgtable import pte_modify
from smpmmu.machine.entries import (
    KERNPG_TABLE,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_PROTNONE,
    PAGE_RW,
    entry,
    pfn_of,
)
from smpmmu.machine.memory import PAE, PAGE_SIZE, Memory, pgd_index
from tests.machines import (
    ADDR,
    CLEAN,
    MM,
    OTHER_ADDR,
    OTHER_PAGE,
    PAGE,
    PGD,
    READ_ONLY,
    TABLE,
    TOUCHED,
    VMA,
    alone,
    ended,
    labels,
    memory,
    vcpu,
)

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

OUT = Word("returned", 3)
CHILD = MmStruct(4, 0x21, ((0, 0x22),))
END = ADDR + PAGE_SIZE
PTE, OTHER_PTE, COPY = "0x2[1]", "0x2[2]", "0x22[1]"
KMAP_PTE = f"{KMAP_TABLE:#x}[{FIX_KMAP_BEGIN >> 12 & 1023}]"


def test_mprotect_empties_rewrites_unlocks_and_flushes() -> None:
    run = alone(call(sys_mprotect, vcpu(), VMA, ADDR, END, VM_READ))
    assert labels(run) == [
        "down_write mmap_sem",
        "store mm1.vm_flags = R",
        "lock ptl",
        f"load {PTE}",
        f"xchg {PTE} = 0",
        f"store {PTE} = 0x3 P-US-A-D",
        "unlock ptl",
        "load mm1.cpu_vm_mask",
        "clear walking in cpu0.tlb[0x1]",
        "drop cpu0.tlb[0x1] unless global",
        "up_write mmap_sem",
    ]


def test_mprotect_leaves_what_is_empty() -> None:
    found = labels(alone(call(sys_mprotect, vcpu(mem=memory(0)), VMA, ADDR, END, VM_READ)))
    assert not [label for label in found if PTE in label and not label.startswith("load")]


@pytest.mark.parametrize(
    ("notifies", "pte", "writable"), [(True, TOUCHED, True), (True, CLEAN, False)]
)
def test_a_write_to_a_clean_page_of_a_notifying_mapping_faults(
    pte: int, *, notifies: bool, writable: bool
) -> None:
    vma = VmAreaStruct(MM, shared=True, notifies=notifies)
    cpu = vcpu(mem=memory(pte))
    values = ended(alone(call(sys_mprotect, cpu, vma, ADDR, END, VM_READ | VM_WRITE)))
    assert bool(values[PTE] & PAGE_RW) is writable


def test_the_rights_of_a_mapping() -> None:
    private, shared = VMA, VmAreaStruct(MM, shared=True)
    assert page_prot(private, 0) == PAGE_PROTNONE | PAGE_ACCESSED
    assert page_prot(private, VM_READ | VM_WRITE) == page_prot(shared, VM_READ) == READ_ONLY
    assert page_prot(shared, VM_READ | VM_WRITE) == CLEAN
    in_pae = VmAreaStruct(replace(MM, paging=PAE))
    assert page_prot(in_pae, VM_READ) == READ_ONLY | PAGE_NX
    kept = pte_modify(entry(PAGE, TOUCHED), PAGE_PRESENT)
    assert kept == entry(PAGE, PAGE_PRESENT | PAGE_ACCESSED | PAGE_DIRTY)


@pytest.mark.parametrize("locked", [True, False])
def test_mremap_moves_an_entry(*, locked: bool) -> None:
    cpu = vcpu(pages=(ADDR, OTHER_ADDR), linux=Linux(mremap_flushes_locked=locked))
    run = alone(call(sys_mremap, cpu, VMA, ADDR, END, OTHER_ADDR))
    found = labels(run)
    order = [f"xchg {PTE} = 0", f"store {OTHER_PTE} = 0x3 P-RW-US-A-D", "unlock ptl"]
    flush = "store cpu0.tlb[0x1] = 0" if locked else "drop cpu0.tlb[0x1] unless global"
    order.insert(1 if locked else 3, flush)
    assert [found.index(label) for label in order] == sorted(found.index(o) for o in order)
    values = ended(run)
    assert (values[PTE], values[OTHER_PTE]) == (0, entry(PAGE, TOUCHED))


def test_mremap_takes_each_lock_once_and_gives_it_back() -> None:
    split = replace(MM, tables=((0, TABLE), (1, 0x5)), split=True)
    vma = VmAreaStruct(split, vm_file=True)
    far = 1 << 22
    cpu = vcpu(pages=(ADDR, far), mm=split)
    found = labels(alone(call(sys_mremap, cpu, vma, ADDR, END, far)))
    names = ["i_mmap_lock", "ptl[0x2]", "ptl[0x5]"]
    assert [x for x in found if x.startswith("lock") and "tlbstate" not in x] == [
        f"lock {name}" for name in names
    ]
    assert [x for x in found if x.startswith("unlock") and "tlbstate" not in x] == [
        f"unlock {name}" for name in (*reversed(names[1:]), names[0])
    ]


@pytest.mark.parametrize(
    ("shared", "own", "copy"),
    [
        (False, TOUCHED & ~PAGE_RW, TOUCHED & ~(PAGE_RW | PAGE_ACCESSED)),
        (True, TOUCHED, TOUCHED & ~(PAGE_DIRTY | PAGE_ACCESSED)),
    ],
)
def test_fork_copies_an_entry(own: int, copy: int, *, shared: bool) -> None:
    vma = VmAreaStruct(MM, shared=shared)
    values = ended(alone(call(dup_mmap, vcpu(), CHILD, vma, ADDR, END)))
    assert (values[PTE] or entry(PAGE, TOUCHED), values[COPY]) == (
        entry(PAGE, own),
        entry(PAGE, copy),
    )


def test_fork_gives_its_locks_up_between_entries_and_flushes_last() -> None:
    cpu = vcpu(mem=memory(TOUCHED, TOUCHED), linux=Linux(copy_break=1))
    found = labels(alone(call(dup_mmap, cpu, CHILD, VMA, ADDR, END + PAGE_SIZE)))
    locks = [x for x in found if "lock ptl" in x]
    one = ["lock ptl4", "lock ptl", "unlock ptl", "unlock ptl4"]
    assert locks == one * 2
    assert found.index("load mm1.cpu_vm_mask") > len(found) - 1 - found[::-1].index("unlock ptl4")
    assert found[-1] == "up_write mmap_sem"


def test_truncation_frees_the_page_it_found_once() -> None:
    mem = memory(TOUCHED)
    cpu = vcpu(mem=mem, pages=(ADDR, OTHER_ADDR))
    found = labels(alone(call(unmap_mapping_range, cpu, VMA, (ADDR, OTHER_ADDR))))
    assert [x for x in found if x.startswith("free")] == ["free page 0x3"]
    assert found.index("unlock i_mmap_lock") < found.index("free page 0x3")


async def faulting(cpu: Cpu, *, write: bool) -> None:
    result = await do_page_fault(cpu, VMA, ADDR, write=write)
    await store(OUT, list(Fault).index(result))


@pytest.mark.parametrize(
    ("pte", "flags", "free", "write", "wanted"),
    [
        (READ_ONLY, VM_READ | VM_WRITE, 1, True, Fault.MINOR),
        (READ_ONLY, VM_READ | VM_WRITE, 0, True, Fault.OOM),
        (READ_ONLY, VM_READ, 1, True, Fault.SIGSEGV),
        (CLEAN, VM_READ, 1, False, Fault.MINOR),
        (0, VM_READ, 1, False, Fault.SIGBUS),
    ],
)
def test_what_a_fault_leads_to(
    pte: int, flags: int, free: int, wanted: Fault, *, write: bool
) -> None:
    mem = replace(memory(pte), owners=((OTHER_PAGE, 0 if free else 2),))
    cpu = vcpu(mem=mem, linux=Linux(copied=(OTHER_PAGE,)))
    run = alone(call(change_flags, flags), call(faulting, cpu, write=write))
    values = ended(run)
    assert values["returned"] == list(Fault).index(wanted)
    assert values["mmap_sem"] == 0
    copied = wanted is Fault.MINOR and write
    assert ("free page 0x3" in labels(run)) is copied
    if copied:
        assert pfn_of(values[PTE]) == OTHER_PAGE
        assert values[PTE] & (PAGE_RW | PAGE_DIRTY) == PAGE_RW | PAGE_DIRTY


async def change_flags(flags: int) -> None:
    await store(VMA.vm_flags, flags)


def kmap_cpu() -> Cpu:
    mem = Memory(((PGD, pgd_index(FIX_KMAP_BEGIN), entry(KMAP_TABLE, KERNPG_TABLE)),))
    return vcpu(mem=mem, pages=(FIX_KMAP_BEGIN,))


async def kmap(cpu: Cpu, *, twice: bool) -> None:
    vaddr = await kmap_atomic(cpu, PAGE)
    if twice:
        await kmap_atomic(cpu, OTHER_PAGE)
    await kunmap_atomic(cpu, vaddr)


def test_a_short_mapping_is_taken_away_and_flushed() -> None:
    run = alone(call(kmap, kmap_cpu(), twice=False))
    assert labels(run) == [
        f"load {KMAP_PTE}",
        f"store {KMAP_PTE} = 0x3 P-RW-A-D-G",
        f"store {KMAP_PTE} = 0",
        f"store cpu0.tlb[{FIX_KMAP_BEGIN >> 12:#x}] = 0",
    ]


def test_one_address_is_mapped_once_at_a_time() -> None:
    run = alone(call(kmap, kmap_cpu(), twice=True))
    assert (run.ending, run.violated) == (Ending.VIOLATION, KMAP_SLOT_IS_EMPTY)
