"""Is rest out of reach from here? Against a search that begins at the start and goes to its end."""

from __future__ import annotations

import numpy as np
import pytest

from smpmmu.checking import lasts
from smpmmu.engine import onward
from smpmmu.engine.batch import Kernel
from smpmmu.engine.explore import Search
from smpmmu.engine.live import in_trio, random_run
from smpmmu.engine.local import call
from smpmmu.engine.onward import LONG, looks, out_of_reach, out_of_reach_after
from smpmmu.engine.program import Context
from smpmmu.engine.reading import Block
from smpmmu.engine.routines import AGAIN, Again, retry
from smpmmu.engine.run import Ending
from smpmmu.engine.steps import Word, load, store, wait_until
from smpmmu.engine.stress import Herd, stress
from smpmmu.engine.system import NO_DEADLOCK, QUIESCENCE_STAYS_REACHABLE
from smpmmu.engine.verdict import Budget
from tests.live.systems import SYSTEMS, X, Y, hardware, main, system

GATE = Word("gate", 2)
"""1: open; who finds it otherwise faults again."""


async def passes() -> Again | None:
    return None if await load(GATE) == 1 else AGAIN


async def fault_until_open() -> None:
    await retry(passes)


ENDLESS = system(
    Context("cpu0", "cpu0", (call(fault_until_open),)),
    main(1, store(GATE, 1)),
    main(2, store(GATE, 2)),
)
"""It ends well if cpu0 looks while the gate is open, or cpu1 is last."""
SPINNING = system(
    main(0, wait_until(Y, 1)), hardware(0, store(X, 1), store(X, 0)), main(1, store(GATE, 2))
)
"""A deadlock of cpu0 in which hardware moves for ever."""
ALL = SYSTEMS | {"endless_fault": ENDLESS, "spinning": SPINNING}


@pytest.mark.parametrize("name", ALL)
def test_from_each_state_it_says_what_a_whole_search_says(name: str) -> None:
    kernel = Kernel(ALL[name])
    search = Search(kernel, Budget(), every=True)
    for _ in search.depths():
        pass
    names = (NO_DEADLOCK, QUIESCENCE_STAYS_REACHABLE)[: 1 + ALL[name].terminates]
    known = {fp: each for each in names for fp in search.hopeless(each).tolist()}
    for part in search.whole:
        for column, fp in enumerate(part.fps.tolist()):
            one = Block(part.lanes[:, column : column + 1], part.fps[column : column + 1])
            assert out_of_reach(kernel, one) == known.get(fp, "")
    if name in ("endless_fault", "spinning"):
        assert known


def test_what_is_too_much_to_look_at_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = ("cpu1", "cpu2")
    assert out_of_reach_after(Kernel(ENDLESS), choices) == QUIESCENCE_STAYS_REACHABLE
    assert out_of_reach_after(Kernel(ENDLESS), ("cpu2",)) == ""
    monkeypatch.setattr(onward, "MOST_STATES", 0)
    assert out_of_reach_after(Kernel(ENDLESS), choices) == ""


def test_runs_are_looked_at_seldom_and_more_seldom() -> None:
    assert list(looks(3, 2_000)) == [3 * LONG, 6 * LONG, 12 * LONG]
    assert list(looks(3, 3 * LONG)) == []


@pytest.mark.parametrize(
    ("name", "violated"),
    [("endless_fault", QUIESCENCE_STAYS_REACHABLE), ("spinning", NO_DEADLOCK)],
)
def test_a_run_without_end_ends_as_what_it_violates(name: str, violated: str) -> None:
    whole = ALL[name]
    (runs,) = stress(Kernel(whole), range(60))
    hopeless = [run for run in runs if run.ending is Ending.VIOLATION]
    assert {run.violated for run in hopeless} == {violated}
    assert {len(run.choices) for run in hopeless} == {LONG * len(whole.contexts)}
    assert {run.ending for run in runs} <= {Ending.VIOLATION, Ending.QUIESCENT}
    assert (len(hopeless) < 60) == (name == "endless_fault")
    # Live it goes on as long, and then still does.
    names = tuple(whole.contexts[c].name for c in hopeless[0].choices)
    live = in_trio(lambda: random_run(whole, hopeless[0].seed, longest=len(names)))
    assert (live.ending, live.choices) == (Ending.CUT, names)
    assert in_trio(lasts, whole, violated, names)


def test_a_run_that_is_not_looked_at_is_cut_off() -> None:
    kernel = Kernel(SPINNING)
    for herd in (Herd(kernel, range(9), longest=LONG), Herd(kernel, range(9), longest=999,
                                                            onward=False)):  # fmt: skip
        list(herd.gallop())
        assert {run.ending for run in herd.runs()} == {Ending.CUT}


def test_looking_onward_leaves_the_other_runs_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is met for the first time on the way there makes machines lie otherwise."""
    late = Word("late", 9)
    whole = system(
        Context("cpu0", "cpu0", (call(fault_until_open),)),
        main(1, wait_until(X, 1), store(late, 300), wait_until(late, 300), store(GATE, 1)),
        hardware(0, store(Y, 1), store(Y, 0)),
        main(2, store(X, 1)),
    )
    monkeypatch.setattr(onward, "LONG", 1)
    looked, plain = (Herd(Kernel(whole), range(50), onward=often) for often in (True, False))
    for herd in (looked, plain):
        list(herd.gallop())
    assert looked.runs() == plain.runs()
    assert np.array_equal(looked.finals, plain.finals)
