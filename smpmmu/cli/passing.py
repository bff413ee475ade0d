"""`passing`: runs of a variant that holds in which the dangerous window was entered."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from smpmmu.cli.printing import STATUSES, print_page, report

if TYPE_CHECKING:
    from smpmmu.report.text import Page


@click.command(epilog=STATUSES)
@click.argument("target", metavar="NAME/VARIANT")
@click.option("--count", type=click.IntRange(1), default=3, show_default=True, metavar="N",
              help="Show so many runs.")  # fmt: skip
@click.option("--save", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Write their schedules into DIR.")  # fmt: skip
def passing(target: str, count: int, save: Path | None) -> NoReturn:
    """Show runs of a variant that holds which came close to a violation, and still pass."""
    from smpmmu.passing import passing as find

    found = find(target, count, save)

    def compose(page: Page) -> None:
        for line in found.lines():
            page.line(line)
        for number, each in enumerate(found.runs, 1):
            told = each.told
            page.line("")
            where = f", after step *{each.marked}" if each.marked else ""
            page.line(f"{number}. {each.why}{where}")
            report().story(told.steps, told.columns, page, marked=each.marked)
            page.line(f"{each.ending} after {len(told.steps)} choices; nothing is violated",
                      indent=2)  # fmt: skip
            if each.file:
                page.line(f"replay: python -m smpmmu replay {each.file}", indent=2)

    print_page(compose)
    sys.exit(0)
