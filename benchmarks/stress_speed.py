"""Steps per second of stress and of live vCPUs, side by side: `python benchmarks/stress_speed.py`.

Both run the same seeds of a system of three CPUs in this process, in turn. Processor time is what
is compared, so that other work on the machine counts little; the ratio is what to quote.
"""

from __future__ import annotations

import time

import click

from smpmmu.engine.batch import Kernel
from smpmmu.engine.live import in_trio, random_run
from smpmmu.engine.profiling import planned
from smpmmu.engine.strategies import named
from smpmmu.engine.stress import Herd, together
from smpmmu.targets import one

SYSTEM = "reliant_flusher/deferred_range"
ROUNDS = 3


@click.command()
@click.argument("name", default=SYSTEM)
@click.option("--live-runs", default=100, show_default=True)
def main(name: str, live_runs: int) -> None:
    """Print a table: a row for each strategy, best of three rounds."""
    system = one(name).system()
    kernel = Kernel(system)
    many = together(kernel)
    click.echo(f"{name}: {many:,} runs side by side; {live_runs} live")
    click.echo("| strategy | stress, steps/s | with classes | live, steps/s | stress / live |")
    click.echo("|---|---:|---:|---:|---:|")
    for text in ("uniform", "pct:3", "pos", "surw", "paced"):
        (plan,) = planned(kernel, named(text))
        best = {"plain": 0.0, "traced": 0.0, "live": 0.0}
        for _ in range(ROUNDS):
            for kind in ("plain", "traced"):
                began = time.process_time()
                traced = kind == "traced"
                herd = Herd(kernel, range(many), plan=plan, keep=False, traced=traced)
                for _ in herd.gallop():
                    pass
                seconds = time.process_time() - began
                best[kind] = max(best[kind], float(herd.lengths.sum()) / seconds)
            began, steps = time.process_time(), 0
            for seed in range(live_runs):
                run = in_trio(lambda seed=seed, plan=plan: random_run(system, seed, plan=plan))
                steps += len(run.actions)
            best["live"] = max(best["live"], steps / (time.process_time() - began))
        row = [f"{best[kind]:,.0f}" for kind in ("plain", "traced", "live")]
        click.echo(f"| {text} | {' | '.join(row)} | {best['plain'] / best['live']:,.0f} |")


if __name__ == "__main__":
    main()
