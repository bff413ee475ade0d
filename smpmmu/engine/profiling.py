"""The profile of a system: what some uniform runs of it were like.

It is a function of the system alone, so that a strategy which uses it makes the same run of a
seed wherever it is driven.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.batch import Kernel
from smpmmu.engine.program import Role
from smpmmu.engine.strategies import named
from smpmmu.engine.strategies.chooser import Chooser, Profile, Strategy
from smpmmu.engine.strategies.plan import Plan
from smpmmu.engine.stress import Herd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.pending import Pending, WordNumbers
    from smpmmu.engine.steps import Column
    from smpmmu.engine.system import System

RUNS = 64
LONGEST_PROFILED = 5_000
"""Actions after which a run of the profile is cut off."""


class Counting(Chooser):
    """Chooses uniformly, and counts what is accessed.

    Attributes:
        accesses: (words, contexts), how often in all runs.
        written: (words,), the word may have been written.
        actions: (contexts,), taken in all runs.
    """

    def __init__(self, streams: Column, contexts: int) -> None:
        """Begin at none."""
        super().__init__(streams)
        self.accesses = np.zeros((0, contexts), dtype=np.int64)
        self.written = np.zeros(0, dtype=np.bool_)
        self.actions = np.zeros(contexts, dtype=np.int64)
        self.numbers: WordNumbers | None = None

    def pick(self, action: int, pending: Pending) -> NDArray[np.intp]:
        """Choose, and count the accesses."""
        chosen = super().pick(action, pending)
        going = np.flatnonzero(pending.able.any(axis=0))
        who = chosen[going]
        self.actions += np.bincount(who, minlength=self.actions.size)
        words, writes = pending.words[who, going], pending.writes[who, going]
        self.numbers = pending.numbers
        more = len(self.numbers) - self.written.size
        if more > 0:
            self.accesses = np.pad(self.accesses, ((0, more), (0, 0)))
            self.written = np.pad(self.written, (0, more))
        real = words >= 0
        np.add.at(self.accesses, (words[real], who[real]), 1)
        self.written[words[real & writes]] = True
        return chosen


class _Counts:
    """The strategy of the profile's own runs."""

    name = "counts"
    profiled = False

    def __init__(self) -> None:
        self.chooser: Counting | None = None

    def start(self, streams: Column, contexts: int, profile: Profile | None) -> Counting:  # noqa: ARG002
        self.chooser = Counting(streams, contexts)
        return self.chooser


def profile(kernel: Kernel) -> Profile:
    """Return the profile of a kernel's system."""
    counts = _Counts()
    plan = Plan(counts)
    herd = Herd(kernel, range(RUNS), plan=plan, longest=LONGEST_PROFILED, keep=False, onward=False)
    for _ in herd.gallop():
        pass
    chooser = counts.chooser
    assert chooser is not None
    words = []
    for name, number in sorted((chooser.numbers or {}).items()):
        if number < chooser.written.size and chooser.written[number]:
            mean = -(-chooser.accesses[number] // RUNS)
            if np.count_nonzero(mean) > 1:
                words.append((name, tuple(mean.tolist())))
    actions = np.maximum(-(-chooser.actions // RUNS), 1)
    handlers = tuple(context.role is Role.IRQ for context in kernel.system.contexts)
    return Profile(int(herd.lengths.max()), tuple(words), tuple(actions.tolist()), handlers)


def plan_of_seed(system: System, strategy: str, seed: int) -> Plan:
    """Return the plan by which a seed runs under what a user calls a strategy, or a portfolio.

    Raises:
        UsageError: there is no such strategy.
    """
    strategies = named(strategy)
    chosen = strategies[seed % len(strategies)]
    return planned(Kernel(system), (chosen,))[0] if chosen.profiled else Plan(chosen)


def planned(kernel: Kernel, strategies: tuple[Strategy, ...]) -> tuple[Plan, ...]:
    """Return the plan of each strategy; the profile is made once, if any needs it."""
    known = profile(kernel) if any(s.profiled for s in strategies) else None
    return tuple(Plan(s, known if s.profiled else None) for s in strategies)
