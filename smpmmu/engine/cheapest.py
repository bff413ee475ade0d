"""The cheapest way to a violation: fewest context switches, then preemptions, then choices.

Dijkstra's search over (state, who moved last), a matrix of machines for every cost. It goes
through all schedules of few switches before any of more, so it may find a violation in a system
far too big to exhaust; where it ends without its budget, no schedule is cheaper. It must not
know what the words stand for.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.judge import Judge
from smpmmu.engine.layout import Grown
from smpmmu.engine.numbers import key_table
from smpmmu.engine.reading import Block
from smpmmu.engine.successors import Expander
from smpmmu.engine.visited import Fingerprints, first_of_each
from smpmmu.engine.walk import Cost

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.layout import Lanes
    from smpmmu.engine.moves import Successors
    from smpmmu.engine.steps import Column

ROWS = 1 << 15
"""Machines expanded at once."""

Visit = Callable[["Block", int, Cost], None]


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a schedule is to lead: states that break `name`, or, if given, to one of `states`.

    Attributes:
        name: the property.
        states: fingerprints of states; what no single state shows (a deadlock) is given so.
    """

    name: str
    states: Column | None = None


@dataclass(slots=True)
class Part:
    """Nodes that cost the same: machines (lanes, n), fps (n,), who moved last, parent, bug."""

    lanes: Lanes
    fps: Column
    last: NDArray[np.uint8]
    parents: NDArray[np.int64]
    bugs: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to.

    Attributes:
        choices: contexts from the start to the goal; None if none was found.
        cost: theirs.
        nodes: how many pairs of a state and a last context were looked at.
        complete: there is no cheaper way (or none at all below the bound).
    """

    choices: tuple[int, ...] | None
    cost: Cost
    nodes: int
    complete: bool


class Cheapest:
    """One search.

    Attributes:
        nodes: how many pairs of a state and a last context were looked at so far.
    """

    def __init__(
        self, kernel: Kernel, goal: Goal, start: Block | None = None, last: int | None = None
    ) -> None:
        """Search from `start`, one machine, where `last` moved last (None: nobody did)."""
        self._kernel, self._goal = kernel, goal
        self._expander, self._judge = Expander(kernel), Judge(kernel)
        self._nobody = len(kernel.automata)
        self._keys = key_table("who moved last", self._nobody + 1)
        self._bugs: list[str] = [""]
        self._visited = Fingerprints()
        self._queue: dict[Cost, list[Part]] = {}
        self._heap: list[Cost] = []
        self._parents: list[NDArray[np.int64]] = []
        self._lasts: list[NDArray[np.uint8]] = []
        self.nodes = 0
        block = start if start is not None else kernel.initial()
        self._put(
            Cost(0, 0, 0),
            Part(
                block.lanes,
                block.fps,
                np.array([self._nobody if last is None else last], dtype=np.uint8),
                np.array([-1]),
                np.array([self._bug_at_start(start)], dtype=np.uint8),
            ),
        )

    def _bug_at_start(self, start: Block | None) -> int:
        begins = [a.positions[0].bug for a in self._kernel.automata if a.positions[0].bug]
        return self._number(sorted(begins)[0]) if begins and start is None else 0

    def run(self, most: int, below: Cost | None = None, visit: Visit | None = None) -> Found:
        """Search until the goal, `most` nodes, or a cost that is not `below`.

        `visit` is told of all nodes, some at a time, with the number of the first of them and
        what they cost.
        """
        while self._heap:
            now = heapq.heappop(self._heap)
            if below is not None and now >= below:
                return Found(None, now, self.nodes, complete=True)
            part = self._new(self._joined(self._queue.pop(now)))
            if not part.fps.size:
                continue
            first = self.nodes
            self.nodes += part.fps.size
            self._parents.append(part.parents)
            self._lasts.append(part.last)
            if visit is not None:
                visit(Block(part.lanes, part.fps), first, now)
            goal, alive = self._look(part)
            if goal is not None:
                return Found(self.way(first + goal), now, self.nodes, complete=True)
            if self.nodes > most:
                return Found(None, now, self.nodes, complete=False)
            for begin in range(0, part.fps.size, ROWS):
                self._expand(now, part, alive, begin, first)
        return Found(None, Cost(0, 0, 0), self.nodes, complete=True)

    def _new(self, part: Part) -> Part:
        """Keep of the nodes those not seen at a lower cost, each once."""
        fps = part.fps ^ self._keys[part.last]
        order, distinct = first_of_each(fps)
        return _take(part, np.sort(order[self._visited.add(distinct)]))

    def _look(self, part: Part) -> tuple[int | None, NDArray[np.bool_]]:
        """Return the first node at the goal, and which nodes can go on."""
        alive = part.bugs == 0
        goal = np.zeros(part.fps.size, dtype=np.bool_)
        for name, rows in self._judge.look(Block(part.lanes, part.fps)):
            alive[rows] = False
            goal[rows] |= name == self._goal.name
        if self._goal.name in self._bugs[1:]:
            goal |= part.bugs == self._bugs.index(self._goal.name)
        if self._goal.states is not None:
            goal = np.isin(part.fps, self._goal.states) & alive
        at = np.flatnonzero(goal)
        return (int(at[0]) if at.size else None), alive

    def _expand(
        self, now: Cost, part: Part, alive: NDArray[np.bool_], begin: int, first: int
    ) -> None:
        rows = begin + np.flatnonzero(alive[begin : begin + ROWS])
        if not rows.size:
            return
        while True:
            block = Block(part.lanes.take(rows, axis=1), part.fps.take(rows))
            try:
                successors = self._expander.successors(block)
                break
            except Grown:
                self._repack(part)
        lasts = part.last[rows]
        same = successors.contexts == lasts[successors.rows]
        could = np.zeros(rows.size, dtype=np.bool_)
        could[successors.rows[same]] = True
        preempts = could[successors.rows] & ~same
        same |= lasts[successors.rows] == self._nobody
        choices = now.choices + 1
        switches, preemptions = now.switches, now.preemptions
        ways = (
            (same, Cost(switches, preemptions, choices)),
            (~same & ~preempts, Cost(switches + 1, preemptions, choices)),
            (~same & preempts, Cost(switches + 1, preemptions + 1, choices)),
        )
        bugs = self._bugs_of(successors)
        for which, cost in ways:
            chosen = np.flatnonzero(which)
            if chosen.size:
                parents = rows[successors.rows[chosen]]
                lanes = successors.made(block.lanes, chosen)
                each = Part(
                    lanes,
                    successors.fps[chosen],
                    successors.contexts[chosen],
                    parents + first,
                    bugs[chosen],
                )
                self._put(cost, each)

    def _bugs_of(self, successors: Successors) -> NDArray[np.uint8]:
        bugs = np.zeros(len(successors), dtype=np.uint8)
        for bug, low, high in successors.bugs:
            bugs[low:high] = self._number(bug)
        return bugs

    def _number(self, bug: str) -> int:
        if bug not in self._bugs:
            self._bugs.append(bug)
        return self._bugs.index(bug)

    def _put(self, cost: Cost, part: Part) -> None:
        if cost not in self._queue:
            self._queue[cost] = []
            heapq.heappush(self._heap, cost)
        self._queue[cost].append(part)

    def _joined(self, parts: list[Part]) -> Part:
        if len(parts) == 1:
            return parts[0]
        return Part(
            np.concatenate([p.lanes for p in parts], axis=1),
            np.concatenate([p.fps for p in parts]),
            np.concatenate([p.last for p in parts]),
            np.concatenate([p.parents for p in parts]),
            np.concatenate([p.bugs for p in parts]),
        )

    def _repack(self, part: Part) -> None:
        layout = self._kernel.layout
        before = layout.grow()
        for each in (part, *(p for parts in self._queue.values() for p in parts)):
            each.lanes = layout.repack(before, each.lanes)

    def way(self, node: int) -> tuple[int, ...]:
        """Return the contexts that moved on the way to a node."""
        starts = np.cumsum([0, *(p.shape[0] for p in self._parents)])
        choices: list[int] = []
        while True:
            at = int(np.searchsorted(starts, node, side="right")) - 1
            parent = int(self._parents[at][node - starts[at]])
            if parent < 0:
                return tuple(choices[::-1])
            choices.append(int(self._lasts[at][node - starts[at]]))
            node = parent


def _take(part: Part, rows: NDArray[np.int64]) -> Part:
    return Part(
        part.lanes.take(rows, axis=1),
        part.fps[rows],
        part.last[rows],
        part.parents[rows],
        part.bugs[rows],
    )


def states_along(kernel: Kernel, choices: Sequence[int]) -> list[Block]:
    """Return the state before each of `choices`, and the last one, in today's layout."""
    expander = Expander(kernel)
    blocks = [kernel.initial()]
    for choice in choices:
        while True:
            try:
                moves = expander.successors(blocks[-1])
                break
            except Grown:
                before = kernel.layout.grow()
                blocks = [Block(kernel.layout.repack(before, b.lanes), b.fps) for b in blocks]
        at = np.flatnonzero(moves.contexts == choice)
        blocks.append(Block(moves.made(blocks[-1].lanes, at), moves.fps.take(at)))
    return blocks
