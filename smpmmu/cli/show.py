"""`show`: a run as a page to look at, or as a trace."""

from __future__ import annotations

from pathlib import Path

import click

from smpmmu.cli.printing import STATUSES, out
from smpmmu.engine.errors import UsageError

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(epilog=STATUSES)
@click.argument("what", metavar="FILE | NAME/VARIANT")
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), metavar="N",
              help="Show the run of this seed.")  # fmt: skip
@click.option("--strategy", metavar="NAME[:DEPTH]",
              help="What the seed is of: uniform, pct, pos, surw, paced, portfolio.")  # fmt: skip
@click.option("--html", type=FILE, metavar="OUT", help="Write a page for a browser.")
@click.option("--perfetto", type=FILE, metavar="OUT",
              help="Write a trace for ui.perfetto.dev or chrome://tracing.")  # fmt: skip
def show(
    what: str, seed: int | None, strategy: str | None, html: Path | None, perfetto: Path | None
) -> None:
    """Write a schedule, a seed's run, or the shortest violation of a variant as a page or trace.

    The page is one file that needs no network: a lane for each CPU and handler, locks, interrupts,
    and every entry, TLB and queue as they change.
    """
    from smpmmu import __version__
    from smpmmu.showing import told
    from smpmmu.work import write_to

    if html is None and perfetto is None:
        msg = "say what to write: --html OUT or --perfetto OUT"
        raise UsageError(msg)
    if strategy is not None and seed is None:
        msg = "--strategy is for seeds"
        raise UsageError(msg)
    account = told(what, seed, strategy).account()
    if html is not None:
        from smpmmu.report.page import page

        write_to(html, page(account, __version__))
    if perfetto is not None:
        from smpmmu.report.trace import trace

        write_to(perfetto, trace(account, __version__))
    files = ", ".join(str(path) for path in (html, perfetto) if path is not None)
    out(f"{files}: {account.conclusion}\n")
