"""Page tables and directories as Linux makes and frees them: order of steps, and what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from smpmmu.engine.local import call
from smpmmu.engine.run import Ending
from smpmmu.engine.steps import Word, store
from smpmmu.kernel.boot import pagetable_init
from smpmmu.kernel.free_pgtables import (
    free_pgd_range,
    free_pgtables,
    unmap_region,
    zap_page_range,
)
from smpmmu.kernel.mm import INIT_MM, MmStruct, VmAreaStruct, pmd_offset, pte_offset_kernel
from smpmmu.kernel.page_alloc import memory_is_short
from smpmmu.kernel.page_hooks import PageHooks, Place
from smpmmu.kernel.pageattr import (
    PAGE_KERNEL,
    PAGE_KERNEL_LARGE,
    PAGE_KERNEL_RO,
    PAGE_TABLE_OF_KERNEL,
    change_page_attr,
    global_flush_tlb,
    linear,
)
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.pgalloc import ENOMEM, handle_mm_fault, pmd_populate, pte_alloc
from smpmmu.kernel.pgd import kmem_cache_shrink, pgd_alloc, pgd_free, pgd_list_add
from smpmmu.kernel.vmalloc import VMALLOC_START, map_vm_area, unmap_vm_area, vmalloc_fault
from smpmmu.machine.entries import KERNPG_TABLE, PAGE_TABLE, entry
from smpmmu.machine.memory import NON_PAE, PAGE_OWNER, PAGE_SIZE, Memory
from tests.machines import (
    ADDR,
    MM,
    PAGE,
    PGD,
    TABLE,
    TOUCHED,
    UNTOUCHED,
    alone,
    ended,
    labels,
    vcpu,
)

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

VMA = VmAreaStruct(MM, ADDR, ADDR + PAGE_SIZE)
OUT = Word("returned", 32)
PMD = NON_PAE.entry_at(PGD, 0)
NEW_PGD, NEW_TABLE = 0x31, 0x40
HIGH = linear(PAGE)
LARGE = entry(0, PAGE_KERNEL_LARGE)


def one_cpu(*entries: tuple[int, int, int], pages: tuple[int, ...] = (ADDR,), **knobs: Any) -> Cpu:
    """Return a vCPU, alone online, whose allocator has NEW_TABLE and NEW_PGD."""
    mem = Memory(entries, owners=((NEW_TABLE, 0), (NEW_PGD, 0)))
    whole = {"frames": (NEW_TABLE,), "online": (0,), "pgds": ((1, PGD), (2, NEW_PGD)),
             "listed": 1, **knobs}  # fmt: skip
    return vcpu(mem=mem, pages=pages, linux=Linux(**whole))


async def returned(cpu: Cpu, function: Any, *args: Any) -> None:
    """Write down what a function returns; 1 for -ENOMEM."""
    value = await function(cpu, *args)
    await store(OUT, 1 if value == ENOMEM else value)


async def short(value: int) -> None:
    await store(memory_is_short, value)


def test_a_table_is_empty_when_it_is_linked() -> None:
    cpu = one_cpu((NEW_TABLE, 1, 0x5A5A5A5A))
    values = ended(alone(call(pte_alloc, cpu, MM, PMD)))
    assert values["0x1[0]"] == entry(NEW_TABLE, PAGE_TABLE)
    assert values["0x40[1]"] == 0
    assert values["page 0x40"] & PAGE_OWNER == MM.number << 1


def test_the_loser_frees_its_table() -> None:
    cpu = one_cpu((PGD, 0, entry(TABLE, PAGE_TABLE)))
    values = ended(alone(call(pte_alloc, cpu, MM, PMD)))
    assert values["0x1[0]"] == entry(TABLE, PAGE_TABLE)
    assert values["page 0x40"] & PAGE_OWNER == 0


@pytest.mark.parametrize("is_short", [False, True])
def test_without_memory_nothing_is_linked(*, is_short: bool) -> None:
    cpu = one_cpu(short=True)
    fault = call(returned, cpu, handle_mm_fault, VMA, ADDR, PAGE, UNTOUCHED)
    values = ended(alone(call(short, int(is_short)), fault))
    assert values["returned"] == is_short
    assert (values["0x1[0]"] == 0) is is_short
    assert (values["0x40[1]"] == entry(PAGE, UNTOUCHED)) is not is_short


def test_populating_wants_the_lock() -> None:
    run = alone(call(pmd_populate, one_cpu(), MM, PMD, NEW_TABLE))
    assert (run.ending, run.violated) == (
        Ending.VIOLATION, "page_table_lock_held_in_pmd_populate",
    )  # fmt: skip


@pytest.mark.parametrize(("gather", "flushes_before_end"), [(2, True), (3, False)])
def test_pages_go_after_a_flush(gather: int, *, flushes_before_end: bool) -> None:
    cpu = one_cpu(
        (PGD, 0, entry(TABLE, PAGE_TABLE)), (TABLE, 1, entry(PAGE, TOUCHED)), gather=gather,
        online=(0, 1),
    )  # fmt: skip
    run = alone(call(unmap_region, cpu, (VMA,)))
    values, steps = ended(run), labels(run)
    assert values["0x1[0]"] == values["0x2[1]"] == 0
    assert values["page 0x2"] & PAGE_OWNER == values["page 0x3"] & PAGE_OWNER == 0
    flush = steps.index("load mm1.cpu_vm_mask")
    assert steps.count("load mm1.cpu_vm_mask") == 1
    assert steps.index("store 0x1[0] = 0") < flush < steps.index("free page 0x3")
    assert steps.index("free page 0x3") < steps.index("free page 0x2")
    last_look = len(steps) - 1 - steps[::-1].index("load cpu0.mmu_gather.pages[0]")
    assert (last_look > steps.index("free page 0x2")) is flushes_before_end


@pytest.mark.parametrize(
    ("start", "end", "floor", "ceiling", "freed"),
    [
        (0x401000, 0x402000, 0, 0, [1]),
        (0x401000, 0x402000, 0x400000, 0, [1]),  # the mapping before ends where the table begins
        (0x401000, 0x402000, 0x400001, 0, []),  # it ends in the same table
        (0x401000, 0x402000, 0, 0x800000, [1]),  # the next one begins in the next table
        (0x401000, 0x402000, 0, 0x7FF000, []),  # it begins in the same one
        (0x401000, 0xC00000, 0, 0, [1, 2]),
        (0x401000, 0xC01000, 0, 0, [1, 2, 3]),
        (0x401000, 0xC01000, 0x400001, 0xC02000, [2]),
        (0x1000, 0x2000, 0, 0x3FF000, []),  # nothing below the first table
    ],
)
def test_a_table_goes_with_the_last_mapping_in_it(
    start: int, end: int, floor: int, ceiling: int, freed: list[int]
) -> None:
    size = 1 << 22
    owned = tuple((PGD, n, entry(0x50 + n, PAGE_TABLE)) for n in range(4))
    pages = tuple(n * size for n in range(4))
    cpu = one_cpu(*owned, pages=pages, gather=9, online=(0, 1))
    run = alone(call(free_pgd_range, cpu, MM, start, end, floor, ceiling))
    values = ended(run)
    assert [n for n in range(4) if values.get(f"0x1[{n}]", 1) == 0] == freed


def test_nearby_mappings_are_hidden_together() -> None:
    far = 0x1400000
    vmas = tuple(
        VmAreaStruct(MM, start, start + PAGE_SIZE, vm_file=start == 0x3000)
        for start in (ADDR, 0x3000, far)
    )
    owned = tuple((PGD, n, entry(0x50 + n, PAGE_TABLE)) for n in (0, 5))
    cpu = one_cpu(*owned, pages=(ADDR, 0x3000, far), gather=9, online=(0, 1))
    steps = labels(alone(call(free_pgtables, cpu, vmas, 0, 0)))
    hidden = [n for n, step in enumerate(steps) if " is on " in step]
    first, second = (steps.index(f"store 0x1[{n}] = 0") for n in (0, 5))
    assert [steps[n].split()[-3] for n in hidden] == ["anon_vma", "anon_vma", "i_mmap", "anon_vma"]
    assert hidden[2] < first < hidden[3] < second


def test_in_fast_mode_pages_go_before_the_flush() -> None:
    cpu = one_cpu((PGD, 0, entry(TABLE, PAGE_TABLE)), (TABLE, 1, entry(PAGE, TOUCHED)))
    steps = labels(alone(call(unmap_region, cpu, (VMA,)), call(zap_page_range, cpu, VMA, ADDR, 1)))
    flush = steps.index("load mm1.cpu_vm_mask")
    assert steps.count("load mm1.cpu_vm_mask") == 1  # the second time there is nothing to flush
    assert steps.index("free page 0x3") < steps.index("free page 0x2") < flush


def test_a_directory_is_constructed_once() -> None:
    cpu = one_cpu((INIT_MM.pgd, 768, LARGE), (NEW_PGD, 0, 0x5A), pages=(ADDR, HIGH))
    again = (call(pgd_free, cpu, NEW_PGD), call(returned, cpu, pgd_alloc))
    run = alone(call(returned, cpu, pgd_alloc), *again)
    values, steps = ended(run), labels(run)
    assert values["returned"] == NEW_PGD
    assert (values["0x31[0]"], values["0x31[768]"]) == (0, LARGE)
    assert values["pgd_list"] == 0b11
    assert sum(step.startswith("store 0x31[768]") for step in steps) == 1
    values = ended(
        alone(call(pgd_alloc, cpu), call(pgd_free, cpu, NEW_PGD), call(kmem_cache_shrink, cpu))
    )
    assert (values["pgd_list"], values["page 0x31"] & PAGE_OWNER) == (1, 0)


def test_a_directory_in_use_is_not_destroyed() -> None:
    cpu = one_cpu((INIT_MM.pgd, 768, LARGE))
    values = ended(alone(call(pgd_alloc, cpu), call(kmem_cache_shrink, cpu)))
    assert values["pgd_list"] == 0b11


def test_without_memory_there_is_no_directory() -> None:
    cpu = one_cpu(short=True)
    values = ended(alone(call(short, 1), call(returned, cpu, pgd_alloc)))
    assert (values["returned"], values["pgd_list"]) == (0, 0)


def test_the_list_wants_its_lock() -> None:
    assert alone(call(pgd_list_add, one_cpu(), 1)).violated == "pgd_lock_held_in_pgd_list_add"


ROOTS = tuple((root, 768, LARGE) for root in (INIT_MM.pgd, PGD))


def test_a_large_page_is_split_and_put_back() -> None:
    cpu = one_cpu(*ROOTS, pages=(HIGH,))
    split = call(returned, cpu, change_page_attr, HIGH, PAGE_KERNEL_RO)
    values = ended(alone(split))
    table = entry(NEW_TABLE, PAGE_TABLE_OF_KERNEL)
    assert (values["0x7f[768]"], values["0x1[768]"]) == (table, table)
    assert values["0x31[768]"] == 0  # not listed
    assert (values["0x40[3]"], values["page_private(0x40)"]) == (entry(PAGE, PAGE_KERNEL_RO), 1)
    back = call(change_page_attr, cpu, HIGH, PAGE_KERNEL)
    run = alone(split, back, call(global_flush_tlb, cpu))
    values = ended(run)
    assert (values["0x7f[768]"], values["0x1[768]"]) == (LARGE, LARGE)
    assert (values["df_list"], values["page 0x40"] & PAGE_OWNER) == (0, 0)
    steps = labels(run)
    assert steps.index("store cpu0.tlb[0xc0003] = 0") < steps.index("free page 0x40")


def test_a_second_page_of_a_split_one_is_counted() -> None:
    pages = (HIGH, linear(5))
    cpu = one_cpu(*ROOTS, pages=pages)
    both = [call(change_page_attr, cpu, addr, PAGE_KERNEL_RO) for addr in pages]
    values = ended(alone(*both, call(change_page_attr, cpu, HIGH, PAGE_KERNEL)))
    assert values["page_private(0x40)"] == 1
    assert values["df_list"] == 0
    assert values["0x7f[768]"] == entry(NEW_TABLE, PAGE_TABLE_OF_KERNEL)


def test_without_memory_nothing_is_split() -> None:
    cpu = one_cpu(*ROOTS, pages=(HIGH,), short=True)
    values = ended(
        alone(call(short, 1), call(returned, cpu, change_page_attr, HIGH, PAGE_KERNEL_RO))
    )
    assert (values["returned"], values["0x7f[768]"], values["cpa_lock"]) == (1, LARGE, 0)


def test_what_was_not_split_is_not_put_back() -> None:
    run = alone(call(change_page_attr, one_cpu(*ROOTS, pages=(HIGH,)), HIGH, PAGE_KERNEL))
    assert run.violated == "only_split_pages_are_put_back"


def test_kernel_mappings_are_copied_on_a_fault() -> None:
    cpu = one_cpu(pages=(VMALLOC_START,))
    mapped = call(map_vm_area, cpu, VMALLOC_START, PAGE)
    table = entry(NEW_TABLE, KERNPG_TABLE)
    values = ended(alone(mapped, call(returned, cpu, vmalloc_fault, VMALLOC_START)))
    assert (values["0x7f[994]"], values["0x1[994]"], values["returned"]) == (table, table, 1)
    assert values["0x40[0]"] == entry(PAGE, PAGE_KERNEL)
    assert ended(alone(call(returned, cpu, vmalloc_fault, VMALLOC_START)))["returned"] == 0
    gone = (mapped, call(unmap_vm_area, cpu, VMALLOC_START, frees_table=False))
    values = ended(alone(*gone, call(returned, cpu, vmalloc_fault, VMALLOC_START)))
    assert (values["0x40[0]"], values["0x7f[994]"], values["returned"]) == (0, table, 0)


def test_copies_of_kernel_entries_agree() -> None:
    other = (PGD, 994, entry(0x66, KERNPG_TABLE))
    kernel = (INIT_MM.pgd, 994, entry(NEW_TABLE, KERNPG_TABLE))
    cpu = one_cpu(other, kernel, pages=(VMALLOC_START,))
    run = alone(call(vmalloc_fault, cpu, VMALLOC_START))
    assert run.violated == "copies_of_kernel_entries_agree"


@pytest.mark.parametrize("pse", [False, True])
def test_boot_maps_low_memory(*, pse: bool) -> None:
    fixmap = 0xFFFFF000
    cpu = one_cpu((INIT_MM.pgd, 768, entry(TABLE, KERNPG_TABLE)), pages=(HIGH, fixmap))
    values = ended(alone(call(pagetable_init, cpu, fixmap, pse=pse)))
    assert values["0x7f[1023]"] == entry(NEW_TABLE, KERNPG_TABLE)
    assert values["0x7f[768]"] == (LARGE if pse else entry(TABLE, KERNPG_TABLE))
    assert values["0x2[3]"] == (0 if pse else entry(PAGE, PAGE_KERNEL))


def test_offsets() -> None:
    assert (
        ended(alone(call(returned, one_cpu(), pmd_offset, PGD, 0xC0000000)))["returned"] == 0x1C00
    )
    assert pte_offset_kernel(one_cpu(), entry(TABLE, PAGE_TABLE), ADDR) == MM.pte_offset(ADDR)
    assert PageHooks().dtor is Place.BEFORE
    assert MmStruct(2, NEW_PGD).number == 2
