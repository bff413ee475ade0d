"""What a compiled kernel could gain: `python benchmarks/compiled.py [N.P.K]`, with numba installed.

The search of `defer` is taken apart: what the seconds of a plain search on one core go into, and
what the two parts that a compiler could take over whole cost when numba compiles them: putting
fingerprints into the visited set, and a step for each successor. If everything else that expands
cost nothing, and judging and making new states what they do, that bounds the gain.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from defer_model import defer

from smpmmu.engine import cores
from smpmmu.engine.batch import Kernel
from smpmmu.engine.explore import Search
from smpmmu.engine.successors import Expander
from smpmmu.engine.verdict import Budget
from smpmmu.engine.visited import Fingerprints, first_of_each

try:
    from numba import njit
except ImportError:
    sys.exit("skipped: numba is not installed")

ROUND = 1_500
"""Successors of one position in one block, about as in a search."""


@njit  # type: ignore[untyped-decorator]
def insert_all(table: Any, fps: Any, new: Any) -> None:  # noqa: ANN401  compiled
    """Put fingerprints into an open-addressing table, one after the other."""
    size, half = np.uint64(table.shape[0]), np.uint64(32)
    for i in range(fps.shape[0]):
        fp = fps[i]
        slot = ((fp >> half) * size) >> half
        while table[slot] != fp and table[slot] != 0:
            slot += np.uint64(1)
            if slot == size:
                slot = np.uint64(0)
        new[i] = table[slot] == 0
        table[slot] = fp


@njit  # type: ignore[untyped-decorator]
def step_all(lanes: Any, fps: Any, rows: Any, keys: Any, change: Any, out: Any) -> None:  # noqa: ANN401
    """Take one step that changes a word of four bits in each of two lanes."""
    for i in range(rows.shape[0]):
        row = rows[i]
        one = lanes[0, row] >> np.uint64(3) & np.uint64(15)
        two = lanes[1, row] >> np.uint64(3) & np.uint64(15)
        out[0, i] = fps[row] ^ keys[one] ^ keys[two]
        out[1, i] = change[one]
        out[2, i] = change[two]


def steps(successors: int) -> float:
    """Return the seconds of so many compiled steps."""
    draw = np.random.default_rng(1)
    lanes = draw.integers(0, 1 << 63, (2, 1 << 17), dtype=np.uint64)
    keys, change = draw.integers(0, 1 << 63, (2, 16), dtype=np.uint64)
    rows = np.sort(draw.integers(0, 1 << 17, ROUND))
    out = np.empty((3, ROUND), dtype=np.uint64)
    step_all(lanes, lanes[0], rows, keys, change, out)
    begun = time.process_time()
    for _ in range(successors // ROUND):
        step_all(lanes, lanes[0], rows, keys, change, out)
    return time.process_time() - begun


def main(size: str) -> None:
    """Take a search apart and print what its parts cost."""
    cpus, pages, iterations = map(int, size.split("."))
    blocks: list[Any] = []
    spent = {"expanding": 0.0, "removing duplicates": 0.0, "the visited set": 0.0}

    def watch(of: Any, name: str, what: str) -> None:  # noqa: ANN401  a class or a module
        real = getattr(of, name)

        def timed(*given: Any) -> Any:  # noqa: ANN401
            begun = time.process_time()
            found = real(*given)
            spent[what] += time.process_time() - begun
            if real is first_of_each:
                blocks.append(given[0])
            return found

        setattr(of, name, timed)

    watch(Expander, "successors", "expanding")
    watch(cores, "first_of_each", "removing duplicates")
    watch(Fingerprints, "add", "the visited set")
    search = Search(Kernel(defer(cpus, pages, iterations)), Budget(cores=1))
    begun = time.process_time()
    for _ in search.depths():
        pass
    total = time.process_time() - begun
    print(f"defer ({size.replace('.', ',')}), {search.states:,} states, processor seconds:")
    print(f"  {total:.2f} the search on one core, nothing reduced")
    for what, seconds in spent.items():
        print(f"  {seconds:.2f} of these {what}")

    table = np.zeros(int(search.states / 0.7), dtype=np.uint64)
    insert_all(table[:8].copy(), blocks[0], np.empty(blocks[0].size, dtype=np.bool_))
    begun = time.process_time()
    for fps in blocks:
        insert_all(table, fps, np.empty(fps.size, dtype=np.bool_))
    inserting = time.process_time() - begun
    stepping = steps(search.transitions)
    rest = total - sum(spent.values())
    print(f"  {inserting:.2f} all fingerprints into a table, compiled")
    print(f"  {stepping:.2f} a step for each successor, compiled")
    print(f"  {rest:.2f} the rest: judging, liveness, making new states")
    print(f"  {total / (rest + inserting + stepping):.1f} times as fast at most")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "6.2.1")
