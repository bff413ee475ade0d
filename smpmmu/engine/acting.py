"""One machine in the middle of an action, on integers, and which of its bits were looked at.

It must not know what is done with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smpmmu.engine.steps import TAKEN, enabled, taken

if TYPE_CHECKING:
    from smpmmu.engine.automaton import Automaton
    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.changes import Changes
    from smpmmu.engine.layout import Field
    from smpmmu.engine.steps import Step, Word


@dataclass(slots=True)
class Pending:
    """A step that is pending somewhere, and what it does, by the value of its word.

    Attributes:
        lane, shift, mask: where the word lies; the mask is 0 where nothing is to be looked at.
        ways: what changes in the lane and in the fingerprint, and the position that it leads to;
            None where it waits.
    """

    index: int
    step: Step
    place: Field | None
    lane: int = 0
    shift: int = 0
    mask: int = 0
    ways: dict[int, tuple[int, int, int] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.place is not None:
            self.lane, self.shift, self.mask = self.place.lane, self.place.shift, self.place.mask


class Actions:
    """Works out single steps, each once for every value."""

    def __init__(self, kernel: Kernel, changes: Changes) -> None:
        """Know of none yet."""
        self._kernel = kernel
        self._changes = changes
        self._fields = kernel.layout.fields
        self._pending: list[dict[int, Pending]] = [{} for _ in kernel.automata]

    def pending(self, context: int, index: int) -> Pending:
        """Return the step pending at a position."""
        found = self._pending[context].get(index)
        if found is None:
            step = self._kernel.automata[context].positions[index].step
            assert step is not None
            place = None if step.word is None else self._fields.get(step.word.name)
            found = self._pending[context][index] = Pending(index, step, place)
        return found

    def way(self, automaton: Automaton, pending: Pending, value: int) -> None:
        """Work out what a step does where its word lies in the machine and has that value.

        Raises:
            Grown: it is written for the first time.
            ModelError: modelled code broke a rule.
        """
        step, change, keys, result = pending.step, 0, 0, 0
        word, place, at = step.word, pending.place, value
        if word is not None:
            if place is None:
                if step.writes:
                    raise self._kernel.grown()
                at = word.initial
            if step.wait is not None and not enabled(step, at):
                pending.ways[value] = None
                return
            result = at & step.returns
            if step.when is not None and taken(step, at):
                result |= TAKEN
            if place is not None and step.writes and (step.when is None or result & TAKEN):
                change, keys = self._changes.one(step, place, at)
        after = self._kernel.follow(automaton, pending.index, result)
        pending.ways[value] = (change, keys, after)


class Action:
    """One machine, as an integer for each column, in the middle of an action.

    Attributes:
        keys: what has changed in the fingerprint so far.
        deltas: the same for each lane.
        seen: the bits that were looked at, of every column.
    """

    def __init__(self, kernel: Kernel, values: list[int], clashing: int) -> None:
        """Begin with `values`: lanes, so many columns of clashes, and of words read by others."""
        self._kernel = kernel
        self._words_at = kernel.layout.lanes + clashing
        self._fields = kernel.layout.fields
        self._values = values
        self._lanes = kernel.layout.lanes
        self.deltas = [0] * self._lanes
        self.keys = 0
        self.seen = [0] * len(values)

    def clashing(self, number: int) -> bool:
        """Whether something clashes with a candidate."""
        return self._bit(self._lanes + (number >> 6), number & 63)

    def read_elsewhere(self, number: int) -> bool:
        """Whether another context may yet read a word."""
        return self._bit(self._words_at + (number >> 6), number & 63)

    def _bit(self, column: int, bit: int) -> bool:
        self.seen[column] |= 1 << bit
        return bool(self._values[column] >> bit & 1)

    def value(self, word: Word) -> int:
        """Return the present value of a word."""
        place = self._fields.get(word.name)
        return word.initial if place is None else self._read(place)

    def _read(self, place: Field) -> int:
        self.seen[place.lane] |= place.mask << place.shift
        return (self._values[place.lane] ^ self.deltas[place.lane]) >> place.shift & place.mask

    def take(self, actions: Actions, automaton: Automaton, pending: Pending) -> int | None:
        """Take a step and return the position that it leads to; None if it waits."""
        lane, mask = pending.lane, pending.mask << pending.shift
        self.seen[lane] |= mask
        value = ((self._values[lane] ^ self.deltas[lane]) & mask) >> pending.shift
        if value not in pending.ways:
            actions.way(automaton, pending, value)
        way = pending.ways[value]
        if way is None:
            return None
        change, keys, after = way
        self.deltas[lane] ^= change
        self.keys ^= keys
        return after

    def put_back(self, word: Word) -> bool:
        """Give a word its first value; return whether it had another."""
        place = self._fields.get(word.name)
        value = word.initial if place is None else self._read(place)
        if place is None or value == word.initial:
            return False
        self.deltas[place.lane] ^= (value ^ word.initial) << place.shift
        self.keys ^= self._kernel.keys.one(word, value) ^ self._kernel.keys.one(word, word.initial)
        return True

    def move(self, context: int, before: int, after: int) -> None:
        """Move a context from one resting position to another."""
        if before == after:
            return
        place = self._kernel.place(context)
        if place is None or max(before, after) > place.mask:
            raise self._kernel.grown()
        self.deltas[place.lane] ^= (before ^ after) << place.shift
        self.keys ^= self._kernel.keys.move(context, before, after)
