"""Page types in PAE: directories behind a root that is never announced."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.local import call
from smpmmu.engine.run import Ending
from smpmmu.hypervisor import page_types as types
from smpmmu.hypervisor.page_types import NORMAL, PD, PT, PageTypes
from smpmmu.hypervisor.shadow import Hypervisor
from smpmmu.hypervisor.vmi import (
    vmi,
    vmi_allocate_pd,
    vmi_pmd_clear,
    vmi_pte_clear,
    vmi_release_pd,
    vmi_set_pte_atomic,
    vmi_set_pud,
    vmi_write_cr3,
)
from smpmmu.kernel.mm import MmStruct
from smpmmu.machine.entries import PAGE_PRESENT, PAGE_PSE, PAGE_TABLE, entry
from smpmmu.machine.memory import PAE, Memory
from smpmmu.machine.walker import user_write
from smpmmu.scenarios.allocation import shadow_at_first
from tests.machines import ADDR, MM, PAGE, PGD, TABLE, TOUCHED, alone, ended, vcpu

if TYPE_CHECKING:
    from collections import Counter

    from smpmmu.engine.local import Call
    from smpmmu.machine.cpu import Cpu

PMD, OTHER_PMD, OTHER_TABLE, OTHER_PGD = 0x5, 0x15, 0x12, 0x11
LINK = entry(TABLE, PAGE_TABLE)
PDE = PMD << 12
FRAMES = ((PMD, PD), (OTHER_PMD, NORMAL), (TABLE, PT), (OTHER_TABLE, NORMAL))
OTHER_MM = MmStruct(2, OTHER_PGD, paging=PAE)


def guest(*, frames: tuple[tuple[int, int], ...] = FRAMES, checked: bool = True) -> Cpu:
    """Return a vCPU of two roots, the second leading to a directory that is not announced."""
    entries = (
        (PGD, 0, entry(PMD, PAGE_PRESENT)),
        (PMD, 0, LINK),
        (TABLE, 1, entry(PAGE, TOUCHED)),
        (OTHER_PGD, 0, entry(OTHER_PMD, PAGE_PRESENT)),
    )
    hypervisor = Hypervisor(types=PageTypes(frames, checked))
    mem = Memory(entries, paging=PAE)
    cpu = vcpu(mem=mem, hypervisor=hypervisor, pv=vmi, mms=(MM, OTHER_MM))
    return replace(cpu, walked=shadow_at_first(mem, hypervisor, 0))


def broken(*calls: Call) -> str:
    run = alone(*calls)
    assert run.ending is Ending.VIOLATION
    return run.violated


def after(*calls: Call) -> Counter[str]:
    return ended(alone(*calls))


def test_a_root_counts_from_the_load_of_cr3() -> None:
    cpu = guest()
    unknown = entry(OTHER_PMD, PAGE_PRESENT)
    values = after(call(vmi_set_pud, cpu, PGD << 12, unknown), call(user_write, cpu, ADDR))
    assert (values["0x1[0]"], values["page 0x3"] >> 4) == (unknown, 1)
    load = call(vmi_write_cr3, cpu, OTHER_PGD)
    assert broken(load) == types.TABLES_ARE_ANNOUNCED_WHEN_LINKED
    values = after(call(vmi_allocate_pd, cpu, OTHER_PMD), load)
    assert values["cpu0.pdpte[0]"] == unknown


def test_a_root_that_leads_nowhere_may_be_loaded() -> None:
    assert after(call(vmi_write_cr3, guest(), 0x66))["cpu0.pdpte[0]"] == 0


def test_nothing_is_shadowed_in_an_unknown_directory() -> None:
    for kind, written in ((PD, 1), (NORMAL, 0)):
        cpu = guest(frames=((PMD, kind), (TABLE, PT)), checked=False)
        values = after(call(user_write, cpu, ADDR))
        assert values["page 0x3"] >> 4 == written
        assert values["shadow 0x5[0]"] == (LINK if written else 0)


def test_a_release_strips_a_directory() -> None:
    values = after(call(vmi_release_pd, guest(), PMD))
    assert (values["type of 0x5"], values["shadow 0x5[0]"], values["0x5[0]"]) == (NORMAL, 0, 0)


@pytest.mark.parametrize("large", [entry(0x200, PAGE_TABLE | PAGE_PSE), LINK])
def test_a_directory_entry_is_replaced_at_once(large: int) -> None:
    values = after(call(vmi_set_pte_atomic, guest(), PDE, large))
    assert values["0x5[0]"] == values["shadow 0x5[0]"] == large
    unknown = entry(OTHER_TABLE, PAGE_TABLE)
    link = call(vmi_set_pte_atomic, guest(), PDE, unknown)
    assert broken(link) == types.TABLES_ARE_ANNOUNCED_WHEN_LINKED
    assert after(call(vmi_set_pte_atomic, guest(checked=False), PDE, unknown))[
        "shadow 0x5[0]"
    ] == 0  # fmt: skip


def test_only_what_is_announced_is_updated() -> None:
    wrong = types.ONLY_ANNOUNCED_FRAMES_ARE_UPDATED
    cpu = guest()
    assert broken(call(vmi_pmd_clear, cpu, OTHER_PMD << 12)) == wrong
    assert broken(call(vmi_set_pte_atomic, cpu, OTHER_PMD << 12, 0)) == wrong
    assert broken(call(vmi_pte_clear, cpu, MM, ADDR, PDE)) == wrong
    values = after(call(vmi_pmd_clear, cpu, PDE), call(vmi_pte_clear, cpu, MM, ADDR, 0x2008))
    assert (values["0x5[0]"], values["shadow 0x5[0]"], values["0x2[1]"]) == (0, 0, 0)
