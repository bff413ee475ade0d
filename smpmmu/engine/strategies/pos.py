"""POS: random priorities of events; whoever races with the event that goes draws a new one.

Source: Yuan, Yang, Gu, "Partial order aware concurrency sampling", CAV 2018. Two pending events
race if both could be taken, they belong to different contexts and access the same word, and one
of them may write it. Of an indivisible action its first step counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.strategies.chooser import Prioritised, needed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.pending import Pending
    from smpmmu.engine.steps import Column, Mask
    from smpmmu.engine.strategies.chooser import Profile


@dataclass(frozen=True, slots=True)
class Pos:
    """Partial order sampling."""

    name: str = "pos"
    profiled: bool = True

    def start(self, streams: Column, contexts: int, profile: Profile | None) -> Events:
        """Return a chooser."""
        return Events(streams, contexts, self.name, needed(profile))


class Events(Prioritised):
    """A priority for the pending event of each context."""

    def pick(self, action: int, pending: Pending) -> NDArray[np.intp]:
        """Let the highest priority go; it and those that race with it draw new ones."""
        chosen = self.highest(pending.able)
        self.redraw(action, racing(chosen, pending))
        return chosen


def racing(chosen: NDArray[np.intp], pending: Pending) -> Mask:
    """Return (contexts, runs): the chosen event itself, and all that race with it."""
    runs = np.arange(chosen.size)
    word = pending.words[chosen, runs]
    conflict = pending.writes | pending.writes[chosen, runs]
    racing: Mask = (pending.words == word) & (word >= 0) & conflict & pending.able
    racing[chosen, runs] = True
    return racing
