"""Direct page tables: writes are held back in lazy MMU mode, in order, and nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.local import call
from smpmmu.engine.steps import Step, Word
from smpmmu.hypervisor.direct import SLOTS, direct
from smpmmu.kernel.paravirt import (
    arch_enter_lazy_mmu_mode,
    arch_flush_lazy_mmu_mode,
    arch_leave_lazy_mmu_mode,
)
from smpmmu.kernel.pgtable import set_pte
from smpmmu.machine.entries import entry
from tests.machines import ADDR, MM, PAGE, READ_ONLY, TOUCHED, alone, ended, labels, memory, vcpu

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

MARK = Word("mark", 2)
PTE = "0x2[1]"


def direct_cpu() -> Cpu:
    return vcpu(0, memory(TOUCHED), pv=direct)


async def in_mode(cpu: Cpu, *what: str, times: int = 1) -> None:
    await arch_enter_lazy_mmu_mode(cpu)
    for number in range(times):
        await set_pte(cpu, MM.pte_offset(ADDR), entry(PAGE + number, READ_ONLY))
    await Step("written", MARK)
    if "flush mode" in what:
        await arch_flush_lazy_mmu_mode(cpu)
    if "flush page" in what:
        await cpu.pv.flush_tlb_single(cpu, ADDR)
    if "flush user" in what:
        await cpu.pv.flush_tlb_user(cpu)
    await Step("leaving", MARK)
    await arch_leave_lazy_mmu_mode(cpu)


def stores(found: list[str]) -> list[str]:
    return [label for label in found if label.startswith(f"store {PTE}")]


@pytest.mark.parametrize("drain", ["", "flush mode", "flush page", "flush user"])
def test_a_write_waits_for_the_end_or_a_flush(drain: str) -> None:
    found = labels(alone(call(in_mode, direct_cpu(), drain)))
    assert not stores(found[: found.index("written")])
    leaving = found.index("leaving")
    assert bool(stores(found[:leaving])) is bool(drain)
    assert len(stores(found)) == 1


def test_outside_the_mode_a_write_is_there_at_once() -> None:
    cpu = direct_cpu()
    values = ended(alone(call(set_pte, cpu, MM.pte_offset(ADDR), entry(PAGE, READ_ONLY))))
    assert values[PTE] == entry(PAGE, READ_ONLY)


def test_the_last_write_is_the_last_one_applied() -> None:
    run = alone(call(in_mode, direct_cpu(), times=SLOTS + 2))
    found = labels(run)
    assert len(stores(found)) == SLOTS + 2
    assert len(stores(found[: found.index("written")])) == SLOTS
    assert ended(run)[PTE] == entry(PAGE + SLOTS + 1, READ_ONLY)
