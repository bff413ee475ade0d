"""Work on many variants: one after the other in this process, or side by side in others.

It must not print. A job is plain data, so that a spawned process can be given it.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from smpmmu.checking import LIVE_RUNS, check
from smpmmu.engine.answer import REDUCE_FROM
from smpmmu.engine.errors import UsageError
from smpmmu.engine.live import in_trio
from smpmmu.engine.race import critical_race
from smpmmu.engine.reduction import REDUCTIONS
from smpmmu.engine.verdict import Verdict
from smpmmu.report.rows import Row, row
from smpmmu.report.telling import defined, tell
from smpmmu.targets import Target, one

if TYPE_CHECKING:
    from smpmmu.checking import Answered
    from smpmmu.engine.cores import Helper
    from smpmmu.engine.explore import Search
    from smpmmu.engine.keeper import Keeper
    from smpmmu.engine.system import System
    from smpmmu.engine.verdict import Budget, Exploration

Watch = Callable[[str, "Exploration"], None]

PATIENCE = 5.0
"""Seconds that workers which were ended may take to be gone."""


@dataclass(frozen=True, slots=True)
class Job:
    """One variant to explore, and how; with `races` the critical race of what is found, too.

    Attributes:
        reductions: what large spaces are reduced by.
        reduce_from: states up to which a space is explored plainly.
    """

    target: str
    budget: Budget
    every: bool = False
    engine: str = "batch"
    live_runs: int = LIVE_RUNS
    races: bool = True
    located: bool = False
    reductions: tuple[str, ...] = REDUCTIONS
    reduce_from: int = REDUCE_FROM


async def do(job: Job, watch: Watch | None = None, keeper: Keeper | None = None) -> Row:
    """Explore the variant that a job names; with a `keeper` in its file, too."""
    return await do_target(one(job.target), job, watch, keeper)


async def do_target(
    target: Target,
    job: Job,
    watch: Watch | None = None,
    keeper: Keeper | None = None,
    helped: Callable[[Search], Helper] | None = None,
) -> Row:
    """Explore one variant as `job` says; what holds must hold with its evictors too.

    If it does not, or a budget ends that, the row is about the variant with its evictors. The
    plain search may be `helped` from elsewhere.

    Raises:
        CheckpointError: the keeper's file is of something else.
    """
    if keeper is not None:
        keeper.open(replace(target, file=Path(target.file).name).name, job.live_runs)
    system, evicted = target.systems()

    def look(so_far: Exploration) -> None:
        if watch is not None:
            watch(target.name, so_far)

    answered = await check(
        system,
        job.budget,
        every=job.every,
        engine=job.engine,
        live_runs=job.live_runs,
        again=evicted,
        watch=look,
        keeper=keeper,
        reductions=job.reductions,
        reduce_from=job.reduce_from,
        helped=helped,
    )
    again = answered.again
    if keeper is not None:
        keeper.close(stopped=bool((again or answered).exploration.reason))
    if again is not None and again.exploration.verdict is not Verdict.HOLDS:
        assert evicted is not None
        target, system, answered = replace(target, evictor=True), evicted, again
    columns = tuple((c.name, c.cpu) for c in system.contexts)
    scenario, variant = target.scenario, target.variant
    found = row(target.name, scenario.name, target.sized, variant.expected, answered, columns)
    if job.races:
        found = with_races(found, system)
    return located(found, target, system, answered) if job.located else found


def with_races(found: Row, system: System) -> Row:
    """Return a row with the critical race of everything that is violated."""
    broken = tuple(
        replace(each, race=critical_race(system, [s.context for s in each.story], each.name))
        for each in found.broken
    )
    return replace(found, broken=broken)


def located(found: Row, target: Target, system: System, answered: Answered) -> Row:
    """Return a row with the lines of code: of the scenario, and of every step of its stories."""
    broken = []
    for each, run in zip(found.broken, answered.stories, strict=True):
        steps = tell(system, run).steps
        story = tuple(
            replace(step, where=moment.where)
            for step, moment in zip(each.story, steps, strict=True)
        )
        broken.append(replace(each, story=story))
    return replace(found, broken=tuple(broken), defined=defined(target.scenario.build))


def spread(jobs: list[Job], processes: int) -> Iterator[Row]:
    """Explore variants in several processes, yielding in the order of `jobs`."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_deaf) as pool:
        try:
            yield from pool.map(alone, jobs)
        except BaseException:
            workers = list((getattr(pool, "_processes", None) or {}).values())
            manager = getattr(pool, "_executor_manager_thread", None)
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.terminate()
            if manager is not None:  # else Python may write to what it closes as it ends
                manager.join(PATIENCE)
            raise


def _deaf() -> None:
    """Leave Ctrl-C to the parent, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def alone(job: Job) -> Row:
    """Explore one variant in a process of its own."""
    return in_trio(do, job)


def save(found: Row, folder: Path) -> Row:
    """Write the schedules of a row, whole or not at all, and return the row with their names.

    Raises:
        UsageError: they cannot be written there.
    """
    broken = []
    for number, each in enumerate(found.broken):
        tail = "" if number == 0 else f".{each.name}"
        stem = f"{found.scenario}.{found.variant}{tail}"
        path = save_schedule(each.schedule, found.name, folder, stem)
        broken.append(replace(each, file=str(path)))
    return replace(found, broken=tuple(broken))


def save_schedule(text: str, name: str, folder: Path, stem: str) -> Path:
    """Write the schedule of the variant `name`, whole or not at all, and return where.

    Raises:
        UsageError: it cannot be written there.
    """
    path = folder / (re.sub(r"[^\w.-]+", "_", stem) + ".schedule")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, _relative(text, name, folder))
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror}"
        raise UsageError(msg) from error
    return path


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is never seen half written."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_to(path: Path, text: str) -> None:
    """Write a file that the user named, whole or not at all.

    Raises:
        UsageError: it cannot be written there.
    """
    try:
        write_whole(path, text)
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror}"
        raise UsageError(msg) from error


def _relative(schedule: str, name: str, folder: Path) -> str:
    """Name a user's file relative to where the schedule lies."""
    return schedule.replace(f"scenario {name}\n", f"scenario {seen_from(folder, name)}\n", 1)


def seen_from(folder: Path, name: str) -> str:
    """Return the name of a variant, a user's file being relative to `folder`."""
    file, separator, rest = name.rpartition(".py:")
    if not separator:
        return name
    path = Path(file + ".py").resolve()
    relative = Path(os.path.relpath(path, folder.resolve())).as_posix()
    return f"{relative}:{rest}"


def scheduled(name: str, schedule_file: Path) -> Target:
    """Return the variant that a schedule is about; users' files are relative to the schedule."""
    file, separator, rest = name.rpartition(".py:")
    if separator:
        name = f"{_near(schedule_file.parent / (file + '.py'))}:{rest}"
    return one(name)


def _near(path: Path) -> str:
    resolved = path.resolve()
    try:
        return str(resolved.relative_to(Path.cwd()))
    except ValueError:
        return str(resolved)
