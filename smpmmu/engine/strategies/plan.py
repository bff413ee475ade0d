"""A plan: a strategy, and the profile of the system that it needs.

Whoever has the plan and a seed has the run. It must not know how machines are stored or driven.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.engine.strategies.chooser import UNIFORM

if TYPE_CHECKING:
    from smpmmu.engine.steps import Column
    from smpmmu.engine.strategies.chooser import Chooser, Profile, Strategy


@dataclass(frozen=True, slots=True)
class Plan:
    """How runs of one system choose."""

    strategy: Strategy = UNIFORM
    profile: Profile | None = None

    def start(self, streams: Column, contexts: int) -> Chooser:
        """Return a chooser for runs with the given streams, (runs,) uint64."""
        return self.strategy.start(streams, contexts, self.profile)


PLAIN = Plan()
"""Uniform choices."""
