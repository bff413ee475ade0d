"""The successors of a block of machines, side by side, before they are made.

This module must not know how they are found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.layout import Lanes
    from smpmmu.engine.reading import Rows
    from smpmmu.engine.recall import Later
    from smpmmu.engine.steps import Column, Mask


@dataclass(slots=True)
class Successors:
    """The successors of a block, by context, then by position, then by what was read.

    Attributes:
        rows: (successors,) which machine of the block each comes from.
        contexts: (successors,) uint8, who moved.
        progress: (successors,) bool, the move can never be undone by later moves of its context.
        fps: (successors,) uint64 fingerprints.
        changes: what to exclusive-or into the parents' lanes, (lanes, successors) uint64, or for
            each of some parts where it begins and, per lane, a column or an int.
        bugs: (property, begin, end) of successors in which a program met a bug.
        actions: (successors,) uint16, how many actions the move is, or None if it is one in each.
        images: (successors,) uint64, what they are told apart by; None: their fingerprints.
    """

    rows: Rows
    contexts: NDArray[np.uint8]
    progress: Mask
    fps: Column
    changes: Lanes | list[tuple[int, list[Column | int | Later]]]
    bugs: list[tuple[str, int, int]]
    actions: NDArray[np.uint16] | None = None
    images: Column | None = None

    def __len__(self) -> int:
        return int(self.fps.shape[0])

    @property
    def keys(self) -> Column:
        """What they are told apart by, (successors,) uint64."""
        return self.fps if self.images is None else self.images

    def made(self, lanes: Lanes, chosen: Rows | None = None) -> Lanes:
        """Return some successors, rising (None: all), of the machines `lanes`; (lanes, n)."""
        if chosen is None:
            chosen = np.arange(len(self))
        made = lanes.take(self.rows.take(chosen), axis=1)
        if not isinstance(self.changes, list):
            made ^= self.changes.take(chosen, axis=1)
            return made
        begins = [begin for begin, _ in self.changes]
        cuts = [*np.searchsorted(chosen, begins).tolist(), chosen.shape[0]]
        for number, (begin, deltas) in enumerate(self.changes):
            low, high = cuts[number], cuts[number + 1]
            if low == high:
                continue
            within: Rows | None = None
            for lane, delta in enumerate(deltas):
                if not isinstance(delta, int):
                    if within is None:
                        within = chosen[low:high] - begin
                    made[lane, low:high] ^= delta.take(within)
                elif delta:
                    made[lane, low:high] ^= delta
        return made
