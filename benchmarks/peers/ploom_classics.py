"""How many executions ploom needs for a classic program: `python ploom_classics.py NAME N`.

ploom executes every order of operations, each in a process of its own; it has no reduction.
Starting and joining threads are operations to it as well.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import ploom

LIMITS = ploom.Config(max_executions=1_000_000, timeout=3_600.0, minimize_executions=0)


def program(name: str, n: int) -> None:
    """Build and run the program once."""
    cell, lock = ploom.SharedCell(0), ploom.Lock()

    def increment() -> None:
        cell.write(cell.read() + 1)

    def locked_increment() -> None:
        lock.acquire()
        increment()
        lock.release()

    def write() -> None:
        cell.write(1)

    work = {
        "inc": [increment] * n,
        "lockinc": [locked_increment] * n,
        "readers": [write, *[cell.read] * n],
    }[name]
    threads = [ploom.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if name != "readers":
        assert cell.read() == n, "an update was lost"


def main(name: str, n: int) -> dict[str, object]:
    """Return executions and verdict."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = ploom.check(lambda: program(name, n), config=LIMITS, trace_dir=Path(folder))
        except ploom.ModelCheckError as found:
            return {"executions": found.statistics.executions, "verdict": "violated"}
    return {"executions": done.executions, "verdict": "holds"}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
