"""Replaying schedules and seeds: what the command of that name does.

It must not print.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from smpmmu.checking import confirms, lasts
from smpmmu.engine.batch import Kernel
from smpmmu.engine.errors import ScheduleError, UsageError
from smpmmu.engine.live import LONGEST_RUN, Stray, in_trio, random_run, replay
from smpmmu.engine.onward import looks, out_of_reach_after
from smpmmu.engine.profiling import plan_of_seed
from smpmmu.engine.race import Race, critical_race
from smpmmu.engine.run import Action, Ending, Run
from smpmmu.engine.schedule import Expect, Schedule, ended, filled, read
from smpmmu.engine.strategies import UNIFORM
from smpmmu.engine.system import NO_DEADLOCK
from smpmmu.report.rows import Step
from smpmmu.report.telling import tell
from smpmmu.targets import one
from smpmmu.work import save_schedule, scheduled, write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from smpmmu.engine.system import System
    from smpmmu.engine.vcpus import Machine
    from smpmmu.report.account import Account
    from smpmmu.targets import Target


@dataclass(frozen=True, slots=True)
class Told:
    """A live run to be shown.

    Attributes:
        target: the variant.
        system: what was run.
        run: the run.
        violated: the property that it breaks, a deadlock included; or "".
        conclusion: what it means.
        status: the exit status.
        command: what shows it again.
    """

    target: Target
    system: System
    run: Run
    violated: str
    conclusion: str
    status: int
    command: str

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the story."""
        return tuple(Step(action.context, action.text) for action in self.run.actions)

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """Every context and its vCPU, those that were left out included."""
        whole = replace(self.target, without=()).system() if self.target.without else self.system
        return tuple((c.name, c.cpu) for c in whole.contexts)

    @property
    def race(self) -> Race | None:
        """The critical race, where something is violated and it has one."""
        if not self.violated:
            return None
        return critical_race(self.system, self.run.choices, self.violated)

    def account(self) -> Account:
        """Return the run told in full."""
        race = self.race
        return tell(
            self.system, self.run, name=self.target.name, summary=self.target.scenario.summary,
            conclusion=self.conclusion, command=self.command, violated=self.violated,
            critical=(race.first, race.second) if race is not None else None,
        )  # fmt: skip


def replay_file(path: Path, *, fill: bool = False) -> Told:
    """Run a schedule file live and compare every line of it.

    Raises:
        ScheduleError: the file is truncated, edited, outdated, or does not end as it says.
        UsageError: there is no such file.
    """
    schedule, target, text = load(path)
    system = target.system()
    run = _run_schedule(schedule, target, system, path)
    _ends_as_expected(run, schedule, target, system, path)
    conclusion = f"confirmed: {_ending(schedule)} after {len(run.actions)} choices"
    if fill:
        write_whole(path, filled(text, schedule, run))
        conclusion += f"; {path} was written in full"
    return Told(target, system, run, schedule.violated, conclusion, 0, f"replay {path}")


