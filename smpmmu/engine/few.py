"""The successors of a few machines, one machine at a time.

A level of a small system has a few machines at each of many positions, where an array operation
costs as much as a hundred additions. So what a step does to a value is worked out once, on
integers, and is a look-up after that. This module must not know how many are few.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.moves import Successors
from smpmmu.engine.program import Role
from smpmmu.engine.steps import TAKEN, enabled, overflow, taken, updated

if TYPE_CHECKING:
    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.layout import Field, Lanes
    from smpmmu.engine.reading import Block
    from smpmmu.engine.steps import Step

MOST_OUTCOMES = 1 << 16
"""Outcomes remembered before all are forgotten."""


class Few:
    """The transition kernel for a few machines: each is one integer, all of its lanes in a row."""

    def __init__(self, kernel: Kernel) -> None:
        """Move the machines of `kernel`."""
        self._kernel = kernel
        daemons = [[n] for n, c in enumerate(kernel.system.contexts) if c.role is Role.DAEMON]
        self._stacks = [*kernel.stacks, *daemons]
        self._forget()

    def _forget(self) -> None:
        """Begin anew: the layout is another one, or too much is remembered."""
        self._fields = self._kernel.layout.fields
        self._starts: dict[tuple[int, int], _Steps] = {}
        self._turns: list[tuple[list[int], int, dict[int, list[_Steps]]]] = []
        for stack in self._stacks:
            places = [field for n in stack if (field := self._kernel.place(n)) is not None]
            self._turns.append((stack, sum(f.mask << _offset(f) for f in places), {}))
        self.outcomes = 0

    def successors(self, block: Block) -> Successors:
        """Return every successor of every machine; raises as `Expander.successors`."""
        if self._fields is not self._kernel.layout.fields or self.outcomes > MOST_OUTCOMES:
            self._forget()
        machines = _integers(block.lanes)
        found: defaultdict[_End, list[tuple[int, int, int]]] = defaultdict(list)
        for stack, mask, turns in self._turns:
            for row, machine in enumerate(machines):
                turn = turns.get(machine & mask)
                if turn is None:
                    turn = turns[machine & mask] = self._turn(stack, machine)
                for first in turn:
                    steps: _Steps | None = first
                    after, keys, end = machine, 0, None
                    while steps is not None:
                        outcome = steps[after >> steps.shift & steps.mask]
                        if outcome is None:
                            break
                        delta, key, steps, end = outcome
                        after ^= delta
                        keys ^= key
                    if end is not None:
                        found[end].append((row, machine ^ after, keys))
        return _side_by_side(block, found)

    def _turn(self, stack: list[int], machine: int) -> list[_Steps]:
        """Return the pending steps of those on one vCPU whom interrupts and handlers let go."""
        kernel, contexts = self._kernel, self._kernel.system.contexts
        at = {}
        for number in stack:
            place, automaton = kernel.place(number), kernel.automata[number]
            rest = 0 if place is None else machine >> _offset(place) & place.mask
            at[number] = automaton.positions[automaton.resting[rest]]
        active = [n for n in stack if at[n].index or contexts[n].role is Role.MAIN]
        top = active[-1] if active else stack[0]  # a vCPU without a program idles, and all may go
        turn = []
        for number in stack:
            if not active or contexts[number].role is Role.DAEMON:
                may = True
            elif number in active:
                may = number == top
            else:
                over_main = contexts[top].role is Role.MAIN
                higher = contexts[top].priority < contexts[number].priority
                may = at[top].open and (over_main or higher)
            if may and at[number].step is not None:
                turn.append(self._first(number, at[number].index))
        return turn

    def _first(self, context: int, start: int) -> _Steps:
        steps = self._starts.get((context, start))
        if steps is None:
            order = (context, self._kernel.automata[context].positions[start].rest)
            steps = self._starts[context, start] = _Steps(self, context, start, start, order)
        return steps

    # What a step does to a value, worked out once.

    def pending(self, context: int, index: int) -> tuple[Step, Field | None]:
        """Return the step pending at a position, and where its word lies."""
        step = self._kernel.automata[context].positions[index].step
        assert step is not None
        return step, None if step.word is None else self._fields.get(step.word.name)

    def outcome(self, steps: _Steps, value: int) -> _Outcome | None:
        """Return what a pending step does where its word has `value`; None if it waits."""
        self.outcomes += 1
        step, field, result = steps.step, steps.field, 0
        change = keys = 0
        if step.word is not None:
            if field is None:
                if step.writes:
                    raise self._kernel.grown()
                value = step.word.initial
            if step.wait is not None and not enabled(step, value):
                return None
            result = value & step.returns
            if step.when is None or taken(step, value):
                result |= TAKEN if step.when is not None else 0
                if field is not None and step.writes:
                    change, keys = self._written(step, field, value)
        after = steps.ends.get(result)
        if after is None:
            after = steps.ends[result] = self._after(steps, result)
        if isinstance(after, _Steps):
            return change, keys, after, None
        return change ^ after.change, keys ^ after.keys, None, after

    def _written(self, step: Step, field: Field, value: int) -> tuple[int, int]:
        """Return what a write changes in the machine and in its fingerprint."""
        assert step.word is not None
        new = updated(step, value)
        if new > step.word.mask:
            raise overflow(step, value)
        keys = self._kernel.keys
        return (value ^ new) << _offset(field), keys.one(step.word, value) ^ keys.one(
            step.word, new
        )

    def _after(self, steps: _Steps, result: int) -> _Steps | _End:
        """Return the next step of the same action, or where the action ends."""
        kernel, context, start = self._kernel, steps.context, steps.start
        automaton = kernel.automata[context]
        index = kernel.follow(automaton, steps.index, result)
        position = automaton.positions[index]
        if position.mid:  # those come after all that end here, the greatest result first
            automaton.check_length(len(steps.order) // 2)
            return _Steps(self, context, start, index, (*steps.order, 1, -result))
        before, rest = automaton.positions[start].rest, position.rest
        change = keys = 0
        if before != rest:
            place = kernel.place(context)
            if place is None or max(rest, before) > place.mask:
                raise kernel.grown()
            change = (before ^ rest) << _offset(place)
            keys = kernel.keys.move(context, before, rest)
        progress = automaton.progress(start, index)
        return _End((*steps.order, 0, result), context, progress, position.bug, change, keys)


class _Steps(dict[int, "_Outcome | None"]):
    """A pending step of one context: from the value of its word to the outcome, as asked for.

    Attributes:
        order: context, position, and what was read since, so that it sorts as the kernel emits.
        ends: where each result leads.
    """

    __slots__ = (
        "_few", "context", "ends", "field", "index", "mask", "order", "shift", "start", "step",
    )  # fmt: skip

    def __init__(
        self, few: Few, context: int, start: int, index: int, order: tuple[int, ...]
    ) -> None:
        """Know of no value yet; the action began at position `start` and is at `index`."""
        self._few = few
        self.context, self.start, self.index, self.order = context, start, index, order
        self.step, self.field = few.pending(context, index)
        self.shift = _offset(self.field) if self.field is not None else 0
        self.mask = self.field.mask if self.field is not None else 0
        self.ends: dict[int, _Steps | _End] = {}

    def __missing__(self, value: int) -> _Outcome | None:
        outcome = self[value] = self._few.outcome(self, value)
        return outcome


@dataclass(frozen=True, slots=True, eq=False)
class _End:
    """The end of an action: who moved from where to where, whatever it wrote on the way."""

    order: tuple[int, ...]
    context: int
    progress: bool
    bug: str
    change: int
    keys: int


_Outcome = tuple[int, int, _Steps | None, _End | None]
"""What to exclusive-or into the machine and its fingerprint; the action's next step, or its end."""


