"""The set of fingerprints already seen, and the removal of duplicates from new ones.

It must not know what a fingerprint stands for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from smpmmu.engine.steps import Column, Mask

FULLEST = 0.7
"""Share of the slots in use at which a table grows."""
GROWTH = 1.5
"""How much larger it becomes; so mostly there are 11 to 17 bytes of it for a fingerprint."""
LARGE, LARGE_GROWTH = 1 << 23, 1.3
"""Slots from which on a table grows by less, since the old one lies beside the new one."""
DIVIDE_AT = 1 << 22
"""Slots at which one table becomes several, each of which grows by itself."""
PARTS = 4
AT_ONCE = 1 << 16
"""Fingerprints looked for in one round: what is worked with then stays in the cache."""
ONE_BY_ONE = 128
"""Fingerprints up to which a look at the table costs less than a round of array operations."""
HALF = np.uint64(32)


def first_of_each(fps: Column) -> tuple[NDArray[np.int64], Column]:
    """Return where each distinct fingerprint of (n,) uint64 comes first, and it, both sorted by it.

    Sorting plain integers is several times faster than sorting indices, so the index rides in
    the low bits; the rare two fingerprints that agree in all the other bits are told apart after.
    """
    count = fps.shape[0]
    low = np.uint64((1 << count.bit_length()) - 1)
    keys = fps & ~low
    keys |= np.arange(count, dtype=np.uint64)
    keys.sort()
    order = (keys & low).view(np.int64)
    ordered = fps.take(order)
    same = ordered[1:] == ordered[:-1]
    keys |= low
    if np.count_nonzero(keys[1:] == keys[:-1]) != np.count_nonzero(same):
        order = np.argsort(fps, kind="stable")
        ordered = fps.take(order)
        same = ordered[1:] == ordered[:-1]
    first = np.ones(count, dtype=np.bool_)
    np.logical_not(same, out=first[1:])
    at = np.flatnonzero(first)
    return order.take(at), ordered.take(at)


class Fingerprints:
    """The fingerprints seen so far, in tables by their highest bits.

    While they are few there is one table. No table is large then, so that growing one, for which
    the old and the new are needed at once, takes little; and they begin at different sizes, so that
    they do not all grow at the same time.
    """

    def __init__(self, slots: int = 1 << 10) -> None:
        """Begin empty."""
        self._tables = [_Table(slots, 32)]
        self._zero = False

    def __len__(self) -> int:
        return sum(table.count for table in self._tables) + self._zero

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return sum(table.slots.nbytes for table in self._tables)

    @property
    def growing(self) -> int:
        """Bytes that are needed beside the tables while the largest one grows."""
        return max(table.slots.nbytes for table in self._tables)

    def keys(self) -> Column:
        """Return all fingerprints, (n,) uint64, rising."""
        zero = np.zeros(int(self._zero), dtype=np.uint64)
        return np.concatenate([zero, *(np.sort(t.slots[t.slots != 0]) for t in self._tables)])

    def add(self, fps: Column) -> Mask:
        """Add fingerprints (n,) uint64, rising; say which of them are new.

        Raises:
            InternalError: they do not rise.
        """
        new = np.zeros(fps.shape[0], dtype=np.bool_)
        if not fps.shape[0]:
            return new
        if not (fps[1:] > fps[:-1]).all():
            msg = "fingerprints to be added must be distinct and sorted"
            raise InternalError(msg)
        begin = 0
        if not fps[0]:  # 0 is an empty slot
            new[0], self._zero, begin = not self._zero, True, 1
        if len(self._tables) == 1 and self._tables[0].short_of(fps.shape[0]) > DIVIDE_AT:
            self._divide()
        for table, low, high in self._divided(fps, begin):
            table.add(fps[low:high], new[low:high])
        return new

    def _divided(self, fps: Column, begin: int) -> Iterator[tuple[_Table, int, int]]:
        """Yield which part of rising fingerprints goes into which table."""
        many = len(self._tables)
        bounds = np.array([(n << 64) // many for n in range(1, many)], dtype=np.uint64)
        ends = [*np.searchsorted(fps, bounds).tolist(), fps.shape[0]]
        for table, end in zip(self._tables, ends, strict=True):
            if end > begin:
                yield table, begin, end
                begin = end

    def _divide(self) -> None:
        (whole,) = self._tables
        known = np.sort(whole.slots[whole.slots != 0])
        size = whole.slots.shape[0] / PARTS
        bits = PARTS.bit_length() - 1
        self._tables = [_Table(int(size * GROWTH ** (n / PARTS)), 32 - bits) for n in range(PARTS)]
        for table, low, high in self._divided(known, 0):
            table.fill(known[low:high])


class _Table:
    """An open-addressing table of 64-bit fingerprints, probed a whole column at a time.

    A slot is a part of the fingerprint, below the bits that all fingerprints of the table share,
    scaled to the table, so that sorted columns walk memory in order. An empty slot is 0.

    Attributes:
        slots: (slots,) uint64.
        count: how many are in use.
    """

    __slots__ = ("_shift", "count", "slots")

    def __init__(self, slots: int, shift: int) -> None:
        """Begin empty; 32 bits from `shift` on decide on the slot."""
        self._shift = np.uint64(shift)
        self.count = 0
        self.slots = _zeros(slots)

    def short_of(self, more: int) -> int:
        """Return the slots to have before `more` fingerprints are added, or 0 if there are."""
        needed, have = (self.count + more) / FULLEST, self.slots.shape[0]
        growth = GROWTH if have < LARGE else LARGE_GROWTH
        return int(max(needed, have * growth)) if needed > have else 0

    def add(self, fps: Column, new: Mask) -> None:
        """Add rising fingerprints; set `new` where one of them is."""
        slots = self.short_of(fps.shape[0])
        if slots:
            self._grow(slots)
        for begin in range(0, fps.shape[0], AT_ONCE):
            self._insert(fps[begin : begin + AT_ONCE], new[begin : begin + AT_ONCE])
        self.count += int(np.count_nonzero(new))

    def _grow(self, slots: int) -> None:
        old, self.slots = self.slots, _zeros(slots)
        # A slot is empty, since a table grows before it is full. What lies before the first one may
        # have come round the end; from there on, what lies between two empty ones belongs there.
        first = begin = int((old == 0).argmax())
        free = 0
        while begin < old.shape[0]:
            end = begin + AT_ONCE
            while end < old.shape[0] and old[end]:
                end += 1
            part = np.sort(old[begin:end])
            free = self._put(part[np.searchsorted(part, 1) :], free)
            begin = end
        left = np.sort(old[:first])
        self._insert(left, np.empty(first, dtype=np.bool_))

    def fill(self, fps: Column) -> None:
        """Put rising fingerprints into an empty table."""
        slots, free = self.short_of(fps.shape[0]), 0
        if slots:
            self.slots = _zeros(slots)
        self.count = fps.shape[0]
        for begin in range(0, fps.shape[0], AT_ONCE):
            free = self._put(fps[begin : begin + AT_ONCE], free)

    def _put(self, fps: Column, free: int) -> int:
        """Put rising fingerprints where `_insert` would, in a table that is empty from `free` on.

        Each goes into its slot, or behind the one before it. Return what is empty after that.
        """
        count, size = fps.shape[0], self.slots.shape[0]
        if not count:
            return free
        at = np.arange(count)
        slots = self._slots_of(fps)
        slots -= at
        slots[0] = max(slots.item(0), free)
        np.maximum.accumulate(slots, out=slots)
        slots += at
        fit = count
        if slots[-1] >= size:
            fit = int(np.searchsorted(slots, size))
        self.slots[slots[:fit]] = fps[:fit]
        if fit < count:
            self._insert(fps[fit:], np.empty(count - fit, dtype=np.bool_))
        after: int = min(slots.item(-1) + 1, size)
        return after

    def _slots_of(self, fps: Column) -> NDArray[np.int64]:
        slots = fps >> self._shift
        slots &= np.uint64(0xFFFF_FFFF)
        slots *= np.uint64(self.slots.shape[0])
        slots >>= HALF
        return slots.view(np.int64)

    def _insert(self, fps: Column, new: Mask) -> None:
        """Set `new` where one of rising `fps` was not there."""
        table = self.slots
        size = table.shape[0]
        slots = self._slots_of(fps)
        which = np.arange(fps.shape[0])
        while which.shape[0] > ONE_BY_ONE:
            found = table.take(slots)
            differ = found != fps
            free = np.flatnonzero(found == 0)
            if free.shape[0]:
                claimed = slots.take(free)
                first = np.ones(free.shape[0], dtype=np.bool_)  # equal slots lie side by side
                np.not_equal(claimed[1:], claimed[:-1], out=first[1:])
                free = free[first]
                table[claimed[first]] = fps.take(free)
                new[which.take(free)] = True
                differ[free] = False
            left = np.flatnonzero(differ)
            which, fps = which.take(left), fps.take(left)
            slots = slots.take(left)
            slots += 1
            slots[slots == size] = 0
        self._insert_few(which.tolist(), fps.tolist(), slots.tolist(), new)

    def _insert_few(self, which: list[int], fps: list[int], slots: list[int], new: Mask) -> None:
        """Insert each of `fps` at its slot or after it; where it was free, so is `new[which]`."""
        table, last = self.slots, self.slots.shape[0] - 1
        for number, fp, first in zip(which, fps, slots, strict=True):
            slot = first
            while (found := table.item(slot)) not in (0, fp):
                slot = slot + 1 if slot < last else 0
            if not found:
                table[slot] = fp
                new[number] = True


def _zeros(slots: int) -> Column:
    """Return (slots,) zeros; filled, not asked for, since numpy then uses large pages."""
    table = np.empty(slots, dtype=np.uint64)
    table.fill(0)
    return table
