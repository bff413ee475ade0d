"""What is known of one context: by a hash of the bits that matter, what its action leads to.

An open-addressing table, looked into a whole column at a time. Nothing in it ever changes, so that
what was found stays good while more is put in. This module must not know what an action is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.layout import Lanes
    from smpmmu.engine.reading import Rows
    from smpmmu.engine.steps import Column, Mask

ODD = np.uint64(0x9E3779B97F4A7C15)
HALF = np.uint64(32)
SLOTS = 4
"""Slots for each outcome, at least; so most are found at the first look."""
FIRST = 1 << 8
"""Room for so many outcomes at the start."""


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


class Outcomes:
    """Outcomes by hash.

    Attributes:
        masks: (columns, positions) uint64, the bits that matter where the context rests.
        salts: (positions,) uint64; another one once more bits turn out to matter.
        after: (room,) int32, position that each outcome leads to, or DISABLED.
        keys: (room,) uint64, what it changes in the fingerprint.
        progress: (room,) bool, it is never undone.
        actions: (room,) uint16, how many it is.
        deltas: (lanes, room) uint64, what it changes in each lane.
    """

    def __init__(self, lanes: int, masks: Lanes, salts: Column) -> None:
        """Know no outcome yet. Number 0 is none: there is none in a slot that holds it."""
        self.masks, self.salts = masks, salts
        self._paths: list[tuple[int, ...]] = [()]
        self._hashes: Column = np.zeros(FIRST, dtype=np.uint64)
        self.after = np.zeros(FIRST, dtype=np.int32)
        self.keys: Column = np.zeros(FIRST, dtype=np.uint64)
        self.progress: Mask = np.zeros(FIRST, dtype=np.bool_)
        self.actions = np.zeros(FIRST, dtype=np.uint16)
        self.deltas: Lanes = np.zeros((lanes, FIRST), dtype=np.uint64)
        self._rebuild()

    def __len__(self) -> int:
        return len(self._paths) - 1

    def hashes(self, columns: list[Column], rows: Rows, at: Rows) -> Column:
        """Return (n,) uint64: a hash of the bits that matter where the context rests."""
        hashes = self.salts.take(at)
        for column, mask in zip(columns, self.masks, strict=True):
            if mask.any():
                hashes += column.take(rows) & mask.take(at)
                hashes *= ODD
                hashes ^= hashes >> HALF
        return hashes

    def find(self, hashes: Column) -> tuple[Rows, Rows]:
        """Return the number of each one's outcome, and which rows of `hashes` have none."""
        slots = self._first_slots(hashes)
        which = self._slots.take(slots).astype(np.intp)
        wrong = np.flatnonzero((self._hashes.take(which) != hashes) | (which == 0))
        missed = []
        while wrong.size:
            empty = which.take(wrong) == 0
            missed.append(wrong[empty])
            wrong = wrong[~empty]
            slots[wrong] = slots[wrong] + 1 & self._slots.size - 1
            which[wrong] = self._slots.take(slots[wrong])
            here = which[wrong]
            wrong = wrong[(self._hashes.take(here) != hashes[wrong]) | (here == 0)]
        return which, np.sort(np.concatenate(missed)) if missed else wrong

    def put(self, hashes: Column, outcomes: list[Outcome]) -> None:
        """Remember the outcomes of distinct hashes that have none yet."""
        low, high = len(self._paths), len(self._paths) + len(outcomes)
        while high > self._hashes.size:
            self._pick(np.arange(low), 2 * self._hashes.size)
        self._hashes[low:high] = hashes
        self.after[low:high] = [outcome.after for outcome in outcomes]
        self.keys[low:high] = np.array([outcome.keys for outcome in outcomes], dtype=np.uint64)
        self.progress[low:high] = [outcome.progress for outcome in outcomes]
        self.actions[low:high] = [len(outcome.path) - 1 for outcome in outcomes]
        deltas = np.array([outcome.deltas for outcome in outcomes], dtype=np.uint64)
        self.deltas[:, low:high] = deltas.reshape(len(outcomes), -1).T
        self._paths += [outcome.path for outcome in outcomes]
        if SLOTS * high > self._slots.size:
            self._rebuild()
        else:
            self._insert(np.arange(low, high))

    def forget(self, rests: set[int]) -> None:
        """Forget every outcome that came by one of these resting positions."""
        if rests:
            kept = [n for n, path in enumerate(self._paths) if rests.isdisjoint(path)]
            self._pick(np.array(kept), self._hashes.size)
            self._paths = [self._paths[number] for number in kept]
            self._rebuild()

    def _pick(self, kept: Rows, room: int) -> None:
        """Keep some of the outcomes, in new arrays."""
        more = (0, room - kept.size)
        self._hashes = np.pad(self._hashes[kept], more)
        self.after = np.pad(self.after[kept], more)
        self.keys = np.pad(self.keys[kept], more)
        self.progress = np.pad(self.progress[kept], more)
        self.actions = np.pad(self.actions[kept], more)
        self.deltas = np.pad(self.deltas[:, kept], ((0, 0), more))

    def _rebuild(self) -> None:
        bits = max(SLOTS * FIRST, SLOTS * len(self._paths)).bit_length()
        self._shift = np.uint64(64 - bits)
        self._slots: NDArray[np.int32] = np.zeros(1 << bits, dtype=np.int32)
        self._insert(np.arange(1, len(self._paths)))

    def _insert(self, numbers: Rows) -> None:
        slots = self._first_slots(self._hashes[numbers])
        while numbers.size:
            free = self._slots[slots] == 0
            self._slots[slots[free]] = numbers[free]
            again = self._slots[slots] != numbers
            numbers, slots = numbers[again], slots[again] + 1 & self._slots.size - 1

    def _first_slots(self, hashes: Column) -> Rows:
        slots: Rows = (hashes >> self._shift).view(np.int64)
        return slots
