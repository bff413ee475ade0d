"""From a violating run to a smaller one of the same class.

The class is the property that is violated. Smaller is, in this order: fewer context switches,
fewer preemptions, fewer choices; and then fewer programs and calls, so long as that leaves
switches and preemptions as they are. (If less made the violation easier, it would be another
one: half of two increments also misses the sum of both.)

First all schedules are looked through by cost (`engine/cheapest.py`). Where that reaches the
violation within its budget, the answer is proven to be the least there is. Else the run itself
guides: blocks of choices of one agent are left out and brought together while the violation
stays, and ends of the run are searched for cheaper ones. It must not know about live vCPUs;
whoever asks runs the answer again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from smpmmu.engine.errors import ModelError, UsageError
from smpmmu.engine.guided import Task
from smpmmu.engine.program import Role
from smpmmu.engine.reduced import parts, without
from smpmmu.engine.walk import Cost, Walk, cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smpmmu.engine.system import System

MOST_NODES = 500_000
"""Pairs of a state and a last context that a search from the start looks at."""


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A smaller run.

    Attributes:
        name: the property that it violates, as the run that was given.
        choices: the schedule.
        cost: its cost.
        before: the cost of the schedule that was given.
        least: no schedule that violates `name` is cheaper; else none could be found.
        nodes: how many states with a last context were looked at to know that.
        left_out: programs and calls that the violation does not need (`engine/reduced.py`).
    """

    name: str
    choices: tuple[str, ...]
    cost: Cost
    before: Cost
    least: bool
    nodes: int
    left_out: tuple[str, ...] = ()


def least(system: System, choices: Sequence[str], name: str, *, most: int) -> Shrunk | None:
    """Return the cheapest run of all that violate `name`, as `choices` do.

    None if that takes a look at more than `most` states with a last context.
    """
    task = Task(system, name, (), most)
    found = task.proven()
    if found is None:
        return None
    names = tuple(system.contexts[n].name for n in found)
    prices = cost(system, names), cost(system, choices)
    return Shrunk(name, names, *prices, least=True, nodes=task.nodes)


def shrink(
    system: System,
    choices: Sequence[str],
    name: str,
    *,
    most: int = MOST_NODES,
    smaller: bool = True,
) -> Shrunk:
    """Return a smaller run than `choices`, which violate `name`.

    Args:
        system: what was run.
        choices: the contexts chosen.
        name: the property that the run violates, `no_deadlock` and the like included.
        most: nodes that a search from the start may look at.
        smaller: also try to leave out programs and calls.

    Raises:
        UsageError: the choices do not violate `name`.
    """
    before = cost(system, choices)
    numbers = {c.name: n for n, c in enumerate(system.contexts)}
    given = tuple(numbers[choice] for choice in choices)
    task = Task(system, name, given, most)
    if not task.goal_of_states and task.attempt(given) is None:
        msg = f"the {len(given)} choices do not violate {name}"
        raise UsageError(msg)
    found = task.proven()
    least = found is not None
    best = found if found is not None else task.guided(given)
    names = tuple(system.contexts[n].name for n in best)
    result = Shrunk(name, names, cost(system, names), before, least, task.nodes)
    return _leave_out(system, result, most) if smaller else result


def _leave_out(system: System, result: Shrunk, most: int) -> Shrunk:
    """Leave out programs and calls where that changes neither switches nor preemptions.

    First all at once of what the run never comes to, then one by one.
    """
    gone: list[str] = []
    idle, unbegun = _unused(system, result.choices)
    groups = [idle, unbegun, *([part] for part in parts(system))]
    while groups:
        group = [part for part in groups.pop(0) if not _covered(part, gone)]
        if not group:
            continue
        try:
            other = _same_in(without(system, (*gone, *group)), result, most)
        except ModelError:  # a property reads the end of a program, or nothing would be left
            other = None
        if other is not None:
            gone += group
            result = other
    if gone and result.least:
        task = Task(without(system, gone), result.name, (), most)
        least = task.proven()
        if least is not None:
            result = replace(result, **_priced(task.system, least))
    return replace(result, left_out=_merged(system, gone))


def _covered(part: str, gone: list[str]) -> bool:
    return part in gone or part.partition("[")[0] in gone


def _unused(system: System, choices: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the main programs that never move in a run, and the calls of others never begun."""
    idle, unbegun = [], []
    possible = parts(system)
    with Walk(system) as walk:
        for choice in choices:
            walk.take(walk.machine.numbers[choice])
        for number, context in enumerate(system.contexts):
            if context.role is not Role.MAIN:
                continue
            if context.name not in choices:
                idle.append(context.name)
                continue
            runner = walk.machine.runner(number)
            first = runner.place.number + bool(runner.raw)
            unbegun += [f"{context.name}[{n}]" for n in range(first, len(context.calls))]
    return [part for part in idle if part in possible], [p for p in unbegun if p in possible]


def _same_in(less: System, result: Shrunk, most: int) -> Shrunk | None:
    """Return the run in a smaller system if it costs as many switches and preemptions there."""
    numbers = {c.name: n for n, c in enumerate(less.contexts)}
    task = Task(less, result.name, (), most)
    choices = None
    if not task.goal_of_states:
        choices = task.attempt([numbers[c] for c in result.choices if c in numbers])
    if result.least and (choices is None or not task.none_below(result.cost)):
        choices = task.proven()
    if choices is None:
        return None
    found = _priced(less, choices)
    price = found["cost"]
    same = (price.switches, price.preemptions) == (result.cost.switches, result.cost.preemptions)
    return replace(result, **found) if same else None


def _priced(system: System, choices: Sequence[int]) -> dict[str, Any]:
    names = tuple(system.contexts[n].name for n in choices)
    return {"choices": names, "cost": cost(system, names)}


def _merged(system: System, gone: list[str]) -> tuple[str, ...]:
    """Return what is gone in the order of the system, a program all of whose calls are as one."""
    merged: list[str] = []
    for context in system.contexts:
        calls = [f"{context.name}[{n}]" for n in range(len(context.calls))]
        left = [part for part in calls if part in gone]
        merged += [context.name] if context.name in gone or left == calls else left
    return tuple(merged)
