"""The reference: exploring on live vCPUs finds what the batch search finds."""

from __future__ import annotations

from math import comb, factorial, prod
from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.answer import answer
from smpmmu.engine.batch import Kernel
from smpmmu.engine.errors import ModelError
from smpmmu.engine.explore import Search
from smpmmu.engine.live import random_run, replay, running
from smpmmu.engine.live_search import search_live
from smpmmu.engine.local import call
from smpmmu.engine.reading import Block
from smpmmu.engine.routines import indivisible
from smpmmu.engine.run import Ending
from smpmmu.engine.steps import Word, acquire, fetch_or, load, release, store, wait_until
from smpmmu.engine.verdict import Budget, Verdict
from tests.live import systems
from tests.live.systems import (
    LOCK,
    SYSTEMS,
    VECTOR,
    VIOLATED,
    X,
    Y,
    handler,
    independent,
    main,
    stores,
    system,
)

if TYPE_CHECKING:
    from smpmmu.engine.system import System

Values = tuple[tuple[str, int], ...]


def batch_search(asked: System) -> Search:
    search = Search(Kernel(asked), Budget(), every=True)
    for _ in search.depths():
        pass
    assert search.exact
    return search


def quiescent_values(search: Search) -> set[Values]:
    """Return the words that differ in every quiescent state of a complete search."""
    kernel, found = search.kernel, set()
    for part in search.whole:
        block = Block(part.lanes, part.fps)
        rest = kernel.quiescent(block)
        for row in range(len(block)):
            if rest[row]:
                values = {}
                for word in kernel._words.values():
                    column = kernel.word(block, word)
                    value = column if isinstance(column, int) else int(column[row])
                    if value != word.initial:
                        values[word.name] = value
                found.add(tuple(sorted(values.items())))
    return found


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.trio
async def test_both_find_the_same_violations_and_the_same_rest(name: str) -> None:
    asked = SYSTEMS[name]
    search = batch_search(asked)
    live, seen = await search_live(asked, every=True)
    assert {f.name for f in search.found} == VIOLATED.get(name, set())
    assert set(seen.violations) == VIOLATED.get(name, set())
    assert seen.quiescent == quiescent_values(search)
    assert live.reached == search.reached
    assert live.verdict is (Verdict.VIOLATED if name in VIOLATED else Verdict.HOLDS)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.trio
async def test_what_live_finds_replays_to_it(name: str) -> None:
    live, _ = await search_live(SYSTEMS[name], every=True)
    for violation in live.violations:
        run = await replay(SYSTEMS[name], violation.choices)
        assert run.choices == violation.choices
        if violation.name == "no_deadlock":
            assert run.ending in (Ending.STUCK, Ending.CUT)
        else:
            assert violation.name in run.broken
    assert len(live.violations) == len(VIOLATED.get(name, ()))


@pytest.mark.parametrize("name", VIOLATED)
@pytest.mark.trio
async def test_no_schedule_found_live_is_shorter_than_the_shortest(name: str) -> None:
    live, _ = await search_live(SYSTEMS[name], every=True)
    shortest = {v.name: len(v.choices) for v in answer(SYSTEMS[name], every=True).violations}
    assert {v.name for v in live.violations} == shortest.keys()
    assert all(len(v.choices) >= shortest[v.name] for v in live.violations)


@pytest.mark.trio
async def test_without_every_it_stops_at_the_first() -> None:
    live, seen = await search_live(SYSTEMS["bug"])
    whole, all_ = await search_live(SYSTEMS["bug"], every=True)
    assert len(live.violations) == 1
    assert live.states < whole.states
    assert seen.runs < all_.runs


@pytest.mark.parametrize(("states", "verdict"), [(8, "UNDECIDED"), (9, "HOLDS")])
@pytest.mark.trio
async def test_a_budget_of_states_ends_it(states: int, verdict: str) -> None:
    live, _ = await search_live(SYSTEMS["independent"], Budget(states=states))
    assert (live.verdict.value, live.states) == (verdict, 9)
    assert live.reason == ("states (8)" if states == 8 else "")


@pytest.mark.trio
async def test_a_budget_of_seconds_ends_it() -> None:
    live, _ = await search_live(independent(30, 30, 30), Budget(seconds=0.05))
    assert (live.verdict, live.reason) == (Verdict.UNDECIDED, "seconds (0.05)")
    assert 0 < live.states < 31**3


# Every schedule, counted.


async def complete_schedules(
    asked: System, dropped: frozenset[str] = frozenset()
) -> list[tuple[int, ...]]:
    """Return truly every schedule after which nothing can move; nothing is pruned."""
    todo: list[tuple[int, ...]] = [()]
    complete = []
    while todo:
        prefix = todo.pop()
        async with running(asked, dropped) as live:
            for number in prefix:
                await live.take(number)
            able = live.machine.runnable()
        if not able:
            complete.append(prefix)
        todo.extend((*prefix, number) for number in able)
    return complete


