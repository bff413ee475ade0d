"""Semaphores: who goes in together, who waits for whom, and that waiting ends."""

from __future__ import annotations

import pytest

from smpmmu.engine.answer import answer
from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, fetch_add, fetch_and
from smpmmu.engine.verdict import Verdict
from smpmmu.machine.rwsem import READERS, WRITER, down_read, down_write, rwsem, up_read, up_write
from smpmmu.scenario import Setup

SEM = rwsem("sem")
INSIDE = Word("readers inside", 3)
WRITING = Word("writers inside", 3)


async def read() -> None:
    await down_read(SEM)
    await fetch_add(INSIDE, 1)
    await fetch_add(INSIDE, -1)
    await up_read(SEM)


async def write() -> None:
    await down_write(SEM)
    await fetch_add(WRITING, 1)
    await fetch_add(WRITING, -1)
    await up_write(SEM)


def setup_of(*programs: object) -> Setup:
    setup = Setup()
    for number, each in enumerate(programs):
        setup.cpu(number, call(each))  # type: ignore[arg-type]
    setup.always("a_writer_is_alone", (value(WRITING) == 0) | (value(INSIDE) == 0))
    setup.always("one_writer", value(WRITING) <= 1)
    setup.at_quiescence("nobody_is_in", value(SEM) == 0)
    return setup


def test_readers_go_in_together_and_a_writer_alone() -> None:
    setup = setup_of(read, read, write, write)
    setup.sometimes("two readers", value(INSIDE) == 2)
    setup.sometimes("a writer first", (value(WRITING) == 1) & ~finished("cpu0"))
    found = answer(setup.system())
    assert found.verdict is Verdict.HOLDS
    assert found.vacuous == ()


async def keeps(*, writes: bool) -> None:
    await (down_write if writes else down_read)(SEM)


@pytest.mark.parametrize("writes", [True, False])
def test_who_never_gives_it_back_is_noticed(*, writes: bool) -> None:
    setup = Setup()
    setup.cpu(0, call(keeps, writes=writes))
    assert answer(setup.system()).verdict is Verdict.VIOLATED


async def gives_what_it_has_not() -> None:
    await up_write(SEM)


def test_who_gives_back_what_it_has_not_is_noticed() -> None:
    setup = Setup()
    setup.cpu(0, call(gives_what_it_has_not))
    setup.cpu(1, call(read))
    assert answer(setup.system()).verdict is Verdict.VIOLATED


def test_the_word_has_room_for_every_reader() -> None:
    assert SEM.mask == READERS + WRITER
    assert fetch_and(SEM, ~WRITER).word is SEM
