"""Successors from memory: what an action does depends on few bits of the machine.

For every context and position it is learnt which bits those are: of the lanes, of what clashes, of
what others may still read. An action is worked out once for each value of these bits, on integers,
and is a look-up after that, for all machines at once, wherever its context stands. A value stands
for its bits by a hash of 64 bits. This module must not know about frontiers or verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.acting import Action
from smpmmu.engine.batch import LONGEST_CHAIN
from smpmmu.engine.changes import Changes
from smpmmu.engine.numbers import key_table
from smpmmu.engine.program import Role
from smpmmu.engine.steps import enabled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.candidates import Tables as Rules
    from smpmmu.engine.layout import Lanes
    from smpmmu.engine.reading import Block, Rows
    from smpmmu.engine.reduction import Reduction
    from smpmmu.engine.steps import Column, Mask

    Tables = tuple[NDArray[np.int32], Column, Mask, NDArray[np.uint16], Lanes]

ODD = np.uint64(0x9E3779B97F4A7C15)
HALF = np.uint64(32)
DISABLED = -1
MOST = 1 << 18
"""Values remembered of one context before all are forgotten."""
SLOW_AFTER, SLOW_SHARE = 1 << 15, 0.1
"""Values worked out, and their share of the look-ups, from which looking up does not pay."""


@dataclass(slots=True)
class Outcome:
    """What one action does, and the bits that this was worked out from.

    Attributes:
        after: the automaton position that it leads to, or DISABLED.
        keys: what to exclusive-or into the fingerprint.
        deltas: the same for each lane.
        progress: the move can never be undone by later moves of this context.
        path: the resting positions that it comes by, the first and the last included.
        seen: the bits that were looked at, of every column.
    """

    after: int
    keys: int
    deltas: list[int]
    progress: bool
    path: tuple[int, ...]
    seen: list[int]


@dataclass(slots=True)
class Found:
    """The successors of some machines by one context.

    Attributes:
        rows: (n,) which machine each comes from.
        after: (n,) automaton positions.
        keys: (n,) uint64, what changes in the fingerprints.
        progress: (n,) bool.
        actions: (n,) uint16, how many each move is.
        deltas: for each lane, what changes in it, to be taken when asked for.
    """

    rows: Rows
    after: NDArray[np.int32]
    keys: Column
    progress: Mask
    actions: NDArray[np.uint16]
    deltas: list[Later]

    def part(self, rows: Rows) -> Found:
        """Return some of the successors."""
        deltas = [delta.part(rows) for delta in self.deltas]
        return Found(
            self.rows[rows],
            self.after[rows],
            self.keys[rows],
            self.progress[rows],
            self.actions[rows],
            deltas,
        )


@dataclass(slots=True)
class Later:
    """A column that is a look-up in a table, made only of the rows that are asked for."""

    table: Column
    which: Rows

    def take(self, rows: Rows) -> Column:
        """Return some of the column's values."""
        values: Column = self.table.take(self.which.take(rows))
        return values

    def part(self, rows: Rows) -> Later:
        """Return the column of some of the rows."""
        return Later(self.table, self.which.take(rows))


@dataclass(slots=True)
class Memory:
    """What is known of one context: by hash, rising, the outcome of each value.

    Attributes:
        masks: (columns, positions) uint64, the bits that matter where the context rests.
        salts: (positions,) uint64; another one once more bits turn out to matter.
    """

    masks: Lanes
    salts: Column
    hashes: Column = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    which: Rows = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    after: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    deltas: list[list[int]] = field(default_factory=list)
    progress: list[bool] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    paths: list[tuple[int, ...]] = field(default_factory=list)
    tables: Tables | None = None

    def forget(self, rests: set[int]) -> None:
        """Forget every outcome that came by one of these resting positions."""
        if rests:
            bad = np.array([not rests.isdisjoint(path) for path in self.paths], dtype=np.bool_)
            kept = np.flatnonzero(~bad.take(self.which))
            self.hashes, self.which = self.hashes.take(kept), self.which.take(kept)


