"""The benchmark: `python benchmarks/run.py` explores the model `defer` side by side with peers.

Every figure is of whole commands in this run: for smpmmu from the start of Python to the verdict,
live runs included; for SPIN and the C search with translation and compilation. Ratios against a
peer of the same run are what to quote; absolute seconds depend on the machine and its load. A
peer that is not installed is skipped, and the table says so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from peers import Figures, Skipped, measure, run_c, run_spin
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
MAIN_SIZE = "6,2,1"
SIZES = ("3,2,1", "4,2,1", "5,2,1", "4,2,2", MAIN_SIZE, "4,2,3")


def run_smpmmu(cpus: int, pages: int, iterations: int, variant: str) -> tuple[Figures, float]:
    """Explore the model with smpmmu; also return its bytes per visited state."""
    target = f"{HERE / 'defer_model.py'}:benchmark/{variant}.{cpus}.{pages}.{iterations}"
    command = ["-m", "smpmmu", "explore", "--expected", "--format", "json", target]
    done = measure([sys.executable, *command], HERE.parent)
    said = json.loads(done.output)["results"][0]
    figures = Figures(
        "smpmmu",
        said["states"],
        said["transitions"],
        said["depth"],
        said["verdict"].lower(),
        said["choices"],
        seconds_total=done.seconds,
        seconds_search=done.seconds,
        cpu_seconds=done.cpu_seconds,
        peak_bytes=done.peak_bytes,
    )
    return figures, said["bytes_per_state"]


def compare(sizes: list[tuple[int, int, int]], runs: int, variant: str) -> Table:
    """Run every tool at every size, in turn, and return the table of the fastest runs."""
    table = Table(box=SIMPLE_HEAD, title=f"defer, {variant}: whole commands, best of {runs}")
    for name in ("size", "tool", "states", "transitions", "depth", "verdict", "wall s", "cpu s",
                 "peak MB", "states/s", "bytes/state", "wall / smpmmu"):  # fmt: skip
        table.add_column(name, justify="left" if name in ("tool", "verdict") else "right")
    for n, p, k in sizes:
        best: dict[str, Figures] = {}
        bytes_per_state = 0.0
        for _ in range(runs):
            ours, bytes_per_state = run_smpmmu(n, p, k, variant)
            others = [
                run_spin(n, p, k, variant, search="dfs"),  # type: ignore[arg-type]
                run_spin(n, p, k, variant, search="dfs", safety=True),  # type: ignore[arg-type]
                run_spin(n, p, k, variant, search="bfs"),  # type: ignore[arg-type]
                run_c(n, p, k, variant),  # type: ignore[arg-type]
            ]
            for figures in (ours, *others):
                if isinstance(figures, Skipped):
                    table.add_row(f"{n},{p},{k}", figures.tool, str(figures))
                    continue
                known = best.get(figures.tool)
                if known is None or figures.seconds_total < known.seconds_total:
                    best[figures.tool] = figures
        for figures in best.values():
            _add(table, (n, p, k), figures, best["smpmmu"], bytes_per_state)
        if variant == "locked" and len({(f.states, f.transitions) for f in best.values()}) > 1:
            msg = f"the tools disagree on the counts at ({n},{p},{k})"
            raise SystemExit(msg)
    return table


def _add(
    table: Table, size: tuple[int, int, int], figures: Figures, ours: Figures, per_state: float
) -> None:
    seconds = figures.seconds_total
    verdict = figures.verdict
    if figures.trace_length is not None:
        verdict += f" in {figures.trace_length}"
    table.add_row(
        ",".join(map(str, size)),
        figures.tool,
        f"{figures.states or 0:,}",
        f"{figures.transitions or 0:,}",
        str(figures.depth or ""),
        verdict,
        f"{seconds:.1f}",
        f"{figures.cpu_seconds:.1f}",
        f"{figures.peak_bytes / 1e6:.0f}",
        f"{(figures.states or 0) / seconds:,.0f}",
        f"{per_state:.0f}" if figures is ours else "",
        f"{seconds / ours.seconds_total:.2f}",
    )


@click.command()
@click.option("--size", "sizes", multiple=True, metavar="N,P,K", help="A size; may be repeated.")
@click.option("--all", "everything", is_flag=True, help=f"All sizes: {'; '.join(SIZES)}.")
@click.option("--variant", type=click.Choice(["locked", "late", "noack"]), default="locked")
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True)
def main(*, sizes: tuple[str, ...], everything: bool, variant: str, runs: int) -> None:
    """Compare smpmmu, SPIN and a hand-written C search on the model `defer`."""
    chosen = SIZES if everything else sizes or ((MAIN_SIZE,) if variant == "locked" else ("4,2,1",))
    parsed = []
    for text in chosen:
        parts = tuple(int(part) for part in text.split(","))
        if len(parts) != 3:
            msg = f"expected N,P,K, found {text!r}"
            raise click.BadParameter(msg)
        parsed.append(parts)
    Console(width=150).print(compare(parsed, runs, variant))


if __name__ == "__main__":
    main()
