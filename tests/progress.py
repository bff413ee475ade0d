"""How far progress can be believed: `python -m tests.progress` compares estimates with the truth.

It explores the variants of the catalogue that hold and have some thousand states, every other one
(or those that are named), and prints for moments on the way how often the estimate held.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from smpmmu.engine.answer import answer
from smpmmu.engine.progress import left
from smpmmu.engine.verdict import Budget, Verdict
from smpmmu.targets import catalogue, find

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smpmmu.engine.progress import Left
    from smpmmu.targets import Target

SHARES = (0.25, 0.5, 0.75, 0.9)
FEWEST = 3_000
MOST_SECONDS = 6.0


@dataclass(slots=True)
class Judged:
    """What estimates came to when a share of the states was expanded.

    Attributes:
        bounds: it only said "at least"; `false_bounds` of them were wrong.
        held: the truth lay in the range.
        more: there was more left than the range allowed.
        less: there was less left.
    """

    share: float
    bounds: int = 0
    false_bounds: int = 0
    held: int = 0
    more: int = 0
    less: int = 0


def at(levels: Sequence[int], share: float) -> tuple[int, Left]:
    """Return what is left, in truth and as estimated, when a share of the states is expanded."""
    ends = list(accumulate(levels))
    expanded = int(share * ends[-1])
    depth = next(n for n, end in enumerate(ends) if end > expanded)
    part = (expanded - (ends[depth] - levels[depth])) / levels[depth]
    found = list(levels[: depth + 1])
    if depth + 1 < len(levels):
        found.append(int(levels[depth + 1] * part))
    return ends[-1] - expanded, left(found, expanded)


def judged(shapes: Sequence[Sequence[int]]) -> list[Judged]:
    """Compare estimates with the truth, over explorations with levels of these sizes."""
    table = [Judged(share) for share in SHARES]
    for row in table:
        for levels in shapes:
            truth, ahead = at(levels, row.share)
            if ahead.most is None:
                row.bounds += 1
                row.false_bounds += ahead.least > truth
            elif truth > ahead.most:
                row.more += 1
            elif truth < ahead.least:
                row.less += 1
            else:
                row.held += 1
    return table


def explored(targets: Sequence[Target]) -> list[tuple[int, ...]]:
    """Return the distinct level sizes of what holds and is not too small."""
    shapes = {}
    for target in targets:
        found = answer(target.system(), Budget(seconds=MOST_SECONDS))
        if found.verdict is Verdict.HOLDS and found.states >= FEWEST:
            shapes[found.levels] = target.name
    return list(shapes)


def main() -> None:
    """Print the table."""
    names = sys.argv[1:]
    targets = [t for name in names for t in find(name)] if names else catalogue()[::2]
    shapes = explored(targets)
    print(f"{len(shapes)} explorations\n")
    print('| expanded | only "at least" | in the range | more was left | less was left |')
    print("|---|---|---|---|---|")
    for row in judged(shapes):
        assert not row.false_bounds
        print(f"| {row.share:.0%} | {row.bounds} | {row.held} | {row.more} | {row.less} |")


if __name__ == "__main__":
    main()
