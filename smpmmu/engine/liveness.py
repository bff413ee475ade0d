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

    Hopeless = tuple[NDArray[np.int64], Column]


PEEL_AT = 1 << 18
"""Stuck states gathered before those that have a way out are looked for and forgotten."""

BITS = 24
"""Of a fingerprint, enough to tell most states apart."""


@dataclass(slots=True)
class Stuck:
    """Stuck states and the moves out of them, gathered while exploring.

    Attributes:
        states: fingerprints of the stuck states, a column per block.
        ids: their numbers in the search.
        sources: which stuck state, counted over all, each move leaves.
        targets: fingerprint of the state that it enters.
        obligatory: whether an obligatory agent moves.
        count: how many stuck states.
        nbytes: bytes held.
    """

    states: list[Column] = field(default_factory=list)
    ids: list[NDArray[np.int64]] = field(default_factory=list)
    sources: list[NDArray[np.int64]] = field(default_factory=list)
    targets: list[Column] = field(default_factory=list)
    obligatory: list[NDArray[np.bool_]] = field(default_factory=list)
    count: int = 0
    nbytes: int = 0
    _kept: int = 0

    def note(
        self,
        states: Column,
        ids: NDArray[np.int64],
        sources: NDArray[np.intp],
        targets: Column,
        obligatory: Mask,
    ) -> None:
        """Remember a block's stuck states and the moves out of them; `sources` count from 0."""
        if states.size:
            self.states.append(states)
            self.ids.append(ids)
            self.sources.append(sources + self.count)
            self.targets.append(targets)
            self.obligatory.append(obligatory)
            self.count += int(states.size)
            self.nbytes += states.nbytes + ids.nbytes + sources.nbytes
            self.nbytes += targets.nbytes + obligatory.nbytes

    @property
    def many(self) -> bool:
        """Whether it is time to settle."""
        return self.count > max(PEEL_AT, 2 * self._kept)

    def settle(self, frontier: list[Column]) -> None:
        """Forget states that surely have a way out; `frontier` are the states still to expand."""
        self._peel(np.concatenate(frontier or [_NONE]))
        self._kept = self.count

    def hopeless(self) -> tuple[Hopeless, Hopeless]:
        """Return (ids, fingerprints) of states from which nothing obligatory, or no rest, follows.

        The first are deadlocks: nothing obligatory can ever move again. From the second,
        obligatory agents can move for ever. States not yet expanded count as a way out.
        """
        if not self.count:
            return (_NO_IDS, _NONE), (_NO_IDS, _NONE)
        self._peel(_NONE)
        states, ids = self.states[0], self.ids[0]
        at = _index_in(states, self.targets[0])
        moving = np.zeros(states.size, dtype=np.bool_)
        moving[self.sources[0][self.obligatory[0]]] = True
        _spread(moving, self.sources[0], at)  # daemons may lead to where somebody can move
        endless = self._for_ever(at)
        return (ids[~moving], states[~moving]), (ids[endless], states[endless])

    def _for_ever(self, at: NDArray[np.int64]) -> Mask:
        """Return which states begin a path with obligatory moves without end."""
        sources, obligatory = self.sources[0], self.obligatory[0] & (at >= 0)
        endless = np.ones(self.count, dtype=np.bool_)
        while True:
            before = endless
            endless = np.zeros(self.count, dtype=np.bool_)
            endless[sources[obligatory & before[at]]] = True
            _spread(endless, sources, at)
            if (endless == before).all():
                return endless

    def _peel(self, frontier: Column) -> None:
        """Keep only states all of whose moves lead to kept states or to the frontier."""
        states, sources = np.concatenate(self.states), np.concatenate(self.sources)
        targets, obligatory = np.concatenate(self.targets), np.concatenate(self.obligatory)
        saved = np.zeros(states.size, dtype=np.bool_)
        at = _index_in(np.concatenate([states, frontier]), targets)
        saved[sources[at < 0]] = True
        open_ = np.flatnonzero(at >= 0)
        at = at[open_]
        at[at >= states.size] = -1
        _spread(saved, sources[open_], at)
        kept = ~saved[sources]
        renumbered = np.cumsum(~saved) - 1
        self.states, self.sources = [states[~saved]], [renumbered[sources[kept]]]
        self.ids = [np.concatenate(self.ids)[~saved]]
        self.targets, self.obligatory = [targets[kept]], [obligatory[kept]]
        self.count = int(self.states[0].size)
        every = (self.states, self.ids, self.sources, self.targets, self.obligatory)
        self.nbytes = sum(parts[0].nbytes for parts in every)


_NONE: Column = np.zeros(0, dtype=np.uint64)
_NO_IDS: NDArray[np.int64] = np.zeros(0, dtype=np.int64)


def _spread(marked: Mask, sources: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
    """Mark, backwards along the moves, every source that leads to a marked target (-1: none)."""
    inside = np.flatnonzero(targets >= 0)
    sources, targets = sources[inside], targets[inside]
    while True:
        new = marked[targets] & ~marked[sources]
        if not new.any():
            return
        marked[sources[new]] = True


def _index_in(among: Column, fps: Column) -> NDArray[np.int64]:
    """Return the index in `among`, distinct, of every fingerprint, or -1."""
    if not among.size:
        return np.full(fps.size, -1, dtype=np.int64)
    bits = min(BITS, among.size.bit_length() + 2)
    last = np.full(1 << bits, -1, dtype=np.int32)  # of those that begin with the same bits
    glance = (among >> np.uint64(64 - bits)).view(np.int64)
    last[glance] = np.arange(among.size, dtype=np.int32)
    alone = last.take(glance) == np.arange(among.size)
    glance = (fps >> np.uint64(64 - bits)).view(np.int64)
    found: NDArray[np.int64] = last.take(glance).astype(np.int64)
    other = np.flatnonzero((found >= 0) & (among.take(found) != fps))
    rest = np.flatnonzero(~alone)
    found[other] = -1
    if rest.size and other.size:
        rest = rest[np.argsort(among.take(rest), kind="stable")]
        ordered, wanted = among.take(rest), fps.take(other)
        near = np.searchsorted(ordered, wanted)
        near[near == rest.size] = 0
        same = ordered.take(near) == wanted
        found[other[same]] = rest.take(near[same])
    return found
