"""The vocabulary of modelled code: what each marker says to the engine, and what it refuses."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from smpmmu.engine.answer import answer
from smpmmu.engine.errors import ModelError
from smpmmu.engine.local import MOST_ALIKE, Activation, call
from smpmmu.engine.routines import (
    AGAIN,
    RUN,
    Again,
    Ask,
    Bug,
    Enter,
    Kind,
    Leave,
    Returned,
    bug_on,
    check_value,
    holds,
    indivisible,
    instruction,
    irqs_enabled,
    retry,
    routine,
    shape,
)
from smpmmu.engine.steps import Step, Word, load, store
from smpmmu.engine.verdict import Verdict
from tests.engine.programs import LOCK, WHY, X, Y, main, system

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Level(enum.Enum):
    PTE = 1


class Size(enum.IntEnum):
    SMALL = 1


@dataclass(frozen=True)
class Entry:
    frame: object
    flags: int = 0


@dataclass
class Mutable:
    frame: int = 0


async def double(word_value: int) -> int:
    """Read x and return it, twice."""
    value = await load(X)
    return 2 * value + word_value


def said(coro: Coroutine[Any, Any, Any], *answers: object) -> tuple[list[object], object]:
    """Return everything a coroutine says when it gets `answers`, and what it returns or raises."""
    events = []
    try:
        for given in (None, *answers):
            events.append(coro.send(given))  # noqa: PERF401  it raises StopIteration
    except StopIteration as stop:
        return events, stop.value
    except (LookupError, Bug, ModelError) as error:
        return events, error
    finally:
        coro.close()
    return events, "suspended"


@pytest.mark.parametrize(
    ("mark", "kind", "why"),
    [
        (routine, Kind.ROUTINE, ""),
        (instruction, Kind.INSTRUCTION, ""),
        (indivisible(WHY), Kind.INDIVISIBLE, WHY),
    ],
)
def test_a_routine_announces_its_beginning_and_its_value(mark, kind: Kind, why: str) -> None:
    events, value = said(mark(double)(1), RUN, 3, None)
    assert events == [Enter("double", kind, why), load(X), Leave(7)]
    assert value == 7


def test_a_routine_that_is_remembered_takes_no_step() -> None:
    remembered = Returned(int, 9, irqs=True, held=frozenset(), stepped=True)
    events, value = said(routine(double)(1), remembered)
    assert events == [Enter("double", Kind.ROUTINE)]
    assert value == 9


def test_a_marked_function_keeps_its_name_and_text() -> None:
    marked = routine(double)
    assert (marked.__name__, marked.__doc__) == ("double", double.__doc__)


def test_a_routine_left_by_an_exception_says_so() -> None:
    async def fails() -> None:
        await load(X)
        raise LookupError

    events, error = said(routine(fails)(), RUN, 0, None)
    assert events[-1] == Leave(None, raised=True)
    assert isinstance(error, LookupError)


def test_a_bug_passes_through_routines_and_handlers_of_exceptions() -> None:
    async def fails() -> None:
        await load(X)
        try:
            bug_on(1, "x_is_never_read")
        except Exception:  # noqa: BLE001
            await store(Y, 1)

    events, error = said(routine(fails)(), RUN, 0)
    assert events == [Enter(fails.__qualname__, Kind.ROUTINE), load(X)]
    assert isinstance(error, Bug)
    assert str(error) == "x_is_never_read"


@pytest.mark.parametrize("fine", [0, False, None, ""])
def test_bug_on_lets_pass_what_is_not_wrong(fine: object) -> None:
    bug_on(fine, "nothing_is_wrong")
    with pytest.raises(Bug):
        bug_on(wrong := not fine, f"{wrong}_is_wrong")


def test_retry_runs_round_after_round() -> None:
    async def until_one() -> int | Again:
        value = await load(X)
        return AGAIN if value != 1 else 5

    enter = Enter(until_one.__qualname__, Kind.RETRY)
    events, value = said(retry(until_one), RUN, 0, None, RUN, 1, None)
    assert events == [enter, load(X), Leave(AGAIN), enter, load(X), Leave(5)]
    assert value == 5


def test_questions_about_private_state_are_no_steps() -> None:
    async def asks() -> tuple[bool, bool]:
        return await irqs_enabled(), await holds(LOCK)

    events, value = said(asks(), 1, 0)
    assert events == [Ask(None), Ask(LOCK)]
    assert value == (1, 0)


@pytest.mark.parametrize(
    "value",
    [
        1,
        True,
        None,
        "name",
        b"bytes",
        Level.PTE,
        Size.SMALL,
        int,
        (1, (2, "x")),
        frozenset({1, 2}),
        Entry(1, 2),
        Entry(Entry((1,))),
        X,
        load(X),
        len,
        double,
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_frozen_values_pass_in_and_out(value: object) -> None:
    check_value(value, "an argument")
    assert shape(value) == shape(value)


MUTABLE = [[1], {1: 2}, {1}, bytearray(b"x"), Mutable(), object(), 1.5, (1, [2]), Entry([1])]


@pytest.mark.parametrize("value", MUTABLE, ids=lambda value: type(value).__name__)
def test_mutable_values_are_refused(value: object) -> None:
    with pytest.raises(ModelError, match="the thing is a"):
        check_value(value, "the thing")


@routine
async def echo(value: object) -> object:
    await load(X)
    return value


@routine
async def makes_a_list() -> list[int]:
    value = await load(X)
    return [value]


async def passes_a_list() -> None:
    await echo([1])


async def passes_a_keyword() -> None:
    await echo(value={1: 2})


async def takes_a_list() -> None:
    await makes_a_list()


@pytest.mark.parametrize(
    ("program", "where"),
    [
        (passes_a_list, "an argument of echo is a list"),
        (passes_a_keyword, "an argument of echo is a dict"),
        (takes_a_list, "the return value of makes_a_list is a list"),
    ],
)
def test_a_model_that_passes_mutable_values_is_refused(program, where: str) -> None:
    with pytest.raises(ModelError, match=where):
        answer(system(main("cpu0", call(program))))


def test_arguments_of_retry_are_checked_too() -> None:
    async def once(values: list[int]) -> int:
        return await load(X) + len(values)

    async def tries() -> None:
        await retry(once, [1])

    with pytest.raises(ModelError, match=r"an argument of .*once is a list"):
        answer(system(main("cpu0", call(tries))))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (0, False),
        (1, Size.SMALL),
        ((1,), (True,)),
        (((1,), 0), ((True,), 0)),
        (frozenset({1}), frozenset({True})),
        (Entry(1), Entry(frame=True)),
        (Entry((1,)), Entry((Size.SMALL,))),
    ],
    ids=repr,
)
def test_equal_values_of_different_types_have_different_shapes(one: object, other: object) -> None:
    assert one == other
    assert shape(one) != shape(other)


def test_equal_values_of_equal_types_have_equal_shapes() -> None:
    assert shape((1, Entry(2), frozenset({3}))) == shape((1, Entry(2), frozenset({3})))
    assert shape(X) == shape(X)


def test_await_gives_a_step_its_result() -> None:
    async def reads() -> int:
        return await load(X)

    events, value = said(reads(), 2)
    assert events == [load(X)]
    assert value == 2
    assert isinstance(events[0], Step)


def test_a_routine_that_takes_no_step_is_fine() -> None:
    @routine
    async def nothing() -> int:
        return 3

    async def program() -> None:
        value = await nothing()
        await store(X, value)

    found = answer(system(main("cpu0", call(program))))
    assert (found.verdict, found.states) == (Verdict.HOLDS, 2)


def test_a_round_of_retry_may_fail_any_number_of_times() -> None:
    """Only what is not forgotten counts as spinning; unfolded, too, as live runs are."""
    flag = Word("flag", 1)

    async def poll() -> bool | Again:
        return bool(await load(flag)) or AGAIN

    async def go() -> None:
        await retry(poll)

    runner = Activation(call(go), irqs=True, held=frozenset())
    runner.start()
    for _ in range(3 * MOST_ALIKE):
        runner.resume(0)
    runner.resume(1)
    assert runner.step is None
