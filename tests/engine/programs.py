"""Small modelled programs that several tests of the engine share, and how hypothesis is run.

`play` interprets a program given as data, so that hypothesis can invent programs; it awaits once
per statement, as `tests/reference.py` needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings

from smpmmu.engine.answer import Answer, answer
from smpmmu.engine.local import Call, call
from smpmmu.engine.program import Context, Role
from smpmmu.engine.recall import Recall
from smpmmu.engine.routines import (
    AGAIN,
    Again,
    bug_on,
    holds,
    indivisible,
    instruction,
    irqs_enabled,
    retry,
    routine,
)
from smpmmu.engine.steps import (
    Step,
    Wait,
    Word,
    load,
    store,
)
from smpmmu.engine.system import Property, System
from smpmmu.engine.verdict import Counterexample, Verdict

WHY = "a test says so"
LOCK, OTHER = Word("lock", 1), Word("other", 1)
X, Y, Z = Word("x", 2), Word("y", 2), Word("z", 2)
BOX = Word("box", 2)


def hypothetically(examples: int) -> settings:
    """Return settings under which a test does the same on every run, and writes no files."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


class Never(Recall):
    """Says from the beginning that looking up does not pay."""

    slow = property(lambda self: True, lambda self, value: None)  # type: ignore[assignment]


def main(name: str, *calls: Call, cyclic: bool = False) -> Context:
    return Context(name, name, calls, cyclic=cyclic)


def irq(name: str, cpu: str, *calls: Call, priority: int = 0) -> Context:
    return Context(name, cpu, calls, Role.IRQ, priority=priority)


def daemon(name: str, *calls: Call, cpu: str = "") -> Context:
    return Context(name, cpu or name, calls, Role.DAEMON)


def system(*contexts: Context, holds: tuple[Property, ...] = ()) -> System:
    return System(contexts, holds)


def only_violation(asked: System) -> Counterexample:
    """Answer, insist on VIOLATED, and return the counterexample."""
    found = answer(asked)
    assert found.verdict is Verdict.VIOLATED
    (violation,) = found.violations
    return violation


def asked(of: System, **how: Any) -> Answer:
    """Return a question that has been answered."""
    question = Answer(of, **how)
    for _ in question.work():
        pass
    return question


async def steps(*taken: Step) -> None:
    """Take the steps, one after the other."""
    for index in range(len(taken)):
        await taken[index]


def counting(prefix: str, count: int) -> Call:
    """Return a call of `count` stores to words that nobody else touches."""
    return call(steps, *(store(Word(f"{prefix}{n}", 1), 1) for n in range(count)))


def take(box: Word, bits: int = 0) -> Step:
    """Wait for any of `bits` (0: all) in a mailbox, and empty them."""
    mine = bits or box.mask
    return Step(
        f"take {box.name}",
        box,
        wait=Wait(mine, 0, equal=False),
        and_mask=box.mask & ~mine,
        returns=mine,
    )


# Programs as data.


@dataclass(frozen=True)
class Op:
    """A statement that is more than a step: what it is, a number or word, what is inside it."""

    name: str
    body: tuple[Step | Op, ...] = ()
    number: int = 0
    word: Word = X


async def play(body: tuple[Step | Op, ...], seen: int = 0) -> int:
    """Run statements; what was read last is `seen`, 0 to 7."""
    for index in range(len(body)):
        one = body[index]
        if isinstance(one, Step):
            result = await one
            if one.returns or one.when:
                seen = (result >> 64) * 4 + (result & 3)
        else:
            seen = await play_op(one, seen)
    return seen


async def play_op(op: Op, seen: int) -> int:
    """Run one statement and return what is seen after it."""
    match op.name:
        case "if":
            if seen & 1:
                seen = await play(op.body, seen)
        case "routine":
            seen = await as_routine(op.body, seen)
        case "instruction":
            seen = await as_instruction(op.body, seen)
        case "indivisible":
            seen = await as_one_action(op.body, seen)
        case "retry":
            seen = await retry(one_round, op, seen)
        case "retry_indivisible":
            seen = await retry(one_action_round, op, seen)
        case "raise":
            seen = await caught(op.body, seen)
        case "bug_on":
            bug_on(seen == op.number, f"never_sees_{op.number}")
        case "ask":
            locked = await holds(op.word)
            enabled = await irqs_enabled()
            seen = locked + 2 * enabled
    return seen


@routine
async def as_routine(body: tuple[Step | Op, ...], seen: int) -> int:
    seen = await play(body, seen)
    return seen & 1


@instruction
async def as_instruction(body: tuple[Step | Op, ...], seen: int) -> int:
    seen = await play(body, seen)
    return seen & 1


@indivisible(WHY)
async def as_one_action(body: tuple[Step | Op, ...], seen: int) -> int:
    seen = await play(body, seen)
    return seen & 3


async def one_round(op: Op, seen: int) -> int | Again:
    """Play the body; come back for as long as the word then is the number."""
    seen = await play(op.body, seen)
    value = await load(op.word)
    return AGAIN if value == op.number else value


@indivisible(WHY)
async def one_action_round(op: Op, seen: int) -> int | Again:
    """Look first, then play the body, in one action; come back while the word is the number."""
    value = await load(op.word)
    if value == op.number:
        return AGAIN
    return await play(op.body, seen)


@routine
async def raises(body: tuple[Step | Op, ...], seen: int) -> int:
    seen = await play(body, seen)
    if seen & 1:
        raise LookupError
    return seen


async def caught(body: tuple[Step | Op, ...], seen: int) -> int:
    """Leave a routine by an exception where the last value read was odd."""
    try:
        seen = await raises(body, seen)
    except LookupError:
        seen = 3
    return seen
