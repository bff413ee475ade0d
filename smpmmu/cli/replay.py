"""`replay`: a schedule or a seed, run on live vCPUs and told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from smpmmu.cli.printing import STATUSES, print_page, report
from smpmmu.engine.errors import UsageError

if TYPE_CHECKING:
    from smpmmu.report.text import Page


@click.command(epilog=STATUSES)
@click.argument("what", metavar="FILE | NAME/VARIANT")
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), metavar="N",
              help="Run this seed of a variant; with --then, go on by it.")  # fmt: skip
@click.option("--strategy", metavar="NAME[:DEPTH]",
              help="What the seed is of: uniform, pct, pos, surw, paced, portfolio.")  # fmt: skip
@click.option("--then", metavar="STRATEGY",
              help="The file is a prefix: go on from its end by this strategy.")  # fmt: skip
@click.option("--cpus", type=click.IntRange(1), metavar="N",
              help="The seed is of a run with N vCPUs; as NAME/VARIANT+Ncpus.")  # fmt: skip
@click.option("--longest", type=click.IntRange(1), metavar="N",
              help="Cut a seed's run off after N choices.")  # fmt: skip
@click.option("--save", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Write the schedule of a seed's run into DIR, however it ended.")  # fmt: skip
@click.option("--fill", is_flag=True, help="Write what each choice did into the schedule file.")
def replay(
    what: str, seed: int | None, strategy: str | None, then: str | None, cpus: int | None,
    longest: int | None, save: Path | None, *, fill: bool
) -> NoReturn:  # fmt: skip
    """Run a recorded schedule, or a seed, on live vCPUs and tell the story."""
    from smpmmu.engine.live import LONGEST_RUN
    from smpmmu.engine.strategies import UNIFORM
    from smpmmu.replaying import replay_file, replay_onward, replay_seed
    from smpmmu.targets import one, scaled

    if then is not None and seed is None:
        msg = "--then needs the --seed that decides how it goes on"
        raise UsageError(msg)
    if seed is None:
        for option, given in (
            ("--strategy", strategy),
            ("--cpus", cpus),
            ("--longest", longest),
            ("--save", save),
        ):
            if given is not None:
                msg = f"{option} is for seeds"
                raise UsageError(msg)
        told = replay_file(Path(what), fill=fill)
    else:
        if fill:
            msg = "--fill is for schedule files"
            raise UsageError(msg)
        most = longest or LONGEST_RUN
        if then is None:
            how = UNIFORM.name if strategy is None else strategy
            (chosen,) = scaled([one(what)], cpus)
            told = replay_seed(chosen, seed, strategy=how, longest=most, folder=save)
        elif strategy is not None or cpus is not None:
            msg = "--then names the strategy itself, and the schedule the number of vCPUs"
            raise UsageError(msg)
        else:
            told = replay_onward(Path(what), then, seed, longest=most, folder=save)

    def compose(page: Page) -> None:
        report().story(told.steps, told.columns, page, told.race, told.violated)
        for line in told.conclusion.split("\n"):
            page.line(line)

    print_page(compose)
    sys.exit(told.status)
