"""Store buffers: order, what a CPU sees of its own stores, who waits, and that all drains."""

from __future__ import annotations

import pytest

from smpmmu.engine.errors import ModelError
from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import bug_on
from smpmmu.engine.steps import Step, Wait, Word, fetch_or, store
from smpmmu.machine.store_buffer import (
    StoreBuffer,
    buffered_load,
    buffered_store,
    drain_store,
    locked_xchg,
    mfence,
)
from smpmmu.scenario import Setup
from tests.machines import holds, violated

X, Y = Word("x", 2), Word("y", 2)
BUFFER = StoreBuffer(0, (X, Y), 2)


async def store_twice(buffer: StoreBuffer) -> None:
    await buffered_store(buffer, X, 1)
    await buffered_store(buffer, Y, 1)


async def see_own(buffer: StoreBuffer) -> None:
    await buffered_store(buffer, X, 1)
    await buffered_store(buffer, X, 2)
    bug_on(await buffered_load(buffer, X) != 2, "a_cpu_sees_its_newest_store")


async def fill(buffer: StoreBuffer) -> None:
    for number in (1, 2, 3):
        await buffered_store(buffer, X, number)


async def fenced(buffer: StoreBuffer) -> None:
    await store_twice(buffer)
    await mfence(buffer)


async def exchanged(buffer: StoreBuffer) -> None:
    await buffered_store(buffer, X, 1)
    bug_on(await locked_xchg(buffer, X, 2) != 1, "an_exchange_sees_what_was_stored_before")


def machine(program: object, *, drains: bool = True, buffer: StoreBuffer = BUFFER) -> Setup:
    setup = Setup()
    setup.cpu(0, call(program, buffer))
    if drains:
        setup.hardware(0, "drain", call(drain_store, buffer))
    return setup


def test_stores_reach_memory_in_order() -> None:
    setup = machine(store_twice)
    setup.always("y_comes_after_x", (value(Y) == 0) | (value(X) == 1))
    setup.at_quiescence("both_arrived", (value(X) == 1) & (value(Y) == 1))
    setup.sometimes("both waited", finished("cpu0") & (value(X) == 0))
    assert holds(setup)


def test_rest_is_only_where_the_buffer_is_empty() -> None:
    setup = machine(store_twice)
    setup.at_quiescence("empty", value(BUFFER.word) == 0)
    setup.sometimes("it had two stores", value(BUFFER.word) >> BUFFER.entry_bits != 0)
    assert holds(setup)


def test_a_cpu_sees_its_own_newest_store() -> None:
    assert holds(machine(see_own))


def test_a_full_buffer_makes_its_cpu_wait() -> None:
    setup = machine(fill)
    setup.sometimes(
        "the third waits for room", (value(X) == 0) & (value(BUFFER.word) >> BUFFER.entry_bits != 0)
    )
    setup.at_quiescence("the_last_one_stays", value(X) == 3)
    assert holds(setup)
    assert violated(machine(fill, drains=False)) == "no_deadlock"


@pytest.mark.parametrize("program", [fenced, exchanged])
def test_a_fence_and_a_locked_instruction_wait(program: object) -> None:
    setup = machine(program)
    setup.always("nothing_waits_when_it_has_ended", ~finished("cpu0") | (value(BUFFER.word) == 0))
    assert holds(setup)
    assert violated(machine(program, drains=False)) == "no_deadlock"


FIRST, SECOND, VECTOR = Word("first", 2), Word("second", 2), Word("vector", 1)


async def load_x(buffer: StoreBuffer) -> None:
    await store(FIRST, await buffered_load(buffer, X))


async def store_x_load_y(buffer: StoreBuffer) -> None:
    await Step("take vector", VECTOR, wait=Wait(1, 1), and_mask=0)
    await buffered_store(buffer, X, 1)
    await store(SECOND, await buffered_load(buffer, Y))


async def interrupt_and_store(buffer: StoreBuffer) -> None:
    await fetch_or(VECTOR, 1)
    await buffered_store(buffer, Y, 1)
    await buffered_store(buffer, X, 2)


def test_no_handler_lands_between_the_buffer_and_memory() -> None:
    """The load of x = 2 came first, so that of y = 0 came after the other CPU's y = 1."""
    other = StoreBuffer(1, (X, Y), 2)
    setup = machine(load_x)
    setup.irq(0, "vector", call(store_x_load_y, BUFFER))
    setup.cpu(1, call(interrupt_and_store, other))
    setup.hardware(1, "drain", call(drain_store, other))
    before = (value(FIRST) == 2) & (value(X) == 1)
    setup.at_quiescence("loads_stay_in_order", ~(before & (value(SECOND) == 0)))
    setup.sometimes("x = 2 was seen before the handler", before & (value(SECOND) == 1))
    assert holds(setup)


def test_a_buffer_that_does_not_fit_is_refused() -> None:
    wide = StoreBuffer(0, (Word("wide", 32),), 2)
    with pytest.raises(ModelError, match="a store buffer of 66 bits, expected at most 64"):
        _ = wide.word