def load(path: Path) -> tuple[Schedule, Target, str]:
    """Read a schedule file: the schedule, the variant that it is about, and the text.

    Raises:
        ScheduleError: it is not one, or of no variant that there is.
        UsageError: there is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        msg = f"cannot read the schedule {path}: {reason}"
        if not path.exists() and "/" in str(path) and path.suffix != ".schedule":
            msg += (
                "\n  a variant is replayed by a seed, --seed N, or by the schedule written by"
                f"\n  python -m smpmmu explore {path} --save DIR"
            )
        raise UsageError(msg) if isinstance(error, OSError) else ScheduleError(msg) from error
    schedule = read(text, str(path))
    try:
        target = replace(scheduled(schedule.scenario, path), without=schedule.without)
    except UsageError as error:
        msg = f"{path}: {error}"
        raise ScheduleError(msg) from error
    return schedule, target, text


def _ending(schedule: Schedule) -> str:
    return {
        Expect.VIOLATED: f"{schedule.violated} is violated",
        Expect.PASSES: "the system comes to rest, and nothing was violated,",
        Expect.UNDECIDED: "nothing is violated, and it can go on,",
    }[schedule.expect]


def _ends_as_expected(
    run: Run, schedule: Schedule, target: Target, system: System, path: Path
) -> None:
    """Refuse a run that does not end as its schedule says."""
    wanted = {
        Expect.VIOLATED: f"violate {schedule.violated}",
        Expect.PASSES: "come to rest",
        Expect.UNDECIDED: "be able to go on",
    }[schedule.expect]
    head = f"{path}: expected the run to {wanted}, found"
    after = f"after {len(run.actions)} choices\n{_record_again(target)}"
    if schedule.expect is Expect.VIOLATED:
        right = confirms(run, schedule.violated)
    else:
        right = run.ending is ENDINGS[schedule.expect]
    if not right:
        msg = f"{head} {run.violated or run.ending.value} {after}"
        raise ScheduleError(msg)
    if schedule.violated and not in_trio(lasts, system, schedule.violated, schedule.choices):
        msg = f"{head} that it can go on {after}"
        raise ScheduleError(msg)


ENDINGS = {Expect.PASSES: Ending.QUIESCENT, Expect.UNDECIDED: Ending.CUT}


def replay_onward(
    path: Path, strategy: str, seed: int, *, longest: int = LONGEST_RUN, folder: Path | None = None
) -> Told:
    """Run a schedule file live as a prefix, whatever it ends with, and go on by a seed.

    With a `folder` the schedule of the whole run is written there.

    Raises:
        ScheduleError: as for `replay_file`, but for how it ends.
        UsageError: there is no such file.
    """
    schedule, target, _ = load(path)
    system = target.system()
    prefix = _run_schedule(schedule, target, system, path)
    goes_on = prefix.ending is Ending.CUT
    run = _onward(system, strategy, seed, longest, schedule.choices) if goes_on else prefix
    head = f"{len(prefix.actions)} choices of {path}, then seed {seed} ({strategy})"
    stem = f"{path.stem}.then.{seed}"
    command = f"replay {path} --then {strategy} --seed {seed}"
    return _told(run, head, target, system, command, folder, stem)


def replay_seed(
    name: str | Target, seed: int, *, strategy: str = UNIFORM.name, longest: int = LONGEST_RUN,
    folder: Path | None = None
) -> Told:  # fmt: skip
    """Run one seed of a variant live; with a `folder` its schedule is written there.

    Raises:
        UsageError: there is no such variant or strategy.
    """
    target = one(name)
    system = target.system()
    run = _onward(system, strategy, seed, longest, ())
    stem = f"{target.scenario.name}.{target.sized}.seed.{seed}"
    command, head = f"replay {target.name} --seed {seed}", f"seed {seed}"
    if strategy != UNIFORM.name:
        stem += f".{strategy.replace(':', '_')}"
        command, head = f"{command} --strategy {strategy}", f"{head} ({strategy})"
    return _told(run, head, target, system, command, folder, stem)


def _onward(system: System, strategy: str, seed: int, longest: int, after: tuple[str, ...]) -> Run:
    plan = plan_of_seed(system, strategy, seed)

    async def run_it(until: int) -> Run:
        return await random_run(system, seed, plan=plan, longest=until, after=after)

    for until in looks(len(system.contexts), longest):
        if until <= len(after):
            continue
        run = in_trio(run_it, until)
        if run.ending is not Ending.CUT:
            return run
        name = out_of_reach_after(Kernel(system), run.choices)
        if name:
            return replace(run, ending=Ending.VIOLATION, violated=name)
    return in_trio(run_it, longest)


def _told(
    run: Run, head: str, target: Target, system: System, command: str, folder: Path | None,
    stem: str
) -> Told:  # fmt: skip
    conclusions = {
        Ending.VIOLATION: (f"VIOLATED {run.violated}", 1),
        Ending.QUIESCENT: ("came to rest; nothing was violated", 0),
        Ending.STUCK: (f"VIOLATED {NO_DEADLOCK}", 1),
        Ending.CUT: ("cut off; undecided", 3),
    }
    text, status = conclusions[run.ending]
    conclusion = f"{head}: {text} after {len(run.actions)} choices"
    if folder is not None:
        schedule = ended(target.name, run).write()
        path = save_schedule(schedule, target.name, folder, stem)
        conclusion += f"\nreplay: python -m smpmmu replay {path}"
    violated = run.violated or (NO_DEADLOCK if run.ending is Ending.STUCK else "")
    return Told(target, system, run, violated, conclusion, status, command)


def _run_schedule(schedule: Schedule, target: Target, system: System, path: Path) -> Run:
    def compare(number: int, machine: Machine, action: Action) -> None:
        line = schedule.lines[number]
        if line.text and line.text != action.text:
            found = f"{line.choice} {action.text!r}"
            raise _differs(path, line.number, f"{line.choice} {line.text!r}", found, (), target)
        if schedule.expect is not Expect.VIOLATED and (broken := machine.violated()):
            found = f"that it violates {broken[0]}"
            raise _differs(path, line.number, "a step that breaks nothing", found, (), target)

    try:
        return in_trio(_replay, system, schedule.choices, compare)
    except Stray as stray:
        line = schedule.lines[stray.number]
        found = "that it cannot move" if stray.known else "no such context"
        wanted = f"{line.choice} {line.text!r}" if line.text else line.choice
        raise _differs(path, line.number, wanted, found, stray.possible, target) from None


async def _replay(system: System, choices: tuple[str, ...], compare: Any) -> Run:  # noqa: ANN401
    return await replay(system, choices, check=compare)


def _differs(
    path: Path, line: int, wanted: str, found: str, possible: tuple[tuple[str, str], ...],
    target: Target
) -> ScheduleError:  # fmt: skip
    enabled = ", ".join(f"{name} {label!r}" for name, label in possible)
    here = f"\n  enabled here: {enabled}" if enabled else ""
    return ScheduleError(
        f"{path}:{line}: expected {wanted}, found {found}{here}\n{_record_again(target)}"
    )


def _record_again(target: Target) -> str:
    return (
        "  the file was edited, or the modelled code changed after it was written; record it "
        f"again with\n  python -m smpmmu explore {target.name} --save DIR"
    )
