"""The command line, and the only printer.

It must not decide anything about runs or verdicts; it asks, prints, and chooses the exit status.
Heavy modules are imported by the command that needs them, so that `list` stays quick.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

import smpmmu
from smpmmu.engine.errors import (
    InternalError,
    ModelError,
    ScheduleError,
    SmpmmuError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from smpmmu.engine.verdict import Exploration
    from smpmmu.report.rows import Row
    from smpmmu.report.text import Page
    from smpmmu.work import Job, Watch

STATUSES = """\b
Exit status:
  0    holds, as expected, or the replay is confirmed
  1    violated, or not as expected (beats 3)
  2    wrong usage: an unknown name, a bad option
  3    undecided: a budget ended the search
  4    the model or a file is wrong, or a HOLDS is vacuous
  70   internal: the live and the batch engine disagree
  130  interrupted
"""

PIPED_WIDTH = 120
"""Columns of output that does not go to a terminal."""


@click.group(epilog=STATUSES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(smpmmu.__version__, prog_name="smpmmu")
def cli() -> None:
    """Find SMP races in page-table, TLB and shadow-paging code, or show that there are none."""


@cli.command(epilog=STATUSES)
@click.argument("targets", nargs=-1, metavar="[NAME[/VARIANT] | FILE.py[:NAME] | all]...")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
@click.option("--save", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Write the schedule of every violation into DIR.")  # fmt: skip
@click.option("--all", "every", is_flag=True, help="Do not stop at the first violation.")
@click.option("--expected", is_flag=True, help="Judge by the variants' expectations.")
@click.option("--engine", type=click.Choice(["batch", "live"]), default="batch",
              help="batch: the kernel; live: the trio vCPUs themselves.")  # fmt: skip
@click.option("--live-runs", type=click.IntRange(0), metavar="N",
              help="Random live runs that must agree with a HOLDS: 20, or 5 for each cell of the "
              "main table.")  # fmt: skip
@click.option("--max-states", type=click.IntRange(1), metavar="N", help="Stop after N states.")
@click.option("--max-seconds", type=click.FloatRange(0, min_open=True), metavar="S",
              help="Stop a variant after S seconds.")  # fmt: skip
@click.option("--max-memory", metavar="BYTES", callback=lambda _c, _p, v: _bytes(v),
              help="Stop when the search's arrays reach this (as 500M, 2G).")  # fmt: skip
@click.option("--cells", is_flag=True, help="List the cells of the table with their counts.")
@click.option("--pae", is_flag=True, help="The table with PAE's entries of two words.")
@click.option("--jobs", type=click.IntRange(1), metavar="N",
              help="Variants explored at once, in processes of their own; without it all "
              "processors where there are many variants.")  # fmt: skip
def explore(
    targets: tuple[str, ...], form: str, save: Path | None, *, every: bool, expected: bool,
    engine: str, live_runs: int | None, max_states: int | None, max_seconds: float | None,
    max_memory: int | None, cells: bool, pae: bool, jobs: int | None,
) -> NoReturn:  # fmt: skip
    """Explore every interleaving of scenarios; without names, the main table; `all`, everything.

    What holds is explored once more with TLB evictions; NAME/VARIANT+evictor is that alone.
    Without names, and with `all`, the exit status compares with what is expected; with names it
    tells the verdicts (or what is expected, with --expected).
    """
    from smpmmu.checking import LIVE_RUNS
    from smpmmu.engine.verdict import Budget
    from smpmmu.scenarios.theorem import CELLS, PAE_CELLS
    from smpmmu.targets import catalogue, find, one
    from smpmmu.work import Job
    from smpmmu.work import save as save_row

    overview = not targets or targets == ("all",)
    if "all" in targets and not overview:
        msg = "'all' stands alone"
        raise UsageError(msg)
    for option, given in (("--cells", cells), ("--pae", pae)):
        if given and targets:
            msg = f"{option} is for the main table, which has no names"
            raise UsageError(msg)
    if not targets:
        chosen = [one(cell) for cell in (PAE_CELLS if pae else CELLS)]
    else:
        chosen = catalogue() if overview else [t for text in targets for t in find(text)]
    budget = Budget(max_states, max_seconds, max_memory)
    if live_runs is None:
        live_runs = LIVE_RUNS if targets else LIVE_RUNS_OF_A_CELL
    work = [Job(t.name, budget, every, engine, live_runs) for t in chosen]
    rows: list[Row] = []

    def finished(row: Row) -> None:
        rows.append(save_row(row, save) if save is not None else row)
        if form == "text" and not overview:
            _print_page(lambda page: _report().answer(rows[-1], page))

    _do(work, jobs or _processes(len(work)), finished, rows)
    if form == "json":
        from smpmmu.report.rows import SCHEMA

        data = {"schema": SCHEMA, "results": [row.json() for row in rows]}
        _out(json.dumps(data, indent=2) + "\n")
    elif overview:
        _print_page(lambda page: _overview(rows, page, table=not targets, cells=cells))
    sys.exit(_status(rows, expected=expected or overview))


LIVE_RUNS_OF_A_CELL = 5
"""A cell has many neighbours that differ in one knob."""
MANY_VARIANTS = 8
"""From so many on, starting other processes pays."""


def _processes(variants: int) -> int:
    return (os.cpu_count() or 1) if variants >= MANY_VARIANTS else 1


def _overview(rows: Sequence[Row], page: Page, *, table: bool, cells: bool) -> None:
    report = _report()
    if table:
        from smpmmu.report.theorem import backing, grid, theorem

        grid(rows, page)
        backing(rows, page)
        page.line("")
        page.line(theorem(rows))
        page.line("")
    if cells or not table:
        report.overview(rows, page)
    for row in rows:
        if row.vacuous:
            page.line(f"{row.name}: never reached: {'; '.join(row.vacuous)}")
    report.conclusion(rows, page)


def _do(jobs: list[Job], processes: int, finished: Callable[[Row], None], rows: list[Row]) -> None:
    """Do all jobs, telling `finished` of each row in order; say what was covered if stopped."""
    from smpmmu.engine.live import in_trio
    from smpmmu.work import do, spread

    progress = _Progress()

    async def one_by_one() -> None:
        for job in jobs:
            row = await do(job, progress.watch)
            progress.pause()
            finished(row)

    try:
        with progress:
            if processes > 1 and len(jobs) > 1:
                for row in spread(jobs, min(processes, len(jobs))):
                    progress.pause()
                    finished(row)
                    progress.count(len(rows), len(jobs))
            else:
                in_trio(one_by_one)
    except KeyboardInterrupt:
        click.echo(f"interrupted: {len(rows)} of {len(jobs)} variants were answered", err=True)
        if progress.last is not None:
            name, so_far = progress.last
            click.echo(
                f"{name}: {so_far.states:,} states, {so_far.transitions:,} transitions up to "
                f"depth {so_far.depth} without a verdict",
                err=True,
            )
        sys.exit(130)


def _status(rows: Sequence[Row], *, expected: bool) -> int:
    if any(row.surprising if expected and row.expected else row.broken for row in rows):
        return 1
    if any(row.verdict == "UNDECIDED" for row in rows):
        return 3
    if any(row.vacuous for row in rows):
        return 4
    return 0


@cli.command("list")
def list_() -> None:
    """List the catalogue: scenarios, their variants, what is expected of each, and families."""
    from smpmmu.scenarios import FAMILIES, NAMES, scenario

    lines = []
    for name in NAMES:
        each = scenario(name)
        lines += [each.name, f"    {each.summary}"]
        width = max(len(v.name) for v in each.variants)
        for variant in each.variants:
            wanted = variant.expected
            text = f"{wanted.verdict.value} {wanted.name}".strip() if wanted else ""
            lines.append(f"  {variant.name:{width}}  {text}".rstrip())
    for family, names in FAMILIES.items():
        lines += [family, f"    A family: {', '.join(names)}."]
    _out("\n".join(lines) + "\n")


@cli.command(epilog=STATUSES)
@click.argument("what", metavar="FILE | NAME/VARIANT")
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), metavar="N",
              help="Run this seed instead of a schedule.")  # fmt: skip
@click.option("--fill", is_flag=True, help="Write what each choice did into the schedule file.")
def replay(what: str, seed: int | None, *, fill: bool) -> NoReturn:
    """Run a recorded schedule, or a seed, on live vCPUs and tell the story."""
    from smpmmu.replaying import replay_file, replay_seed

    if seed is not None:
        if fill:
            msg = "--fill is for schedule files"
            raise UsageError(msg)
        told = replay_seed(what, seed)
    else:
        told = replay_file(Path(what), fill=fill)

    def compose(page: Page) -> None:
        _report().story(told.steps, told.columns, page)
        page.line(told.conclusion)

    _print_page(compose)
    sys.exit(told.status)


@cli.command(epilog=STATUSES)
@click.argument("target", metavar="NAME/VARIANT")
@click.option("--seeds", default="0:1000", show_default=True, metavar="A:B",
              callback=lambda _c, _p, v: _seeds(v), help="Seeds A up to B - 1.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
def stress(target: str, seeds: range, form: str) -> NoReturn:
    """Run thousands of seeded random schedules at once; say which seed fails first."""
    from smpmmu.replaying import stress_seeds

    done = 0

    def watch(count: int) -> None:
        nonlocal done
        done = count

    try:
        found = stress_seeds(target, seeds, watch)
    except KeyboardInterrupt:
        click.echo(f"interrupted: {done:,} of {len(seeds):,} seeds were run", err=True)
        sys.exit(130)
    if form == "json":
        _out(json.dumps(found.json(), indent=2) + "\n")
    else:
        _out("\n".join(found.lines()) + "\n")
    sys.exit(1 if found.failing else 3 if found.cut else 0)


def _seeds(text: str) -> range:
    try:
        first, last = (int(part) for part in text.split(":"))
    except ValueError:
        first, last = 0, 0
    if not 0 <= first < last <= 1 << 64:
        msg = f"expected A:B with 0 <= A < B, found {text!r}"
        raise click.BadParameter(msg)
    return range(first, last)


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    units = {"K": 10**3, "M": 10**6, "G": 10**9}
    number, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 1)
    if not (number.isascii() and number.isdigit() and int(number)):
        msg = f"expected a number of bytes, or one with K, M or G behind it, found {text!r}"
        raise click.BadParameter(msg)
    return int(number) * unit


def _report() -> Any:  # noqa: ANN401  a module, imported late because rich is slow to start
    from smpmmu.report import text

    return text


def _out(text: str) -> None:
    """Print to standard output; a reader that has gone, or lacks a character, is no error."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        click.echo(text.encode(encoding, "backslashreplace").decode(encoding), nl=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_page(compose: Callable[[Page], None]) -> None:
    """Compose a page for where standard output goes, and print it."""
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size((PIPED_WIDTH, 24)).columns if terminal else PIPED_WIDTH
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    page: Page = _report().Page(
        max(width, 40),
        colour=terminal and not os.environ.get("NO_COLOR"),
        ascii_only=not encoding.startswith("utf"),
    )
    compose(page)
    _out(page.text)


