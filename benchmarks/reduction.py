"""What reduction saves, and that it changes no verdict: `python benchmarks/reduction.py`.

Every variant of the catalogue with at least so many states is explored plainly and with each
combination of reductions from the first state on, by the batch kernel alone. Any difference in
verdict, property or what is reached ends the run with status 1. Nothing depends on time.
"""

from __future__ import annotations

import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from smpmmu.engine.answer import answer
from smpmmu.engine.reduction import DEAD_WORDS, PARTIAL_ORDER, REDUCTIONS, SYMMETRY
from smpmmu.engine.verdict import Verdict
from smpmmu.targets import catalogue, find, one

COMBINATIONS = ((PARTIAL_ORDER,), (DEAD_WORDS,), (SYMMETRY,), (PARTIAL_ORDER, DEAD_WORDS),
                REDUCTIONS)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """A variant: its states plainly, and stored with each combination; what differed, if any."""

    name: str
    verdict: str
    plain: int
    stored: tuple[int, ...]
    wrong: str = ""


def measure(asked: tuple[str, int, bool]) -> Measured | None:
    """Explore a variant all ways; None if it is smaller than asked for."""
    name, least, evictor = asked
    system, evicted = one(name).systems()
    if evictor:
        if evicted is None:
            return None
        system, name = evicted, f"{name}+evictor"
    plain = answer(system)
    if plain.states < least:
        return None
    broken = [v.name for v in plain.violations]
    stored, wrong = [], ""
    for kinds in COMBINATIONS:
        found = answer(system, reductions=kinds, reduce_from=0)
        stored.append(found.states)
        same = found.verdict is plain.verdict and [v.name for v in found.violations] == broken
        if plain.verdict is Verdict.HOLDS:
            same = same and found.reached == plain.reached
        else:
            same = (
                same and found.violations == plain.violations
            )  # the plain search has the last word
        if not same:
            wrong = f"{found.verdict.value} with {' and '.join(kinds)}"
    return Measured(name, plain.verdict.value, plain.states, tuple(stored), wrong)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME[/VARIANT] | FILE.py[:NAME]]...")
@click.option("--least", default=5_000, show_default=True, metavar="STATES")
@click.option("--evictor", is_flag=True, help="The variants that hold, with their evictors.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
@click.option("--each", is_flag=True, help="A row for each variant.")
def main(*, names: tuple[str, ...], least: int, evictor: bool, jobs: int, each: bool) -> None:
    """Compare what is stored with and without reduction."""
    targets = [t for name in names for t in find(name)] if names else catalogue()
    asked = [(t.name, least, evictor) for t in targets]
    with ProcessPoolExecutor(jobs) as pool:
        answers = pool.map(measure, asked, chunksize=4)
        found = [m for m in track(answers, total=len(asked), transient=True) if m is not None]
    table = Table(box=SIMPLE_HEAD)
    table.add_column("variant")
    for title in ("states", "partial order", "dead words", "symmetry", "first two", "all"):
        table.add_column(title, justify="right")
    held = [m for m in found if m.verdict == Verdict.HOLDS.value]
    for m in held if each else ():
        table.add_row(m.name, f"{m.plain:,}", *(f"{n:,}" for n in m.stored))
    if held:
        shares = [[m.stored[n] / m.plain for m in held] for n in range(len(COMBINATIONS))]
        table.add_row(
            "median share of states", "1", *(f"{statistics.median(s):.2f}" for s in shares)
        )
        halves = [sum(share <= 0.5 for share in column) for column in shares]
        table.add_row("stored at most half", "", *(f"{n} of {len(held)}" for n in halves))
    Console(width=120).print(table)
    wrong = [m for m in found if m.wrong]
    for m in wrong:
        click.echo(f"{m.name}: {m.verdict} plainly, {m.wrong}")
    click.echo(
        f"{len(found)} variants of at least {least:,} states: {len(held)} hold, "
        f"{len(found) - len(held)} are violated; {len(wrong)} verdicts differ"
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
