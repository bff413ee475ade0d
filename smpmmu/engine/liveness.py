"""Can the system still come to rest from everywhere? Deadlocks and endless cycles.

A move that no later move of its program can undo is progress. A set of states that can never be
left and holds no quiescent one consists of states in which no progress is enabled, so it is
enough to remember those (few) *stuck* states, with their successors, and to peel off at the end
all that have a successor outside. What stays can never come to rest: a deadlock if no obligatory
agent ever moves in it, an endless cycle otherwise. This module must not know how states look.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.steps import Column, Mask


@dataclass(slots=True)
class Stuck:
    """Stuck states and the moves out of them, gathered while exploring.

    Attributes:
        states: fingerprints of the stuck states of each block.
        sources: fingerprint of the stuck state that each move leaves.
        targets: fingerprint of the state that it enters.
        obligatory: whether an obligatory agent moves.
    """

    states: list[Column] = field(default_factory=list)
    sources: list[Column] = field(default_factory=list)
    targets: list[Column] = field(default_factory=list)
    obligatory: list[NDArray[np.bool_]] = field(default_factory=list)
    _packed: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(
            part.nbytes
            for parts in (self.states, self.sources, self.targets, self.obligatory)
            for part in parts
        )

    def note(self, states: Column, sources: Column, targets: Column, obligatory: Mask) -> None:
        """Remember a block's stuck states and the moves out of them."""
        if states.size:
            self.states.append(states)
            self.sources.append(sources)
            self.targets.append(targets)
            self.obligatory.append(obligatory)

    def settle(self, frontier: Column) -> None:
        """Forget states that surely have a way out; `frontier` are the states still to expand."""
        if sum(part.size for part in self.states) > max(1 << 18, 2 * self._packed):
            self._peel(frontier)
            self._packed = sum(part.size for part in self.states)

    def hopeless(self) -> tuple[Column, Column]:
        """Return the fingerprints of states from which nothing obligatory, or no rest, follows.

        The first column are deadlocks (only daemons move), the second endless cycles.
        """
        if not self.states:
            empty = np.zeros(0, dtype=np.uint64)
            return empty, empty
        self._peel(np.zeros(0, dtype=np.uint64))
        states, sources, targets, obligatory = (
            self.states[0],
            self.sources[0],
            self.targets[0],
            self.obligatory[0],
        )
        alive = set(sources[obligatory].tolist())
        growing = True
        while growing:  # backwards from the obligatory moves, along the moves of daemons
            before = len(alive)
            alive.update(sources[np.isin(targets, np.array(list(alive), dtype=np.uint64))].tolist())
            growing = len(alive) != before
        moving = np.isin(states, np.array(list(alive), dtype=np.uint64))
        return states[~moving], states[moving]

    def _peel(self, frontier: Column) -> None:
        states = np.sort(np.concatenate(self.states))
        sources = np.concatenate(self.sources)
        targets = np.concatenate(self.targets)
        obligatory = np.concatenate(self.obligatory)
        unknown = np.sort(frontier)
        while states.size:
            out = ~_within(targets, states) & ~_within(targets, unknown)
            if not out.any():
                break
            saved = np.unique(sources[out])
            states = states[~_within(states, saved)]
            kept = ~_within(sources, saved)
            sources, targets, obligatory = sources[kept], targets[kept], obligatory[kept]
        self.states, self.sources = [states], [sources]
        self.targets, self.obligatory = [targets], [obligatory]


def _within(values: Column, ordered: Column) -> Mask:
    """Return which of `values` are in the sorted column `ordered`."""
    if not ordered.size:
        return np.zeros(values.shape, dtype=np.bool_)
    at = np.searchsorted(ordered, values)
    at[at == ordered.size] = 0
    within: Mask = ordered[at] == values
    return within
