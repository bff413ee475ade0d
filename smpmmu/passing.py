"""Runs that pass and came close: what the command of that name does.

A pass is worth believing if the dangerous window was really entered. Two kinds of run show it:
those that come closest to a violation, by the state of TLBs and shadows, and those with the most
context switches while somebody holds a lock. It must not print.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.answer import answer
from smpmmu.engine.batch import Kernel
from smpmmu.engine.cheapest import Cheapest, Goal
from smpmmu.engine.errors import UsageError
from smpmmu.engine.expressions import any_of, value
from smpmmu.engine.judge import Columns
from smpmmu.engine.live import in_trio, replay
from smpmmu.engine.program import Role
from smpmmu.engine.run import Ending
from smpmmu.engine.schedule import ended
from smpmmu.engine.stress import stress
from smpmmu.engine.system import NO_DEADLOCK
from smpmmu.engine.verdict import Budget
from smpmmu.engine.walk import Walk
from smpmmu.properties.closeness import windows
from smpmmu.replaying import Told
from smpmmu.targets import one
from smpmmu.work import save_schedule

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from smpmmu.engine.expressions import Expr
    from smpmmu.engine.reading import Block
    from smpmmu.engine.run import Run
    from smpmmu.engine.steps import Word
    from smpmmu.engine.system import System
    from smpmmu.engine.walk import Cost
    from smpmmu.targets import Target

MOST_NODES = 200_000
"""Pairs of a state and a last context that are looked at for how close they come."""
SEEDS = range(200)
"""Random runs among which the one with the most context switches under a lock is looked for."""
LONGEST_RUN = 5_000
"""Choices after which a run that does not come to rest is cut off."""


@dataclass(frozen=True, slots=True)
class Passing:
    """A run that passes, and why it is shown.

    Attributes:
        told: the live run.
        why: what makes it interesting.
        marked: the step after which it is closest, or 0.
        file: where its schedule was saved, or "".
    """

    told: Told
    why: str
    marked: int
    file: str = ""

    @property
    def ending(self) -> str:
        """How the run ends, in words."""
        rests = self.told.run.ending is Ending.QUIESCENT
        return "comes to rest" if rests else "cut off, as it never comes to rest,"


@dataclass(frozen=True, slots=True)
class Found:
    """The runs, and what was looked at for them."""

    name: str
    runs: tuple[Passing, ...]
    states: int
    all_states: bool

    def lines(self) -> list[str]:
        """Return what is shown, and what is meant by it."""
        covered = "all there are" if self.all_states else "those that the fewest switches lead to"
        meaning = (
            "close to a violation means: while somebody holds a lock, a TLB or a shadow allows "
            "what the entry in memory does not; the more such words at once, the closer. There "
            "everybody else goes on first, while they can. Looked at: "
            f"{self.states:,} states and last contexts, {covered}"
        )
        if not any(each.marked for each in self.runs):
            meaning += "; none is close"
        return [f"{self.name}: {len(self.runs)} of its runs that pass", meaning]


def passing(name: str, count: int = 3, folder: Path | None = None) -> Found:
    """Find `count` passing runs of a variant that holds, the last of them that of most switches.

    Raises:
        UsageError: there is no such variant, or it is violated.
    """
    target = one(name)
    system = target.system()
    # A deadlock is no single state's, so only an exploration knows of it.
    explored = answer(system, Budget(states=MOST_NODES))
    if explored.violations:
        raise _violated(target, explored.violations[0].name)
    views = Views(system)
    search = Cheapest(views.kernel, Goal(""))
    looked = search.run(MOST_NODES, visit=views.visit)
    chosen = []
    for texts, node in views.closest()[: max(count - 1, 1)]:
        way = search.way(node)
        chosen.append((_rested(system, way), f"closest: {texts}", len(way)))
    for rank, (switches, choices) in enumerate(_switching(system)[: count - len(chosen)], 1):
        why = f"{switches} context switches while a lock is held, number {rank} of {_TRIED}"
        chosen.append((choices, why, 0))
    runs = []
    for number, (choices, why, marked) in enumerate(chosen, 1):
        told = Told(target, system, _live(target, system, choices), "", "", 0, "")
        file = ""
        if folder is not None:
            stem = f"{target.scenario.name}.{target.variant.name}.passing.{number}"
            schedule = ended(target.name, told.run).write()
            file = str(save_schedule(schedule, target.name, folder, stem))
        runs.append(Passing(told, why, marked, file))
    return Found(target.name, tuple(runs), looked.nodes, looked.complete)


class Views:
    """Looks at states for what is more permissive than it should be while a lock is held."""

    def __init__(self, system: System) -> None:
        """Have seen nothing."""
        self.kernel = Kernel(system)
        self._system = system
        self._positions = 0
        self._held = any_of()
        self._windows: dict[str, Expr] = {}
        self._nodes: dict[frozenset[str], tuple[int, int]] = {}
        """By the windows that are open: after how few choices, and in which node."""

    def visit(self, block: Block, first: int, cost: Cost) -> None:
        """Look at some nodes of one cost, the first of which has the number `first`."""
        columns = Columns(self.kernel, block)
        positions = sum(len(automaton.positions) for automaton in self.kernel.automata)
        if positions != self._positions:
            words, locks = self._known()
            self._held = any_of(*(value(lock) != 0 for lock in locks))
            self._windows = windows(self._system, words)
            self._positions = positions
        held = columns.truth(self._held)
        if not held.any():
            return
        texts, open_ = [], []
        for text, truth in self._windows.items():
            texts.append(text)
            open_.append(columns.truth(truth) & held)
        if not texts:
            return
        table = np.stack(open_)
        for row in np.flatnonzero(table.any(axis=0)).tolist():
            seen = frozenset(texts[n] for n in np.flatnonzero(table[:, row]).tolist())
            known = self._nodes.get(seen)
            if known is None or cost.choices < known[0]:
                self._nodes[seen] = (cost.choices, first + row)

    def _known(self) -> tuple[list[Word], list[Word]]:
        """Return the words, and the locks, that programs can come to, as far as is known."""
        words: dict[str, Word] = {}
        locks: dict[str, Word] = {}
        for automaton in self.kernel.automata:
            for position in automaton.positions:
                step = position.step
                if step is not None and step.word is not None:
                    words[step.word.name] = step.word
                    if step.lock > 0:
                        locks[step.word.name] = step.word
        return list(words.values()), list(locks.values())

    def closest(self) -> list[tuple[str, int]]:
        """Return sets of open windows in words and the nearest node of each, most windows first."""
        ranked = sorted(self._nodes.items(), key=lambda item: (-len(item[0]), item[1]))
        return [("; ".join(sorted(seen)), node) for seen, (_, node) in ranked]


def _rested(system: System, choices: Sequence[int]) -> tuple[str, ...]:
    """Return a schedule and the way to rest after it.

    Everybody but the vCPU that moved last goes on first, until nobody of them can; then all.
    """
    contexts = system.contexts
    with Walk(system) as walk:
        for number in choices:
            walk.take(number)
        held_up = contexts[walk.last].cpu
        while walk.ending() is None and walk.cost.choices < LONGEST_RUN:
            able = _obligatory(walk)
            others = [n for n in able if contexts[n].cpu != held_up]
            if not others:
                held_up = ""
            if not able:
                break
            able = others or able
            walk.take(walk.last if walk.last in able else able[0])
        return tuple(action.context for action in walk.actions)


def _obligatory(walk: Walk) -> list[int]:
    contexts = walk.machine.system.contexts
    return [n for n in walk.able if contexts[n].role is not Role.DAEMON]


_TRIED = f"the seeds {SEEDS.start}:{SEEDS.stop} and of runs that take turns while a lock is held"


def _switching(system: System) -> list[tuple[int, tuple[str, ...]]]:
    """Return runs with their context switches under a lock, the most first."""
    found: dict[tuple[str, ...], int] = {}
    contexts = system.contexts
    for leader in range(len(contexts)):
        if contexts[leader].role is Role.MAIN:
            switches, choices = _taking_turns(system, leader)
            found.setdefault(choices, switches)
    for part in stress(Kernel(system), SEEDS, longest=LONGEST_RUN):
        for run in part:
            with Walk(system) as walk:
                under = _Under(walk)
                for number in run.choices:
                    under.take(number)
                found.setdefault(tuple(contexts[n].name for n in run.choices), under.switches)
    return sorted(((n, choices) for choices, n in found.items()), key=lambda each: -each[0])


class _Under:
    """A walk, with the locks held and the context switches made while one is."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.switches = 0
        self._held: set[str] = set()

    @property
    def locked(self) -> bool:
        return bool(self._held)

    def take(self, number: int) -> None:
        self.switches += self.locked and self.walk.last not in (-1, number)
        for taken in self.walk.take(number).steps:
            word = taken.step.word
            if word is not None and taken.step.lock:
                (self._held.add if taken.after else self._held.discard)(word.name)


