"""Breadth-first search over every reachable state: the main loop is `Search.depths`.

The frontier is a matrix of machines. Successors are fingerprinted first; only those that turn
out to be new are materialised. The first violation met is a shortest one; `engine/shortest.py`
then picks, among all shortest schedules, the one with the fewest context switches. This module
must not know what the words stand for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from smpmmu.engine.cores import Ahead, expanded, processors
from smpmmu.engine.frontier import Frontier, Level, Room, joined
from smpmmu.engine.judge import Judge
from smpmmu.engine.layout import Grown
from smpmmu.engine.liveness import Stuck
from smpmmu.engine.numbers import narrow
from smpmmu.engine.program import Role
from smpmmu.engine.reading import Block
from smpmmu.engine.successors import Expander
from smpmmu.engine.system import NO_DEADLOCK, QUIESCENCE_STAYS_REACHABLE
from smpmmu.engine.visited import Fingerprints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.cores import Expanded, Helper
    from smpmmu.engine.moves import Successors
    from smpmmu.engine.reduction import Reduction
    from smpmmu.engine.steps import Column
    from smpmmu.engine.verdict import Budget

    Ids = NDArray[Any]  # (n,) as `numbers.narrow`

EXACT_STATES = 1 << 16
"""Up to so many states, those with equal fingerprints are compared whole."""

AT_WORK = 80
"""Bytes that are worked with for each successor of a block, and a machine's own on top."""

FEW_EDGES = 1 << 16
"""Up to so many transitions edges are kept anyway, so that a violation needs no second pass."""

KEPT = (
    "found", "states", "transitions", "levels", "exact", "peak_nbytes", "edges", "edges_from",
    "level_fps", "whole", "_parents", "_agents", "_actions", "_ways_nbytes", "_stuck", "_dead",
    "_level", "_depth", "_row", "_suspect",
)  # fmt: skip
"""Attributes of a search that change while it goes on, for checkpoints."""


@dataclass(slots=True)
class Found:
    """A violated property and the states that break it, at one depth."""

    name: str
    depth: int
    ids: NDArray[np.int64]
    fps: Column


