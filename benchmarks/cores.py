"""What several cores gain: one variant explored with one core and with all, by turns.

    python benchmarks/cores.py [SIZE [ROUNDS]]     6.2.1, 3 times

Every exploration is a process of its own. Wall time says something only on a machine that does
nothing else; processor time also tells what working together costs. The counts must be the same.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).with_name("defer_model.py")


@dataclass(frozen=True, slots=True)
class Took:
    """One exploration: wall and processor seconds, and what it found."""

    wall: float
    processor: float
    states: int
    transitions: int


def explored(size: str, cores: int, *options: str) -> Took:
    """Explore the benchmark model at a size."""
    command = [sys.executable, "-m", "smpmmu", "explore", "--expected", "--live-runs", "0",
               "--format", "json", "--cores", str(cores), *options,
               f"{MODEL}:benchmark/locked.{size}"]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user = after.ru_utime - before.ru_utime
    (result,) = json.loads(done.stdout)["results"]
    processor = user + after.ru_stime - before.ru_stime
    return Took(wall, processor, result["states"], result["transitions"])


def compare(size: str, rounds: int, *options: str) -> None:
    """Print the best of some rounds with one core and with all."""
    numbers = (1, os.cpu_count() or 1)
    rows: dict[int, list[Took]] = {cores: [] for cores in numbers}
    for _ in range(rounds):
        for cores in numbers:
            rows[cores].append(explored(size, cores, *options))
    counts = {(took.states, took.transitions) for taken in rows.values() for took in taken}
    if len(counts) != 1:
        sys.exit(f"the counts differ: {sorted(counts)}")
    ((states, transitions),) = counts
    print(f"locked.{size} {' '.join(options)}: {states:,} states, {transitions:,} transitions")
    one = min(took.wall for took in rows[1])
    for cores, taken in rows.items():
        wall, processor = min(t.wall for t in taken), min(t.processor for t in taken)
        print(f"  {cores} cores: {wall:.2f} s, {processor:.2f} s of processors, {one / wall:.2f}x")


def main() -> None:
    """Measure without and with reduction."""
    size = sys.argv[1] if len(sys.argv) > 1 else "6.2.1"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    compare(size, rounds, "--no-reduction")
    compare(size, rounds)


if __name__ == "__main__":
    main()