def _taking_turns(system: System, leader: int) -> tuple[int, tuple[str, ...]]:
    """Let `leader` go to its first lock; whenever one is held, all take turns."""
    with Walk(system) as walk:
        under = _Under(walk)
        turns: dict[int, int] = {}
        while walk.ending() is None and walk.cost.choices < LONGEST_RUN:
            able = _obligatory(walk)
            if not able:
                break
            if under.locked:
                number = min(able, key=lambda n: (turns.get(n, 0), n))
            else:
                number = leader if leader in able else able[0]
            turns[number] = walk.cost.choices + 1
            under.take(number)
        return under.switches, tuple(action.context for action in walk.actions)


def _live(target: Target, system: System, choices: tuple[str, ...]) -> Run:
    """Run a schedule on live vCPUs; beyond what was explored it may turn out to be violated."""

    async def run_it() -> Run:
        return await replay(system, choices)

    run = in_trio(run_it)
    if run.ending not in (Ending.QUIESCENT, Ending.CUT):
        raise _violated(target, run.violated or NO_DEADLOCK)
    return run


def _violated(target: Target, name: str) -> UsageError:
    return UsageError(
        f"{target.name} is violated: {name}; this is about what holds, see\n"
        f"  python -m smpmmu explore {target.name}"
    )
