"""A line about an exploration that goes on: how far it is, how fast, and roughly what is left.

It must not know where the line is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.progress import left

if TYPE_CHECKING:
    from smpmmu.engine.verdict import Exploration


def so_far(found: Exploration, seconds: float, states: int, expanded: int) -> str:
    """Say how far `found` is, `seconds` after it had so many `states`, so many of them expanded."""
    ahead = left(found.levels, found.expanded)
    waiting = found.states - found.expanded
    pace = (found.expanded - expanded) / max(seconds, 1e-3)
    text = (
        f"depth {found.depth}, {found.states:,} states ({waiting:,} waiting), "
        f"{(found.states - states) / max(seconds, 1e-3):,.0f} states/s; "
    )
    if pace <= 0:
        return text + f"at least {ahead.least:,} to go"
    if ahead.most is None:
        return text + f"at least {ahead.least:,} to go, {_time(ahead.least / pace)}"
    shares = [found.expanded / max(1, found.expanded + n) for n in (ahead.most, ahead.least)]
    low, high = (f"{min(share, 0.99):.0%}".removesuffix("%") for share in shares)
    done = f"{low} %" if low == high else f"{low} to {high} %"
    times = [_time(n / pace) for n in (ahead.least, ahead.most)]
    rest = times[0] if times[0] == times[1] else f"{times[0]} to {times[1]}"
    return text + f"roughly {done} done, {rest} to go"


def _time(seconds: float) -> str:
    """Return a time as a person would guess it."""
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{max(1, round(seconds / unit))} {name}"
    return f"{round(seconds / 86400)} days"
