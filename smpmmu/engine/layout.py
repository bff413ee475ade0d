"""How a machine's words and positions lie in 64-bit lanes, and how that grows.

A field comes into being when something first writes it; until then every machine holds its
initial value. This module must not know what a field means.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    Lanes = NDArray[Any]  # (lanes, n) uint64, as `steps.Column`


@dataclass(frozen=True, slots=True)
class Field:
    """Where a value lies: `lanes[lane] >> shift & mask`; `mask` has as many bits as the value."""

    lane: int
    shift: int
    bits: int
    mask: int = dataclasses.field(init=False)
    shift64: np.uint64 = dataclasses.field(init=False)
    mask64: np.uint64 = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", (1 << self.bits) - 1)
        object.__setattr__(self, "shift64", np.uint64(self.shift))
        object.__setattr__(self, "mask64", np.uint64(self.mask))


class Grown(Exception):
    """The layout no longer fits; every matrix must be repacked before going on."""


class Layout:
    """Fields by name, first fit into lanes; without `packed`, each in a lane of its own."""

    def __init__(self, *, packed: bool = True) -> None:
        """Begin with no fields and one empty lane."""
        self.packed = packed
        self.lanes = 1
        self.fields: dict[str, Field] = {}
        self._wanted: dict[str, tuple[int, int]] = {}

    def want(self, name: str, bits: int, initial: int) -> None:
        """Ask for at least `bits` for `name`; takes effect at `grow`."""
        self._wanted[name] = (max(bits, self._wanted.get(name, (0, 0))[0]), initial)

    @property
    def wanted(self) -> list[tuple[str, int, int]]:
        """Every (name, bits, initial) asked for, in order: all that the fields are made from."""
        return [(name, *asked) for name, asked in self._wanted.items()]

    def grow(self) -> dict[str, Field]:
        """Lay all wanted fields out anew and return the fields as they were before."""
        before = self.fields
        used = [0]
        fields: dict[str, Field] = {}
        for name, (bits, _) in self._wanted.items():
            lane = 0
            while lane < len(used) and used[lane] + bits > 64:
                lane += 1
            if not self.packed and (lane := len(fields)) >= len(used):
                used.append(0)
            if lane == len(used):
                used.append(0)
            fields[name] = Field(lane, used[lane], bits)
            used[lane] += bits
        self.fields, self.lanes = fields, len(used)
        return before

    def repack(self, before: dict[str, Field], lanes: Lanes) -> Lanes:
        """Return (lanes, states) uint64 laid out as `before` in today's layout."""
        new = np.zeros((self.lanes, lanes.shape[1]), dtype=np.uint64)
        for name, field in self.fields.items():
            old = before.get(name)
            if old is None:
                new[field.lane] |= np.uint64(self._wanted[name][1] << field.shift)
            else:
                new[field.lane] |= (lanes[old.lane] >> old.shift & old.mask) << field.shift
        return new
