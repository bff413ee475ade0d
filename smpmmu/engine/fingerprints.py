"""Fingerprint keys: 64 random bits for every value of every word and every position (Zobrist).

The fingerprint of a machine is the exclusive-or of its keys, so that a step changes it by two
look-ups, and two given machines share one with probability 2^-64. A word's initial value and a
context's first position have the key 0: what nobody has touched does not count, wherever it lies.
This module must not know layouts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.numbers import key_table

if TYPE_CHECKING:
    from smpmmu.engine.steps import Column, Word

WIDEST_TABLE = 12
"""Bits of a word that one table serves."""
CHUNK = 8
"""Bits of a wider word that each of its tables serves."""


class Keys:
    """The keys of one system, made as they are asked for."""

    def __init__(self) -> None:
        """Begin with none."""
        self._tables: dict[str, list[tuple[int, int, Column]]] = {}
        self._positions: dict[int, list[int]] = {}

    def word(self, word: Word, values: Column) -> Column:
        """Return the keys of a word's (n,) values."""
        tables = self._tables_of(word)
        indices = values.view(np.int64)
        result: Column
        if len(tables) == 1:
            result = tables[0][2].take(indices)
            return result
        result = np.zeros(values.shape, dtype=np.uint64)
        for shift, mask, table in tables:
            result ^= table.take(indices >> shift & mask)
        return result

    def one(self, word: Word, value: int) -> int:
        """Return the key of one value of a word."""
        key = 0
        for shift, mask, table in self._tables_of(word):
            key ^= int(table[value >> shift & mask])
        return key

    def _tables_of(self, word: Word) -> list[tuple[int, int, Column]]:
        tables = self._tables.get(word.name)
        if tables is None:
            tables = self._tables[word.name] = _tables(word)
        return tables

    def move(self, context: int, before: int, after: int) -> int:
        """Return what a context's move from one resting position to another changes."""
        keys = self._positions.setdefault(context, [0])
        if max(before, after) >= len(keys):
            table = key_table(f"position of {context}", 2 * max(before, after) + 2)
            keys[:] = (table ^ table[0]).tolist()
        return keys[before] ^ keys[after]


def _tables(word: Word) -> list[tuple[int, int, Column]]:
    """Return (shift, mask, keys) for each part of a word; its initial value hashes to 0."""
    tables = []
    size = word.width if word.width <= WIDEST_TABLE else CHUNK
    for shift in range(0, word.width, size):
        bits = min(size, word.width - shift)
        mask = (1 << bits) - 1
        keys = key_table(f"{word.name}:{shift}", 1 << bits)
        tables.append((shift, mask, keys ^ keys[word.initial >> shift & mask]))
    return tables