class Search:
    """One breadth-first search.

    Attributes:
        found: violations, in the order met.
        states, transitions, levels: what was covered so far.
        stopped: the budget that ended the search early, or "".
        edges: per block (parents, agents, fps of the children), if asked for or while few; or None.
        edges_from: per depth, where its edges begin.
        level_fps: per depth, the fingerprints of its states, while edges are kept.
        whole: all states, as long as they are few.
        exact: `whole` has them all.
        expander: finds the successors.
    """

    def __init__(
        self,
        kernel: Kernel,
        budget: Budget,
        *,
        every: bool = False,
        keep_edges: bool = False,
        started: float | None = None,
        reduction: Reduction | None = None,
        start: Block | None = None,
        helped: Callable[[Search], Helper] | None = None,
    ) -> None:
        """Search what `kernel` can reach, or what a `reduction` leaves of it.

        With `every` go on after a violation; with `start` begin there. Who is `helped` has blocks
        expanded elsewhere than on this machine's cores.
        """
        self.kernel = kernel
        self.budget = budget
        self.every = every
        self.found: list[Found] = []
        self.states = 1
        self.transitions = 0
        self.levels: list[int] = [1]
        self.stopped = ""
        self.exact = reduction is None
        self.peak_nbytes = 0
        self.edges: list[tuple[Ids, NDArray[np.uint8], Column]] | None = []
        self.edges_from: list[int] = []
        self.level_fps: list[Column] = []
        self._keep_edges = keep_edges
        self._reduction = reduction
        self.expander = Expander(kernel, reduction)
        self._judge = Judge(kernel)
        self._visited = Fingerprints()
        self._parents: list[Ids] = []
        self._agents: list[NDArray[np.uint8]] = []
        self._actions: list[NDArray[Any]] = []  # of a reduced search alone
        self._ways_nbytes = 0
        self._stuck = Stuck()
        self._dead: list[Column] = []
        self._room = Room(budget.room)
        self._now, self._next = (Level(kernel.layout, self._room) for _ in range(2))
        self._at = 0  # the block of `_now` to expand next
        in_turn = reduction and reduction.symmetry.on  # what is compiled is verified at once
        cores = 1 if in_turn else budget.cores or processors()
        self._ahead: Helper = helped(self) if helped else Ahead(self.expander, cores)
        self._most = 0  # bytes worked with at once
        self._level: list[Column] = []
        self.whole: list[Frontier] = []
        self._start = start
        self._depth = self._row = 0  # states of this depth that are done
        self._started = time.monotonic() if started is None else started
        self._suspect = False
        self._begins_with = sorted({a.positions[0].bug for a in kernel.automata} - {""})
        self._obligatory = np.array([c.role is not Role.DAEMON for c in kernel.system.contexts])

    @property
    def reached(self) -> dict[str, bool]:
        """Which `sometimes` were reached so far."""
        reached = dict(self._judge.reached)
        return reached if self._reduction is None else self._reduction.symmetry.closed(reached)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept per visited state, the frontier and exact copies apart."""
        return self._visited.nbytes + self._stuck.nbytes + self._ways_nbytes

    @property
    def expanded(self) -> int:
        """How many states have all their successors found."""
        here = self.levels[self._depth] if self._depth < len(self.levels) else 0
        return sum(self.levels[: self._depth]) + min(self._row, here)

    def depths(self) -> Iterator[int]:
        """Search depth by depth, yielding the depth as it begins and after every block of it.

        Between two blocks, and so at every yield, the search can be left and gone on with.
        """
        if not len(self._visited):
            self._begin()
        if self._begins_with:  # nothing can happen after a bug
            return
        try:
            yield from self._levels()
        finally:
            self._ahead.close()
        if self.stopped:
            if self._suspect and not self.found:
                self._judge_stuck()  # a deadlock is one, though a shorter way may be unseen
        elif not self.found or self.every:
            self._judge_stuck()

    def _levels(self) -> Iterator[int]:
        while not self._done(self._depth):
            if len(self.edges_from) == self._depth:
                self.edges_from.append(len(self.edges or ()))
            yield self._depth
            while self._at < len(self._now) and not self._over_budget():
                self._expand(self._depth)
                self._row += self._now.drop(self._at)
                self._at += 1
                yield self._depth
            if self.stopped:
                yield self._depth
                return
            self._next_level()
            if not len(self._now):
                return

    def _next_level(self) -> None:
        self._next.close()
        if self._stuck.many:
            blocks = (self._next.block(n).block for n in range(len(self._next)))
            self._stuck.settle([self._keys(block) for block in blocks])
        if self.edges is not None:
            self.level_fps.append(np.concatenate(self._level or [_NONE]))
            self._level = []
        self._now.end()
        self._now, self._next = self._next, Level(self.kernel.layout, self._room)
        self._depth, self._at, self._row = self._depth + 1, 0, 0

    def _begin(self) -> None:
        """Look at the first state."""
        block = self._start or self.kernel.initial()
        first = Frontier(block.lanes, block.fps, np.zeros(1, dtype=np.int64))
        self._visited.add(self._keys(block))
        self.level_fps.append(first.fps)
        self.whole = [replace(first)] if self.exact else []
        broken = self._judge.look(block)
        broken += [(bug, np.zeros(1, dtype=np.intp)) for bug in self._begins_with]
        self._record(broken, first, 0)
        self._now.put(first)
        self._now.close()

    def kept(self) -> dict[str, Any]:
        """Return all that another search needs to go on from here, at a yield of `depths`.

        It is numbers, arrays, and records of these; how far the kernel has grown comes on top.
        """
        state = {name: getattr(self, name) for name in KEPT}
        levels = {"now": self._now.closed(), "next": self._next.closed(), "open": self._next.open()}
        return state | levels | {"visited": self._visited.keys(), "reached": self.reached}

    def go_on(self, kept: dict[str, Any]) -> None:
        """Go on, in a search that has not begun, from what another one kept."""
        for name in KEPT:
            setattr(self, name, kept[name])
        self._now.add(kept["now"])
        self._next.add(kept["next"])
        for part in kept["open"]:
            self._next.put(part)
        self._visited.add(kept["visited"])
        self._judge.go_on(kept["reached"])

    def saw(self, reached: dict[str, bool]) -> None:
        """Take for reached what another search of the same system has."""
        self._judge.go_on(reached)

    def choices_to(self, state: int) -> list[int]:
        """Return the contexts that moved on the way to a state, first to last."""
        starts = np.cumsum([1, *(p.shape[0] for p in self._parents)])
        choices = []
        while state:
            part = int(np.searchsorted(starts, state, side="right")) - 1
            actions = int(self._actions[part][state - starts[part]]) if self._actions else 1
            choices += [int(self._agents[part][state - starts[part]])] * actions
            state = int(self._parents[part][state - starts[part]])
        return choices[::-1]

    def _keys(self, block: Block, rows: NDArray[np.intp] | slice = slice(None)) -> Column:
        """Return what states are told apart by: fingerprints, unless a reduction knows better."""
        if self._reduction is None or not self._reduction.symmetry.on:
            return block.fps[rows]
        return self._reduction.symmetry.keys(Block(block.lanes[:, rows], block.fps[rows]))

    def _done(self, depth: int) -> bool:
        return not self.every and any(f.depth <= depth for f in self.found)

    def _over_budget(self) -> bool:
        budget = self.budget
        held = self.nbytes + self._visited.growing + self._room.held
        held += self._most * self._ahead.cores
        if self.edges is not None and self._keep_edges:
            held += sum(e.nbytes for edge in self.edges for e in edge)
            held += sum(f.nbytes for f in self.level_fps)
        self.peak_nbytes = max(self.peak_nbytes, held)
        if budget.states is not None and self.states > budget.states:
            self.stopped = f"states ({budget.states:,})"
        elif budget.memory is not None and held > budget.memory:
            self.stopped = f"memory ({budget.memory:,} bytes)"
        elif budget.seconds is not None and time.monotonic() - self._started > budget.seconds:
            self.stopped = f"seconds ({budget.seconds:g})"
        return bool(self.stopped)

    def _expand(self, depth: int) -> None:
        for number in range(self._at + 1, len(self._now)):
            self._ahead.look(self._now, number)
        for number in range(len(self._next)):
            self._ahead.look(self._next, number)
        found = self._successors()
        part, successors = found.part, found.successors
        self._stand_still(part, depth, successors)
        if not len(successors):
            return
        self._most = max(self._most, len(successors) * (AT_WORK + part.lanes.nbytes // len(part)))
        self.transitions += found.transitions
        new = self._visited.add(found.distinct)
        chosen = np.sort(found.order[new])
        if self.edges is not None:
            parents = narrow(part.ids[successors.rows])
            self.edges.append((parents, successors.contexts, successors.fps))
            if self.transitions > FEW_EDGES and not self._keep_edges:
                self.edges, self.level_fps = None, []
        if chosen.size:
            self._materialise(part, depth + 1, successors, chosen)

    def _successors(self) -> Expanded:
        """Return the next block and its successors."""
        known = self._ahead.take(self._now, self._at)
        while known is None:
            part = self._now.block(self._at)
            try:
                known = expanded(part, self.expander.successors(part.block))
            except Grown:
                self._repack()
        return known

    def _materialise(
        self,
        parents: Frontier,
        depth: int,
        successors: Successors,
        chosen: NDArray[np.int64],
    ) -> None:
        """Build the new states, judge them, and put them on the next frontier."""
        rows = successors.rows.take(chosen)
        lanes = successors.made(parents.lanes, chosen)
        ids = np.arange(self.states, self.states + chosen.size)
        self._parents.append(narrow(parents.ids.take(rows)))
        self._agents.append(successors.contexts.take(chosen))
        self._ways_nbytes += self._parents[-1].nbytes + self._agents[-1].nbytes
        if successors.actions is not None:
            self._actions.append(narrow(successors.actions[chosen]))
            self._ways_nbytes += self._actions[-1].nbytes
        self.states += int(chosen.size)
        if len(self.levels) == depth:
            self.levels.append(0)
        self.levels[depth] += int(chosen.size)
        part = Frontier(lanes, successors.fps.take(chosen), ids)
        if self.exact:
            self.whole.append(replace(part))
            if self.states > EXACT_STATES:
                self.exact, self.whole = False, []
        if self.edges is not None:
            self._level.append(part.fps)
        self._record(self._judge.look(part.block), part, depth)
        self._next.put(self._without_bugs(part, depth, successors, chosen))

    def _without_bugs(
        self, part: Frontier, depth: int, successors: Successors, chosen: NDArray[np.int64]
    ) -> Frontier:
        """Record the states in which a program met a bug; nothing can happen after one."""
        if not successors.bugs:
            return part
        alive = np.ones(part.ids.size, dtype=np.bool_)
        for bug, begin, end in successors.bugs:
            low, high = np.searchsorted(chosen, [begin, end])
            alive[low:high] = False
            self._record([(bug, np.arange(low, high))], part, depth)
        return Frontier(part.lanes[:, alive], part.fps[alive], part.ids[alive])

    def _stand_still(self, block: Frontier, depth: int, successors: Successors) -> None:
        """Find deadlocks, and note the states in which no progress is enabled."""
        if not self.kernel.system.terminates:
            self._deadlocks(block, successors)
            return
        progress = np.zeros(len(block), dtype=np.bool_)
        progress[successors.rows[successors.progress]] = True
        stuck = np.flatnonzero(~progress)
        if not stuck.size:
            return
        part = Block(block.lanes.take(stuck, axis=1), block.fps.take(stuck))
        stuck = stuck[~self.kernel.quiescent(part)]
        if not stuck.size:
            return
        moved = np.zeros(len(block), dtype=np.bool_)
        moved[successors.rows] = True
        dead = stuck[~moved[stuck]]
        if self._obligatory.all():
            self._record([(NO_DEADLOCK, dead)], block, depth)
            self._dead.append(block.fps[dead])
            stuck = stuck[moved[stuck]]
        else:  # it may have been one already before the last daemon moved
            self._suspect |= bool(dead.size)
        self._note(block, stuck, successors)

    def _note(self, block: Frontier, stuck: NDArray[np.intp], successors: Successors) -> None:
        """Remember the rows `stuck` and all moves out of them, to be judged at the end."""
        number = np.full(len(block), -1, dtype=np.int64)
        number[stuck] = np.arange(stuck.size)
        sources = number[successors.rows]
        moves = np.flatnonzero(sources >= 0)
        self._stuck.note(
            self._keys(block.block, stuck), block.ids[stuck], sources[moves],
            successors.keys[moves], self._obligatory[successors.contexts[moves]],
        )  # fmt: skip

    def _deadlocks(self, block: Frontier, successors: Successors) -> None:
        """Find states in which nothing obligatory moves, where a program has no end."""
        moved = np.zeros(len(block), dtype=np.bool_)
        moved[successors.rows[self._obligatory[successors.contexts]]] = True
        still = np.flatnonzero(~moved)
        self._suspect |= bool(still.size)
        self._note(block, still, successors)

    def hopeless(self, name: str) -> Column:
        """Return all states after which `name` is violated: no deadlock, or rest in reach.

        To be asked after a search that went to its end with `every`.
        """
        dead, endless = self._stuck.hopeless()
        if name == NO_DEADLOCK:
            return np.concatenate([*self._dead, dead[1]])
        return endless[1]

    def _judge_stuck(self) -> None:
        """Judge what can never come to rest, as far as successors are known."""
        ends = np.cumsum(self.levels)
        names = (NO_DEADLOCK, QUIESCENCE_STAYS_REACHABLE)
        for name, (ids, fps) in zip(names, self._stuck.hopeless(), strict=True):
            if ids.size and (self.kernel.system.terminates or name == NO_DEADLOCK):
                depths = np.searchsorted(ends, ids, side="right")
                least = depths == depths.min()
                self._add(Found(name, int(depths.min()), ids[least], fps[least]))

    def _record(
        self, broken: list[tuple[str, NDArray[np.intp]]], part: Frontier, depth: int
    ) -> None:
        for name, rows in broken:
            if rows.size:
                self._add(Found(name, depth, part.ids[rows], part.fps[rows]))

    def _add(self, new: Found) -> None:
        """Keep, for each property, the states of its smallest depth."""
        for old in self.found:
            if old.name == new.name:
                if old.depth == new.depth:
                    old.ids = np.concatenate([old.ids, new.ids])
                    old.fps = np.concatenate([old.fps, new.fps])
                return
        self.found.append(new)

    def _repack(self) -> None:
        """Let the layout grow; blocks still to expand follow when they are asked for."""
        self._ahead.forget()
        before = self.kernel.layout.grow()
        if self.whole:
            self.whole = [joined(self.whole)]
        for part in self.whole:
            part.lanes = self.kernel.layout.repack(before, part.lanes)


_NONE = np.zeros(0, dtype=np.uint64)
