"""One machine in the middle of an action, on integers, and which of its bits were looked at.

It must not know what is done with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.steps import TAKEN, enabled, taken

if TYPE_CHECKING:
    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.changes import Changes
    from smpmmu.engine.layout import Field
    from smpmmu.engine.steps import Step, Word


class Action:
    """One machine, as an integer for each column, in the middle of an action.

    Attributes:
        keys: what has changed in the fingerprint so far.
        deltas: the same for each lane.
        seen: the bits that were looked at, of every column.
    """

    def __init__(self, kernel: Kernel, changes: Changes, values: list[int], clashing: int) -> None:
        """Begin with `values`: lanes, so many columns of clashes, and of words read by others."""
        self._kernel = kernel
        self._changes = changes
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

    def take(self, step: Step) -> int | None:
        """Take a step and return its result; None if it waits."""
        word = step.word
        if word is None:
            return 0
        place = self._fields.get(word.name)
        if place is None and step.writes:
            raise self._kernel.grown()
        value = word.initial if place is None else self._read(place)
        if step.wait is not None and not enabled(step, value):
            return None
        result = value & step.returns
        if step.when is not None and taken(step, value):
            result |= TAKEN
        if place is not None and step.writes and (step.when is None or result & TAKEN):
            change, keys = self._changes.one(step, place, value)
            self.deltas[place.lane] ^= change
            self.keys ^= keys
        return result

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
