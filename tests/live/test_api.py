"""The async form inside a trio program, and the synchronous form around it."""

from __future__ import annotations

import pytest
import trio

import smpmmu
from smpmmu.checking import LIVE_RUNS, Answered, check, explore
from smpmmu.engine.errors import ModelError, UsageError
from smpmmu.engine.live import in_trio
from smpmmu.engine.local import call
from smpmmu.engine.run import Ending
from smpmmu.engine.steps import Word, fetch_add
from smpmmu.engine.verdict import Budget, Verdict
from tests.live.systems import SYSTEMS, VIOLATED, X, main, running, stores, system


@pytest.mark.trio
async def test_a_trio_program_can_ask_and_go_on_meanwhile() -> None:
    beats = 0

    async def heart() -> None:
        nonlocal beats
        while True:
            beats += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(heart)
        answered = await check(system(main(0, *stores("a", 9)), main(1, *stores("b", 9))))
        nursery.cancel_scope.cancel()
    assert answered.exploration.verdict is Verdict.HOLDS
    assert answered.exploration.states == 100
    assert beats > 18  # at least once a depth


@pytest.mark.trio
async def test_questions_asked_side_by_side_do_not_disturb_each_other() -> None:
    together: dict[str, Answered] = {}

    async def ask(name: str) -> None:
        together[name] = await check(SYSTEMS[name], live_runs=2)

    async with trio.open_nursery() as nursery:
        for name in SYSTEMS:
            nursery.start_soon(ask, name)
    assert together == {name: await check(SYSTEMS[name], live_runs=2) for name in SYSTEMS}


@pytest.mark.parametrize("engine", ["batch", "live"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_synchronous_form_says_the_same(name: str, engine: str) -> None:
    runs = 2 if name == "endless" else LIVE_RUNS  # its runs are long
    found = explore(SYSTEMS[name], engine=engine, live_runs=runs)

    async def ask() -> Answered:
        return await check(SYSTEMS[name], engine=engine, live_runs=runs)

    assert found == trio.run(ask)
    if name in VIOLATED:
        (violation,), (story,) = found.exploration.violations, found.stories
        assert violation.name in VIOLATED[name]
        assert story.choices == violation.choices
        assert story.ending in (Ending.VIOLATION, Ending.STUCK, Ending.CUT)
        assert found.live_runs == 0
    else:
        assert found.exploration.verdict is Verdict.HOLDS
        assert found.live_runs == (runs if engine == "batch" else 0)


def test_the_package_has_both_forms() -> None:
    assert smpmmu.check is check
    assert smpmmu.explore is explore
    assert smpmmu.Answered is Answered


@pytest.mark.trio
async def test_the_synchronous_form_inside_trio_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="this is a trio program already: await the async form"):
        explore(SYSTEMS["locked"])
    assert (await check(SYSTEMS["locked"])).exploration.verdict is Verdict.HOLDS


def test_in_trio_gives_back_what_the_function_returns_or_raises() -> None:
    async def double(number: int) -> int:
        await trio.lowlevel.checkpoint()
        if not number:
            msg = "nothing to double"
            raise LookupError(msg)
        return 2 * number

    assert in_trio(double, 21) == 42
    with pytest.raises(LookupError, match="nothing to double"):
        in_trio(double, 0)


async def _raises() -> None:
    await fetch_add(X, 1)
    msg = "in the model"
    raise ValueError(msg)


@pytest.mark.parametrize("engine", ["batch", "live"])
@pytest.mark.trio
async def test_errors_are_raised_bare_from_the_async_form(engine: str) -> None:
    with pytest.raises(ModelError, match="ValueError: in the model"):
        await check(system(running(0, call(_raises))), engine=engine)


@pytest.mark.parametrize("engine", ["batch", "live"])
def test_a_budget_gives_undecided_and_no_live_runs(engine: str) -> None:
    two = system(main(0, *stores("a", 9)), main(1, *stores("b", 9)))
    found = explore(two, Budget(states=20), engine=engine)
    assert found.exploration.verdict is Verdict.UNDECIDED
    assert found.exploration.reason == "states (20)"
    assert (found.stories, found.live_runs) == ((), 0)
    assert 20 < found.exploration.states < 100


def test_a_violation_met_within_the_budget_is_one() -> None:
    found = explore(SYSTEMS["lost_update"], Budget(states=1_000, seconds=1_000.0, memory=10**9))
    assert found.exploration.verdict is Verdict.VIOLATED


@pytest.mark.parametrize("runs", [0, 1, 7])
def test_the_number_of_live_runs_can_be_chosen(runs: int) -> None:
    assert explore(SYSTEMS["retried_update"], live_runs=runs).live_runs == runs


def test_dropped_claims_are_dropped_live_as_well() -> None:
    async def ask(engine: str, *dropped: str) -> Answered:
        return await check(
            SYSTEMS["no_update_lost"], engine=engine, dropped=frozenset(dropped), every=True
        )

    for engine in ("batch", "live"):
        assert in_trio(ask, engine).exploration.verdict is Verdict.HOLDS
        broken = in_trio(ask, engine, "the test says so")
        assert [v.name for v in broken.exploration.violations] == ["both_increments_count"]
        assert len(broken.stories[0].actions) == 4


def test_words_of_the_answer_are_plain_integers() -> None:
    (story,) = explore(SYSTEMS["lost_update"]).stories
    assert story.values == (("x", 1),)
    assert {type(v) for _, v in story.values} == {int}
    assert {type(t.result) for a in story.actions for t in a.steps} == {int}
    assert Word("x", 2) == X
