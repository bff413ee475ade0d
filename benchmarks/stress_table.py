"""How many seeds a strategy needs: `python benchmarks/stress_table.py`, for docs/stress.md.

A trial counts seeds until one violates what the variant is expected to violate. Trial t begins at
seed t * 10^9, so trials have no seed in common. Seeds of all trials run side by side. Nothing
depends on time; what has been measured is kept in a file, so that the long table can be continued.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smpmmu.engine.batch import Kernel
from smpmmu.engine.profiling import planned
from smpmmu.engine.strategies import named
from smpmmu.engine.stress import Herd, together
from smpmmu.engine.verdict import Verdict
from smpmmu.targets import Target, catalogue, find

if TYPE_CHECKING:
    from smpmmu.engine.strategies.plan import Plan

STRATEGIES = ("uniform", "pct:2", "pct:3", "pos", "surw", "paced")
APART = 10**9
FIRST_WAVE = 16
LONGEST = 20_000
REORDER = str(Path(__file__).resolve().parent / "reorder.py")

Needed = list[int | None]


def needed(kernel: Kernel, plan: Plan, trials: int, cap: int) -> Needed:
    """Return the seeds that each trial needs until a run fails; None if more than `cap`."""
    found: Needed = [None] * trials
    done, wave = 0, FIRST_WAVE
    while done < cap and None in found:
        open_trials = [t for t in range(trials) if found[t] is None]
        wave = min(wave, cap - done, max(1, together(kernel) // len(open_trials)))
        seeds = [t * APART + done + n for t in open_trials for n in range(wave)]
        herd = Herd(kernel, seeds, plan=plan, longest=LONGEST, keep=False)
        for _ in herd.gallop():
            pass
        for row, bad in enumerate(herd.fails()):
            trial = open_trials[row // wave]
            if bad and found[trial] is None:
                found[trial] = done + row % wave + 1
        done += wave
        wave *= 4
    return found


def measure(
    targets: list[Target], trials: int, cap: int, memory: Path
) -> dict[str, dict[str, Needed]]:
    """Return what every strategy needs for every target, from memory where it is known."""
    key = f"{trials} trials up to {cap}"
    known = json.loads(memory.read_text(encoding="utf-8")) if memory.exists() else {}
    mine: dict[str, dict[str, Needed]] = known.setdefault(key, {})
    for number, target in enumerate(targets, 1):
        row = mine.setdefault(target.name, {})
        missing = [name for name in STRATEGIES if name not in row]
        if not missing:
            continue
        kernel = Kernel(target.system())
        for name in missing:
            (plan,) = planned(kernel, named(name))
            row[name] = needed(kernel, plan, trials, cap)
        memory.write_text(json.dumps(known), encoding="utf-8")
        click.echo(f"{number} of {len(targets)}: {target.name} {told(row)}", err=True)
    return {t.name: mine[t.name] for t in targets}


def median(values: Needed, cap: int) -> str:
    """Return the median number of seeds, or that more than half of the trials need more."""
    middle = statistics.median([cap + 1 if v is None else v for v in values])
    return f"> {cap:,}" if middle > cap else f"{middle:,.0f}"


def told(row: dict[str, Needed]) -> str:
    """Return the fewest seeds that any trial of a strategy needed."""
    fewest = {name: min((v for v in values if v), default=None) for name, values in row.items()}
    return ", ".join(f"{name} {least}" for name, least in fewest.items())


def table(rows: dict[str, dict[str, Needed]], cap: int) -> list[str]:
    """Return a Markdown table of medians, a row for each variant."""
    head = ["variant", *STRATEGIES]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * len(STRATEGIES)}"]
    for name, row in rows.items():
        cells = [median(row[strategy], cap) for strategy in STRATEGIES]
        lines.append(f"| `{name.rpartition('/benchmarks/')[2]}` | {' | '.join(cells)} |")
    return lines


def families(rows: dict[str, dict[str, Needed]], cap: int) -> list[str]:
    """Return a Markdown table with a row for each scenario: the median over variants and trials."""
    by: dict[str, list[dict[str, Needed]]] = {}
    for name, row in rows.items():
        by.setdefault(name.partition("/")[0], []).append(row)
    by["all"] = list(rows.values())
    head = ["scenario", "variants", *STRATEGIES, "never found"]
    lines = [f"| {' | '.join(head)} |", f"|---|---:|{'---:|' * len(STRATEGIES)}---:|"]
    for name, members in by.items():
        pooled = [median([v for row in members for v in row[s]], cap) for s in STRATEGIES]
        lost = sum(all(v is None for s in STRATEGIES for v in row[s]) for row in members)
        lines.append(f"| {name} | {len(members)} | {' | '.join(pooled)} | {lost} |")
    return lines


def violated() -> list[Target]:
    """Return the variants of the catalogue that are expected to be violated."""
    return [t for t in catalogue()
            if t.variant.expected and t.variant.expected.verdict is Verdict.VIOLATED]  # fmt: skip


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All violated variants, by scenario.")
@click.option("--trials", default=20, show_default=True)
@click.option("--cap", default=100_000, show_default=True, help="Most seeds of a trial.")
@click.option("--memory", default=Path(".stress_table.json"), type=click.Path(path_type=Path))
def main(names: tuple[str, ...], every: bool, trials: int, cap: int, memory: Path) -> None:  # noqa: FBT001
    """Print medians of the seeds needed."""
    targets = violated() if every else [t for name in names for t in find(name)]
    rows = measure(targets, trials, cap, memory)
    lines = families(rows, cap) if every else table(rows, cap)
    click.echo("\n".join(lines))
    if every:
        lost = [n for n, row in rows.items() if all(v is None for s in STRATEGIES for v in row[s])]
        click.echo(f"\nfound by no strategy: {', '.join(lost) or 'none'}")


if __name__ == "__main__":
    sys.exit(main())
