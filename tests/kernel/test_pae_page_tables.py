"""PAE: roots and directories as Linux makes and frees them, and how it finds its way down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, store
from smpmmu.kernel.boot import paging_init
from smpmmu.kernel.mm import INIT_MM, MmStruct, pmd_offset
from smpmmu.kernel.page_alloc import memory_is_short
from smpmmu.kernel.paravirt import Linux
from smpmmu.kernel.pgd import SLAB_FREE, SLAB_IN_USE, mmdrop, pgd_alloc, pgd_free
from smpmmu.machine.entries import KERNPG_TABLE, PAGE_PRESENT, entry
from smpmmu.machine.memory import PAE, PAGE_OWNER, Memory
from tests.machines import ADDR, PGD, TABLE, alone, ended, labels, vcpu

if TYPE_CHECKING:
    from smpmmu.engine.local import Call
    from smpmmu.machine.cpu import Cpu

KERNEL_ADDR = 0xC0003000
PMD, KERNEL_PMD, NEW_PGD, PMDS = 0x5, 0x7D, 0x31, (0x50, 0x51, 0x52)
OUT = Word("returned", 32)


def link(pmd: int) -> int:
    return entry(pmd, PAGE_PRESENT)


def one_cpu(*more: tuple[int, int, int], **knobs: Any) -> Cpu:
    """Return a vCPU, alone online, whose slabs can have NEW_PGD and PMDS."""
    entries = ((INIT_MM.pgd, 3, link(KERNEL_PMD)), (PGD, 0, link(PMD)), *more)
    mem = Memory(entries, owners=tuple((f, 0) for f in (NEW_PGD, *PMDS)), paging=PAE)
    whole = {"pmds": PMDS, "online": (0,), "pgds": ((1, PGD), (2, NEW_PGD)), "listed": 0, **knobs}
    return vcpu(mem=mem, pages=(ADDR, KERNEL_ADDR), linux=Linux(**whole))


async def returned(cpu: Cpu, function: Any, *args: Any) -> None:
    """Write down what a function returns."""
    await store(OUT, await function(cpu, *args))


async def short(value: int) -> None:
    await store(memory_is_short, value)


def test_a_root_has_three_new_directories_and_the_kernels() -> None:
    garbage = [(pmd, 0, 0x5A) for pmd in PMDS]
    run = alone(call(returned, one_cpu(*garbage), pgd_alloc))
    values, steps = ended(run), labels(run)
    assert values["returned"] == NEW_PGD
    assert [values[f"0x31[{i}]"] for i in range(4)] == [*map(link, PMDS), link(KERNEL_PMD)]
    assert [values[f"{pmd:#x}[0]"] for pmd in PMDS] == [0, 0, 0]
    assert values["pgd_cache[0x31]"] == SLAB_IN_USE
    assert not any("pgd_lock" in step or "pgd_list" in step for step in steps)
    assert steps.index("store 0x50[0] = 0") < steps.index("store 0x31[0] = 0x50 P")


def exhausting(number: int) -> tuple[Call, ...]:
    """Make memory short, as if others had all but `number` directories."""
    cpu = one_cpu(pmds=PMDS[:number])
    return (call(returned, cpu, pgd_alloc),)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_was_made_is_given_back(number: int) -> None:
    values = ended(alone(*exhausting(number)))
    assert values["returned"] == 0
    assert values["pmd_cache"] == (1 << number) - 1
    assert values["pgd_cache[0x31]"] == SLAB_FREE
    # The entries still lead there: nobody has loaded this root.
    assert [values[f"0x31[{i}]"] != 0 for i in range(3)] == [i < number for i in range(3)]


def test_without_memory_there_is_no_root() -> None:
    values = ended(alone(call(short, 1), call(returned, one_cpu(short=True), pgd_alloc)))
    assert (values["returned"], values["page 0x31"] & PAGE_OWNER, values["pmd_cache"]) == (0, 0, 0)


def test_directories_come_from_their_slab_again() -> None:
    cpu = one_cpu()
    life = (call(pgd_alloc, cpu), call(pgd_free, cpu, NEW_PGD))
    values = ended(alone(*life))
    assert (values["pmd_cache"], values["pgd_cache[0x31]"]) == (0b111, SLAB_FREE)
    run = alone(*life, call(returned, cpu, pgd_alloc))
    assert ended(run)["returned"] == NEW_PGD
    assert ended(run)["pmd_cache"] == 0
    assert labels(run).count("store 0x50[0] = 0") == 1  # its constructor
    assert labels(run).count("store 0x31[3] = 0x7d P") == 1


def test_the_last_reference_frees_the_root() -> None:
    mm = MmStruct(2, NEW_PGD, paging=PAE, references=2)
    cpu = one_cpu(*((NEW_PGD, i, link(pmd)) for i, pmd in enumerate(PMDS)))
    drop = call(mmdrop, cpu, mm)
    assert ended(alone(drop))["pmd_cache"] == 0
    values = ended(alone(drop, drop))
    assert (values["mm2.mm_count"], values["pmd_cache"]) == (0, 0b111)


def test_a_directory_is_found_through_the_root() -> None:
    run = alone(call(returned, one_cpu(), pmd_offset, PGD, 0x201000))
    assert (ended(run)["returned"], labels(run)[0]) == (0x5008, "load 0x1[0]")


@pytest.mark.parametrize("pse", [False, True])
def test_boot_makes_new_tables(*, pse: bool) -> None:
    fixmap, tables = 0xFFFFF000, (0x40, 0x41, 0x42)
    mem = Memory(owners=tuple((table, 0) for table in tables), paging=PAE)
    pages = (0x3000, KERNEL_ADDR, fixmap)
    cpu = vcpu(mem=mem, mm=INIT_MM, pages=pages, linux=Linux(frames=tables), root_changes=True)
    values = ended(alone(call(paging_init, cpu, fixmap, pse=pse)))
    assert values["0x7f[0]"] == values["0x7f[3]"] == link(0x40)
    assert values["cpu0.pdpte[0]"] == values["cpu0.pdpte[3]"] == link(0x40)
    assert values["0x40[511]"] == entry(0x41 if pse else 0x42, KERNPG_TABLE)
    assert values["0x40[0]"] & 0xFFFFF080 == (0x80 if pse else 0x41000)
    assert values["0x41[3]"] == (0 if pse else 0x3163)
    assert values[f"0x{TABLE:x}[3]"] == 0
