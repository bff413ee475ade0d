"""What stress found, as values and as text.

It must not know how it was found, and it must not print.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from smpmmu.engine.strategies import UNIFORM
from smpmmu.report.text import pair
from smpmmu.shrinking import summary

if TYPE_CHECKING:
    from smpmmu.engine.race import Race
    from smpmmu.engine.shrink import Shrunk


@dataclass(frozen=True, slots=True)
class First:
    """The first failing seed of a property.

    Attributes:
        seed: its number.
        violated: the property.
        choices: how many its run has.
        shrunk: the cheapest violation of that property; None if it was not found.
        race: the critical race of that.
        most: how many states were looked at in vain, 0 if nobody asked.
    """

    seed: int
    violated: str
    choices: int
    shrunk: Shrunk | None = None
    race: Race | None = None
    most: int = 0

    def lines(self, command: str) -> list[str]:
        """Return the commands that show it, and how small it can be."""
        replay, shrink = (f"  python -m smpmmu {name} {command}" for name in ("replay", "shrink"))
        if self.shrunk is not None:
            told = []
            if self.race is not None:
                told = [f"  critical race: {pair(self.race, self.shrunk.cost.choices)}"]
            return [replay, summary(self.shrunk), *told, shrink]
        if self.most:
            short = f"not shrunk: {self.most:,} states did not show the least; for a smaller one:"
            return [replay, short, shrink]
        return [replay, shrink]

    def json(self) -> dict[str, Any]:
        """Return it as JSON."""
        shrunk, race = self.shrunk, self.race
        return {
            "seed": self.seed,
            "violated": self.violated,
            "choices": self.choices,
            "shrunk": shrunk and asdict(shrunk.cost),
            "critical_race": race and [race.first, race.second],
        }


@dataclass(slots=True)
class Stressed:
    """What the seeds did.

    Attributes:
        name: the variant.
        seeds: how many were run.
        strategy: what the user called it.
        failing: property (or `no_deadlock`) and number of seeds that violate it.
        by_strategy: the same for each strategy of a portfolio.
        firsts: the first failing seed of each property, in the order of seeds.
        live: failing seeds that were run live and agreed.
        cut: seeds whose run was cut off.
        steps: actions of all runs.
        finals: distinct last states.
        classes: distinct happens-before classes.
        once: those of them seen once.
        kept: seeds taken from a file; how many still violate what they did; how many another.
        bounds: what a strategy promises, in words.
    """

    name: str
    seeds: range
    strategy: str
    failing: Counter[str] = field(default_factory=Counter)
    by_strategy: dict[str, int] = field(default_factory=dict)
    firsts: tuple[First, ...] = ()
    live: int = 0
    cut: int = 0
    steps: int = 0
    finals: int = 0
    classes: int = 0
    once: int = 0
    kept: tuple[int, int, int] | None = None
    bounds: tuple[str, ...] = ()

    @property
    def first(self) -> int | None:
        """The first failing seed, None if none."""
        return self.firsts[0].seed if self.firsts else None

    @property
    def fails(self) -> bool:
        """Whether any seed fails, those from a file included."""
        return bool(self.failing) or bool(self.kept and (self.kept[1] or self.kept[2]))

    def lines(self) -> list[str]:
        """Return the findings as text."""
        total = len(self.seeds)
        how = "" if self.strategy == UNIFORM.name else f"{self.strategy}, "
        head = f"{self.name}: {how}seeds {self.seeds.start}:{self.seeds.stop}, "
        cut = f", {self.cut:,} cut off" if self.cut else ""
        lines = []
        if self.kept is not None:
            all_, still, other = self.kept
            more = f", {other:,} by violating something else" if other else ""
            lines.append(f"kept seeds: {still:,} of {all_:,} still fail{more}")
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
        if not self.firsts:
            lines.append("random runs prove nothing; `explore` looks at all of them")
            return lines
        option = "" if self.strategy == UNIFORM.name else f" --strategy {self.strategy}"
        for number, first in enumerate(self.firsts):
            which = f"first seed that violates {first.violated}" if number else "first failing seed"
            again = (
                f"; {self.live:,} of {failed:,} failing runs repeated live" if not number else ""
            )
            lines.append(f"{which}: {first.seed}, after {first.choices} choices{again}")
            lines += first.lines(f"{self.name} --seed {first.seed}{option}")
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
            "choices": self.firsts[0].choices if self.firsts else None,
            "first_of_each": [first.json() for first in self.firsts],
            "repeated_live": self.live,
            "cut": self.cut,
            "steps": self.steps,
            "last_states": self.finals,
            "happens_before_classes": self.classes,
            "classes_seen_once": self.once,
            "unseen_share": self.unseen,
            "kept": list(self.kept) if self.kept is not None else None,
        }