class Recall:
    """Finds the successors that a reduction leaves.

    Attributes:
        slow: too much had to be worked out; looking up does not pay in this system.
        worked_out: values that were, each known by 64 bits from then on.
    """

    def __init__(self, kernel: Kernel, reduction: Reduction) -> None:
        """Remember nothing yet."""
        self._kernel = kernel
        self._reduction = reduction
        self.slow = False
        self._changes = Changes(kernel.keys)
        self.worked_out = self._looked_up = self._salted = 0
        self._fields: object = None
        self._columns = 0
        self._rules: Rules | None = None
        self._memories: list[Memory] = []

    def found(self, block: Block, masks: list[Mask | None]) -> list[Found]:
        """Return the successors by each context of the machines in its mask (None: in all).

        Raises:
            Grown: something was written for the first time; repack and call again.
            ModelError: modelled code broke a rule.
        """
        reduction = self._reduction
        self._agree(reduction.tables)
        others = reduction.read_by_others(block)
        return [
            self._by(block, context, mask, [*block.lanes, *reduction.clashing, *others[context]])
            for context, mask in enumerate(masks)
        ]

    def _agree(self, rules: Rules) -> None:
        """Forget what is wrong by now: all where columns are others, or what new tables change."""
        reduction, fields = self._reduction, self._kernel.layout.fields
        columns = self._kernel.layout.lanes + reduction.clashing.shape[0] + reduction.word_lanes
        full = any(len(memory.after) > MOST for memory in self._memories)
        same = self._fields is fields and self._columns == columns and not full
        if same and self._rules is not None and self._rules is not rules:
            for context, memory in enumerate(self._memories):
                memory.forget(_changed(self._rules, rules, context))
        elif not same:
            self._forget(columns)
        self._fields, self._columns, self._rules = fields, columns, rules

    def _forget(self, columns: int) -> None:
        self._memories = []
        for automaton in self._kernel.automata:
            rests = 2 * len(automaton.resting)
            masks = np.zeros((columns, rests), dtype=np.uint64)
            self._memories.append(Memory(masks, self._salts(rests)))

    def _salts(self, count: int) -> Column:
        """Return new salts; none is ever used twice."""
        self._salted += 1
        return key_table(f"salts {self._salted}", count).copy()

    def _by(self, block: Block, context: int, mask: Mask | None, columns: list[Column]) -> Found:
        kernel, memory = self._kernel, self._memories[context]
        rows = np.arange(len(block)) if mask is None else np.flatnonzero(mask)
        rests = kernel.rests(block, context)
        at = np.zeros(rows.size, np.int64) if rests is None else rests.view(np.int64).take(rows)
        able = self._may(block, context, rows, at)
        rows, at = rows.take(able), at.take(able)
        which = np.empty(rows.size, dtype=np.intp)
        open_ = np.arange(rows.size)
        while open_.size:
            memory = self._roomy(context)
            hashes = _hashes(memory, columns, rows.take(open_), at.take(open_))
            places = np.searchsorted(memory.hashes, hashes)
            places[places == memory.hashes.size] = 0
            hit = memory.hashes.take(places) == hashes if memory.hashes.size else places > 0
            which[open_[hit]] = memory.which.take(places[hit])
            missed = np.flatnonzero(~hit)
            open_ = open_.take(missed)
            if open_.size:
                new, first = np.unique(hashes.take(missed), return_index=True)
                machines = open_.take(first)
                self._learn(context, columns, new, rows.take(machines), at.take(machines))
        self._looked_up += rows.size
        after, keys, progress, actions, deltas = _tables(memory, kernel.layout.lanes)
        leads = after.take(which)
        moved = np.flatnonzero(leads != DISABLED)
        which = which.take(moved)
        return Found(
            rows.take(moved),
            leads.take(moved),
            keys.take(which),
            progress.take(which),
            actions.take(which),
            [Later(table, which) for table in deltas],
        )

    def _may(self, block: Block, context: int, rows: Rows, at: Rows) -> Rows:
        """Return the numbers of the `rows` in which the context is not simply idle or ended."""
        kernel = self._kernel
        automaton = kernel.automata[context]
        if automaton.context.role is Role.MAIN:
            return np.flatnonzero(~kernel.table(context, "ended").take(at))
        if automaton.context.role is Role.DAEMON:
            return np.arange(rows.size)
        step = automaton.positions[0].step
        assert step is not None
        assert step.word is not None
        values = kernel.word(block, step.word)
        if isinstance(values, int):
            return np.flatnonzero(at != 0) if not enabled(step, values) else np.arange(rows.size)
        return np.flatnonzero((at != 0) | enabled(step, values.take(rows)))

    def _roomy(self, context: int) -> Memory:
        """Return the memory of a context, with room for all its positions."""
        memory = self._memories[context]
        more = len(self._kernel.automata[context].resting) - memory.salts.size
        if more > 0:
            more += memory.salts.size
            memory.masks = np.pad(memory.masks, ((0, 0), (0, more)))
            memory.salts = np.concatenate([memory.salts, self._salts(more)])
        return memory

    def _learn(
        self, context: int, columns: list[Column], hashes: Column, rows: Rows, at: Rows
    ) -> None:
        """Work out what happens in machines of new hashes, one each."""
        memory, automaton = self._memories[context], self._kernel.automata[context]
        widened: set[int] = set()
        learnt, places = [], []
        for number, (row, rest) in enumerate(zip(rows.tolist(), at.tolist(), strict=True)):
            if rest in widened:
                continue
            values = [int(column[row]) for column in columns]
            outcome = self._work_out(context, automaton.resting[rest], values)
            self.worked_out += 1
            known = memory.masks[:, rest].tolist()
            if any(seen & ~mask for seen, mask in zip(outcome.seen, known, strict=True)):
                both = [seen | mask for seen, mask in zip(outcome.seen, known, strict=True)]
                memory.masks[:, rest] = np.array(both, dtype=np.uint64)
                memory.salts[rest] = self._salts(1)[0]
                widened.add(rest)
                continue
            learnt.append(number)
            places.append(len(memory.after))
            memory.after.append(outcome.after)
            memory.keys.append(outcome.keys)
            memory.deltas.append(outcome.deltas)
            memory.progress.append(outcome.progress)
            memory.actions.append(len(outcome.path) - 1)
            memory.paths.append(outcome.path)
        if learnt:
            every = np.concatenate([memory.hashes, hashes.take(learnt)])
            order = np.argsort(every)
            memory.hashes = every.take(order)
            memory.which = np.concatenate([memory.which, places]).take(order)
            memory.tables = None
        enough = self.worked_out > SLOW_AFTER
        self.slow = self.slow or (enough and self.worked_out > SLOW_SHARE * self._looked_up)

    def _work_out(self, context: int, start: int, values: list[int]) -> Outcome:
        """Take the action that begins at position `start` in a machine of these columns."""
        action = Action(self._kernel, self._changes, values, self._reduction.clashing.shape[0])
        automaton = self._kernel.automata[context]
        reduction = self._reduction
        index, length, at = start, 0, automaton.positions[start].rest
        via: list[int] = []
        while True:
            step = automaton.positions[index].step
            assert step is not None
            automaton.check_length(length)
            result = action.take(step)
            if result is None:
                return Outcome(
                    DISABLED, 0, action.deltas, progress=False, path=(at,), seen=action.seen
                )
            index = self._kernel.follow(automaton, index, result)
            length += 1
            if automaton.positions[index].mid:
                continue
            if len(via) == LONGEST_CHAIN or not reduction.goes_on(context, index, action):
                break
            via.append(index)
            length = 0
        reduction.put_back(context, (start, *via), index, action)
        path = tuple(automaton.positions[each].rest for each in (start, *via, index))
        action.move(context, at, path[-1])
        progress = automaton.progress(start, index)
        return Outcome(index, action.keys, action.deltas, progress, path, action.seen)


