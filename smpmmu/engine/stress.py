"""Thousands of seeded random runs at once on the batch kernel, a row each.

A seed decides everything: choice number i of a run is uniform among the contexts that can move,
by `numbers.pick`. The same seed on live vCPUs gives the same run. It must not know about trio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.batch import Block
from smpmmu.engine.judge import Judge
from smpmmu.engine.layout import Grown
from smpmmu.engine.numbers import pick_column, seed_stream
from smpmmu.engine.run import Ending
from smpmmu.engine.successors import Expander

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.steps import Column, Mask
    from smpmmu.engine.successors import Successors

LONGEST_RUN = 100_000
"""Actions after which a run is cut off, as on live vCPUs."""

TOGETHER = 1 << 14
"""Runs that go side by side."""


@dataclass(frozen=True, slots=True)
class SeededRun:
    """How the run of one seed ended: the property it violated or "", and its actions."""

    seed: int
    ending: Ending
    violated: str
    choices: tuple[int, ...]


class Herd:
    """Runs side by side, each with its own seed."""

    def __init__(self, kernel: Kernel, seeds: range, *, longest: int = LONGEST_RUN) -> None:
        """Start a run for every seed."""
        self.kernel = kernel
        self.seeds = seeds
        self.longest = longest
        self.streams = np.array([seed_stream(seed) for seed in seeds], dtype=np.uint64)
        self.endings: list[tuple[Ending, str] | None] = [None] * len(seeds)
        self.chosen: list[tuple[NDArray[np.intp], NDArray[np.uint8]]] = []
        self._expander = Expander(kernel)
        self._judge = Judge(kernel)
        first = kernel.initial()
        many = np.zeros(len(seeds), dtype=np.intp)
        self.block = Block(first.lanes[:, many], first.fps[many])
        self.which: NDArray[np.intp] = np.arange(len(seeds))

    def gallop(self) -> Iterator[int]:
        """Let every run go to its end, yielding the number of actions so far after each."""
        everyone = np.arange(len(self.seeds))
        bugs = {automaton.positions[0].bug for automaton in self.kernel.automata} - {""}
        self._settle([(bug, everyone) for bug in bugs], np.zeros(len(self.seeds), dtype=np.bool_))
        action = 0
        while self.which.size and action < self.longest:
            self._tick(action)
            action += 1
            yield action
        for run in self.which.tolist():
            self.endings[run] = (Ending.CUT, "")

    def runs(self) -> list[SeededRun]:
        """Return all runs, in the order of their seeds."""
        choices: list[list[int]] = [[] for _ in self.seeds]
        for which, contexts in self.chosen:
            for run, context in zip(which.tolist(), contexts.tolist(), strict=True):
                choices[run].append(context)
        result = []
        for seed, ending, made in zip(self.seeds, self.endings, choices, strict=True):
            assert ending is not None
            result.append(SeededRun(seed, ending[0], ending[1], tuple(made)))
        return result

    def _tick(self, action: int) -> None:
        """Let every run take its next action."""
        moves = self._moves()
        able = np.zeros((len(self.kernel.automata), len(self.block)), dtype=np.bool_)
        able[moves.contexts, moves.rows] = True
        count = able.sum(axis=0).astype(np.uint64)
        picked = pick_column(self.streams[self.which], action, count)
        contexts = (able.cumsum(axis=0) > picked.view(np.int64)).argmax(axis=0).astype(np.uint8)
        chosen = np.flatnonzero(moves.contexts == contexts[moves.rows])
        rows = moves.rows[chosen]
        stuck = count == 0
        for run in self.which[stuck].tolist():
            self.endings[run] = (Ending.STUCK, "")
        self.block.lanes[:, rows] ^= moves.deltas[:, chosen]
        self.block.fps[rows] = moves.fps[chosen]
        self.chosen.append((self.which[~stuck], contexts[~stuck]))
        bugs = []
        for bug, begin, end in moves.bugs:
            low, high = np.searchsorted(chosen, [begin, end])
            bugs.append((bug, rows[low:high]))
        self._settle(bugs, stuck)

    def _moves(self) -> Successors:
        """Return what can happen next in every run."""
        while True:
            try:
                return self._expander.successors(self.block)
            except Grown:
                before = self.kernel.layout.grow()
                self.block.lanes = self.kernel.layout.repack(before, self.block.lanes)

    def _settle(self, bugs: list[tuple[str, NDArray[np.intp]]], done: Mask) -> None:
        """Judge all runs in their present state, and take out those that have ended."""
        broken = self._judge.look(self.block) + sorted(bugs, key=lambda bug: bug[0])
        for name, rows in broken:
            for row in rows.tolist():
                if not done[row]:
                    self.endings[int(self.which[row])] = (Ending.VIOLATION, name)
            done[rows] = True
        rest = np.flatnonzero(self.kernel.quiescent(self.block) & ~done)
        for row in rest.tolist():
            self.endings[int(self.which[row])] = (Ending.QUIESCENT, "")
        done[rest] = True
        self._keep(~done)

    def _keep(self, rows: Column) -> None:
        if not rows.all():
            self.block = Block(self.block.lanes[:, rows], self.block.fps[rows])
            self.which = self.which[rows]


def stress(
    kernel: Kernel, seeds: range, *, longest: int = LONGEST_RUN
) -> Iterator[list[SeededRun]]:
    """Run every seed of `seeds` (step 1), yielding finished runs in order, some at a time."""
    for start in range(seeds.start, seeds.stop, TOGETHER):
        herd = Herd(kernel, range(start, min(start + TOGETHER, seeds.stop)), longest=longest)
        for _ in herd.gallop():
            pass
        yield herd.runs()
