"""What each part of the engine contributes: `python benchmarks/contributions.py [N.P.K]...`.

The model `defer` is explored with one part after the other left out, each time by a process of its
own, from the start of Python to the verdict; no live run is made. It must find the same whenever
the same is left out of the states. For what a compiled kernel could add see `compiled.py`.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import click
from defer_model import defer
from measuring import measure
from tables import Page, caption, markdown, print_page

from smpmmu.engine import passes
from smpmmu.engine.answer import REDUCE_FROM, answer
from smpmmu.engine.recall import Recall
from smpmmu.engine.reduction import DEAD_WORDS, PARTIAL_ORDER, REDUCTIONS
from smpmmu.engine.verdict import Budget

HERE = Path(__file__).parent
HEADS = ("program", "states", "wall s", "cpu s", "peak MB", "bytes/state", "wall / first")


@dataclass(frozen=True, slots=True)
class Way:
    """A way to explore: what is in use of the engine's parts."""

    reductions: tuple[str, ...] = REDUCTIONS
    cores: int = 2
    packed: bool = True
    looks_up: bool = True
    scouts: bool = True
    reduce_from: int = REDUCE_FROM


WAYS = {
    "everything": Way(),
    "one core": Way(cores=1),
    "no scouts": Way(scouts=False),
    "no look-ups of actions": Way(looks_up=False),
    "no look-ups, one core": Way(looks_up=False, cores=1),
    "partial order alone": Way((PARTIAL_ORDER,)),
    "dead words alone": Way((DEAD_WORDS,)),
    "no reduction": Way(()),
    "no reduction, one core": Way((), cores=1),
    "no reduction, one core, not packed": Way((), cores=1, packed=False),
}


def explore(size: str, way: Way) -> dict[str, object]:
    """Explore a size one way and return what was found."""
    cpus, pages, iterations = map(int, size.split("."))
    system = defer(cpus, pages, iterations)
    with ExitStack() as without:
        if not way.looks_up:
            too_slow = property(lambda _: True, lambda _, __: None)
            without.enter_context(patch.object(Recall, "slow", too_slow, create=True))
        if not way.scouts:
            without.enter_context(patch.object(passes, "scout", lambda _: None))
        found = answer(system, Budget(cores=way.cores), packed=way.packed,
                       reductions=way.reductions, reduce_from=way.reduce_from)  # fmt: skip
    return {"states": found.states, "transitions": found.transitions,
            "verdict": found.verdict.value, "bytes": found.nbytes / found.states}  # fmt: skip


@click.command()
@click.argument("sizes", nargs=-1, metavar="[N.P.K]...")
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True,
              help="The fastest of so many counts.")  # fmt: skip
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--way", hidden=True)
def main(*, sizes: tuple[str, ...], runs: int, as_markdown: bool, way: str | None) -> None:
    """Explore defer (by default 6.2.1 and 4.2.3) with parts of the engine left out."""
    if way is not None:
        print(json.dumps(explore(sizes[0], WAYS[way])))
        return
    below = caption(" ".join(["python benchmarks/contributions.py", *sys.argv[1:]]))
    page = Page(HEADS)
    for size in sizes or ("6.2.1", "4.2.3"):
        rows: list[tuple[str, ...]] = []
        first = 0.0
        for name in WAYS:
            command = [sys.executable, str(Path(__file__)), size, "--way", name]
            taken = [measure(command, HERE) for _ in range(runs)]
            best = min(taken, key=lambda each: each.seconds)
            found = json.loads(best.output)
            first = first or best.seconds
            rows.append((name, f"{found['states']:,}", f"{best.seconds:.2f}",
                         f"{best.cpu_seconds:.2f}", f"{best.peak_bytes / 1e6:.0f}",
                         f"{found['bytes']:.1f}", f"{best.seconds / first:.2f}"))  # fmt: skip
        page.groups.append((f"defer ({size.replace('.', ',')})", rows))
    if as_markdown:
        click.echo(markdown(page, title="Parts left out", below=below))
    else:
        print_page(page, title=f"Parts left out: best of {runs}", below=below)


if __name__ == "__main__":
    main()
