"""The critical race of a violating run: two steps whose reversal makes the violation go away.

A pair is an action and a later one of another context that touch a word in common, at least one of
them writing to it. To reverse it, the run is repeated up to the first; then the first's context is
held back until the second has been taken, which must touch that word again; then everything else
follows in its old order, a choice that cannot move coming as soon as it can. When all choices are
used up, whoever moved last goes on while it can, then the first context that can, hardware apart,
until rest. The violation has gone away if nothing at all is violated in this run.

Of all such pairs the critical one has the latest second action, and then the latest first; but
pairs that are a race by themselves come before those whose order follows from others, because some
action in between comes after the first and before the second whatever the schedule (both of one
vCPU, or in conflict; between two that take one lock, its release does not count).

A deadlock breaks nothing by a step, so there a step that waits for ever counts as a second action
after the end of the run. This module must not know what the words stand for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.engine.program import Role
from smpmmu.engine.run import Ending
from smpmmu.engine.steps import TAKEN
from smpmmu.engine.system import NO_DEADLOCK
from smpmmu.engine.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from smpmmu.engine.run import Action
    from smpmmu.engine.system import System

LONGEST_JUDGED = 400
"""Actions up to which a run's critical race is looked for; pairs grow with their square."""

LONGEST_REST = 2_000
"""Actions after the reversed run's own, before it is taken to go on without end."""

Touched = dict[str, bool]
"""Words by name, and whether they are written."""


@dataclass(frozen=True, slots=True)
class Race:
    """Two steps of a run, counted from 1, that conflict on a word.

    Attributes:
        first: the number of the earlier action.
        second: that of the later one; one past the end if it waits there for ever.
        word: what both touch.
        contexts: who they are.
        texts: what they do.
    """

    first: int
    second: int
    word: str
    contexts: tuple[str, str]
    texts: tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Event:
    """An action, or a step that waits at the end of the run.

    Attributes:
        context: whose.
        cpu: its vCPU, or the piece of hardware that goes its own way.
        touched: the words, and whether they are written.
        takes: the locks that it takes.
        text: what it does.
    """

    context: int
    cpu: str
    touched: Touched
    takes: frozenset[str]
    text: str


def critical_race(system: System, choices: Sequence[str], name: str) -> Race | None:
    """Return the critical race of a run that violates `name`, or None if it has none.

    None, too, for a run of over `LONGEST_JUDGED` choices.
    """
    if len(choices) > LONGEST_JUDGED:
        return None
    numbers = {c.name: n for n, c in enumerate(system.contexts)}
    order = [numbers[choice] for choice in choices]
    events = list(_events(system, order, waiting=name == NO_DEADLOCK))
    for first, second, word in _ranked(events, len(order)):
        if _goes_away(system, order, events, (first, second), word):
            pair = (events[first], events[second])
            return Race(
                first + 1,
                min(second, len(order)) + 1,
                word,
                (system.contexts[pair[0].context].name, system.contexts[pair[1].context].name),
                (pair[0].text, pair[1].text),
            )
    return None


def _ranked(events: list[_Event], taken: int) -> list[tuple[int, int, str]]:
    """Return the conflicting pairs, races by themselves first, then later ones first."""
    before: list[int] = []
    """For each event a bit for every event that comes before it whatever the schedule."""
    pairs = []
    for second, event in enumerate(events):
        direct = [n for n in range(second) if _ordered(events[n], event)]
        mask = 0
        for n in direct:
            mask |= before[n] | 1 << n
        before.append(mask)
        for first in direct:
            if first >= taken:
                continue
            for word in _conflicts(events[first], event):
                lock = word in events[first].takes & event.takes
                between = 0
                for n in direct:
                    if n > first and not (lock and _conflicts(events[n], event) == [word]):
                        between |= before[n]
                pairs.append((not between >> first & 1, second, first, word))
    pairs.sort(key=lambda pair: (*pair[:3], pair[3]), reverse=True)
    return [(first, second, word) for _, second, first, word in pairs]


def _ordered(one: _Event, other: _Event) -> bool:
    return one.cpu == other.cpu or bool(_conflicts(one, other))


def _events(system: System, order: list[int], *, waiting: bool) -> Iterator[_Event]:
    """Yield what each choice touched, and what is waited for at the end."""
    with Walk(system) as walk:
        for number in order:
            action = walk.take(number)
            takes = frozenset(
                t.step.word.name
                for t in action.steps
                if t.step.word is not None and t.step.lock > 0
            )
            yield _Event(number, _program(system, number), _touched(action), takes, action.text)
        if not waiting:
            return
        for number, context in enumerate(system.contexts):
            runner = walk.machine.runner(number)
            if context.role is Role.DAEMON or (runner.idle and context.role is Role.IRQ):
                continue
            step = runner.step
            if step is not None and step.word is not None and number not in walk.able:
                touched = {step.word.name: bool(step.writes)}
                takes = frozenset(touched if step.lock > 0 else ())
                yield _Event(number, _program(system, number), touched, takes, step.label)


def _program(system: System, number: int) -> str:
    """Return whose actions come one after the other: a vCPU's, or a piece of hardware's."""
    context = system.contexts[number]
    return context.name if context.role is Role.DAEMON else context.cpu


def _touched(action: Action) -> Touched:
    touched: Touched = {}
    for taken in action.steps:
        step = taken.step
        if step.word is not None:
            writes = bool(step.writes) and (step.when is None or bool(taken.result & TAKEN))
            touched[step.word.name] = touched.get(step.word.name, False) or writes
    return touched


def _conflicts(one: _Event, other: _Event) -> list[str]:
    if one.context == other.context:
        return []
    words = one.touched.keys() & other.touched.keys()
    return sorted(w for w in words if one.touched[w] or other.touched[w])


def _goes_away(
    system: System, order: list[int], events: list[_Event], pair: tuple[int, int], word: str
) -> bool:
    """Run with a pair reversed: does it end without any violation?"""
    first, second = pair
    held, wanted = order[first], events[second].context
    between = [n for n in order[first:second] if n != held] + [wanted]
    kept_back = [n for n in order[first:second] if n == held]
    many = between.count(wanted)
    with Walk(system) as walk:
        for number in order[:first]:
            walk.take(number)
        while many:
            able = _first_able(walk, between)
            if able is None:
                return False
            action = walk.take(able)
            if walk.machine.violated():
                return False
            many -= able == wanted
        if word not in _touched(action):
            return False
        rest = kept_back + between + order[second + 1 :]
        while (able := _first_able(walk, rest)) is not None:
            walk.take(able)
            if walk.machine.violated():
                return False
        return _rests(walk)


def _first_able(walk: Walk, left: list[int]) -> int | None:
    """Take the first choice out of `left` that can move."""
    for at, number in enumerate(left):
        if number in walk.able:
            return left.pop(at)
    return None


def _rests(walk: Walk) -> bool:
    """Let a run go on to its end; nothing may be violated."""
    contexts = walk.machine.system.contexts
    for _ in range(LONGEST_REST):
        ending = walk.ending()
        if ending is not None:
            return ending[0] is Ending.QUIESCENT
        able = [n for n in walk.able if contexts[n].role is not Role.DAEMON]
        if not able:
            return False
        walk.take(walk.last if walk.last in able else able[0])
    return not walk.machine.system.terminates
