"""Successors from memory: what an action does depends on few bits of the machine.

For every context and position it is learnt which bits those are: of the lanes, of what clashes, of
what others may still read. An action is worked out once for each value of these bits, on integers,
and is a look-up after that, for all machines at once, wherever its context stands. A value stands
for its bits by a hash of 64 bits. This module must not know about frontiers or verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.acting import Action, Actions
from smpmmu.engine.batch import LONGEST_CHAIN
from smpmmu.engine.changes import Changes
from smpmmu.engine.numbers import key_table
from smpmmu.engine.outcomes import Outcome, Outcomes
from smpmmu.engine.program import Role

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.candidates import Tables as Rules
    from smpmmu.engine.reading import Block, Rows
    from smpmmu.engine.reduction import Reduction
    from smpmmu.engine.steps import Column, Mask

DISABLED = -1
MOST = 1 << 18
"""Values remembered of one context before all are forgotten."""
SLOW_AFTER, SLOW_SHARE = 1 << 15, 0.1
"""Values worked out, and their share of the look-ups, from which looking up does not pay."""


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
        self._actions = Actions(kernel, self._changes)
        self.worked_out = self._looked_up = self._salted = 0
        self._fields: object = None
        self._columns = 0
        self._rules: Rules | None = None
        self._memories: list[Outcomes] = []

    def found(self, block: Block, masks: list[Mask | None]) -> list[Found]:
        """Return the successors by each context of the machines in its mask (None: in all).

        Idle handlers that nobody waits for are in no mask.

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
        full = any(len(memory) > MOST for memory in self._memories)
        same = self._fields is fields and self._columns == columns and not full
        if same and self._rules is not None and self._rules is not rules:
            for context, memory in enumerate(self._memories):
                memory.forget(_changed(self._rules, rules, context))
        elif not same:
            self._forget(columns)
        self._fields, self._columns, self._rules = fields, columns, rules

    def _forget(self, columns: int) -> None:
        self._actions = Actions(self._kernel, self._changes)
        self._memories = []
        for automaton in self._kernel.automata:
            rests = 2 * len(automaton.resting)
            masks = np.zeros((columns, rests), dtype=np.uint64)
            self._memories.append(Outcomes(self._kernel.layout.lanes, masks, self._salts(rests)))

    def _salts(self, count: int) -> Column:
        """Return new salts; none is ever used twice."""
        self._salted += 1
        return key_table(f"salts {self._salted}", count).copy()

    def _by(self, block: Block, context: int, mask: Mask | None, columns: list[Column]) -> Found:
        kernel = self._kernel
        rows = np.arange(len(block)) if mask is None else np.flatnonzero(mask)
        rests = kernel.rests(block, context)
        at = np.zeros(rows.size, np.int64) if rests is None else rests.view(np.int64).take(rows)
        if kernel.automata[context].context.role is Role.MAIN:
            going = np.flatnonzero(~kernel.table(context, "ended").take(at))
            rows, at = rows.take(going), at.take(going)
        memory = self._roomy(context)
        hashes = memory.hashes(columns, rows, at)
        which, missed = memory.find(hashes)
        while missed.size:
            new, first = np.unique(hashes.take(missed), return_index=True)
            some = missed.take(first)
            widened = self._learn(context, columns, new, rows.take(some), at.take(some))
            memory = self._roomy(context)
            if widened:
                changed = missed[np.isin(at.take(missed), widened)]
                hashes[changed] = memory.hashes(columns, rows.take(changed), at.take(changed))
            which[missed], again = memory.find(hashes.take(missed))
            missed = missed.take(again)
        self._looked_up += rows.size
        leads = memory.after.take(which)
        moved = np.flatnonzero(leads != DISABLED)
        which = which.take(moved)
        return Found(
            rows.take(moved),
            leads.take(moved),
            memory.keys.take(which),
            memory.progress.take(which),
            memory.actions.take(which),
            [Later(table, which) for table in memory.deltas],
        )

    def _roomy(self, context: int) -> Outcomes:
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
    ) -> list[int]:
        """Work out what happens in machines of new hashes, one each.

        Where more bits turn out to matter than was known, hashes become others, and nothing is
        learnt for now; return those resting positions.
        """
        memory, automaton = self._memories[context], self._kernel.automata[context]
        widened: set[int] = set()
        learnt, outcomes = [], []
        masks = memory.masks.T.tolist()
        values = np.array([column.take(rows) for column in columns]).T.tolist()
        for number, rest in enumerate(at.tolist()):
            if rest in widened:
                continue
            outcome = self._work_out(context, automaton.resting[rest], values[number])
            self.worked_out += 1
            known = masks[rest]
            both = [seen | mask for seen, mask in zip(outcome.seen, known, strict=True)]
            if both != known:
                masks[rest] = both
                memory.masks[:, rest] = np.array(both, dtype=np.uint64)
                memory.salts[rest] = self._salts(1)[0]
                widened.add(rest)
            else:
                learnt.append(number)
                outcomes.append(outcome)
        if learnt:
            memory.put(hashes.take(learnt), outcomes)
        enough = self.worked_out > SLOW_AFTER
        self.slow = self.slow or (enough and self.worked_out > SLOW_SHARE * self._looked_up)
        return sorted(widened)

    def _work_out(self, context: int, start: int, values: list[int]) -> Outcome:
        """Take the action that begins at position `start` in a machine of these columns."""
        action = Action(self._kernel, values, self._reduction.clashing.shape[0])
        automaton = self._kernel.automata[context]
        reduction, actions = self._reduction, self._actions
        index, length, at = start, 0, automaton.positions[start].rest
        via: list[int] = []
        while True:
            automaton.check_length(length)
            after = action.take(actions, automaton, actions.pending(context, index))
            if after is None:
                return Outcome(
                    DISABLED, 0, action.deltas, progress=False, path=(at,), seen=action.seen
                )
            index = after
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
