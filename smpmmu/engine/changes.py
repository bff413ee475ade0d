"""What a step that writes changes in a machine and in its fingerprint, by the value of its word.

It must not know which machines have that value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from smpmmu.engine.steps import overflow, updated

if TYPE_CHECKING:
    from smpmmu.engine.fingerprints import Keys
    from smpmmu.engine.layout import Field
    from smpmmu.engine.steps import Column, Mask, Step

NARROW = 12
"""Bits of a word up to which what a step changes is looked up by its value."""

MOST = 1 << 16
"""Changes to single values that are remembered."""


class Changes:
    """The changes of all steps, worked out once where that pays."""

    def __init__(self, keys: Keys) -> None:
        """Know of none yet."""
        self._keys = keys
        self._known: dict[object, tuple[int, int]] = {}
        self._tables: dict[object, tuple[Column, Column, Mask]] = {}

    def one(self, step: Step, field: Field, value: int) -> tuple[Any, Any]:
        """Return what writing to a word of `value` changes in its lane and in the fingerprint.

        Raises:
            ModelError: the sum does not fit the word.
        """
        word = step.word
        assert word is not None
        which = (word.name, step.and_mask, step.xor_mask, step.add, field.shift, value)
        found = self._known.get(which)
        if found is None:
            new = updated(step, value)
            if new > word.mask:
                raise overflow(step, value)
            keys = self._keys.one(word, value) ^ self._keys.one(word, new)
            found = (value ^ new) << field.shift, keys
            if len(self._known) < MOST:
                self._known[which] = found
        return found

    def column(self, step: Step, field: Field, values: Column) -> tuple[Column, Column]:
        """Return the same for a column of values."""
        word = step.word
        assert word is not None
        if word.width > NARROW:
            new = updated(step, values)
            _check_fit(step, values, new > word.mask)
            keys = self._keys.word(word, values) ^ self._keys.word(word, new)
            return (values ^ new) << field.shift, keys
        which = (word.name, step.and_mask, step.xor_mask, step.add, field.shift)
        tables = self._tables.get(which)
        if tables is None:
            every = np.arange(1 << word.width, dtype=np.uint64)
            new = updated(step, every)
            wrong = new > word.mask
            new[wrong] = 0
            keys = self._keys.word(word, every) ^ self._keys.word(word, new)
            tables = self._tables[which] = ((every ^ new) << field.shift, keys, wrong)
        at = values.view(np.int64)
        if step.add:
            _check_fit(step, values, tables[2].take(at))
        return tables[0].take(at), tables[1].take(at)


def _check_fit(step: Step, values: Column, wrong: Mask) -> None:
    """Raise for the first of the `values` whose sum does not fit the word."""
    if wrong.any():
        raise overflow(step, int(values[wrong][0]))
