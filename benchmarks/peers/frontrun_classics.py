"""How many executions frontrun needs for a classic program: `python frontrun_classics.py NAME N`.

frontrun runs Python threads under its own scheduler, and one execution for each class of them as
far as its reduction goes (DPOR). NAME is `inc`, which stops at the first violation, `inc.all`,
which does not, `lockinc` or `readers`.
"""

from __future__ import annotations

import json
import sys
import threading

import frontrun


class Shared:
    """What the threads share."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.x = 0
        self.lock = threading.Lock()


def increment(shared: Shared) -> None:
    """Read, and write one more."""
    counted = shared.x
    shared.x = counted + 1


def locked_increment(shared: Shared) -> None:
    """Increment under the lock."""
    with shared.lock:
        increment(shared)


def write(shared: Shared) -> None:
    """Write x."""
    shared.x = 1


def read(shared: Shared) -> int:
    """Read x."""
    return shared.x


def main(name: str, n: int) -> dict[str, object]:
    """Return executions and verdict."""
    workers = {
        "inc": [increment] * n,
        "inc.all": [increment] * n,
        "lockinc": [locked_increment] * n,
        "readers": [write, *[read] * n],
    }[name]
    done = frontrun.explore(
        setup=Shared,
        workers=workers,
        invariant=lambda shared: name == "readers" or shared.x == n,
        preemption_bound=None,
        stop_on_first=name != "inc.all",
        reproduce_on_failure=0,
    )
    verdict = {True: "holds", False: "violated", None: "unknown"}[done.property_holds]
    return {"executions": done.num_explored, "verdict": verdict}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
