"""Shrinking what a schedule file or a seed violates: what the command of that name does.

It must not print.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from smpmmu.checking import confirms, lasts
from smpmmu.engine.errors import InternalError, UsageError
from smpmmu.engine.live import in_trio, replay
from smpmmu.engine.program import Role
from smpmmu.engine.schedule import recorded
from smpmmu.engine.shrink import MOST_NODES, Shrunk, shrink
from smpmmu.engine.strategies import UNIFORM
from smpmmu.replaying import Told, replay_file, replay_seed
from smpmmu.work import save_schedule

if TYPE_CHECKING:
    from pathlib import Path

    from smpmmu.engine.run import Run
    from smpmmu.engine.system import System
    from smpmmu.engine.walk import Cost
    from smpmmu.targets import Target


@dataclass(frozen=True, slots=True)
class Smaller:
    """A run made smaller.

    Attributes:
        shrunk: what came of it.
        told: its live run.
        whole: the system that nothing is left out of.
        origin: which run it was.
        file: where its schedule was saved, or "".
    """

    shrunk: Shrunk
    told: Told
    whole: System
    origin: str
    file: str = ""

    def lines(self) -> list[str]:
        """Return what was given, what came of it, and what stayed the same."""
        shrunk = self.shrunk
        lines = [
            f"{self.origin}: {_cost(shrunk.before)}",
            summary(shrunk),
            f"preserved: VIOLATED {shrunk.name}",
        ]
        if shrunk.left_out:
            kept = sum(len(c.calls) for c in self.told.system.contexts if c.role is Role.MAIN)
            all_ = sum(len(c.calls) for c in self.whole.contexts if c.role is Role.MAIN)
            lines.append(
                f"not needed for it: {', '.join(shrunk.left_out)}; {kept} of {all_} calls are left"
            )
        return lines


def summary(shrunk: Shrunk) -> str:
    """Return in a line how small it became."""
    kind = "the least there is" if shrunk.least else "smaller could not be found"
    known = f", of {shrunk.nodes:,} states looked at" if shrunk.least else ""
    return f"shrunk: {_cost(shrunk.cost)}: {kind}{known}"


def _cost(cost: Cost) -> str:
    switches = f"{cost.switches} context switch{'' if cost.switches == 1 else 'es'}"
    preemptions = f"{cost.preemptions} preemption{'' if cost.preemptions == 1 else 's'}"
    return f"{switches} ({preemptions}), {cost.choices} choices"


def shrink_file(path: Path, *, most: int = MOST_NODES, folder: Path | None = None) -> Smaller:
    """Shrink the violation that a schedule file records.

    Raises:
        ScheduleError: as for `replay`.
        UsageError: there is no such file, or nothing is violated.
    """
    return _smaller(replay_file(path), str(path), most, folder)


def shrink_seed(
    name: str | Target, seed: int, *, strategy: str = UNIFORM.name, most: int = MOST_NODES,
    folder: Path | None = None
) -> Smaller:  # fmt: skip
    """Shrink the violation that a seed of a variant meets.

    Raises:
        UsageError: there is no such variant, or nothing is violated.
    """
    told = replay_seed(name, seed, strategy=strategy)
    return _smaller(told, f"{told.target.name}, seed {seed}", most, folder)


def _smaller(told: Told, origin: str, most: int, folder: Path | None) -> Smaller:
    if not told.violated:
        msg = f"{origin} violates nothing, so there is nothing to shrink"
        raise UsageError(msg)
    shrunk = shrink(told.system, told.run.choices, told.violated, most=most)
    target = replace(told.target, without=(*told.target.without, *shrunk.left_out))
    small = target.system()
    run = confirmed(small, shrunk)
    file = ""
    if folder is not None:
        scenario, variant = target.scenario.name, target.sized
        schedule = replace(recorded(target.name, run, shrunk.name), without=target.without)
        stem = f"{scenario}.{variant}.shrunk"
        file = str(save_schedule(schedule.write(), target.name, folder, stem))
    again = Told(target, small, run, shrunk.name, "", 0, f"replay {file}" if file else "")
    return Smaller(shrunk, again, told.system, origin, file)


def confirmed(system: System, shrunk: Shrunk) -> Run:
    """Run what came of shrinking on live vCPUs.

    Raises:
        InternalError: it does not end as it is said to.
    """

    async def run_it() -> Run:
        return await replay(system, shrunk.choices)

    run = in_trio(run_it)
    lasting = in_trio(lasts, system, shrunk.name, shrunk.choices)
    if not confirms(run, shrunk.name) or not lasting:
        msg = f"what shrinking came to does not violate {shrunk.name} on live vCPUs"
        raise InternalError(msg)
    return run
