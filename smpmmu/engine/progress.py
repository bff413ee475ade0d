"""How much of a search is left, judged by the sizes of its levels; and how rough that is.

The states of a depth become more, then fewer. Before they become fewer nothing is known but what
is already found and not looked at. After that, two guesses: that the levels go on to shrink as
they did lately, or that they shrink faster and faster as they did lately. The truth is mostly in
between, or near (docs/large.md has the figures). This module must not know what a state is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LATELY, SINCE = 4, 1.5
"""As many depths are compared with as many before: a quarter of all, two thirds since the peak."""
PAST = 0.9
"""Below this share of the largest level the search is taken to be past it."""
FALLING = 0.9
"""Those depths must have become fewer by this at least: it may be a plateau otherwise."""
SLACK = 2
"""By how much either guess is taken to be wrong."""


@dataclass(frozen=True, slots=True)
class Left:
    """States still to expand: `least`, which before the peak is certain, to `most`.

    `most` is None while there is nothing to judge by.
    """

    least: int
    most: int | None


def left(levels: Sequence[int], expanded: int) -> Left:
    """Return what is left where `levels` are found so far and `expanded` of their states done."""
    found = sum(levels) - expanded
    depth, done = 0, 0
    while depth < len(levels) - 1 and done + levels[depth] <= expanded:
        done += levels[depth]
        depth += 1
    whole = list(levels[: depth + 1])  # all states of these depths are known
    since = depth - whole.index(max(whole))
    width = int(min(len(whole) // LATELY, since / SINCE))
    if not width or whole[-1] > PAST * max(whole):
        return Left(found, None)
    now, before, first = (sum(whole[len(whole) - n * width :][:width]) for n in (1, 2, 3))
    ratio = now / before
    if ratio > FALLING or whole[-1] * width > now:
        return Left(found, None)
    here = sum(whole) - expanded
    slowly = now * ratio / (1 - ratio)
    faster = min(1.0, ratio / (before / first))
    quickly = _shrinking(now, ratio, faster) if faster < 1 else slowly
    return Left(max(found, here + int(quickly / SLACK)), max(found, here + int(slowly * SLACK)))


def _shrinking(now: float, ratio: float, faster: float) -> float:
    """Return the sum of what follows `now` if each is a share of the last, ever smaller."""
    total = 0.0
    while now >= 1:
        ratio *= faster
        now *= ratio
        total += now
    return total
