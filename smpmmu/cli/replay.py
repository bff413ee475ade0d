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
        report().story(told.steps, told.columns, page)
        page.line(told.conclusion)

    print_page(compose)
    sys.exit(told.status)
