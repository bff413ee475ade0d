"""Stressing: many seeds of a variant, what they found, and the failing ones run live.

What the command of that name does. It must not print.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from smpmmu.checking import lasts, live_again
from smpmmu.engine.batch import Kernel
from smpmmu.engine.errors import InternalError
from smpmmu.engine.live import in_trio
from smpmmu.engine.profiling import planned
from smpmmu.engine.run import Ending
from smpmmu.engine.strategies import UNIFORM, dealt, named
from smpmmu.engine.strategies.pct import Pct
from smpmmu.engine.stress import ENDINGS, LONGEST_RUN, Herd, together
from smpmmu.engine.system import NO_DEADLOCK
from smpmmu.seeds import Kept, Seed
from smpmmu.targets import one

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from smpmmu.engine.steps import Column
    from smpmmu.engine.strategies.plan import Plan
    from smpmmu.engine.system import System
    from smpmmu.targets import Target

RUN_LIVE = 20
"""Failing seeds run live, besides the first one of every property and strategy."""


@dataclass(slots=True)
class Stressed:
    """What the seeds did.

    Attributes:
        name: the variant.
        seeds: how many were run.
        strategy: what the user called it.
        failing: property (or `no_deadlock`) and number of seeds that violate it.
        by_strategy: the same for each strategy of a portfolio.
        first: the first failing seed, None if none.
        choices: how many that one's run has.
        live: failing seeds that were run live and agreed.
        cut: seeds whose run was cut off.
        steps: actions of all runs.
        finals: distinct last states.
        classes: distinct happens-before classes.
        once: those of them seen once.
        kept: seeds taken from a file, and how many of them still fail.
        bounds: what a strategy promises, in words.
    """

    name: str
    seeds: range
    strategy: str
    failing: Counter[str] = field(default_factory=Counter)
    by_strategy: dict[str, int] = field(default_factory=dict)
    first: int | None = None
    choices: int | None = None
    live: int = 0
    cut: int = 0
    steps: int = 0
    finals: int = 0
    classes: int = 0
    once: int = 0
    kept: tuple[int, int] | None = None
    bounds: tuple[str, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether any seed fails, those from a file included."""
        return bool(self.failing) or bool(self.kept and self.kept[1])

    def lines(self) -> list[str]:
        """Return the findings as text."""
        total = len(self.seeds)
        how = "" if self.strategy == UNIFORM.name else f"{self.strategy}, "
        head = f"{self.name}: {how}seeds {self.seeds.start}:{self.seeds.stop}, "
        cut = f", {self.cut:,} cut off" if self.cut else ""
        lines = []
        if self.kept is not None:
            lines.append(f"kept seeds: {self.kept[1]:,} of {self.kept[0]:,} still fail")
        failed = sum(self.failing.values())
        found = f"{failed:,} of {total:,} fail ({failed / total:.3%})" if failed else (
            f"none of {total:,} fails")  # fmt: skip
        lines.append(head + found + cut)
        lines += [f"  {count:,} violate {name}" for name, count in sorted(self.failing.items())]
        if len(self.by_strategy) > 1:
            told = ", ".join(f"{name} {count:,}" for name, count in self.by_strategy.items())
            lines.append(f"  failing by strategy: {told}")
        lines += self.bounds
        lines += self._spread()
        if self.first is None:
            lines.append("random runs prove nothing; `explore` looks at all of them")
            return lines
        lines.append(f"first failing seed: {self.first}, after {self.choices} choices; "
                     f"{self.live:,} of {failed:,} failing runs repeated live")  # fmt: skip
        option = "" if self.strategy == UNIFORM.name else f" --strategy {self.strategy}"
        for command in ("replay", "shrink"):
            lines.append(f"  python -m smpmmu {command} {self.name} --seed {self.first}{option}")
        return lines

    def _spread(self) -> list[str]:
        """Say how much was seen, and how much was not."""
        classes = f"{self.classes:,} happens-before classes, {self.once:,} of these seen once"
        share = f"by Good and Turing's estimate, {self.unseen:.2%} of the runs that would follow"
        return [
            f"distinct: {self.finals:,} last states; {classes}",
            f"  {share} are of classes not seen yet",
        ]

    @property
    def unseen(self) -> float:
        """The Good-Turing estimate of the share of runs whose class was not seen yet."""
        return self.once / len(self.seeds)

    def json(self) -> dict[str, Any]:
        """Return the findings as JSON."""
        return {
            "schema": 1,
            "name": self.name,
            "strategy": self.strategy,
            "seeds": [self.seeds.start, self.seeds.stop],
            "failing": sum(self.failing.values()),
            "violated": dict(sorted(self.failing.items())),
            "failing_by_strategy": self.by_strategy,
            "first_failing_seed": self.first,
            "choices": self.choices,
            "repeated_live": self.live,
            "cut": self.cut,
            "steps": self.steps,
            "last_states": self.finals,
            "happens_before_classes": self.classes,
            "classes_seen_once": self.once,
            "unseen_share": self.unseen,
            "kept": list(self.kept) if self.kept is not None else None,
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """A failing seed: its strategy as the run has it, its plan, and what it violates."""

    seed: int
    strategy: str
    plan: Plan
    violated: str


class Campaign:
    """Seeds of one variant being run."""

    def __init__(self, name: str | Target, seeds: range, strategy: str) -> None:
        """Plan the strategies.

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
        self._classes: list[Column] = []
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
        self.found.kept = (len(kept), len(failures))

    def run(self, watch: Callable[[int], None]) -> None:
        """Run all seeds; `watch` is told now and then how many have been run."""
        seeds, size = self.found.seeds, together(self.kernel) * len(self.plans)
        for start in range(seeds.start, seeds.stop, size):
            part = range(start, min(start + size, seeds.stop))
            fails: list[Failure] = []
            shares = dealt(len(self.plans), part)
            for plan, share in zip(self.plans, shares, strict=True):
                fails += self._some(plan, share)
            self._note(sorted(fails, key=lambda failure: failure.seed))
            watch(part.stop - seeds.start)
        self._conclude()

    def _herd(self, plan: Plan, seeds: range | list[int], *, choices: bool = False) -> Herd:
        herd = Herd(self.kernel, seeds, plan=plan, longest=LONGEST_RUN, keep=choices, traced=True)
        for _ in herd.gallop():
            pass
        return herd

    def _some(self, plan: Plan, seeds: range) -> list[Failure]:
        """Run the seeds that fall to one plan, and return the failing ones."""
        if not seeds:
            return []
        herd = self._herd(plan, seeds)
        self.found.cut += int(np.count_nonzero(herd.endings == ENDINGS.index(Ending.CUT)))
        self.found.steps += int(herd.lengths.sum(dtype=np.int64))
        self._classes.append(herd.classes)
        self._finals.append(herd.finals)
        return _failures(herd, plan)

    def _note(self, failures: list[Failure]) -> None:
        """Count failures, which come in the order of their seeds."""
        self.failures += failures
        self.found.failing.update(failure.violated for failure in failures)
        for failure in failures:
            self.found.by_strategy[failure.strategy] += 1
        if failures and self.found.first is None:
            self.found.first = failures[0].seed

    def _conclude(self) -> None:
        """Count what is distinct; repeat failures live."""
        _, seen = np.unique(np.concatenate(self._classes), return_counts=True)
        self.found.classes, self.found.once = seen.size, int(np.count_nonzero(seen == 1))
        self.found.finals = np.unique(np.concatenate(self._finals)).size
        lengths = self._repeat(self.failures)
        self.found.live = len(lengths)
        if self.failures:
            first = self.failures[0]
            self.found.choices = lengths[first.strategy, first.seed]

    def _repeat(self, failures: list[Failure]) -> dict[tuple[str, int], int]:
        """Repeat failing runs on the batch kernel and live; return the length of each.

        Raises:
            InternalError: one does not fail again, or not so.
        """
        lengths = {}
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
                lengths[failure.strategy, failure.seed] = len(run.choices)
        return lengths


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
) -> Stressed:
    """Run seeds on the batch kernel, and failing ones live, which must agree.

    With a file to `keep` them, failing seeds that lie in it are run first, and new ones are added.

    Raises:
        UsageError: there is no such variant or strategy, or the file cannot be read or written.
        ScheduleError: the file is damaged.
    """
    campaign = Campaign(name, seeds, strategy)
    kept = Kept.read(keep) if keep is not None else None
    if kept is not None:
        campaign.again(kept.of(campaign.found.name))
    campaign.run(watch)
    if kept is not None and keep is not None:
        target = campaign.found.name
        kept.add(Seed(f.seed, f.strategy, f.violated, target) for f in campaign.failures)
        kept.write(keep)
    return campaign.found
