"""Strategies: how a random run chooses which context takes the next action.

Each is a recipe (a frozen value) that makes a `Chooser` for runs side by side, a column for each;
a live run is one column. The seed decides everything. Agents are *contexts*: the main program of
a vCPU, each of its interrupt handlers and each of its daemons are chosen among like separate
threads, as far as the vCPU lets them move; so an interrupt lands when its handler is chosen.
It must not know how machines are stored or driven.
"""

from __future__ import annotations

from smpmmu.engine.errors import UsageError
from smpmmu.engine.strategies.chooser import UNIFORM, Chooser, Profile, Strategy
from smpmmu.engine.strategies.paced import Paced
from smpmmu.engine.strategies.pct import Pct
from smpmmu.engine.strategies.pos import Pos
from smpmmu.engine.strategies.surw import Surw

__all__ = ["NAMES", "PORTFOLIO", "UNIFORM", "Chooser", "Profile", "Strategy", "dealt", "named"]

PORTFOLIO = "portfolio"
IN_PORTFOLIO = ("uniform", "pct:2", "pct:3", "pos", "surw", "paced")
"""Seeds are dealt among these in turn, so that a seed still decides everything."""
NAMES = ("uniform", "pct[:DEPTH]", "pos", "surw", "paced", PORTFOLIO)
DEEPEST = 64


def named(text: str) -> tuple[Strategy, ...]:
    """Return the strategies that `NAME[:DEPTH]` means, several for a portfolio.

    Raises:
        UsageError: there is no such strategy.
    """
    if text == PORTFOLIO:
        return tuple(each for name in IN_PORTFOLIO for each in named(name))
    name, colon, depth = text.partition(":")
    if name == "pct" and (not colon or (depth.isdecimal() and 1 <= int(depth[:4]) <= DEEPEST)):
        return (Pct(int(depth)) if depth else Pct(),)
    simple: tuple[Strategy, ...] = (UNIFORM, Pos(), Surw(), Paced())
    for each in simple:
        if text == each.name:
            return (each,)
    msg = f"no strategy is called {text!r}; there are: {', '.join(NAMES)}, DEPTH 1 to {DEEPEST}"
    raise UsageError(msg)


def dealt(among: int, seeds: range) -> list[range]:
    """Return the seeds that fall to each of so many strategies: a seed's is its remainder."""
    first = seeds.start
    return [range(first + (number - first) % among, seeds.stop, among) for number in range(among)]
