"""KVM's requests and guest mode, Xen's types of pages: by themselves, and with a part left out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import bug_on
from smpmmu.engine.steps import Word, load, store
from smpmmu.hypervisor.kvm import (
    IN_GUEST_MODE,
    SPTE_MMU_WRITEABLE,
    kick,
    kvm_flush_remote_tlbs,
    leave_guest,
    mode,
    requests,
    rmap_write_protect,
    vcpu_enter_guest,
)
from smpmmu.hypervisor.trapping import store_entry
from smpmmu.hypervisor.xen import (
    PGT_COUNT,
    PGT_L1_PAGE_TABLE,
    PGT_WRITABLE_PAGE,
    get_page_type,
    put_page_type,
    type_info,
)
from smpmmu.machine.entries import PAGE_RW, entry
from smpmmu.machine.walker import Access, user_write
from smpmmu.scenario import Setup
from tests.machines import ADDR, PAGE, READ_ONLY, TABLE, TOUCHED, alone, ended, holds, memory, vcpu

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

FLUSHED = Word("the flush has returned", 1)
NOTHING_CACHED = "no_vcpu_has_anything_cached_after_the_flush"


async def flush(cpu: Cpu, vcpus: tuple[int, ...]) -> None:
    """Take the entry away first, so that nobody caches it again."""
    await store(cpu.memory.table(TABLE, 1), 0)
    await kvm_flush_remote_tlbs(cpu, vcpus)
    await store(FLUSHED, 1)


async def use(cpu: Cpu) -> None:
    await user_write(cpu, ADDR)
    await user_write(cpu, ADDR)


async def go_out_and_in(cpu: Cpu) -> None:
    await user_write(cpu, ADDR)
    await leave_guest(cpu)
    await vcpu_enter_guest(cpu)
    await user_write(cpu, ADDR)


@pytest.mark.parametrize("guest", [use, go_out_and_in])
def test_after_a_flush_no_guest_runs_on_what_it_had_cached(guest: object) -> None:
    tables = memory(TOUCHED)
    cpu0, cpu1 = vcpu(0, tables), vcpu(1, tables)
    setup = Setup()
    setup.cpu(0, call(flush, cpu0, (1,)))
    setup.cpu(1, call(guest, cpu1))
    setup.irq(1, "kick", call(kick, cpu1, (0,)))
    running = (value(FLUSHED) == 1) & (value(mode(1)) == IN_GUEST_MODE)
    asked = value(requests(1)) != 0
    setup.always(NOTHING_CACHED, ~running | asked | (value(cpu1.tlb(ADDR)) == 0))
    setup.sometimes("it had the page cached", value(cpu1.tlb(ADDR)) != 0)
    setup.sometimes("it is back in the guest", finished("cpu1") & running)
    assert holds(setup)


def test_two_who_flush_wait_for_their_own_answers() -> None:
    tables = memory(TOUCHED)
    cpu0, cpu1, cpu2 = (vcpu(n, tables) for n in range(3))
    setup = Setup()
    setup.cpu(0, call(kvm_flush_remote_tlbs, cpu0, (2,)))
    setup.cpu(1, call(kvm_flush_remote_tlbs, cpu1, (2,)))
    setup.cpu(2, call(use, cpu2))
    setup.irq(2, "kick", call(kick, cpu2, (0, 1)))
    setup.at_quiescence("no_request_is_left", value(requests(2)) == 0)
    assert holds(setup)


@pytest.mark.parametrize("software_bit", [False, True])
@pytest.mark.parametrize("pt_protect", [False, True])
def test_who_finds_nothing_to_protect_flushes_only_by_the_software_bit(
    *, software_bit: bool, pt_protect: bool
) -> None:
    """As dirty logging has left it: without the right, but with the bit."""
    cpu = vcpu(mem=memory(READ_ONLY | SPTE_MMU_WRITEABLE))
    flushes = Word("flushes", 1)
    run = alone(call(protect, cpu, flushes, pt_protect=pt_protect, software_bit=software_bit))
    assert ended(run)["flushes"] == int(software_bit and pt_protect)


async def protect(cpu: Cpu, out: Word, *, pt_protect: bool, software_bit: bool) -> None:
    spte = cpu.memory.table(TABLE, 1)
    found = await rmap_write_protect(cpu, (spte,), pt_protect=pt_protect, software_bit=software_bit)
    await store(out, int(found))


def test_a_page_is_one_kind_while_it_is_counted() -> None:
    run = alone(call(both_kinds, vcpu()))
    assert ended(run)[type_info(PAGE).name] == PGT_L1_PAGE_TABLE | 1


async def both_kinds(cpu: Cpu) -> None:
    bug_on(not await get_page_type(cpu, PAGE, PGT_WRITABLE_PAGE, 0), "writable_at_first")
    bug_on(await get_page_type(cpu, PAGE, PGT_L1_PAGE_TABLE, 0), "not_while_it_is_writable")
    await put_page_type(cpu, PAGE)
    bug_on(not await get_page_type(cpu, PAGE, PGT_L1_PAGE_TABLE, 0), "when_nobody_writes")
    bug_on(await get_page_type(cpu, PAGE, PGT_WRITABLE_PAGE, 0), "not_while_it_is_a_table")
    bug_on(await load(type_info(PAGE), PGT_COUNT) != 1, "counted_once")


def test_two_kinds_at_once_on_two_cpus() -> None:
    setup = Setup()
    won = {kind: Word(f"got it as {kind:#x}", 1) for kind in (PGT_WRITABLE_PAGE, PGT_L1_PAGE_TABLE)}
    for number, (kind, out) in enumerate(won.items()):
        setup.cpu(number, call(take, vcpu(number), kind, out))
    writer, table = (value(out) for out in won.values())
    setup.always("one_kind_at_a_time", (writer == 0) | (table == 0))
    setup.sometimes("as writable", writer == 1)
    setup.sometimes("as a page table", table == 1)
    assert holds(setup)


async def take(cpu: Cpu, kind: int, out: Word) -> None:
    if await get_page_type(cpu, PAGE, kind, 0):
        await store(out, 1)


@pytest.mark.parametrize(("flags", "expected"), [(TOUCHED, 0x5000), (TOUCHED & ~PAGE_RW, 0)])
def test_a_store_to_a_table_lands_or_traps(flags: int, expected: int) -> None:
    """ADDR maps the frame of another table, 0x3."""
    cpu = replace(vcpu(mem=memory(flags)), pages=(ADDR,))
    out = Word("trapped", 1)
    last = ended(alone(call(set_entry, cpu, out)))
    assert last[f"{PAGE:#x}[7]"] == expected
    assert last["trapped"] == int(expected == 0)


async def set_entry(cpu: Cpu, out: Word) -> None:
    if await store_entry(cpu, ADDR, 7, entry(5, 0)) is Access.FAULT:
        await store(out, 1)
