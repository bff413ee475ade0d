"""Which run is meant to be shown: of a schedule, of a seed, or the violation of a variant.

It must not know how it is shown, nor print.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from smpmmu.checking import check
from smpmmu.engine.errors import UsageError
from smpmmu.engine.live import in_trio
from smpmmu.engine.strategies import UNIFORM
from smpmmu.replaying import Told, replay_file, replay_seed
from smpmmu.targets import one

if TYPE_CHECKING:
    from smpmmu.checking import Answered


def told(what: str, seed: int | None = None, strategy: str | None = None) -> Told:
    """Run what the user means live: a schedule file, a seed of a variant, or its violation.

    Raises:
        UsageError: there is no such file or variant, or it holds and no seed is given.
        ScheduleError: as for `replay_file`.
    """
    if seed is not None:
        return replay_seed(what, seed, strategy=strategy or UNIFORM.name)
    path = Path(what)
    if path.suffix == ".schedule" or (path.is_file() and path.suffix != ".py"):
        return replay_file(path)
    return _violation(what)


def _violation(name: str) -> Told:
    """Explore a variant and return the run that violates it."""
    target = one(name)
    system, evicted = target.systems()

    async def look() -> Answered:
        return await check(system, live_runs=0, again=evicted)

    answered = in_trio(look)
    if answered.again is not None and answered.again.exploration.violations:
        assert evicted is not None
        target, system, answered = replace(target, evictor=True), evicted, answered.again
    if not answered.exploration.violations:
        msg = f"{target.name} holds: there is no violation to show; show a run of it with --seed N"
        raise UsageError(msg)
    found = answered.exploration.violations[0]
    choices = len(found.choices)
    conclusion = f"{found.name} is violated after {choices} choices, the fewest there can be"
    run = answered.stories[0]
    return Told(target, system, run, found.name, conclusion, 1, f"explore {target.name}")
