"""trio's own scheduling order decides nothing: force its coin both ways and compare."""

from __future__ import annotations

import random

import pytest
import trio
from trio._core import _run

from smpmmu.checking import check
from smpmmu.engine.live import in_trio, random_run, replay, running
from smpmmu.engine.live_search import search_live
from smpmmu.engine.program import Role
from smpmmu.targets import one
from tests.live.systems import SYSTEMS
from tests.shell import DEFECT


class Coin(random.Random):
    """Always falls on the same side, and counts how often it is tossed."""

    def __init__(self, side: float) -> None:
        super().__init__(0)
        self.side = side
        self.tossed = 0

    def random(self) -> float:
        self.tossed += 1
        return self.side


def toss(monkeypatch: pytest.MonkeyPatch, side: float) -> Coin:
    """Give trio a coin that falls on one side: below 0.5, tasks ready together are reversed."""
    coin = Coin(side)
    monkeypatch.setattr(_run, "_r", coin)
    # The hypothesis plugin makes trio shuffle instead, from its own random source.
    monkeypatch.setattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", False)
    return coin


def all_results() -> object:
    """Return what live vCPUs do in every way they are used."""

    async def ask() -> object:
        told: list[object] = []
        for name, system in SYSTEMS.items():
            told += [name, *[await random_run(system, s, longest=40) for s in range(6)]]
            exploration, seen = await search_live(system, every=True)
            told += [exploration, seen.runs, seen.quiescent, seen.violations, seen.paths]
        told.append(await check(SYSTEMS["lost_update"], every=True))
        told.append(await check(SYSTEMS["retried_update"]))
        run = await random_run(one(DEFECT).system(), 4)
        told.append(run)
        told.append(await replay(one(DEFECT).system(), run.choices))
        return told

    return in_trio(ask)


def test_trios_coin_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for side in (0.0, 0.999):
        coin = toss(monkeypatch, side)
        results.append(all_results())
        assert coin.tossed > 1_000
    assert results[0] == results[1]


def test_the_coin_does_change_the_order_of_tasks_that_are_ready_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without this the test above could pass because the coin is no longer asked."""

    async def order() -> list[int]:
        went: list[int] = []

        async def go(number: int) -> None:
            went.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(go, number)
        return went

    orders = []
    for side in (0.0, 0.999):
        toss(monkeypatch, side)
        orders.append(trio.run(order))
    assert orders == [[0, 1, 2], [2, 1, 0]]


class Ready(trio.abc.Instrument):
    """Counts how many tasks are ready at once."""

    def __init__(self) -> None:
        self.ready: set[trio.lowlevel.Task] = set()
        self.most = 0

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        self.ready.add(task)
        self.most = max(self.most, len(self.ready))

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.ready.discard(task)


@pytest.mark.parametrize("name", [n for n in SYSTEMS if n != "endless"])
@pytest.mark.trio
async def test_at_most_one_task_is_ever_ready(name: str) -> None:
    watching = Ready()
    async with running(SYSTEMS[name]) as live:
        trio.lowlevel.add_instrument(watching)
        taken = 0
        while (able := live.machine.runnable()) and taken < 20:
            await live.take(able[-1])
            taken += 1
        trio.lowlevel.remove_instrument(watching)
    assert taken >= len([c for c in SYSTEMS[name].contexts if c.role is Role.MAIN]) - 1
    assert taken == 0 or watching.most == 1
