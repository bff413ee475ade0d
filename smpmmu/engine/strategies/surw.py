"""SURW: the interleavings of the accesses to one word, each about equally likely.

Source: Zhao, Wolff, Mathur, Roychoudhury, "Selectively uniform concurrency testing", ASPLOS 2025.
Each run draws one word among those that the profile saw accessed by several contexts and written;
accesses to it are its interesting events. Who takes the next interesting event is drawn by weight:
how many of them each context has left, by the profile. Everybody else stops before an interesting
event until then; apart from that, the event with the highest random priority goes. If only
events that should wait can go (the one drawn is blocked, or the profile was wrong), it is drawn
anew among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.numbers import mix64_column, named_stream, number_column, scaled
from smpmmu.engine.strategies.chooser import Prioritised, drawn, needed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.pending import Pending
    from smpmmu.engine.steps import Column, Mask
    from smpmmu.engine.strategies.chooser import Profile


@dataclass(frozen=True, slots=True)
class Surw:
    """Selectively uniform random walk."""

    name: str = "surw"
    profiled: bool = True

    def start(self, streams: Column, contexts: int, profile: Profile | None) -> Selective:
        """Return a chooser."""
        return Selective(streams, contexts, self.name, needed(profile))


class Selective(Prioritised):
    """For each run the word it is about, what is left of its accesses, and who is next.

    Two further streams of the run give out who is next: one at each interesting event, one where
    that had to be drawn anew.
    """

    def __init__(self, streams: Column, contexts: int, strategy: str, profile: Profile) -> None:
        """Draw the word of each run, and who accesses it first."""
        super().__init__(streams, contexts, strategy, profile)
        self.names = [name for name, _ in profile.words]
        counts = np.array([count for _, count in profile.words], dtype=np.int64)
        counts = counts.reshape(-1, contexts)
        if not self.names:  # nothing is shared: every order is as good as another
            self.names, counts = [""], np.zeros((1, contexts), dtype=np.int64)
        aside = mix64_column(self.own ^ np.uint64(named_stream("strategy surw: its word")))
        word = scaled(number_column(aside, 0), len(self.names))
        self.which = word.view(np.int64)
        self.left = counts[self.which].T.copy()
        self.next_stream = number_column(aside, 1)
        self.again_stream = number_column(aside, 2)
        self.intended = drawn(self.next_stream, 0, self.left)

    def pick(self, action: int, pending: Pending) -> NDArray[np.intp]:
        """Let the highest priority go that is not an interesting event of somebody else."""
        numbers = np.array([pending.numbers[name] for name in self.names], dtype=np.int32)
        interesting = pending.words == numbers[self.which]
        everyone = np.arange(self.contexts)[:, None]
        free = pending.able & ~(interesting & (everyone != self.intended))
        stopped = np.flatnonzero(pending.able.any(axis=0) & ~free.any(axis=0))
        if stopped.size:
            able = pending.able[:, stopped]
            weights = np.where(able, np.maximum(self.left[:, stopped], 1), 0)
            self.intended[stopped] = drawn(self.again_stream[stopped], action, weights)
            free[:, stopped] = able & (everyone == self.intended[stopped])
        chosen = self.highest(free)
        runs = np.arange(chosen.size)
        self._took(action, np.flatnonzero(interesting[chosen, runs]), chosen)
        event = np.zeros(pending.able.shape, dtype=np.bool_)
        event[chosen, runs] = True
        self.redraw(action, event)
        return chosen

    def _took(self, action: int, runs: NDArray[np.intp], chosen: NDArray[np.intp]) -> None:
        """Count an interesting event in `runs`, and draw who takes the next."""
        who = chosen[runs]
        self.left[who, runs] = np.maximum(self.left[who, runs] - 1, 0)
        self.intended[runs] = drawn(self.next_stream[runs], action + 1, self.left[:, runs])

    def keep(self, runs: Mask) -> None:
        """Go on with some of the runs only."""
        super().keep(runs)
        self.which, self.left = self.which[runs], self.left[:, runs]
        self.next_stream, self.again_stream = self.next_stream[runs], self.again_stream[runs]
        self.intended = self.intended[runs]
