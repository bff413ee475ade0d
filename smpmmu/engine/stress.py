"""Thousands of seeded random runs at once on the batch kernel, a row each.

A seed decides everything: choice number i of a run is uniform among the contexts that can move,
by `numbers.pick`. The same seed on live vCPUs gives the same run. It must not know about trio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.batch import Block, Kernel
from smpmmu.engine.judge import Judge
from smpmmu.engine.layout import Grown
from smpmmu.engine.numbers import pick_column, seed_stream
from smpmmu.engine.run import Ending

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from smpmmu.engine.steps import Column

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
        first = kernel.initial()
        many = np.zeros(len(seeds), dtype=np.intp)
        self.block = Block(first.lanes[:, many], first.fps[many])
        self.which: NDArray[np.intp] = np.arange(len(seeds))

    def gallop(self) -> Iterator[int]:
        """Let every run go to its end, yielding the number of actions so far after each."""
        everyone = np.arange(len(self.seeds))
        bugs = {automaton.positions[0].bug for automaton in self.kernel.automata} - {""}
        self._settle([(bug, everyone) for bug in bugs])
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
        able = np.array(self.kernel.runnable(self.block))
        count = able.sum(axis=0)
        stuck = count == 0
        for run in self.which[stuck].tolist():
            self.endings[run] = (Ending.STUCK, "")
        self._keep(~stuck)
        able, count = able[:, ~stuck], count[~stuck]
        if not self.which.size:
            return
        picked = pick_column(self.streams[self.which], action, count.astype(np.uint64))
        contexts = (able.cumsum(axis=0) > picked.view(np.int64)).argmax(axis=0).astype(np.uint8)
        self.chosen.append((self.which, contexts))
        self._settle(self._move(contexts))

    def _move(self, contexts: NDArray[np.uint8]) -> list[tuple[str, NDArray[np.intp]]]:
        """Take the chosen actions; return the rows that met a bug."""
        while True:
            try:
                emissions = [
                    emission
                    for number in np.unique(contexts).tolist()
                    for emission in self.kernel.fire(self.block, number, contexts == number)
                ]
                break
            except Grown:
                before = self.kernel.layout.grow()
                self.block.lanes = self.kernel.layout.repack(before, self.block.lanes)
        bugs = []
        for emission in emissions:
            for lane, delta in enumerate(emission.deltas):
                self.block.lanes[lane, emission.rows] ^= np.asarray(delta, dtype=np.uint64)
            self.block.fps[emission.rows] = emission.fps
            bug = self.kernel.automata[emission.context].positions[emission.after].bug
            if bug:
                bugs.append((bug, emission.rows))
        return bugs

    def _settle(self, bugs: list[tuple[str, NDArray[np.intp]]]) -> None:
        """Judge all runs in their present state, and take out those that have ended."""
        broken = Judge(self.kernel).look(self.block) + sorted(bugs, key=lambda bug: bug[0])
        done = np.zeros(self.which.size, dtype=np.bool_)
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
