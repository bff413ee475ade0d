"""Stressing: many seeds of a variant, what they found, and the failing ones run live.

What the command of that name does. It must not print.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.checking import lasts, live_again
from smpmmu.engine.batch import Kernel
from smpmmu.engine.errors import InternalError
from smpmmu.engine.live import in_trio
from smpmmu.engine.profiling import planned
from smpmmu.engine.race import critical_race
from smpmmu.engine.run import Ending
from smpmmu.engine.shrink import least
from smpmmu.engine.strategies import UNIFORM, dealt, named
from smpmmu.engine.strategies.pct import Pct
from smpmmu.engine.stress import ENDINGS, LONGEST_RUN, Herd, together
from smpmmu.engine.system import NO_DEADLOCK
from smpmmu.seeds import Kept, Seed
from smpmmu.shrinking import confirmed
from smpmmu.stressed import First, Stressed
from smpmmu.targets import one
from smpmmu.work import seen_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from smpmmu.engine.run import Run
    from smpmmu.engine.steps import Column
    from smpmmu.engine.strategies.plan import Plan
    from smpmmu.engine.system import System
    from smpmmu.targets import Target

RUN_LIVE = 20
"""Failing seeds run live, besides the first one of every property and strategy."""

AFFORDABLE = 10_000_000
"""States with a last context that shrinking looks at, times the contexts squared: each state has
about as many successors as there are contexts, and is about as large."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failing seed: its strategy as the run has it, its plan, and what it violates."""

    seed: int
    strategy: str
    plan: Plan
    violated: str


@dataclass(frozen=True, slots=True)
class Part:
    """What some seeds did, as data that travels.

    Attributes:
        seeds: which.
        cut: how many were cut off.
        steps: actions of all runs.
        failures: (seed, strategy, what it violates), by seed.
        classes: distinct happens-before classes, and how often each was seen.
        finals: distinct last states, by the numbers of the kernel that ran them.
        places: (contexts, finals) where every context rests in them, if asked for.
    """

    seeds: range
    cut: int
    steps: int
    failures: tuple[tuple[int, str, str], ...]
    classes: tuple[Column, NDArray[np.int64]]
    finals: Column
    places: NDArray[np.uint32]


