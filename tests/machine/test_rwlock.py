"""The read-write spinlocks of parisc: a writer is alone, readers are not."""

from __future__ import annotations

import pytest

import smpmmu
from smpmmu.engine.program import Context
from smpmmu.engine.routines import bug_on, irqs_enabled
from smpmmu.engine.steps import Word, fetch_add
from smpmmu.engine.system import System, sometimes
from smpmmu.machine.rwlock import read_lock, read_unlock, rwlock, write_lock, write_unlock

LOCK = rwlock("lock")
READERS, WRITERS = Word("readers", 2), Word("writers", 2)


async def write() -> None:
    await write_lock(LOCK)
    bug_on(await fetch_add(WRITERS, 1, WRITERS.mask) != 0, "one_writer")
    bug_on(await fetch_add(READERS, 0, READERS.mask) != 0, "no_reader_beside_a_writer")
    await fetch_add(WRITERS, -1)
    await write_unlock(LOCK)


async def read(*, answers: bool) -> None:
    await read_lock(LOCK, answers=answers)
    await fetch_add(READERS, 1)
    bug_on(await fetch_add(WRITERS, 0, WRITERS.mask) != 0, "no_writer_beside_a_reader")
    bug_on(not await irqs_enabled(), "interrupts_are_on_again_under_the_lock")
    await fetch_add(READERS, -1)
    await read_unlock(LOCK, answers=answers)


def beside(*calls: smpmmu.engine.local.Call) -> System:
    cpus = tuple(Context(f"cpu{n}", f"cpu{n}", (c,)) for n, c in enumerate(calls))
    return System(cpus, (sometimes("two read at once", smpmmu.value(READERS) == 2),))


@pytest.mark.parametrize("answers", [True, False])
def test_readers_share_and_a_writer_is_alone(*, answers: bool) -> None:
    reader, writer = smpmmu.call(read, answers=answers), smpmmu.call(write)
    found = smpmmu.explore(beside(reader, reader, writer), live_runs=5).exploration
    assert found.verdict is smpmmu.Verdict.HOLDS
    assert found.reached["two read at once"]


@pytest.mark.parametrize("answers", [True, False])
def test_writers_exclude_each_other_and_a_reader(*, answers: bool) -> None:
    reader, writer = smpmmu.call(read, answers=answers), smpmmu.call(write)
    found = smpmmu.explore(beside(writer, writer, reader), live_runs=5).exploration
    assert found.verdict is smpmmu.Verdict.HOLDS
