"""The vocabulary of modelled code: steps, routines, instructions, indivisible actions, retries.

Everything modelled code may say to the engine is yielded as a `Step` or as one of the traps
below; `engine/local.py` answers them. This module must not know what is stored or explored.
"""

from __future__ import annotations

import enum
import functools
import types
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, ParamSpec, TypeVar

from smpmmu.engine.purity import check_function, check_value
from smpmmu.engine.steps import Step, Word

P = ParamSpec("P")
R = TypeVar("R")
Routine = Callable[P, Coroutine[Step, int, R]]


class Again(enum.Enum):
    """What a routine under `retry` returns to be run once more."""

    AGAIN = "again"


AGAIN: Final = Again.AGAIN
"""What a round under `retry` returns to be run again."""


class Kind(enum.Enum):
    """What an entered routine promises beside being summarised by its return value."""

    ROUTINE = "routine"
    RETRY = "retry"
    INSTRUCTION = "instruction"
    INDIVISIBLE = "indivisible"


@dataclass(frozen=True, slots=True)
class Enter:
    """A routine begins; the answer is RUN, or a `Returned` with the value it gave before."""

    name: str
    kind: Kind
    why: str = ""


@dataclass(frozen=True, slots=True)
class Leave:
    """A routine ends with a value, or by an exception (then nothing may be folded)."""

    value: object
    raised: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """A question about what is private to the context: is a lock held, are interrupts on."""

    lock: Word | None = None


RUN: Final = None


@dataclass(frozen=True, slots=True)
class Returned:
    """A routine's summary in a local history: its value and the private state it left.

    Attributes:
        kind: the types inside the value, since 1 == True in Python.
        value: what the routine returned.
        irqs: the interrupt flag after it.
        held: the locks held after it.
        stepped: whether it took any step.
    """

    kind: object
    value: object
    irqs: bool
    held: frozenset[str]
    stepped: bool


class Bug(BaseException):
    """Raised by `bug_on`; ends the run as a violation. Modelled code must not catch it."""


def bug_on(wrong: object, name: str) -> None:
    """End the run as a violation of the property `name` if `wrong` is true, as BUG_ON does.

    No step. The name is a positive sentence: what should have been so.
    """
    if wrong:
        raise Bug(name)


@types.coroutine
def _say(trap: Enter | Leave | Ask) -> Generator[Any, Any, Any]:
    return (yield trap)


async def irqs_enabled() -> bool:
    """Return the interrupt flag of the running context; no step."""
    answer: bool = await _say(Ask())
    return answer


async def holds(lock: Word) -> bool:
    """Return whether the running context holds `lock`; no step."""
    answer: bool = await _say(Ask(lock))
    return answer


def shape(value: object) -> object:
    """Return the types inside a checked value, so that 1, True and 1-member enums differ."""
    if isinstance(value, tuple):
        return (type(value), *map(shape, value))
    if isinstance(value, frozenset):
        return (type(value), frozenset((shape(item), item) for item in value))
    if is_dataclass(value) and not isinstance(value, type):
        return (type(value), *(shape(getattr(value, f.name)) for f in fields(value)))
    return type(value)


def _summarised(fn: Routine[P, R], kind: Kind, why: str = "") -> Routine[P, R]:
    name = fn.__qualname__

    @functools.wraps(fn)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        check_function(fn)
        for value in (*args, *kwargs.values()):
            check_value(value, f"an argument of {name}")
        before = await _say(Enter(name, kind, why))
        if before is not RUN:
            known: R = before.value
            return known
        try:
            result = await fn(*args, **kwargs)
        except Exception:
            await _say(Leave(None, raised=True))
            raise
        check_value(result, f"the return value of {name}")
        await _say(Leave(result))
        return result

    return wrapper


def routine(fn: Routine[P, R]) -> Routine[P, R]:
    """Mark a modelled function as summarised by its return value once it has returned.

    It makes fewer states and changes no verdict. What goes in and out is integers, strings, enums,
    tuples, frozen dataclasses, words and functions of the model.

    Raises:
        ModelError: when it is run, something else goes in or out.
    """
    return _summarised(fn, Kind.ROUTINE)


def instruction(fn: Routine[P, R]) -> Routine[P, R]:
    """Mark a routine as one machine instruction: no interrupt lands after its first step.

    Other CPUs do move in between. What goes in and out is as for `routine`.
    """
    return _summarised(fn, Kind.INSTRUCTION)


def indivisible(why: str) -> Callable[[Routine[P, R]], Routine[P, R]]:
    """Mark a routine whose steps are one action: nobody else moves until it returns.

    A claim about the real machine; `why` says why it is true, and is the claim's name when the
    catalogue is run with claims dropped. A waiting step may not come second in it.

    Raises:
        ModelError: when it is run, a later step waits, or it has too many steps.
    """

    def mark(fn: Routine[P, R]) -> Routine[P, R]:
        return _summarised(fn, Kind.INDIVISIBLE, why)

    return mark


async def retry(round_of: Callable[P, Coroutine[Step, int, R | Again]], *args: P.args,
                **kwargs: P.kwargs) -> R:  # fmt: skip
    """Run `round_of(*args)` until it returns anything but AGAIN; a failed round is forgotten.

    For a compare-and-exchange that lost, or an instruction that is begun anew.

    Raises:
        ModelError: a failed round took no step, or left locks or the interrupt flag changed.
    """
    once = _summarised(round_of, Kind.RETRY)
    while True:
        value = await once(*args, **kwargs)
        if not isinstance(value, Again):
            return value