class Campaign:
    """Seeds of one variant being run."""

    def __init__(
        self, name: str | Target, seeds: range, strategy: str, *, shrink: bool = True
    ) -> None:
        """Plan the strategies; with `shrink` make failing runs smaller.

        Raises:
            UsageError: there is no such variant or strategy.
        """
        strategies = named(strategy)
        target = one(name)
        self.system: System = target.system()
        self.kernel = Kernel(self.system)
        self.plans = planned(self.kernel, strategies)
        self.found = Stressed(target.name, seeds, strategy)
        self.found.bounds = tuple(self._bounds())
        self.found.by_strategy = dict.fromkeys((p.strategy.name for p in self.plans), 0)
        self.failures: list[Failure] = []
        self._shrink = shrink
        self._classes: list[tuple[Column, NDArray[np.int64]]] = []
        self._finals: list[Column] = []

    def _bounds(self) -> list[str]:
        """Say what PCT promises, for each depth that is used."""
        lines = []
        for plan in self.plans:
            if isinstance(plan.strategy, Pct) and plan.profile is not None:
                n, k, d = plan.strategy.bound(len(self.kernel.automata), plan.profile)
                share = f"with probability 1/{n * k ** (d - 1):,} or more"
                where = f"{n} agents, {k:,} choices in the longest of 64 uniform runs"
                lines.append(f"  {plan.strategy.name} finds a bug of depth {d} {share} ({where})")
        return lines

    def again(self, kept: list[Seed]) -> None:
        """Run seeds that failed before."""
        failures: list[Failure] = []
        for strategy in dict.fromkeys(seed.strategy for seed in kept):
            (plan,) = planned(self.kernel, named(strategy))
            seeds = [seed.number for seed in kept if seed.strategy == strategy]
            failures += _failures(self._herd(plan, seeds), plan)
        self._repeat(failures)
        before = {(seed.number, seed.strategy): seed.violated for seed in kept}
        still = sum(before[f.seed, f.strategy] == f.violated for f in failures)
        self.found.kept = (len(kept), still, len(failures) - still)

    def run(self, watch: Callable[[int], None], parts: Iterable[Part] | None = None) -> None:
        """Run all seeds, or take what others made of them; `watch` is told how many are done."""
        seeds = self.found.seeds
        for part in map(self.part, self.split()) if parts is None else parts:
            self._take(part)
            watch(part.seeds.stop - seeds.start)
        self._conclude()

    def split(self, most: int | None = None) -> list[range]:
        """Return the seeds in parts that can be run side by side, or have `most` each."""
        seeds, size = self.found.seeds, together(self.kernel) * len(self.plans)
        size = size if most is None else max(1, min(size, most))
        starts = range(seeds.start, seeds.stop, size)
        return [range(start, min(start + size, seeds.stop)) for start in starts]

    def part(self, seeds: range, *, placed: bool = False) -> Part:
        """Run some seeds."""
        shares = zip(self.plans, dealt(len(self.plans), seeds), strict=True)
        herds = [(self._herd(p, share, placed=placed), p) for p, share in shares if share]
        failures = [failure for herd, plan in herds for failure in _failures(herd, plan)]
        finals, first = np.unique(np.concatenate([h.finals for h, _ in herds]), return_index=True)
        classes, seen = np.unique(np.concatenate([h.classes for h, _ in herds]), return_counts=True)
        return Part(
            seeds,
            sum(int(np.count_nonzero(h.endings == ENDINGS.index(Ending.CUT))) for h, _ in herds),
            sum(int(herd.lengths.sum(dtype=np.int64)) for herd, _ in herds),
            tuple(sorted((f.seed, f.strategy, f.violated) for f in failures)),
            (classes, seen),
            finals,
            np.concatenate([herd.places for herd, _ in herds], axis=1)[:, first],
        )

    def _herd(
        self, plan: Plan, seeds: range | list[int], *, choices: bool = False, placed: bool = False
    ) -> Herd:
        herd = Herd(self.kernel, seeds, plan=plan, longest=LONGEST_RUN, keep=choices, traced=True,
                    placed=placed)  # fmt: skip
        for _ in herd.gallop():
            pass
        return herd

    def _take(self, part: Part) -> None:
        """Count what some seeds did; parts come in the order of their seeds."""
        plans = {plan.strategy.name: plan for plan in self.plans}
        self.found.cut += part.cut
        self.found.steps += part.steps
        self._classes.append(part.classes)
        self._finals.append(part.finals)
        for seed, strategy, violated in part.failures:
            self.failures.append(Failure(seed, strategy, plans[strategy], violated))
            self.found.failing[violated] += 1
            self.found.by_strategy[strategy] += 1

    def _conclude(self) -> None:
        """Count what is distinct; repeat failures live."""
        every = np.concatenate([classes for classes, _ in self._classes])
        classes, which = np.unique(every, return_inverse=True)
        seen = np.bincount(which, np.concatenate([seen for _, seen in self._classes]))
        self.found.classes, self.found.once = classes.size, int(np.count_nonzero(seen == 1))
        self.found.finals = np.unique(np.concatenate(self._finals)).size
        runs = self._repeat(self.failures)
        self.found.live = len(runs)
        first: dict[str, Failure] = {}
        for failure in self.failures:
            first.setdefault(failure.violated, failure)
        self.found.firsts = tuple(self._first(f, runs[f.strategy, f.seed]) for f in first.values())

    def _first(self, failure: Failure, run: Run) -> First:
        """Return a failing run with the least that violates the same, if that is affordable."""
        first = First(failure.seed, failure.violated, len(run.choices))
        if not self._shrink:
            return first
        most = AFFORDABLE // len(self.system.contexts) ** 2
        shrunk = least(self.system, run.choices, failure.violated, most=most)
        if shrunk is None:
            return replace(first, most=most)
        confirmed(self.system, shrunk)
        race = critical_race(self.system, shrunk.choices, shrunk.name)
        return replace(first, shrunk=shrunk, race=race)

    def _repeat(self, failures: list[Failure]) -> dict[tuple[str, int], Run]:
        """Repeat failing runs on the batch kernel and live; return the live ones.

        Raises:
            InternalError: one does not fail again, or not so.
        """
        repeated = {}
        lasting: set[str] = set()
        telling = _telling(failures)
        for plan in {f.strategy: f.plan for f in telling}.values():
            mine = [f for f in telling if f.plan is plan]
            runs = self._herd(plan, [f.seed for f in mine], choices=True).runs()
            for failure, run in zip(mine, runs, strict=True):
                if (run.violated or NO_DEADLOCK) != failure.violated:
                    found = f"{run.ending.value} {run.violated}"
                    msg = f"seed {run.seed} violated {failure.violated}; run again: {found}"
                    raise InternalError(msg)
                live = in_trio(live_again, self.system, run, self.kernel, frozenset(), plan)
                if run.violated and run.violated not in lasting:
                    lasting.add(run.violated)
                    if not in_trio(lasts, self.system, run.violated, live.choices):
                        msg = f"seed {run.seed} violates {run.violated}, but goes on well live"
                        raise InternalError(msg)
                repeated[failure.strategy, failure.seed] = live
        return repeated


def _failures(herd: Herd, plan: Plan) -> list[Failure]:
    """Return the failing runs of a herd, in order."""
    rows = [row for row, fails in enumerate(herd.fails()) if fails]
    names = [*herd.names, NO_DEADLOCK]  # a run that is stuck violates number -1
    return [
        Failure(herd.seeds[row], plan.strategy.name, plan, names[herd.violated[row]])
        for row in rows
    ]


def _telling(failures: list[Failure]) -> list[Failure]:
    """Return the failures to repeat live: the first of each kind, and the first of all."""
    first: dict[tuple[str, str], Failure] = {}
    for failure in failures:
        first.setdefault((failure.strategy, failure.violated), failure)
    chosen = [*failures[:RUN_LIVE], *first.values()]
    return list({(f.strategy, f.seed): f for f in chosen}.values())


def stress_seeds(
    name: str | Target,
    seeds: range,
    watch: Callable[[int], None],
    *,
    strategy: str = UNIFORM.name,
    keep: Path | None = None,
    shrink: bool = True,
    elsewhere: Callable[[Campaign], Iterable[Part]] | None = None,
) -> Stressed:
    """Run seeds on the batch kernel, and failing ones live, which must agree.

    With `shrink` the first failing run of each property is made as small as can be. With a file to
    `keep` them, failing seeds that lie in it are run first, and new ones are added. What runs the
    seeds of a campaign `elsewhere` yields its parts in order.

    Raises:
        UsageError: there is no such variant or strategy, or the file cannot be read or written.
        ScheduleError: the file is damaged.
    """
    campaign = Campaign(name, seeds, strategy, shrink=shrink)
    kept = Kept.read(keep) if keep is not None else None
    target = campaign.found.name if keep is None else seen_from(keep.parent, campaign.found.name)
    if kept is not None:
        campaign.again(kept.of(target))
    campaign.run(watch, None if elsewhere is None else elsewhere(campaign))
    if kept is not None and keep is not None:
        kept.add(Seed(f.seed, f.strategy, f.violated, target) for f in campaign.failures)
        kept.write(keep)
    return campaign.found