def _changed(before: Rules, after: Rules, context: int) -> set[int]:
    """Return the resting positions of a context by which actions may now be other ones."""
    known = before.choices[context].shape[0] - 1
    other = np.zeros(known, dtype=np.bool_)
    for old, new in ((before.choices, after.choices), (before.guarded, after.guarded)):
        other |= old[context][:known] != new[context][:known]
    changed = set(np.flatnonzero(other).tolist())
    for sets, more in ((before.live, after.live), (before.written, after.written)):
        both = zip(sets[context], more[context], strict=False)
        changed |= {rest for rest, (old, new) in enumerate(both) if old != new}
    return changed | set(range(known, after.choices[context].shape[0] - 1))


def _hashes(memory: Memory, columns: list[Column], rows: Rows, at: Rows) -> Column:
    """Return (n,) uint64: a hash of the bits that matter where the context rests."""
    hashes = memory.salts.take(at)
    for column, mask in zip(columns, memory.masks, strict=True):
        if mask.any():
            hashes += column.take(rows) & mask.take(at)
            hashes *= ODD
            hashes ^= hashes >> HALF
    return hashes


def _tables(memory: Memory, lanes: int) -> Tables:
    """Return what is known as arrays."""
    if memory.tables is None:
        deltas = np.array(memory.deltas, dtype=np.uint64).reshape(-1, lanes).T
        memory.tables = (
            np.array(memory.after, dtype=np.int32),
            np.array(memory.keys, dtype=np.uint64),
            np.array(memory.progress, dtype=np.bool_),
            np.array(memory.actions, dtype=np.uint16),
            np.ascontiguousarray(deltas),
        )
    return memory.tables