@pytest.mark.parametrize(("n", "m"), [(0, 3), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 3)])
@pytest.mark.trio
async def test_two_programs_have_n_plus_m_over_n_schedules(n: int, m: int) -> None:
    asked = independent(*(k for k in (n, m) if k))
    schedules = await complete_schedules(asked)
    assert len(schedules) == len(set(schedules)) == comb(n + m, n)
    # Pruned at states seen before, what is left is the grid of both programs' positions.
    live, seen = await search_live(asked)
    assert live.states == (n + 1) * (m + 1)
    assert live.transitions == n * (m + 1) + m * (n + 1)
    assert seen.runs <= live.transitions + 1
    found = answer(asked)
    assert (found.states, found.transitions) == (live.states, live.transitions)


@pytest.mark.parametrize("lengths", [(1, 1, 1), (2, 2, 1), (2, 2, 2), (1, 1, 1, 1)])
@pytest.mark.trio
async def test_more_programs_have_the_multinomial(lengths: tuple[int, ...]) -> None:
    schedules = await complete_schedules(independent(*lengths))
    expected = factorial(sum(lengths)) // prod(factorial(n) for n in lengths)
    assert len(set(schedules)) == len(schedules) == expected


@pytest.mark.parametrize(("cpus", "inside"), [(2, 0), (2, 2), (3, 1)])
@pytest.mark.trio
async def test_critical_sections_only_come_in_some_order(cpus: int, inside: int) -> None:
    asked = system(
        *(main(n, acquire(LOCK), *stores(f"cpu{n} ", inside), release(LOCK)) for n in range(cpus))
    )
    assert len(await complete_schedules(asked)) == factorial(cpus)


@pytest.mark.parametrize("after", [0, 1, 4])
@pytest.mark.trio
async def test_an_interrupt_lands_at_any_boundary_and_runs_through(after: int) -> None:
    asked = system(main(0, fetch_or(VECTOR, 1), *stores("a", after)), handler(0, store(Y, 1)))
    schedules = await complete_schedules(asked)
    # Before any of the steps after the interrupt was made pending, or after all of them.
    assert len(schedules) == after + 1
    for schedule in schedules:
        landed = schedule.index(1)
        assert schedule[landed : landed + 2] == (1, 1)


@indivisible("these tests say so")
async def _at_once(name: str, count: int) -> None:
    for step in stores(name, count):
        await step


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.trio
async def test_indivisible_actions_are_one_choice_each(n: int, m: int) -> None:
    asked = system(
        *(
            systems.running(cpu, *(call(_at_once, f"{cpu}.{i} ", 2) for i in range(count)))
            for cpu, count in enumerate((n, m))
        )
    )
    assert len(await complete_schedules(asked)) == comb(n + m, n)
    dropped = frozenset({"these tests say so"})
    assert len(await complete_schedules(asked, dropped)) == comb(2 * (n + m), 2 * n)


@pytest.mark.trio
async def test_a_wait_removes_the_schedules_that_break_it() -> None:
    asked = system(main(0, *stores("a", 2), store(X, 1)), main(1, wait_until(X, 1), load(Y)))
    assert await complete_schedules(asked) == [(0, 0, 0, 1, 1)]


# What one engine refuses, the other must refuse.

PRIVATE = Word("mine", 2, owner="cpu0")


@indivisible("these tests say so")
async def _waits_inside() -> None:
    await store(X, 1)
    await wait_until(Y, 1)


async def _raises() -> None:
    await load(X)
    raise ValueError


BROKEN_RULES = {
    "overflow": (systems.main(0, *[systems.fetch_add(X, 1)] * 5),),
    "two_words_of_a_name": (main(0, load(X)), main(1, load(Word("x", 7)))),
    "raises": (systems.running(0, call(_raises)),),
    "no_step_at_all": (systems.Context("cpu0", "cpu0", (call(systems.steps),), cyclic=True),),
}
BROKEN_RULES_NOT_SEEN = {
    "private_word": (main(0, load(PRIVATE)), main(1, store(PRIVATE, 1))),
    "waits_inside": (systems.running(0, call(_waits_inside)), main(1, store(Y, 1))),
}


async def refused_by_all(asked: System) -> bool:
    errors: list[type[BaseException] | None] = []
    for number in range(4):
        try:
            match number:
                case 0:
                    answer(asked)
                case 1:
                    await search_live(asked)
                case _:
                    await random_run(asked, number)
        except Exception as error:  # noqa: BLE001  which one is the question
            errors.append(type(error))
        else:
            errors.append(None)
    return errors == [ModelError] * 4


@pytest.mark.parametrize("rule", BROKEN_RULES)
@pytest.mark.trio
async def test_broken_rules_are_model_errors_on_both(rule: str) -> None:
    assert await refused_by_all(system(*BROKEN_RULES[rule]))


@pytest.mark.parametrize("rule", BROKEN_RULES_NOT_SEEN)
@pytest.mark.trio
async def test_broken_rules_are_seen_live_too(rule: str) -> None:
    assert await refused_by_all(system(*BROKEN_RULES_NOT_SEEN[rule]))
