"""Page types: what each call checks, what is shadowed of whom, and what a release strips."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.local import call
from smpmmu.engine.run import Ending
from smpmmu.engine.steps import store
from smpmmu.hypervisor import page_types as types
from smpmmu.hypervisor.page_types import NORMAL, PD, PT, PageTypes
from smpmmu.hypervisor.shadow import Hypervisor
from smpmmu.hypervisor.vmi import (
    vmi,
    vmi_allocate_pd,
    vmi_allocate_pd_clone,
    vmi_allocate_pt,
    vmi_release_pd,
    vmi_release_pt,
    vmi_set_pmd,
    vmi_set_pte,
    vmi_update_pte,
    vmi_update_pte_defer,
)
from smpmmu.machine.entries import KERNPG_TABLE, PAGE_PSE, PAGE_TABLE, entry
from smpmmu.machine.memory import Memory
from smpmmu.machine.walker import user_write
from smpmmu.scenarios.allocation import shadow_at_first
from tests.machines import ADDR, MM, PAGE, PGD, TABLE, TOUCHED, alone, ended, vcpu

if TYPE_CHECKING:
    from collections import Counter

    from smpmmu.engine.local import Call
    from smpmmu.machine.cpu import Cpu

OTHER_PGD, OTHER_TABLE, DATA = 0x11, 0x12, 0x13
HIGH = 0xC0001000
LINK = entry(TABLE, PAGE_TABLE)
PDE, PTE = PGD << 12, (TABLE << 12) + 4
FRAMES = ((PGD, PD), (OTHER_PGD, NORMAL), (TABLE, PT), (OTHER_TABLE, NORMAL))
ENTRIES = ((PGD, 0, LINK), (TABLE, 1, entry(PAGE, TOUCHED)))


def guest(
    *more: tuple[int, int, int],
    frames: tuple[tuple[int, int], ...] = FRAMES,
    entries: tuple[tuple[int, int, int], ...] = ENTRIES,
    **knobs: bool,
) -> Cpu:
    """Return a vCPU under a hypervisor that keeps page types."""
    hypervisor = Hypervisor(types=PageTypes(frames, **knobs))
    mem = Memory((*entries, *more))
    cpu = vcpu(mem=mem, hypervisor=hypervisor, pv=vmi, pages=(ADDR, HIGH))
    return replace(cpu, walked=shadow_at_first(mem, hypervisor, 0))


def broken(*calls: Call) -> str:
    run = alone(*calls)
    assert run.ending is Ending.VIOLATION
    return run.violated


def after(*calls: Call) -> Counter[str]:
    return ended(alone(*calls))


def test_a_type_is_given_once_and_taken_once() -> None:
    cpu = guest()
    announced = call(vmi_allocate_pt, cpu, OTHER_TABLE)
    released = call(vmi_release_pt, cpu, OTHER_TABLE)
    assert after(announced)["type of 0x12"] == PT
    assert after(announced, released, announced, released)["type of 0x12"] == NORMAL
    assert broken(announced, announced) == types.ONLY_NORMAL_FRAMES_ARE_ANNOUNCED
    assert broken(announced, released, released) == types.ONLY_ANNOUNCED_FRAMES_ARE_RELEASED
    wrong = call(vmi_release_pd, cpu, OTHER_TABLE)
    assert broken(announced, wrong) == types.ONLY_ANNOUNCED_FRAMES_ARE_RELEASED


@pytest.mark.parametrize("hook", [vmi_allocate_pt, vmi_allocate_pd])
def test_what_is_announced_as_zero_is_looked_at(hook: object) -> None:
    index = 1 if hook is vmi_allocate_pt else 768
    dirty = (OTHER_TABLE, index, 0x10)
    announce = vmi_allocate_pt if hook is vmi_allocate_pt else vmi_allocate_pd
    found = broken(call(announce, guest(dirty), OTHER_TABLE))
    assert found == types.ANNOUNCED_FRAMES_ARE_ZERO
    for cpu in (guest(dirty, checked=False), guest(dirty, claims_zero=False), guest()):
        assert after(call(announce, cpu, OTHER_TABLE))["type of 0x12"] != NORMAL


def test_a_live_directory_is_shadowed_as_it_is() -> None:
    frames = ((PGD, NORMAL), (TABLE, PT))
    cpu = guest(frames=frames, claims_zero=False)
    assert after(call(vmi_allocate_pd, cpu, PGD))["shadow 0x1[0]"] == LINK
    unknown = guest(frames=((PGD, NORMAL),), claims_zero=False)
    found = broken(call(vmi_allocate_pd, unknown, PGD))
    assert found == types.TABLES_ARE_ANNOUNCED_WHEN_LINKED


@pytest.mark.parametrize(
    ("own", "user", "compares", "found"),
    [
        (0x63, 0, True, ""),
        (0x61, 0, True, types.CLONES_ARE_COPIES),
        (0x61, 0, False, ""),
        (0x63, 0x10, True, types.CLONES_ARE_COPIES),
        (0x63, 0x10, False, types.CLONES_ARE_COPIES),
    ],
)
def test_a_clone_is_looked_at(own: int, user: int, found: str, *, compares: bool) -> None:
    kernel = entry(TABLE, KERNPG_TABLE)
    more = ((PGD, 768, kernel), (OTHER_PGD, 768, entry(TABLE, own)), (OTHER_PGD, 0, user))
    cpu = guest(*more, compares_clones=compares)
    clone = call(vmi_allocate_pd_clone, cpu, OTHER_PGD, PGD, 768, 256)
    if found:
        assert broken(clone) == found
        return
    values = after(clone)
    assert values["type of 0x11"] == PD
    assert values["shadow 0x11[768]"] == kernel  # the original's, whatever the copy holds
    assert "shadow 0x11[0]" not in values


def test_only_a_known_table_is_shadowed_behind_a_directory_entry() -> None:
    link = entry(OTHER_TABLE, PAGE_TABLE)
    linked = call(vmi_set_pmd, guest(), PDE, link)
    assert broken(linked) == types.TABLES_ARE_ANNOUNCED_WHEN_LINKED
    values = after(call(vmi_set_pmd, guest(checked=False), PDE, link))
    assert (values["0x1[0]"], values["shadow 0x1[0]"]) == (link, 0)
    cpu = guest()
    values = after(call(vmi_allocate_pt, cpu, OTHER_TABLE), call(vmi_set_pmd, cpu, PDE, link))
    assert values["shadow 0x1[0]"] == link


@pytest.mark.parametrize("hook", [vmi_set_pmd, vmi_set_pte])
def test_a_large_page_needs_no_table(hook: object) -> None:
    write = vmi_set_pmd if hook is vmi_set_pmd else vmi_set_pte
    large = entry(0x400, KERNPG_TABLE | PAGE_PSE)
    assert after(call(write, guest(), PDE, large))["shadow 0x1[0]"] == large


def test_updates_are_of_the_right_level() -> None:
    cpu = guest()
    wrong = types.ONLY_ANNOUNCED_FRAMES_ARE_UPDATED
    assert broken(call(vmi_set_pmd, cpu, PTE, 0)) == wrong
    assert broken(call(vmi_set_pmd, cpu, OTHER_TABLE << 12, 0)) == wrong
    assert broken(call(vmi_set_pte, cpu, OTHER_TABLE << 12, 0)) == wrong
    assert broken(call(vmi_update_pte, cpu, MM, ADDR, PDE)) == wrong
    assert after(call(vmi_update_pte, cpu, MM, ADDR, PTE))["shadow 0x2[1]"] != 0


def test_a_queued_update_of_a_released_table_is_noticed_or_dropped() -> None:
    for checked in (True, False):
        cpu = guest(entries=((PGD, 0, 0), ENTRIES[1]), checked=checked)
        defer = call(vmi_update_pte_defer, cpu, MM, ADDR, PTE)
        gone = (defer, call(vmi_release_pt, cpu, TABLE), call(cpu.pv.flush_tlb_user, cpu))
        if checked:
            assert broken(*gone) == types.ONLY_ANNOUNCED_FRAMES_ARE_UPDATED
        else:
            assert after(*gone)["shadow 0x2[1]"] == 0


def test_a_release_strips_every_shadow_of_the_table() -> None:
    released = call(vmi_release_pt, guest(), TABLE)
    assert broken(released) == types.TABLES_ARE_UNLINKED_WHEN_RELEASED
    values = after(call(vmi_release_pt, guest(checked=False), TABLE))
    assert (values["shadow 0x1[0]"], values["shadow 0x2[1]"]) == (0, 0)


def test_a_link_of_a_frame_that_is_no_directory_is_none() -> None:
    frames = ((PGD, NORMAL), (TABLE, PT))
    values = after(call(vmi_release_pt, guest(frames=frames), TABLE))
    assert values["type of 0x2"] == NORMAL


def test_a_hidden_fault_fills_the_directory_too() -> None:
    empty = (OTHER_TABLE, 1, 0)
    cpu = guest(empty)
    link = (call(vmi_set_pmd, cpu, PDE, 0), call(become, cpu, LINK), call(user_write, cpu, ADDR))
    values = after(*link)
    assert values["shadow 0x1[0]"] == LINK
    assert values["page 0x3"] >> 4 == 1
    unknown = guest(checked=False, frames=((PGD, PD),))
    values = after(call(user_write, unknown, ADDR))
    assert values["shadow 0x1[0]"] == 0
    assert values["page 0x3"] == 0


async def become(cpu: Cpu, pde: int) -> None:
    """Change the directory entry behind the hypervisor's back."""
    await store(cpu.memory.at(PDE), pde)
