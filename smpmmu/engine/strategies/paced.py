"""Paced: each context goes in proportion to how much it has to do, so that all end together.

A uniform walk lets short programs end long before a long one has come half way, so what a short
one does late is hardly ever met. Here a context's weight is the mean number of actions that it
takes in the runs of the profile. In every second run, by a coin of its own, interrupts are prompt
besides: whoever can take one, or is in its handler, goes before everybody else.

Source: the weights of the uniform random walk in Zhao, Wolff, Mathur, Roychoudhury, "Selectively
uniform concurrency testing", ASPLOS 2025, which counts the actions that are left; here they are
those of the whole run, which `docs/stress.md` compares. Prompt interrupts are our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.numbers import mix64_column, named_stream, number_column, scaled
from smpmmu.engine.strategies.chooser import PATIENCE, Chooser, drawn, needed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.pending import Pending
    from smpmmu.engine.steps import Column, Mask
    from smpmmu.engine.strategies.chooser import Profile


@dataclass(frozen=True, slots=True)
class Paced:
    """A random walk by weights; interrupts prompt in half of the runs."""

    name: str = "paced"
    profiled: bool = True

    def start(self, streams: Column, contexts: int, profile: Profile | None) -> Weighted:  # noqa: ARG002
        """Return a chooser."""
        return Weighted(streams, needed(profile))


class Weighted(Chooser):
    """Chooses by weights that are fixed; number 0 of the run's own stream is its coin."""

    def __init__(self, streams: Column, profile: Profile) -> None:
        """Toss the coin of each run."""
        super().__init__(streams)
        self.patience = PATIENCE * profile.longest
        self.weights = np.array(profile.actions, dtype=np.int64)[:, None]
        self.handlers = np.array(profile.handlers, dtype=np.bool_)[:, None]
        self.own = mix64_column(streams ^ np.uint64(named_stream("strategy paced")))
        self.prompt = scaled(number_column(self.own, 0), 2) == 1

    def pick(self, action: int, pending: Pending) -> NDArray[np.intp]:
        """Draw by weight among those that can move, or their interrupts."""
        urgent = pending.able & self.handlers & self.prompt
        able = np.where(urgent.any(axis=0), urgent, pending.able)
        chosen: NDArray[np.intp] = drawn(self.own, action + 1, np.where(able, self.weights, 0))
        return np.maximum(chosen, 0)

    def keep(self, runs: Mask) -> None:
        """Go on with some of the runs only."""
        super().keep(runs)
        self.own, self.prompt = self.own[runs], self.prompt[runs]
