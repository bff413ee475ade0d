"""What every strategy is made of: streams of numbers, priorities of events, and uniform choice.

It must not know how machines are stored or driven.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from smpmmu.engine.numbers import (
    mix64_column,
    named_stream,
    number_column,
    pick_column,
    scaled,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.pending import Pending
    from smpmmu.engine.steps import Column, Mask

PATIENCE = 2
"""A run goes on uniformly once it is so many times as long as the longest run of the profile: a
daemon that always comes first, or a word that nobody reaches, must not hold it for ever."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What some uniform runs of a system were like, which strategies set themselves up by.

    Attributes:
        longest: actions of the longest one.
        words: words accessed by several contexts and written by one, by name; and how often each
            context accessed them in a run, the mean rounded up.
        actions: how many actions each context took in a run, the mean rounded up, at least 1.
        handlers: which contexts are interrupts.
    """

    longest: int
    words: tuple[tuple[str, tuple[int, ...]], ...] = field(default=())
    actions: tuple[int, ...] = ()
    handlers: tuple[bool, ...] = ()


class Strategy(Protocol):
    """A recipe for choosing; `name` is what a user types."""

    @property
    def name(self) -> str:
        """What a user types to mean it."""

    @property
    def profiled(self) -> bool:
        """Whether it needs a profile of the system."""

    def start(self, streams: Column, contexts: int, profile: Profile | None) -> Chooser:
        """Return a chooser for runs with the given streams, (runs,) uint64."""


class Chooser:
    """Chooses uniformly among what can move; other strategies override `pick`.

    Attributes:
        streams: (runs,) uint64, one for each run still going on.
    """

    patience: int | None = None

    def __init__(self, streams: Column) -> None:
        """Choose for runs with these streams."""
        self.streams = streams

    def choose(self, action: int, pending: Pending) -> NDArray[np.intp]:
        """Return who takes action number `action` of each run, (runs,); 0 where nobody can."""
        if self.patience is None or action < self.patience:
            return self.pick(action, pending)
        return uniformly(self.streams, action, pending.able)

    def pick(self, action: int, pending: Pending) -> NDArray[np.intp]:
        """Return the strategy's own choice."""
        return uniformly(self.streams, action, pending.able)

    def keep(self, runs: Mask) -> None:
        """Go on with some of the runs only."""
        self.streams = self.streams[runs]


def uniformly(streams: Column, index: int, able: Mask) -> NDArray[np.intp]:
    """Choose among those that are able, each with equal probability."""
    count = able.sum(axis=0).astype(np.uint64)
    picked = pick_column(streams, index, count).view(np.int64)
    chosen: NDArray[np.intp] = (able.cumsum(axis=0) > picked).argmax(axis=0)
    return chosen


NOBODY = -1


def drawn(streams: Column, index: int, weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw a context in each run, weights being (contexts, runs); NOBODY where all are 0."""
    total = weights.sum(axis=0).astype(np.uint64)
    picked = scaled(number_column(streams, index), total).view(np.int64)
    first = (weights.cumsum(axis=0) > picked).argmax(axis=0)
    return np.where(total > 0, first, NOBODY)


@dataclass(frozen=True, slots=True)
class Uniform:
    """A random walk: everyone who can move is equally likely."""

    name: str = "uniform"
    profiled: bool = False

    def start(self, streams: Column, contexts: int, profile: Profile | None) -> Chooser:  # noqa: ARG002
        """Return a chooser."""
        return Chooser(streams)


UNIFORM = Uniform()


class Prioritised(Chooser):
    """Every context has a priority, (contexts, runs) uint64; the highest that can move goes.

    Numbers come from a stream of the run's own for each strategy. The initial priorities are its
    first `contexts` numbers; after action i come those from `(i + 1) * contexts` on.
    """

    def __init__(self, streams: Column, contexts: int, strategy: str, profile: Profile) -> None:
        """Draw the first priorities."""
        super().__init__(streams)
        self.contexts = contexts
        self.patience = PATIENCE * profile.longest
        self.own = mix64_column(streams ^ np.uint64(named_stream(f"strategy {strategy}")))
        self.priorities = self.draw(0)

    def draw(self, turn: int) -> Column:
        """Return fresh numbers above 0 for all contexts, (contexts, runs)."""
        index = np.arange(turn * self.contexts, (turn + 1) * self.contexts, dtype=np.uint64)
        return number_column(self.own, index[:, None]) | np.uint64(1)

    def highest(self, able: Mask) -> NDArray[np.intp]:
        """Return who has the highest priority among those that are able."""
        first: NDArray[np.intp] = np.where(able, self.priorities, np.uint64(0)).argmax(axis=0)
        return first

    def redraw(self, action: int, which: Mask) -> None:
        """Give those in `which`, (contexts, runs), new priorities after an action."""
        contexts, runs = np.nonzero(which)
        index = (contexts + (action + 1) * self.contexts).astype(np.uint64)
        self.priorities[contexts, runs] = number_column(self.own[runs], index) | np.uint64(1)

    def keep(self, runs: Mask) -> None:
        """Go on with some of the runs only."""
        super().keep(runs)
        self.own = self.own[runs]
        self.priorities = self.priorities[:, runs]


def needed(profile: Profile | None) -> Profile:
    """Return the profile that a strategy cannot do without."""
    assert profile is not None
    return profile
