"""The benchmark: `python benchmarks/run.py` asks smpmmu and its peers the same questions.

Every figure is of whole commands in this run: for smpmmu from the start of Python to the verdict,
live runs included; for SPIN and the C search with translation and compilation. Ratios against a
peer of the same run are what to quote; absolute seconds depend on the machine and its load. A
peer that is not installed is skipped, and the table says so. `docs/benchmarks.md` explains the
rows.
"""

from __future__ import annotations

import compileall
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import classics
import click
import questions
import spin
from measuring import Figures, Skipped
from tables import HEADS, DisagreementError, Page, add, caption, markdown, print_page

import smpmmu

if TYPE_CHECKING:
    from collections.abc import Iterable

PARTS = ("defer", "variants", "kernel", "classics")
SPIN = {"none": (), "few": spin.FEW, "all": spin.ALL}


def asked(
    part: str, sizes: tuple[questions.Size, ...], *, everything: bool
) -> list[questions.Question]:
    """Return the questions of a part."""
    if part == "defer":
        return [questions.defer(size) for size in sizes]
    if part == "variants":
        return [questions.defer(questions.VARIANT_SIZE, each) for each in questions.VARIANTS]
    if everything:
        return list(questions.KERNEL.values())
    return [questions.KERNEL[name] for name in questions.FEW_OF_THE_KERNEL]


def best(
    question: questions.Question, runs: int, ways: tuple[tuple[str, ...], ...],
    configurations: tuple[spin.Configuration, ...],
    *, limit: float, slow: bool,
) -> list[Figures | Skipped]:  # fmt: skip
    """Ask everybody `runs` times in turn; return the fastest answer of each."""
    found: dict[str, Figures | Skipped] = {}
    for _ in range(runs):
        for said in questions.answers(question, ways, configurations, limit=limit, slow=slow):
            known = found.get(said.tool)
            if isinstance(said, Figures) and isinstance(known, Figures):
                said = min(said, known, key=lambda f: f.seconds_total)  # noqa: PLW2901
            found[said.tool] = said
    return list(found.values())


def parsed(sizes: Iterable[str]) -> tuple[questions.Size, ...]:
    """Return sizes given as N,P,K.

    Raises:
        BadParameter: one is not.
    """
    result = []
    for text in sizes:
        parts = text.split(",")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            msg = f"expected N,P,K, found {text!r}"
            raise click.BadParameter(msg)
        n, p, k = map(int, parts)
        result.append((n, p, k))
    return tuple(result)


@click.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS),
              help="Only this; may be repeated.")  # fmt: skip
@click.option("--size", "sizes", multiple=True, metavar="N,P,K",
              help="Sizes of defer; otherwise " + "; ".join("{},{},{}".format(*s)
              for s in questions.SIZES[:-1]) + ".")  # fmt: skip
@click.option("--all", "everything", is_flag=True,
              help="All sizes and kernel scenarios; all ways of smpmmu and SPIN.")  # fmt: skip
@click.option("--slow", is_flag=True, help="Checkers in Python at large sizes too.")
@click.option("--spin", "with_spin", type=click.Choice(list(SPIN)), help="Ways of running SPIN.")
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True,
              help="The fastest of so many counts.")  # fmt: skip
@click.option("--limit", type=click.FloatRange(0), default=300, show_default=True,
              help="Seconds after which a search is stopped; 0: never.")  # fmt: skip
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
def main(
    *, parts: tuple[str, ...], sizes: tuple[str, ...], everything: bool, slow: bool,
    with_spin: str | None, runs: int, limit: float, as_markdown: bool,
) -> None:  # fmt: skip
    """Compare smpmmu with SPIN, a C search and checkers written in Python."""
    compileall.compile_dir(Path(smpmmu.__file__).parent, quiet=1)  # as an installation does
    configurations = SPIN[with_spin or ("all" if everything else "few")]
    ways = questions.ALL_WAYS if everything else questions.FEW_WAYS
    wanted = parsed(sizes) or questions.SIZES[: None if everything else -1]
    below = caption(" ".join(["python benchmarks/run.py", *sys.argv[1:]]))
    for part in parts or PARTS:
        if part == "classics":
            page, title = classics.page(limit=limit), "Classic programs"
        else:
            page, title = Page(HEADS), f"{part}: whole commands, best of {runs}"
            for question in asked(part, wanted, everything=everything):
                answers = best(question, runs, ways, configurations, limit=limit, slow=slow)
                try:
                    add(page, question.title, answers)
                except DisagreementError as error:
                    raise click.ClickException(str(error)) from error
        if as_markdown:
            click.echo(markdown(page, title=title, below=below))
        else:
            print_page(page, title=title, below=below)


if __name__ == "__main__":
    main()
