"""`shrink`: a violation with the fewest context switches, preemptions, choices, calls."""

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
              help="Shrink what this seed of the variant meets.")  # fmt: skip
@click.option(
    "--strategy", metavar="STRATEGY", help="Of the seed: uniform, pct:DEPTH, pos, surw, paced."
)
@click.option("--max-nodes", type=click.IntRange(1), metavar="N",
              help="Look at so many states for the proof that nothing is smaller.")  # fmt: skip
@click.option("--save", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Write the schedule into DIR.")  # fmt: skip
def shrink(
    what: str, seed: int | None, strategy: str | None, max_nodes: int | None, save: Path | None
) -> NoReturn:
    """Make the violation of a schedule or a seed smaller, the violated property being the same.

    Fewest context switches, then preemptions, then choices; then programs and calls are left
    out where that changes neither of the first two.
    """
    from smpmmu.engine.shrink import MOST_NODES
    from smpmmu.engine.strategies import UNIFORM
    from smpmmu.shrinking import shrink_file, shrink_seed

    most = max_nodes or MOST_NODES
    if seed is not None:
        chosen = strategy or UNIFORM.name
        found = shrink_seed(what, seed, strategy=chosen, most=most, folder=save)
    elif strategy is not None:
        msg = "--strategy is for seeds"
        raise UsageError(msg)
    elif Path(what).suffix == ".schedule" or Path(what).is_file():
        found = shrink_file(Path(what), most=most, folder=save)
    else:
        msg = f"{what!r} is no schedule file; name a --seed of the variant"
        raise UsageError(msg)
    told = found.told

    def compose(page: Page) -> None:
        for line in found.lines():
            page.line(line)
        report().story(told.steps, told.columns, page, told.race, told.violated)
        page.line(f"replay: python -m smpmmu {told.command}" if found.file else
                  "record: the same command with --save DIR", indent=2)  # fmt: skip

    print_page(compose)
    sys.exit(0)
