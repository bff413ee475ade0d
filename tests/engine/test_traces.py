"""Happens-before classes: two runs have one hash if and only if they order all conflicts alike."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.batch import Kernel
from smpmmu.engine.live import in_trio, random_run
from smpmmu.engine.program import Role
from smpmmu.engine.steps import TAKEN
from smpmmu.engine.stress import Herd
from smpmmu.targets import one
from tests.live.systems import SYSTEMS, X, independent, main, stores, system

if TYPE_CHECKING:
    from smpmmu.engine.run import Run
    from smpmmu.engine.system import System

Event = tuple[str, str, bool]
"""Context, word, and whether it wrote."""


def events(run: Run) -> list[Event]:
    """Return the accesses of a live run, in order."""
    return [
        (action.context, taken.step.word.name, writes(taken.step, taken.result))
        for action in run.actions
        for taken in action.steps
        if taken.step.word is not None
    ]


def writes(step, result: int) -> bool:
    return bool(step.writes) and (step.when is None or bool(result & TAKEN))


def order(run: Run, whole: System) -> object:
    """Return what defines the trace: each line's events, and the conflicts before each of them."""
    lines = {c.name: c.name if c.role is Role.DAEMON else c.cpu for c in whole.contexts}
    done: dict[str, list[tuple[Event, frozenset[tuple[str, int]]]]] = defaultdict(list)
    so_far: list[tuple[Event, tuple[str, int]]] = []
    for event in events(run):
        line = lines[event[0]]
        before = frozenset(
            name for (_, word, wrote), name in so_far if word == event[1] and (wrote or event[2])
        )
        so_far.append((event, (line, len(done[line]))))
        done[line].append((event, before))
    return frozenset((line, tuple(each)) for line, each in done.items())


def hashes(whole: System, seeds: range) -> list[int]:
    herd = Herd(Kernel(whole), seeds, longest=60, keep=False, traced=True)
    list(herd.gallop())
    found: list[int] = herd.classes.tolist()
    return found


LOST = ["lost_update", "locked", "retried_update", "interrupt", "hardware", "two_calls", "bug"]


@pytest.mark.parametrize("name", LOST)
def test_one_hash_is_one_order_of_conflicts(name: str) -> None:
    whole = SYSTEMS[name]
    seeds = range(60)
    live = [in_trio(lambda s=s: random_run(whole, s, longest=60)) for s in seeds]
    pairs = set(zip([order(run, whole) for run in live], hashes(whole, seeds), strict=True))
    assert len(pairs) == len({o for o, _ in pairs}) == len({h for _, h in pairs}) > 1


def test_one_hash_is_one_order_of_conflicts_with_walkers_and_handlers() -> None:
    whole = one("two_cpus_speculation/deferred_after_unlock").system()
    live = [in_trio(lambda s=s: random_run(whole, s, longest=60)) for s in range(15)]
    pairs = set(zip([order(run, whole) for run in live], hashes(whole, range(15)), strict=True))
    assert len(pairs) == len({o for o, _ in pairs}) == len({h for _, h in pairs}) > 1


def test_schedules_of_independent_steps_are_one_class() -> None:
    """9! / 3!^3 = 1,680 schedules, nothing in common."""
    assert len(set(hashes(independent(3, 3, 3), range(500)))) == 1


def test_stores_to_one_word_are_all_in_order() -> None:
    """(2 + 2)! / 2!^2 = 6 orders of two stores of each, whatever else they do."""
    whole = system(
        main(0, *stores("a", 2), *(2 * [stores("x", 1)[0]])),
        main(1, *(2 * [stores("x", 1)[0]]), *stores("b", 2)),
    )
    assert len(set(hashes(whole, range(1_000)))) == 6


def test_loads_do_not_conflict() -> None:
    """A store among three loads of another CPU: 4 places; the loads of a third make 4 * 4."""
    from smpmmu.engine.steps import load, store

    loads = (load(X),) * 3
    assert len(set(hashes(system(main(0, store(X, 1)), main(1, *loads)), range(400)))) == 4
    three = system(main(0, store(X, 1)), main(1, *loads), main(2, *loads))
    seen = Counter(hashes(three, range(4_000)))
    assert len(seen) == 16