class _Progress:
    """A line on standard error about work that takes over a second, on a terminal only."""

    def __init__(self) -> None:
        self.last: tuple[str, Exploration] | None = None
        self._began = time.monotonic()
        self._shown: Any = None
        self._task: Any = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.pause()

    def pause(self) -> None:
        """Get out of the way of what is printed next."""
        if self._shown is not None:
            self._shown.stop()
            self._shown = None

    @property
    def watch(self) -> Watch:
        """What to call with the coverage so far."""

        def look(name: str, so_far: Exploration) -> None:
            if self.last is None or self.last[0] != name:
                self._began = time.monotonic()
            self.last = (name, so_far)
            seconds = time.monotonic() - self._began
            text = f"{name}: depth {so_far.depth}, {so_far.states:,} states, "
            self._show(text + f"{so_far.states / max(seconds, 1):,.0f} states/s")

        return look

    def count(self, done: int, of: int) -> None:
        """Tell how many variants have been answered."""
        self._show(f"{done} of {of} variants")

    def _show(self, text: str) -> None:
        if time.monotonic() - self._began <= 1 or not sys.stderr.isatty():
            return
        if self._shown is None:
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn, TextColumn

            console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")))
            ascii_only = not (console.encoding or "").lower().startswith("utf")
            spinner = SpinnerColumn("line" if ascii_only else "dots")
            columns = (spinner, TextColumn("{task.description}", markup=False))
            self._shown = Progress(*columns, console=console, transient=True)
            self._task = self._shown.add_task("")
            self._shown.start()
        self._shown.update(self._task, description=text)


EXITS: tuple[tuple[type[SmpmmuError], int], ...] = (
    (UsageError, 2),
    (ModelError, 4),
    (ScheduleError, 4),
    (InternalError, 70),
)


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except SmpmmuError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(next(status for kind, status in EXITS if isinstance(error, kind)))
    sys.exit(0)
