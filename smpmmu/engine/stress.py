"""Thousands of seeded random runs at once on the batch kernel, a row each.

A seed and a strategy decide everything: by default, choice number i of a run is uniform among the
contexts that can move, by `numbers.pick`. The same on live vCPUs gives the same run. It must not
know about trio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.errors import InternalError
from smpmmu.engine.judge import Judge
from smpmmu.engine.layout import Grown
from smpmmu.engine.numbers import seed_stream
from smpmmu.engine.onward import looks, out_of_reach
from smpmmu.engine.pending import Lookout, Many
from smpmmu.engine.reading import Block
from smpmmu.engine.run import Ending
from smpmmu.engine.strategies.plan import PLAIN, Plan
from smpmmu.engine.successors import Expander
from smpmmu.engine.traces import Traces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from smpmmu.engine.batch import Emission, Kernel, Tap
    from smpmmu.engine.moves import Successors
    from smpmmu.engine.steps import Mask
    from smpmmu.engine.traces import Took

LONGEST_RUN = 100_000
"""Actions after which a run is cut off, as on live vCPUs."""

TOGETHER = 1 << 14
"""Runs that go side by side, of systems with up to `USUAL` contexts."""
USUAL = 16

FEW = 4_096
"""Pairs of a run and a context up to which all successors are found and one is taken."""

ENDINGS = tuple(Ending)


@dataclass(frozen=True, slots=True)
class SeededRun:
    """How the run of one seed ended: the property it violated or "", and its actions."""

    seed: int
    ending: Ending
    violated: str
    choices: tuple[int, ...]


class Herd:
    """Runs side by side, each with its own seed.

    Attributes:
        endings: (runs,) uint8, number in `ENDINGS`.
        violated: (runs,) int16, number in `names`, -1 for none.
        lengths: (runs,) int32, actions taken.
        finals: (runs,) uint64, fingerprints of the last states.
        classes: (runs,) uint64, happens-before classes, if `traced`.
        places: (contexts, runs) uint32, resting numbers in the last states, if `placed`.
    """

    def __init__(
        self,
        kernel: Kernel,
        seeds: Sequence[int],
        *,
        plan: Plan = PLAIN,
        longest: int = LONGEST_RUN,
        keep: bool = True,
        traced: bool = False,
        onward: bool = True,
        placed: bool = False,
    ) -> None:
        """Start a run for every seed; with `keep` remember all choices.

        A long run from which rest is out of reach ends as violating that, unless not `onward`.
        """
        self.kernel = kernel
        self.seeds = seeds
        self.longest = longest
        many = len(seeds)
        streams = np.array([seed_stream(seed) for seed in seeds], dtype=np.uint64)
        self.chooser = plan.start(streams, len(kernel.automata))
        self.endings = np.full(many, ENDINGS.index(Ending.CUT), dtype=np.uint8)
        self.violated = np.full(many, -1, dtype=np.int16)
        self.lengths = np.zeros(many, dtype=np.int32)
        self.finals = np.zeros(many, dtype=np.uint64)
        self.classes = np.zeros(many, dtype=np.uint64)
        shape = (len(kernel.automata) if placed else 0, many)
        self.places = np.zeros(shape, dtype=np.uint32)
        self.names: list[str] = []
        self.chosen: list[tuple[NDArray[np.intp], NDArray[np.uint8]]] | None = [] if keep else None
        self._traces = Traces(kernel.system, many) if traced else None
        self._looks = frozenset(looks(len(kernel.automata), longest) if onward else ())
        self._lookout = Lookout(kernel)
        self._expander = Expander(kernel)
        self._judge = Judge(kernel, sometimes=False)
        first = kernel.initial()
        same = np.zeros(many, dtype=np.intp)
        self.block = Block(first.lanes[:, same], first.fps[same])
        self.which: NDArray[np.intp] = np.arange(many)

    def gallop(self) -> Iterator[int]:
        """Let every run go to its end, yielding the number of actions so far after each."""
        everyone = np.arange(len(self.seeds))
        bugs = {automaton.positions[0].bug for automaton in self.kernel.automata} - {""}
        self._settle(0, [(bug, everyone) for bug in bugs], np.zeros(len(self.seeds), np.bool_))
        action = 0
        while self.which.size and action < self.longest:
            self._tick(action)
            action += 1
            yield action
        if self.which.size:
            able = self._lookout.look(self.block).able.any(axis=0)
            self._end(action, np.flatnonzero(~able), Ending.STUCK)
            self._end(action, np.flatnonzero(able), Ending.CUT)

    def fails(self) -> list[bool]:
        """Return whether each run violates something, a deadlock included."""
        bad = (ENDINGS.index(Ending.VIOLATION), ENDINGS.index(Ending.STUCK))
        fails: list[bool] = np.isin(self.endings, bad).tolist()
        return fails

    def runs(self) -> list[SeededRun]:
        """Return all runs, in the order of their seeds; their choices were kept."""
        assert self.chosen is not None
        choices: list[list[int]] = [[] for _ in self.seeds]
        for which, contexts in self.chosen:
            for run, context in zip(which.tolist(), contexts.tolist(), strict=True):
                choices[run].append(context)
        return [
            SeededRun(seed, ENDINGS[ending], self.names[name] if name >= 0 else "", tuple(made))
            for seed, ending, name, made in zip(
                self.seeds, self.endings.tolist(), self.violated.tolist(), choices, strict=True
            )
        ]

    def _tick(self, action: int) -> None:
        """Let every run take its next action."""
        moves: Successors | None = None
        if self._traces is None and len(self.block) * len(self.kernel.automata) <= FEW:
            moves = self._moves()
            able = np.zeros((len(self.kernel.automata), len(self.block)), dtype=np.bool_)
            able[moves.contexts, moves.rows] = True
            pending = Many(able, self._lookout, self.block)
        else:
            pending = self._lookout.look(self.block)
        stuck: Mask = np.logical_not(pending.able.any(axis=0))
        contexts = self.chooser.choose(action, pending).astype(np.uint8)
        if self.chosen is not None:
            self.chosen.append((self.which[~stuck], contexts[~stuck]))
        self._end(action, np.flatnonzero(stuck), Ending.STUCK)
        bugs = self._fire(contexts, stuck) if moves is None else self._take(moves, contexts)
        if action + 1 in self._looks:
            bugs += self._out_of_reach()
        self._settle(action + 1, bugs, stuck)

    def _moves(self) -> Successors:
        """Return what can happen next in every run."""
        while True:
            try:
                return self._expander.successors(self.block)
            except Grown:
                self._repack()

    def _take(
        self, moves: Successors, contexts: NDArray[np.uint8]
    ) -> list[tuple[str, NDArray[np.intp]]]:
        """Take the chosen ones among all successors; return who met which bug."""
        chosen = np.flatnonzero(moves.contexts == contexts[moves.rows])
        rows = moves.rows[chosen]
        self.block.lanes[:, rows] = moves.made(self.block.lanes, chosen)
        self.block.fps[rows] = moves.fps[chosen]
        bugs = []
        for bug, begin, end in moves.bugs:
            low, high = np.searchsorted(chosen, [begin, end])
            bugs.append((bug, rows[low:high]))
        return bugs

    def _fire(self, contexts: NDArray[np.uint8], stuck: Mask) -> list[tuple[str, NDArray[np.intp]]]:
        """Let the chosen contexts act; return who met which bug."""
        bugs = []
        taken: list[Took] = []
        for context in np.flatnonzero(np.bincount(contexts[~stuck])).tolist():
            chosen = (contexts == context) & ~stuck
            moved = 0
            for emission in self._acts(context, chosen, taken):
                moved += emission.rows.size
                deltas = emission.deltas  # with many vCPUs hundreds, nearly all 0
                for lane in [
                    n for n, delta in enumerate(deltas) if type(delta) is not int or delta
                ]:
                    delta = deltas[lane]
                    change = np.uint64(delta) if isinstance(delta, int) else delta
                    self.block.lanes[lane, emission.rows] ^= change
                self.block.fps[emission.rows] = emission.fps
                bug = self.kernel.automata[context].positions[emission.after].bug
                if bug:
                    bugs.append((bug, emission.rows))
            if moved != np.count_nonzero(chosen):
                name = self.kernel.system.contexts[context].name
                msg = f"{name} was chosen in {np.count_nonzero(chosen)} runs and moved in {moved}"
                raise InternalError(msg)
        if self._traces is not None:
            self._traces.took(taken)
        return bugs

    def _acts(self, context: int, chosen: Mask, taken: list[Took]) -> list[Emission]:
        """Return the next action of a context in the `chosen` runs, and add it to `taken`."""
        while True:
            mine: list[Took] = []
            try:
                if self._traces is None:
                    return list(self.kernel.fire(self.block, context, chosen))
                acts = self.kernel.fire(self.block, context, chosen, _into(mine))
                emissions = list(acts)
            except Grown:
                self._repack()
                continue
            taken += mine
            return emissions

    def _out_of_reach(self) -> list[tuple[str, NDArray[np.intp]]]:
        """Return from which states something can never happen again, and what that violates."""
        hopeless = []
        for fingerprint in np.unique(self.block.fps):
            rows = np.flatnonzero(self.block.fps == fingerprint)
            fields = self.kernel.layout.fields
            one = Block(self.block.lanes[:, rows[:1]], self.block.fps[rows[:1]])
            name = out_of_reach(self.kernel, one)
            if self.kernel.layout.fields is not fields:
                self.block.lanes = self.kernel.layout.repack(fields, self.block.lanes)
            if name:
                hopeless.append((name, rows))
        return hopeless

    def _repack(self) -> None:
        before = self.kernel.layout.grow()
        self.block.lanes = self.kernel.layout.repack(before, self.block.lanes)

    def _settle(self, actions: int, bugs: list[tuple[str, NDArray[np.intp]]], done: Mask) -> None:
        """Judge all runs in their present state, and take out those that have ended."""
        broken = self._judge.look(self.block) + sorted(bugs, key=lambda bug: bug[0])
        for name, rows in broken:
            self._end(actions, rows[~done[rows]], Ending.VIOLATION, name)
            done[rows] = True
        rest = np.flatnonzero(self.kernel.quiescent(self.block) & ~done)
        self._end(actions, rest, Ending.QUIESCENT)
        done[rest] = True
        if done.any():
            going = ~done
            self.block = Block(self.block.lanes[:, going], self.block.fps[going])
            self.which = self.which[going]
            self.chooser.keep(going)
            if self._traces is not None:
                self._traces.keep(going)

    def _end(
        self, actions: int, rows: NDArray[np.intp], ending: Ending, violated: str = ""
    ) -> None:
        """Note how the runs in `rows` end after so many actions."""
        if not rows.size:
            return
        if violated and violated not in self.names:
            self.names.append(violated)
        runs = self.which[rows]
        self.endings[runs] = ENDINGS.index(ending)
        self.violated[runs] = self.names.index(violated) if violated else -1
        self.lengths[runs] = actions
        self.finals[runs] = self.block.fps[rows]
        for number in range(self.places.shape[0]):
            field = self.kernel.place(number)
            if field is not None:
                lane = self.block.lanes[field.lane]
                self.places[number, runs] = lane[rows] >> field.shift & field.mask
        if self._traces is not None:
            self.classes[runs] = self._traces.classes(rows)


def _into(taken: list[Took]) -> Tap:
    """Return what appends every step to a list."""
    return lambda context, step, result, rows: taken.append((context, step, result, rows))


def together(kernel: Kernel) -> int:
    """Return how many runs of a system go side by side."""
    contexts = len(kernel.automata)
    return TOGETHER if contexts <= USUAL else max(1, TOGETHER * USUAL // contexts)


def stress(
    kernel: Kernel, seeds: range, *, longest: int = LONGEST_RUN, plan: Plan = PLAIN
) -> Iterator[list[SeededRun]]:
    """Run every seed of `seeds` (step 1), yielding finished runs in order, some at a time."""
    size = together(kernel)
    for start in range(seeds.start, seeds.stop, size):
        part = range(start, min(start + size, seeds.stop))
        herd = Herd(kernel, part, longest=longest, plan=plan)
        for _ in herd.gallop():
            pass
        yield herd.runs()
