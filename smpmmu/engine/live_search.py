"""Exploring on the live vCPUs themselves: the reference that the batch search is held against.

Depth first, re-running prefixes; every state is judged, and a state seen before (its words and
every context's unfolded history) is not entered again. Slow, plain, and independent of folding,
packing and fingerprints. It must not know the batch kernel.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smpmmu.engine.live import running
from smpmmu.engine.program import Role
from smpmmu.engine.system import NO_DEADLOCK, QUIESCENCE, QUIESCENCE_STAYS_REACHABLE, Scope
from smpmmu.engine.verdict import Budget, Counterexample, Exploration, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from smpmmu.engine.system import System
    from smpmmu.engine.vcpus import Machine


@dataclass(slots=True)
class LiveSearch:
    """What has been seen.

    Attributes:
        violations: for each violated property a schedule to it, the shortest met.
        quiescent: the words of every quiescent state.
        moves: per state, the states that follow, and whether an obligatory agent moved.
        runs: how many times the system was started.
        transitions: actions explored (prefixes run again are not counted).
    """

    system: System
    violations: dict[str, tuple[str, ...]] = field(default_factory=dict)
    quiescent: set[tuple[tuple[str, int], ...]] = field(default_factory=set)
    reached: dict[str, bool] = field(default_factory=dict)
    moves: dict[int, list[tuple[int, bool]]] = field(default_factory=dict)
    at_rest: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    paths: dict[int, tuple[int, ...]] = field(default_factory=dict)
    numbers: dict[object, int] = field(default_factory=dict)
    runs: int = 0
    transitions: int = 0
    depth: int = 0

    def look(self, machine: Machine, path: tuple[int, ...]) -> bool:
        """Judge a new state; say whether anything can happen after it."""
        state = self.numbers[machine.key()]
        broken = machine.violated()
        for name in broken:
            known = self.violations.get(name)
            if known is None or len(known) > len(path):
                self.violations[name] = self.names(path)
        for prop in self.system.scoped(Scope.SOMETIMES):
            self.reached[prop.name] = self.reached.get(prop.name, False) or bool(
                prop.truth.evaluate(machine)
            )
        if machine.quiescent():
            self.at_rest.add(state)
            self.quiescent.add(machine.values())
        if any(r.bug for c in machine.cpus.values() for r in c.runners.values()):
            self.dead.add(state)
            return False
        return True

    def names(self, path: tuple[int, ...]) -> tuple[str, ...]:
        """Return a path as choices."""
        return tuple(self.system.contexts[n].name for n in path)

    def hopeless(self) -> None:
        """Find, backwards over the whole graph, states that can never come to rest."""
        backwards: dict[int, list[int]] = {}
        for state, following in self.moves.items():
            for child, _ in following:
                backwards.setdefault(child, []).append(state)
        if self.system.terminates:
            hopeful = _closure(self.at_rest | self.dead, backwards)
        else:
            hopeful = set(self.numbers.values())
        obligatory = {s for s, f in self.moves.items() if any(moved for _, moved in f)}
        lively = _closure(obligatory | self.dead, backwards) | (
            hopeful if self.system.terminates else set()
        )
        endless = self._for_ever(hopeful, backwards)
        for state in sorted(self.numbers.values(), key=lambda s: (len(self.paths[s]), s)):
            if state not in lively:
                self.violations.setdefault(NO_DEADLOCK, self.names(self.paths[state]))
            elif state in endless:
                name = QUIESCENCE_STAYS_REACHABLE
                self.violations.setdefault(name, self.names(self.paths[state]))

    def _for_ever(self, hopeful: set[int], backwards: dict[int, list[int]]) -> set[int]:
        """Return the states without hope that begin a path of obligatory moves without end."""
        endless = set(self.numbers.values()) - hopeful
        while True:
            sources = {
                state
                for state in endless
                for child, moved in self.moves.get(state, ())
                if moved and child in endless
            }
            again = _closure(sources, backwards) - hopeful
            if again == endless:
                return endless
            endless = again


def _closure(states: set[int], edges: dict[int, list[int]]) -> set[int]:
    seen = set(states)
    todo = list(states)
    while todo:
        for other in edges.get(todo.pop(), ()):
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return seen


async def search_live(
    system: System, budget: Budget | None = None, *, every: bool = False,
    dropped: frozenset[str] = frozenset(), watch: Callable[[Exploration], None] | None = None
) -> tuple[Exploration, LiveSearch]:  # fmt: skip
    """Explore `system` on live vCPUs; with `every` do not stop at the first violation.

    `watch` is called now and then with what is covered so far.
    """
    budget = budget or Budget()
    seen = LiveSearch(system, reached={p.name: False for p in system.scoped(Scope.SOMETIMES)})
    began = time.monotonic()
    reason = ""
    todo: list[tuple[int, ...]] = [()]
    while todo and not reason and (every or not seen.violations):
        prefix = todo.pop()
        seen.runs += 1
        if watch is not None and seen.runs % 64 == 0:
            watch(_exploration(seen, "interrupted"))
        async with running(system, dropped) as live:
            machine = live.machine
            for number in prefix[:-1]:
                await live.take(number)
            path, state = prefix[:-1], seen.numbers.get(machine.key())
            forced = prefix[-1:]
            while True:
                if forced:
                    obligatory = system.contexts[forced[0]].role is not Role.DAEMON
                    await live.take(forced[0])
                    path = (*path, forced[0])
                    seen.transitions += 1
                key = machine.key()
                child = seen.numbers.setdefault(key, len(seen.numbers))
                if forced and state is not None:
                    seen.moves.setdefault(state, []).append((child, obligatory))
                if child in seen.paths:
                    break
                seen.paths[child] = path
                seen.depth = max(seen.depth, len(path))
                going_on = seen.look(machine, path)
                if not going_on or (seen.violations and not every):
                    break
                able = machine.runnable()
                if not able:
                    break
                # Interrupts and later CPUs first: races show where the first CPU is held up.
                todo.extend((*path, number) for number in able[:-1])
                forced, state = (able[-1],), child
                reason = _over(budget, len(seen.numbers), began)
                if reason:
                    break
    if not reason and (every or not seen.violations):
        seen.hopeless()
    if system.terminates:
        seen.reached[QUIESCENCE] = bool(seen.at_rest)
    return _exploration(seen, reason), seen


def _over(budget: Budget, states: int, began: float) -> str:
    if budget.states is not None and states > budget.states:
        return f"states ({budget.states:,})"
    if budget.seconds is not None and time.monotonic() - began > budget.seconds:
        return f"seconds ({budget.seconds:g})"
    return ""


def _exploration(seen: LiveSearch, reason: str) -> Exploration:
    ordered = sorted(seen.violations.items(), key=lambda item: (len(item[1]), item[0]))
    examples = tuple(
        Counterexample(
            name,
            choices,
            sum(a != b for a, b in itertools.pairwise(choices)),
            fewest_switches=False,
            shortest=False,
        )
        for name, choices in ordered
    )
    verdict = Verdict.VIOLATED if examples else Verdict.UNDECIDED if reason else Verdict.HOLDS
    return Exploration(
        verdict,
        examples,
        len(seen.numbers),
        seen.transitions,
        seen.depth,
        (),
        seen.reached,
        "" if examples else reason,
    )
