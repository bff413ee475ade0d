"""Cost against size: seconds of the search alone against states, for smpmmu and its peers.

`python benchmarks/plot.py` measures, keeps the figures in `benchmarks/cost.json`, and draws them
into `docs/benchmarks.svg`; `--draw` only draws. What comes before the search (the start of Python,
translation and compilation) does not grow with the size and is shown apart, as a line.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import peers
import spin
from kernel_models import TWINS
from measuring import Figures, Skipped, TooLongError, measure
from tables import caption

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
DATA = HERE / "cost.json"
PICTURE = HERE.parent / "docs" / "benchmarks.svg"

SIZES = ((3, 1, 2), (3, 2, 1), (4, 1, 2), (3, 2, 2), (4, 2, 1), (5, 1, 2), (5, 2, 1), (4, 2, 2),
         (6, 2, 1), (4, 2, 3))  # fmt: skip
OURS = ((4, 2, 4), (5, 2, 2))
"""Sizes at which SPIN and C would need 5 to 10 gigabytes."""
KERNEL = tuple(t for t in TWINS if t.variant == "deferred_under_ptl" and t.defines[0] == "DEFERRED")
PYTHON_MOST = 1_000_000
"""States up to which checkers in Python are asked: further on they take minutes."""
LARGE = 100_000
"""States from which on arrays are full, and what is done once per depth no longer counts."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measured search.

    Attributes:
        tool: whose.
        model: `defer`, or `kernel`.
        states: how many it stored.
        seconds: of the search alone.
        before: seconds from the start of the command to the search.
    """

    tool: str
    model: str
    states: int
    seconds: float
    before: float


def measured(*, limit: float, up_to: int) -> Iterator[Point]:
    """Measure everything, small sizes first.

    Raises:
        PeerError: a tool failed.
    """
    for n, p, k in SIZES:
        ours = _ours("defer", f"defer.{n}.{p}.{k}", limit)
        if ours is None or ours.states > up_to:
            continue
        yield ours
        macros = (f"N={n}", f"P={p}", f"K={k}")
        for way in (spin.DFS_SAFETY, spin.BFS):
            found = spin.run_spin("defer", macros, way, states=ours.states, limit=limit)
            yield from _point(found, "defer")
        yield from _point(peers.run_c(n, p, k, "locked", limit=limit), "defer")
        if ours.states <= PYTHON_MOST:
            for tool in peers.PYTHON_PEERS:
                yield from _point(peers.run_python(tool, n, p, k, "locked", limit=limit), "defer")
    for n, p, k in OURS:
        ours = _ours("defer", f"defer.{n}.{p}.{k}", limit)
        if ours is not None and ours.states <= up_to:
            yield ours
    for each in KERNEL:
        ours = _ours("kernel", each.name, limit)
        if ours is None or ours.states > up_to:
            continue
        yield ours
        found = spin.run_spin(
            each.scenario.name, each.defines, spin.BFS, states=ours.states, limit=limit
        )
        yield from _point(found, "kernel")


def _ours(model: str, question: str, limit: float) -> Point | None:
    command = [sys.executable, str(HERE / "in_process.py"), question]
    try:
        done = measure(command, HERE, limit)
    except TooLongError:
        return None
    said = json.loads(done.output)
    return Point("smpmmu", model, said["states"], said["seconds"], done.seconds - said["seconds"])


def _point(found: Figures | Skipped, model: str) -> Iterator[Point]:
    if isinstance(found, Skipped):
        click.echo(f"{found.tool}: {found}", err=True)
        return
    before = found.seconds_total - found.seconds_search
    yield Point(found.tool, model, found.states or 0, found.seconds_search, before)


def exponent(points: list[Point]) -> float | None:
    """Return e of seconds ~ states^e by least squares of the logarithms; None for under two."""
    xs = [math.log(p.states) for p in points]
    ys = [math.log(p.seconds) for p in points]
    if len(set(xs)) < 2:
        return None
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    over = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return over / sum((x - mean_x) ** 2 for x in xs)


def series(points: list[Point]) -> dict[str, list[Point]]:
    """Return the points of each tool and model, by size."""
    found: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda p: p.states):
        kernel = " (kernel)" if point.model == "kernel" else ""
        found.setdefault(point.tool + kernel, []).append(point)
    return found


def label(name: str, points: list[Point]) -> str:
    """Return what the legend calls a series: with its exponents."""
    everywhere = exponent(points)
    large = exponent([p for p in points if p.states >= LARGE])
    said = [name]
    if everywhere is not None:
        said.append(f"{everywhere:.2f}")
    if large is not None:
        said.append(f"{large:.2f} from 10^5 states")
    return ", ".join(said)


def draw(points: list[Point], below: str, picture: Path) -> None:
    """Draw the picture, with what it was measured with below."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "smpmmu", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(figsize=(9, 6.4))
    for name, mine in series(points).items():
        style: dict[str, Any] = {"linewidth": 2.4} if name.startswith("smpmmu") else {}
        kernel = name.endswith("(kernel)")
        (line,) = axes.loglog(
            [p.states for p in mine],
            [p.seconds for p in mine],
            marker="s" if kernel else "o",
            linestyle="--" if kernel else "-",
            markersize=4,
            label=label(name, mine),
            **style,
        )
        before = sorted(p.before for p in mine)[len(mine) // 2]
        if before > 0.2 and not kernel:
            axes.axhline(before, color=line.get_color(), linestyle=":", linewidth=0.8)
    axes.set_xlabel("states")
    axes.set_ylabel("seconds of the search alone (dotted: what comes before it)")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(title="tool, exponent of seconds in states", fontsize=8)
    figure.text(0.01, 0.005, below, fontsize=6)
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(picture, format="svg", metadata={"Date": None})


@click.command()
@click.option("--draw", "draws_only", is_flag=True, help="Draw the figures that are there.")
@click.option("--limit", type=click.FloatRange(0), default=180, show_default=True,
              help="Seconds after which a search is stopped.")  # fmt: skip
@click.option("--up-to", type=click.IntRange(1), default=200_000_000, show_default=True,
              help="Leave out what has more states.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), default=DATA, help="The figures.")
@click.option("--out", type=click.Path(path_type=Path), default=PICTURE, help="The picture.")
def main(*, draws_only: bool, limit: float, up_to: int, data: Path, out: Path) -> None:
    """Measure cost against size, and draw it."""
    if not draws_only:
        below, points = caption("python benchmarks/plot.py"), []
        for point in measured(limit=limit, up_to=up_to):
            click.echo(
                f"{point.tool} {point.model} {point.states:,} {point.seconds:.2f} s", err=True
            )
            points.append(point)
        kept = {"caption": below, "points": [*map(asdict, points)]}
        data.write_text(json.dumps(kept, indent=1) + "\n")
    known = json.loads(data.read_text())
    points = [Point(**each) for each in known["points"]]
    try:
        draw(points, known["caption"], out)
    except ModuleNotFoundError as error:
        msg = f"{error}; matplotlib draws the picture: pip install matplotlib"
        raise click.ClickException(msg) from error
    click.echo(f"{out}\n{known['caption']}")
    for name, mine in series(points).items():
        click.echo(f"- {label(name, mine)}")


if __name__ == "__main__":
    main()
