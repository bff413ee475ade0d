"""PCT: random priorities, and a few random moments in which the highest is made the lowest.

Source: Burckhardt, Kothari, Musuvathi, Nagarakatte, "A randomized scheduler with probabilistic
guarantees of finding bugs", ASPLOS 2010. A bug that d ordering constraints suffice for is found
by a run with probability at least 1 / (n k^(d-1)), if there are at most n agents and k actions.
Agents are contexts, daemons among them; k is the length of the longest run of the profile. A run
that is longer has no such bound, and after `PATIENCE` times k goes on uniformly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.numbers import number_column, scaled
from smpmmu.engine.strategies.chooser import Prioritised, needed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.pending import Pending
    from smpmmu.engine.steps import Column, Mask
    from smpmmu.engine.strategies.chooser import Profile


@dataclass(frozen=True, slots=True)
class Pct:
    """PCT for bugs of a depth: it has `depth` - 1 change points."""

    depth: int = 3
    profiled: bool = True

    @property
    def name(self) -> str:
        """What a user types to mean it."""
        return f"pct:{self.depth}"

    def start(self, streams: Column, contexts: int, profile: Profile | None) -> Priorities:
        """Return a chooser."""
        return Priorities(streams, contexts, self, needed(profile))

    def bound(self, contexts: int, profile: Profile) -> tuple[int, int, int]:
        """Return n, k and d of the bound 1 / (n k^(d-1))."""
        return contexts, max(profile.longest, 1), self.depth


class Priorities(Prioritised):
    """A priority for each context, and (change points, runs) actions at which one is lowered.

    Initial priorities are above `depth`; at change point i the context that would go gets i, so
    all who were lowered stay below all who were not.
    """

    def __init__(self, streams: Column, contexts: int, strategy: Pct, profile: Profile) -> None:
        """Draw priorities and change points."""
        super().__init__(streams, contexts, strategy.name, profile)
        self.priorities |= np.uint64(1 << 63)
        points = np.arange(contexts, contexts + strategy.depth - 1, dtype=np.uint64)
        drawn = number_column(self.own, points[:, None])
        self.points = scaled(drawn, max(profile.longest, 1))

    def pick(self, action: int, pending: Pending) -> NDArray[np.intp]:
        """Let the highest priority go; at a change point, lower it first."""
        first = self.highest(pending.able)
        for point, at in enumerate(self.points):
            runs = np.flatnonzero(at == action)
            if runs.size:
                self.priorities[first[runs], runs] = point + 1
                first = self.highest(pending.able)
        return first

    def keep(self, runs: Mask) -> None:
        """Go on with some of the runs only."""
        super().keep(runs)
        self.points = self.points[:, runs]
