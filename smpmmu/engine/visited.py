"""The set of fingerprints already seen, and the removal of duplicates from new ones.

It must not know what a fingerprint stands for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.steps import Column, Mask

FULLEST = 0.7
"""Share of the slots in use at which the table grows."""
GROWTH = 1.6
ZERO = np.uint64(1 << 63)
ONE_BY_ONE = 128
"""Fingerprints up to which a look at the table costs less than a round of array operations."""


def first_of_each(fps: Column) -> tuple[NDArray[np.int64], Column]:
    """Return where each distinct fingerprint of (n,) uint64 comes first, and it, both sorted by it.

    Sorting plain integers is several times faster than sorting indices, so the index rides in
    the low bits; the rare two fingerprints that agree in all the other bits are told apart after.
    """
    count = fps.shape[0]
    low = np.uint64((1 << count.bit_length()) - 1)
    keys = np.sort(fps & ~low | np.arange(count, dtype=np.uint64))
    order = (keys & low).view(np.int64)
    ordered = fps.take(order)
    same = ordered[1:] == ordered[:-1]
    if (((keys[1:] ^ keys[:-1]) <= low) & ~same).any():
        order = np.argsort(fps, kind="stable")
        ordered = fps.take(order)
        same = ordered[1:] == ordered[:-1]
    first = np.ones(count, dtype=np.bool_)
    np.logical_not(same, out=first[1:])
    return order[first], ordered[first]


class Fingerprints:
    """An open-addressing table of 64-bit fingerprints, probed a whole column at a time.

    A slot is the fingerprint's high half scaled to the table, so that sorted columns walk memory
    in order. An empty slot is 0, so a fingerprint of 0 is kept as another one.
    """

    def __init__(self, slots: int = 1 << 10) -> None:
        """Begin empty."""
        self._table = np.zeros(slots, dtype=np.uint64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self._table.nbytes

    def keys(self) -> Column:
        """Return all fingerprints, (n,) uint64."""
        keys: Column = self._table[self._table != 0]
        return keys

    def add(self, fps: Column) -> Mask:
        """Add distinct fingerprints (n,) uint64, best sorted; say which of them are new."""
        needed = (self._count + fps.shape[0]) / FULLEST
        if needed > self._table.shape[0]:
            old = self._table[self._table != 0]
            self._table = np.zeros(int(max(needed, self._table.shape[0] * GROWTH)), dtype=np.uint64)
            self._insert(old)
        new = self._insert(fps if fps.all() else np.where(fps == 0, ZERO, fps))
        self._count += int(np.count_nonzero(new))
        return new

    def _insert(self, fps: Column) -> Mask:
        table, size = self._table, np.uint64(self._table.shape[0])
        new = np.zeros(fps.shape[0], dtype=np.bool_)
        which = np.arange(fps.shape[0])
        slots = ((fps >> np.uint64(32)) * size >> np.uint64(32)).view(np.int64)
        while which.size > ONE_BY_ONE:
            found = table.take(slots)
            settled = found == fps
            free = np.flatnonzero(found == 0)
            if free.size:
                claimed, keys = slots[free], fps[free]
                table[claimed] = keys
                won = free[table.take(claimed) == keys]
                new[which[won]] = True
                settled[won] = True
            left = np.flatnonzero(~settled)
            which, fps = which[left], fps[left]
            slots = slots[left] + 1
            slots[slots == table.shape[0]] = 0
        self._insert_few(which.tolist(), fps.tolist(), slots.tolist(), new)
        return new

    def _insert_few(self, which: list[int], fps: list[int], slots: list[int], new: Mask) -> None:
        """Insert each of `fps` at its slot or after it; where it was free, so is `new[which]`."""
        table, last = self._table, self._table.shape[0] - 1
        for number, fp, first in zip(which, fps, slots, strict=True):
            slot = first
            while (found := table.item(slot)) not in (0, fp):
                slot = slot + 1 if slot < last else 0
            if not found:
                table[slot] = fp
                new[number] = True
