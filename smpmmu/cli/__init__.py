"""The command line, and the only printer: a file for each command.

It must not decide anything about runs or verdicts; it asks, prints, and chooses the exit status.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import click

import smpmmu
from smpmmu.cli.explore import explore
from smpmmu.cli.listing import list_
from smpmmu.cli.passing import passing
from smpmmu.cli.printing import STATUSES
from smpmmu.cli.replay import replay
from smpmmu.cli.show import show
from smpmmu.cli.shrink import shrink
from smpmmu.cli.step import step
from smpmmu.cli.stress import stress
from smpmmu.engine.errors import (
    InternalError,
    ModelError,
    ScheduleError,
    SmpmmuError,
    UsageError,
)

__all__ = ["STATUSES", "cli", "main"]


@click.group(epilog=STATUSES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(smpmmu.__version__, prog_name="smpmmu")
def cli() -> None:
    """Find SMP races in page-table, TLB and shadow-paging code, or show that there are none."""


for command in (explore, list_, passing, replay, show, shrink, step, stress):
    cli.add_command(command)


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
