"""Dead words: those that no context can read any more, from where they all stand.

A move may kill a word: its context could read it before and cannot any more, or has written it and
nobody reads it. Where no other context can either, the word is put back to its first value. This
module must not know which moves are made.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smpmmu.engine.acting import Action
    from smpmmu.engine.batch import Emission, Kernel
    from smpmmu.engine.candidates import Maker, Tables
    from smpmmu.engine.reading import Block, Rows
    from smpmmu.engine.steps import Column, Mask, Word

    Places = list[Rows | int]


class DeadWords:
    """Puts words back, and remembers which.

    Attributes:
        reset: a bit for each word that was ever put back.
    """

    def __init__(self, kernel: Kernel, maker: Maker) -> None:
        """Number the words as `maker` does."""
        self._kernel = kernel
        self._maker = maker
        self.reset = 0

    def look_up(self, tables: Tables) -> None:
        """Decide by these tables from now on."""
        self._tables = tables
        self._dying_by: dict[tuple[int, ...], list[tuple[Word, list[int]]]] = {}
        self._live_tables: dict[tuple[int, int], Mask] = {}
        self._live_lanes: dict[tuple[int, int], Column] = {}

    def view(self) -> DeadWords:
        """Return one that decides by the same tables, and notes apart what it puts back."""
        view = copy(self)
        view.reset = 0
        return view

    @property
    def lanes(self) -> int:
        """Columns of 64 bits that a bit for each word needs."""
        return (len(self._maker.words) + 63) // 64

    def forget(self, block: Block, emission: Emission, at: Places) -> Emission:
        """Put back the words that have died with a move; `at` is where every context stands."""
        starts = (emission.before, *emission.via)
        for word, readers in self._dying(emission.context, starts, emission.after):
            emission = self._put_back(block, emission, word, [(c, at[c]) for c in readers])
        return emission

    def put_back(self, context: int, starts: tuple[int, ...], after: int, action: Action) -> None:
        """Do for one machine what `forget` does for many."""
        for word, _ in self._dying(context, starts, after):
            number = self._maker.numbers[word.name]
            if not action.read_elsewhere(number) and action.put_back(word):
                self.reset |= 1 << number

    def _dying(
        self, context: int, begun: tuple[int, ...], end: int
    ) -> list[tuple[Word, list[int]]]:
        """Return the words that may die with a move, and who may read them yet."""
        tables = self._tables
        positions = self._kernel.automata[context].positions
        after = positions[end].rest
        key = (context, *begun, after)
        found = self._dying_by.get(key)
        if found is None:
            starts = [positions[index].rest for index in begun]
            if max(*starts, after) >= len(tables.live[context]):
                return []
            dying = tables.live[context][starts[0]]
            for start in starts:
                dying |= tables.written[context][start]
            dying &= ~tables.live[context][after] & ~self._maker.always_live
            dying &= (1 << len(self._maker.words)) - 1
            found = []
            for number in members(dying):
                word = self._maker.words[number]
                readers = [
                    c for c, live in enumerate(tables.live)
                    if c != context and any(positions >> number & 1 for positions in live)
                ]  # fmt: skip
                found.append((word, readers))
            self._dying_by[key] = found
        return found

    def _put_back(
        self, block: Block, emission: Emission, word: Word, readers: list[tuple[int, Rows | int]]
    ) -> Emission:
        field = self._kernel.layout.fields.get(word.name)
        if field is None:
            return emission
        rows, delta = emission.rows, emission.deltas[field.lane]
        values = ((block.lanes[field.lane].take(rows) ^ delta) >> field.shift) & field.mask
        dead = values != word.initial
        number = self._maker.numbers[word.name]
        for context, at in readers:
            if not np.count_nonzero(dead):
                return emission
            here = at if isinstance(at, int) else at[rows]
            dead &= ~self._live_table(context, number)[here]
        if not dead.any():
            return emission
        self.reset |= 1 << number
        keys = self._kernel.keys
        old = values[dead]
        fps = emission.fps.copy()
        first = np.full(old.shape, word.initial, dtype=np.uint64)
        fps[dead] ^= keys.word(word, old) ^ keys.word(word, first)
        change = np.zeros(rows.shape, dtype=np.uint64)
        change[dead] = (old ^ np.uint64(word.initial)) << np.uint64(field.shift)
        deltas = emission.deltas.copy()
        deltas[field.lane] = delta ^ change
        emission.fps, emission.deltas = fps, deltas
        return emission

    def read_by_others(self, states: int, at: Places) -> list[list[Column]]:
        """Return, for each context, which words any other may yet read: columns of 64 bits."""
        contexts = len(self._tables.live)
        result: list[list[Column]] = [[] for _ in range(contexts)]
        for lane in range(self.lanes):
            live = [
                np.broadcast_to(self._live_lane(context, lane)[at[context]], states)
                for context in range(contexts)
            ]
            before = [np.zeros(states, dtype=np.uint64)]
            for column in live[:-1]:
                before.append(before[-1] | column)
            behind = np.zeros(states, dtype=np.uint64)
            for context in range(contexts - 1, -1, -1):
                result[context].append(before[context] | behind)
                behind = behind | live[context]
        return result

    def _live_lane(self, context: int, lane: int) -> Column:
        """Return (positions + 1,) uint64: words that may yet be read; the last for unknown ones."""
        key = (context, lane)
        table = self._live_lanes.get(key)
        if table is None:
            live = [bits >> 64 * lane & (1 << 64) - 1 for bits in self._tables.live[context]]
            table = self._live_lanes[key] = np.array([*live, (1 << 64) - 1], dtype=np.uint64)
        return table

    def _live_table(self, context: int, number: int) -> Mask:
        """Return (positions + 1,) bool: a word may yet be read; the last is for unknown ones."""
        key = (context, number)
        table = self._live_tables.get(key)
        if table is None:
            live = [bool(bits >> number & 1) for bits in self._tables.live[context]]
            table = self._live_tables[key] = np.array([*live, True])
        return table


def members(bits: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set."""
    number = 0
    while bits >> number:
        if bits >> number & 1:
            yield number
        number += 1