def _offset(field: Field) -> int:
    return field.lane * 64 + field.shift


def _integers(lanes: Lanes) -> list[int]:
    """Return machines, (lanes, n) uint64, as an integer each."""
    size = 8 * lanes.shape[0]
    data = lanes.T.astype("<u8", order="C").tobytes()
    return [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]


def _side_by_side(block: Block, found: dict[_End, list[tuple[int, int, int]]]) -> Successors:
    """Return what was found, (row, change, change of the fingerprint) for each end, in order."""
    contexts: list[int] = []
    progress: list[bool] = []
    moves: list[tuple[int, int, int]] = []
    bugs = []
    for end in sorted(found, key=lambda end: end.order):
        begin = len(moves)
        moves += found[end]
        contexts += [end.context] * len(found[end])
        progress += [end.progress] * len(found[end])
        if end.bug:
            bugs.append((end.bug, begin, len(moves)))
    rows = np.array([row for row, _, _ in moves], dtype=np.intp)
    fps = np.array([keys for _, _, keys in moves], dtype=np.uint64)
    fps ^= block.fps.take(rows)
    lanes = block.lanes.shape[0]
    changes = b"".join([change.to_bytes(8 * lanes, "little") for _, change, _ in moves])
    deltas = np.frombuffer(changes, dtype="<u8").reshape(rows.size, lanes).T
    return Successors(
        rows,
        np.array(contexts, dtype=np.uint8),
        np.array(progress, dtype=np.bool_),
        fps,
        deltas,
        bugs,
    )
