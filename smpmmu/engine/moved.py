"""Machines of a block in the middle of an action.

It must not know which steps they take; see `engine/batch.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from smpmmu.engine.layout import Field
    from smpmmu.engine.reading import Block, Rows
    from smpmmu.engine.steps import Column


@dataclass(slots=True)
class Moved:
    """Machines of a block in the middle of an action.

    Attributes:
        rows: which machines.
        keys: what to exclusive-or into their fingerprints, a column or an int.
        deltas: the same for each lane.
        bases: the lanes as they were, of these rows, as far as they were read.
    """

    rows: Rows
    keys: Column | int
    deltas: list[Column | int]
    bases: dict[int, Column]

    def read(self, block: Block, field: Field) -> Column:
        """Return the present values of a field."""
        values = self.bases.get(field.lane)
        if values is None:
            values = self.bases[field.lane] = block.lanes[field.lane].take(self.rows)
        delta = self.deltas[field.lane]
        if not isinstance(delta, int) or delta:
            values = values ^ delta
        values = values >> field.shift64
        values &= field.mask64
        return values

    def part(self, rows: Rows) -> Moved:
        """Return some of the machines."""
        keys = self.keys if isinstance(self.keys, int) else self.keys.take(rows)
        deltas = [d if isinstance(d, int) else d.take(rows) for d in self.deltas]
        return Moved(self.rows.take(rows), keys, deltas, {})


Way = tuple[tuple[int, ...], int, int]
"""Positions rested at since the start, steps taken since the last of them, and the position."""


class Waiting:
    """Machines in the middle of an action, by the way that they came.

    What is read splits machines that soon stand at one position again. Where actions are taken at
    once, one after the other, it pays to put them together there.
    """

    def __init__(self, *, merged: bool) -> None:
        """Begin with none; with `merged`, put those together that came the same way."""
        self._merged = merged
        self.parts: list[tuple[Way, list[Moved]]] = []

    def put(self, way: Way, moved: Moved) -> None:
        """Let some more wait."""
        if self._merged:
            for known, parts in self.parts:
                if known == way:
                    parts.append(moved)
                    return
        self.parts.append((way, [moved]))

    def take(self) -> tuple[Way, Moved]:
        """Return the last that was put; or, to be merged, those that have come least far."""
        at = -1
        if self._merged and len(self.parts) > 1:
            far = [(len(via), length) for (via, length, _), _ in self.parts]
            at = far.index(min(far))
        way, parts = self.parts.pop(at)
        return way, parts[0] if len(parts) == 1 else _together(parts)


def _together(parts: list[Moved]) -> Moved:
    """Return all machines of the parts as one."""
    sizes = [part.rows.size for part in parts]
    lanes = zip(*(part.deltas for part in parts), strict=True)
    return Moved(
        np.concatenate([part.rows for part in parts]),
        _column([part.keys for part in parts], sizes),
        [_column(list(deltas), sizes) for deltas in lanes],
        {},
    )


def _column(values: list[Column | int], sizes: list[int]) -> Column | int:
    first = values[0]
    if isinstance(first, int) and all(isinstance(v, int) and v == first for v in values):
        return first
    return np.concatenate([
        np.full(size, value, dtype=np.uint64) if isinstance(value, int) else value
        for value, size in zip(values, sizes, strict=True)
    ])  # fmt: skip
