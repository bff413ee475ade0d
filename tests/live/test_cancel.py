"""Cancelled in the middle, a question leaves no coroutine open and no task behind."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest
import trio

from smpmmu.checking import check
from smpmmu.engine.errors import ModelError
from smpmmu.engine.live import random_run, replay, running
from smpmmu.engine.live_search import search_live
from smpmmu.engine.local import Call, call
from smpmmu.engine.program import Context
from smpmmu.engine.steps import Step, Word, fetch_add, store
from smpmmu.engine.system import System
from tests.live.systems import SYSTEMS, handler, main, stores, system

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import CoroutineType


class Watched:
    """Programs that know every coroutine made of them, and call a hook at every step."""

    def __init__(self) -> None:
        self.made: list[CoroutineType[Any, Any, Any]] = []
        self.steps = 0
        self.hook: Callable[[int], None] = lambda _: None

    def call(self, *taken: Step) -> Call:
        """Return the call of a program that takes steps."""

        async def program() -> None:
            for step in taken:
                self.steps += 1
                self.hook(self.steps)
                await step

        def make() -> Coroutine[Any, Any, Any]:
            coroutine = program()
            self.made.append(coroutine)
            return coroutine

        return call(make)

    def system(self) -> System:
        """Return two vCPUs of two calls each, and an interrupt handler."""
        contexts = []
        for cpu in ("cpu0", "cpu1"):
            calls = [self.call(*stores(f"{cpu} {part}", 2)) for part in "ab"]
            contexts.append(Context(cpu, cpu, tuple(calls)))
        return system(*contexts, handler(0))

    @property
    def open(self) -> list[str]:
        """The states of coroutines that nobody has closed."""
        states = [inspect.getcoroutinestate(c) for c in self.made]
        return [s for s in states if s != inspect.CORO_CLOSED]


WAYS: dict[str, Callable[[System], Coroutine[Any, Any, object]]] = {
    "check": lambda s: check(s, live_runs=4),
    "check_live": lambda s: check(s, engine="live"),
    "search_live": search_live,
    "random_run": lambda s: random_run(s, 7),
    "replay": lambda s: replay(s, ("cpu0", "cpu1") * 4),
}


def living() -> int:
    return trio.lowlevel.current_statistics().tasks_living


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.trio
async def test_every_coroutine_is_closed_and_every_task_gone_at_the_end(way: str) -> None:
    watched, before = Watched(), living()
    await WAYS[way](watched.system())
    assert len(watched.made) >= 4
    assert watched.open == []
    assert living() == before


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.trio
async def test_cancelled_at_any_step_nothing_is_left_behind(way: str) -> None:
    counted = Watched()
    await WAYS[way](counted.system())
    caught = 0
    for at in sorted({1, 2, 3, 5, 8, *range(1, counted.steps, counted.steps // 12 + 1)}):
        watched, before = Watched(), living()
        with trio.CancelScope() as scope:
            watched.hook = lambda n, at=at, scope=scope: scope.cancel() if n == at else None
            await WAYS[way](watched.system())
        assert watched.open == []
        assert living() == before
        caught += scope.cancelled_caught
    assert caught >= 5


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.trio
async def test_after_an_error_at_any_step_nothing_is_left_behind(way: str) -> None:
    counted = Watched()
    await WAYS[way](counted.system())

    def fail(at: int) -> Callable[[int], None]:
        def hook(number: int) -> None:
            if number == at:
                msg = "enough"
                raise LookupError(msg)

        return hook

    for at in sorted({1, 2, 5, *range(1, counted.steps, counted.steps // 8 + 1)}):
        watched, before = Watched(), living()
        watched.hook = fail(at)
        with pytest.raises(ModelError, match="LookupError: enough"):
            await WAYS[way](watched.system())
        assert watched.open == []
        assert living() == before


async def _count(word: Word, times: int) -> None:
    for _ in range(times):
        await fetch_add(word, 1)


def big() -> System:
    """Return a system of 41^4 states."""
    words = [Word(f"w{n}", 8) for n in range(4)]
    return System(
        tuple(Context(f"cpu{n}", f"cpu{n}", (call(_count, w, 40),)) for n, w in enumerate(words))
    )


@pytest.mark.parametrize("engine", ["batch", "live"])
@pytest.mark.trio
async def test_a_timeout_ends_a_long_check(engine: str) -> None:
    before = living()
    with trio.move_on_after(0.1) as scope:
        await check(big(), engine=engine)
    assert scope.cancelled_caught
    assert living() == before


@pytest.mark.trio
async def test_whoever_watches_can_cancel_and_knows_what_was_covered() -> None:
    covered = []
    with trio.CancelScope() as scope:

        def watch(so_far: object) -> None:
            covered.append(so_far)
            if len(covered) == 5:
                scope.cancel()

        await check(big(), watch=watch)
    assert scope.cancelled_caught
    assert len(covered) == 5
    assert covered[-1].states > covered[0].states  # type: ignore[attr-defined]
    assert covered[-1].verdict.name == "UNDECIDED"  # type: ignore[attr-defined]


@pytest.mark.trio
async def test_the_same_system_can_be_asked_again_after_a_cancellation() -> None:
    asked = SYSTEMS["lost_update"]
    whole = await check(asked)
    with trio.CancelScope() as scope:
        scope.cancel()
        await check(asked)
    assert scope.cancelled_caught
    assert await check(asked) == whole


@pytest.mark.trio
async def test_leaving_the_machine_early_stops_its_tasks() -> None:
    before = living()
    async with running(system(main(0, store(Word("w", 1), 1)), main(1, *stores("b", 3)))) as live:
        assert living() == before + 2
        await live.take(1)
    assert living() == before
