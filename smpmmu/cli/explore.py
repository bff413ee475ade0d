"""`explore`: every interleaving.

Heavy modules are imported where they are needed, so that the other commands stay quick.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from smpmmu.cli.printing import STATUSES, Progress, out, print_page, report
from smpmmu.engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from smpmmu.engine.keeper import Keeper
    from smpmmu.report.rows import Row
    from smpmmu.report.text import Page
    from smpmmu.work import Job


@click.command(epilog=STATUSES)
@click.argument("targets", nargs=-1, metavar="[NAME[/VARIANT] | FILE.py[:NAME] | all]...")
@click.option("--format", "form", type=click.Choice(["text", "json", "junit", "sarif"]),
              default="text", help="junit, sarif: for continuous integration.")  # fmt: skip
@click.option("--save", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Write the schedule of every violation into DIR.")  # fmt: skip
@click.option("--all", "every", is_flag=True, help="Do not stop at the first violation.")
@click.option("--expected", is_flag=True, help="Judge by the variants' expectations.")
@click.option("--engine", type=click.Choice(["batch", "live"]), default="batch",
              help="batch: the kernel; live: the trio vCPUs themselves.")  # fmt: skip
@click.option("--live-runs", type=click.IntRange(0), metavar="N",
              help="Random live runs that must agree with a HOLDS: 20; 5 each for the main table, "
              "1 each for `all`.")  # fmt: skip
@click.option("--max-states", type=click.IntRange(1), metavar="N", help="Stop after N states.")
@click.option("--max-seconds", type=click.FloatRange(0, min_open=True), metavar="S",
              help="Stop a variant after S seconds.")  # fmt: skip
@click.option("--max-memory", metavar="BYTES", callback=lambda _c, _p, v: _bytes(v),
              help="Stop when the search's arrays reach this (as 500M, 2G).")  # fmt: skip
@click.option("--frontier-memory", metavar="BYTES", callback=lambda _c, _p, v: _bytes(v),
              help="States still to expand beyond this lie on the disk, in TMPDIR: 1G, and at most "
              "a quarter of --max-memory.")  # fmt: skip
@click.option("--cores", type=click.IntRange(1), metavar="N",
              help="Cores that explore one variant together, with the same result; without it all, "
              "or one where --jobs takes several.")  # fmt: skip
@click.option("--cpus", type=click.IntRange(1), metavar="N",
              help="With N vCPUs, where scenarios take them; as NAME/VARIANT+Ncpus.")  # fmt: skip
@click.option("--cells", is_flag=True, help="List the cells of the table with their counts.")
@click.option("--pae", is_flag=True, help="The table with PAE's entries of two words.")
@click.option("--jobs", type=click.IntRange(1), metavar="N",
              help="Variants explored at once, in processes of their own; without it all "
              "processors where there are many variants.")  # fmt: skip
@click.option("--no-reduction", is_flag=True,
              help="Store every state of large spaces, too.")  # fmt: skip
@click.option("--without", multiple=True,
              type=click.Choice(["partial-order", "dead-words", "symmetry"]),
              help="One kind of reduction to do without; may be repeated.")  # fmt: skip
@click.option("--reduce-from", type=click.IntRange(0), metavar="N",
              help="States up to which every state is stored: 65,536.")  # fmt: skip
@click.option("--cluster", metavar="ADDRESS",
              help="Let the workers of a Dask scheduler do it, as tcp://HOST:PORT.")  # fmt: skip
@click.option("--checkpoint", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Keep the exploration of one variant in FILE, and go on from what lies there.",
              )  # fmt: skip
@click.option("--checkpoint-every", type=click.FloatRange(0), metavar="S",
              help="Write FILE every S seconds: 60.")  # fmt: skip
def explore(
    targets: tuple[str, ...], form: str, save: Path | None, *, every: bool, expected: bool,
    engine: str, live_runs: int | None, max_states: int | None, max_seconds: float | None,
    max_memory: int | None, frontier_memory: int | None, cores: int | None,
    cpus: int | None, cells: bool, pae: bool, jobs: int | None,
    no_reduction: bool, without: tuple[str, ...], reduce_from: int | None,
    checkpoint: Path | None, checkpoint_every: float | None, cluster: str | None,
) -> NoReturn:  # fmt: skip
    """Explore every interleaving of scenarios; without names, the main table; `all`, everything.

    What holds is explored once more with TLB evictions; NAME/VARIANT+evictor is that alone.
    `races` is a table of races from the record. Without names, with `all` and with `races` the
    exit status compares with what is expected; with names it tells the verdicts (or what is
    expected, with --expected).
    """
    from smpmmu.checking import LIVE_RUNS
    from smpmmu.engine.answer import REDUCE_FROM
    from smpmmu.engine.reduction import REDUCTIONS
    from smpmmu.engine.verdict import Budget
    from smpmmu.scenarios.theorem import CELLS, PAE_CELLS
    from smpmmu.targets import catalogue, find, one, scaled
    from smpmmu.work import Job
    from smpmmu.work import save as save_row

    overview = not targets or targets in (("all",), ("races",))
    if "all" in targets and len(targets) > 1:
        msg = "'all' stands alone"
        raise UsageError(msg)
    for option, given in (("--cells", cells), ("--pae", pae)):
        if given and targets:
            msg = f"{option} is for the main table, which has no names"
            raise UsageError(msg)
    if not targets:
        chosen = [one(cell) for cell in (PAE_CELLS if pae else CELLS)]
    else:
        every_one = targets == ("all",)
        chosen = catalogue() if every_one else [t for text in targets for t in find(text)]
    processes = min(jobs or _processes(len(chosen)), len(chosen))
    cores = cores or (1 if processes > 1 else None)
    budget = Budget(max_states, max_seconds, max_memory, frontier_memory, cores)
    if live_runs is None:
        live_runs = LIVE_RUNS
        if overview:
            live_runs = LIVE_RUNS_OF_ALL if targets else LIVE_RUNS_OF_A_CELL
    chosen = scaled(chosen, cpus)
    races = not overview  # a table has no room for them
    located = form == "sarif"
    left = [k for k in REDUCTIONS if not no_reduction and k.replace(" ", "-") not in without]
    begin = REDUCE_FROM if reduce_from is None else reduce_from
    work = [
        Job(t.name, budget, every, engine, live_runs, races, located, tuple(left), begin)
        for t in chosen
    ]
    keeper = _keeper(checkpoint, checkpoint_every, work)
    rows: list[Row] = []

    def finished(row: Row) -> None:
        rows.append(save_row(row, save) if save is not None else row)
        if form == "text" and not overview:
            print_page(lambda page: report().answer(rows[-1], page))

    if cluster is not None and jobs is not None:
        msg = "--jobs is for this machine, --cluster for others"
        raise UsageError(msg)
    _do(work, processes, finished, rows, keeper, cluster)
    if form == "text" and overview:
        print_page(lambda page: _overview(rows, page, targets[0] if targets else "", cells=cells))
    elif form != "text":
        _print_as(form, rows, expected=expected or overview)
    sys.exit(_status(rows, expected=expected or overview))


def _print_as(form: str, rows: list[Row], *, expected: bool) -> None:
    """Print the answers for machines."""
    if form == "json":
        from smpmmu.report.rows import SCHEMA

        data = {"schema": SCHEMA, "results": [row.json() for row in rows]}
        out(json.dumps(data, indent=2) + "\n")
    elif form == "junit":
        from smpmmu.report.junit import junit

        out(junit(rows, expected=expected))
    else:
        from smpmmu import __version__
        from smpmmu.report.sarif import sarif

        status = _status(rows, expected=expected)
        out(sarif(rows, __version__, expected=expected, status=status))


LIVE_RUNS_OF_A_CELL, LIVE_RUNS_OF_ALL = 5, 1
"""Each has many neighbours that differ in one knob."""
MANY_VARIANTS = 8
"""From so many on, starting other processes pays."""


def _processes(variants: int) -> int:
    return (os.cpu_count() or 1) if variants >= MANY_VARIANTS else 1


def _overview(rows: Sequence[Row], page: Page, what: str, *, cells: bool) -> None:
    text = report()
    if what == "races":
        from smpmmu.report.races import races

        races(rows, page)
    elif not what:
        from smpmmu.report.theorem import backing, grid, theorem

        grid(rows, page)
        backing(rows, page)
        page.line("")
        page.line(theorem(rows))
        page.line("")
    if cells or what == "all":
        text.overview(rows, page)
    for row in rows:
        if row.vacuous:
            page.line(f"{row.name}: never reached: {'; '.join(row.vacuous)}")
    text.conclusion(rows, page)


def _keeper(path: Path | None, seconds: float | None, jobs: list[Job]) -> Keeper | None:
    """Return what keeps the one exploration that there is, if that is asked for."""
    if path is None:
        if seconds is not None:
            msg = "--checkpoint-every is for --checkpoint FILE"
            raise UsageError(msg)
        return None
    if len(jobs) != 1:
        names = ", ".join([*(job.target for job in jobs[:3]), "..."][: len(jobs)])
        msg = f"a checkpoint is of one variant, not of {len(jobs)}; name one: {names}"
        raise UsageError(msg)
    if jobs[0].engine == "live":
        msg = "--engine live keeps no checkpoints"
        raise UsageError(msg)
    from smpmmu import __version__
    from smpmmu.engine.keeper import SECONDS, Keeper

    every = SECONDS if seconds is None else seconds
    return Keeper(path, __version__, lambda text: click.echo(text, err=True), every)


def _do(
    jobs: list[Job],
    processes: int,
    finished: Callable[[Row], None],
    rows: list[Row],
    keeper: Keeper | None,
    address: str | None,
) -> None:
    """Do all jobs, telling `finished` of each row in order; say what was covered if stopped."""
    from smpmmu.engine.live import in_trio
    from smpmmu.work import do, spread

    progress = Progress()

    async def one_by_one() -> None:
        for job in jobs:
            row = await do(job, progress.watch, keeper)
            progress.pause()
            finished(row)

    try:
        with progress:
            if address is not None:
                _on_cluster(address, jobs, finished, progress, keeper)
            elif processes > 1 and len(jobs) > 1:
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
        if keeper is not None and keeper.path.exists():
            click.echo(f"the same command goes on from {keeper.path}", err=True)
        sys.exit(130)


def _on_cluster(
    address: str,
    jobs: list[Job],
    finished: Callable[[Row], None],
    progress: Progress,
    keeper: Keeper | None,
) -> None:
    """Do all jobs on the workers of a scheduler: a task each, or blocks of one that is large."""
    from smpmmu.cluster.blocks import helper
    from smpmmu.cluster.connection import Cluster
    from smpmmu.cluster.spread import spread
    from smpmmu.engine.live import in_trio
    from smpmmu.targets import one
    from smpmmu.work import do_target

    with Cluster(address) as cluster:
        if len(jobs) == 1 and not jobs[0].reductions and jobs[0].engine == "batch":
            target = one(jobs[0].target)
            help_ = helper(cluster, target)
            finished(in_trio(do_target, target, jobs[0], progress.watch, keeper, help_))
            return
        if keeper is not None:
            msg = "with --cluster, a checkpoint is of one variant with --no-reduction"
            raise UsageError(msg)
        for row in spread(cluster, jobs, lambda done: progress.count(done, len(jobs))):
            progress.pause()
            finished(row)


def _status(rows: Sequence[Row], *, expected: bool) -> int:
    if any(row.bad(expected=expected) for row in rows):
        return 1
    if any(row.verdict == "UNDECIDED" for row in rows):
        return 3
    if any(row.vacuous for row in rows):
        return 4
    return 0


def _bytes(text: str | None) -> int | None:
    from smpmmu.engine.verdict import bytes_of

    try:
        return None if text is None else bytes_of(text)
    except UsageError as error:
        raise click.BadParameter(str(error)) from error
