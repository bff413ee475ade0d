"""`stress`: thousands of seeded random schedules."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from smpmmu.cli.printing import STATUSES, Stopwatch, out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from smpmmu.stressing import Campaign, Part
    from smpmmu.targets import Target

    Elsewhere = Callable[[Campaign], Iterable[Part]]


@click.command(epilog=STATUSES)
@click.argument("target", metavar="NAME/VARIANT")
@click.option("--seeds", default="0:1000", show_default=True, metavar="A:B",
              callback=lambda _c, _p, v: _seeds(v), help="Seeds A up to B - 1.")  # fmt: skip
@click.option("--strategy", default="uniform", show_default=True, metavar="NAME[:DEPTH]",
              help="uniform, pct[:DEPTH], pos, surw, paced; portfolio: all in turn.")  # fmt: skip
@click.option("--cpus", type=click.IntRange(1), metavar="N",
              help="With N vCPUs, where scenarios take them: NAME/VARIANT+Ncpus.")  # fmt: skip
@click.option("--keep", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Run the failing seeds in FILE first, and add new ones to it.")  # fmt: skip
@click.option("--shrink/--no-shrink", default=True,
              help="Look for the least that violates the same, if affordable.")  # fmt: skip
@click.option("--cluster", metavar="ADDRESS",
              help="Let the workers of a Dask scheduler run them, as tcp://HOST:PORT.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
def stress(
    target: str, seeds: range, strategy: str, cpus: int | None, keep: Path | None, form: str,
    *, shrink: bool, cluster: str | None,
) -> NoReturn:  # fmt: skip
    """Run thousands of seeded random schedules at once; say which seed fails first."""
    from smpmmu.stressing import stress_seeds
    from smpmmu.targets import one, scaled

    done = 0

    def watch(count: int) -> None:
        nonlocal done
        done = count
        time.lap()

    time = Stopwatch()
    try:
        (chosen,) = scaled([one(target)], cpus)
        with _elsewhere(cluster, chosen) as elsewhere:
            found = stress_seeds(chosen, seeds, watch, strategy=strategy, keep=keep, shrink=shrink,
                                 elsewhere=elsewhere)  # fmt: skip
    except KeyboardInterrupt:
        click.echo(f"interrupted: {done:,} of {len(seeds):,} seeds were run", err=True)
        sys.exit(130)
    time.tell("steps", found.steps)
    if form == "json":
        out(json.dumps(found.json(), indent=2) + "\n")
    else:
        out("\n".join(found.lines()) + "\n")
    sys.exit(1 if found.fails else 3 if found.cut else 0)


@contextlib.contextmanager
def _elsewhere(address: str | None, target: Target) -> Iterator[Elsewhere | None]:
    """Connect to a scheduler, if one is named."""
    if address is None:
        yield None
        return
    from smpmmu.cluster.connection import Cluster
    from smpmmu.cluster.spread import spread_seeds

    with Cluster(address) as cluster:
        yield lambda campaign: spread_seeds(cluster, campaign, target, lambda _: None)


def _seeds(text: str) -> range:
    try:
        first, last = (int(part) for part in text.split(":"))
    except ValueError:
        first, last = 0, 0
    if not 0 <= first < last <= 1 << 64:
        msg = f"expected A:B with 0 <= A < B, found {text!r}"
        raise click.BadParameter(msg)
    return range(first, last)
