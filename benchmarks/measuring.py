"""Commands being run and measured, and what a tool has said in the end.

It must not know any tool. Run as a script it runs one command and reports what the command used,
because the peak memory of a child that a large process starts would be that of its parent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TOO_LONG = 75
"""Exit status of the script for a command that was stopped (EX_TEMPFAIL)."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a tool said and used; None where it does not say.

    Attributes:
        tool: the tool and its kind of search.
        states: distinct states stored.
        transitions: actions taken, those to states already stored included.
        depth: actions on the longest of the shortest paths to a state; None for a depth-first
            search, whose depth is only that of its stack.
        verdict: `holds`, `violated`, or `unknown` where the search ended at a bound.
        trace_length: actions of the counterexample, the one that violates included.
        seconds_total: wall time of the whole command, with translation and compilation.
        seconds_search: wall time of the search process alone.
        cpu_seconds: CPU time of the whole command.
        peak_bytes: peak resident memory of the search process. It cannot be less than that
            of the bare interpreter that starts it, about 14 MB.
        per_state: bytes kept for a visited state, if the tool says.
        same_counts: whether the counts are those of the model, nothing reduced.
        exhaustive: whether a `holds` is one.
    """

    tool: str
    states: int | None
    transitions: int | None
    depth: int | None
    verdict: str
    trace_length: int | None
    seconds_total: float
    seconds_search: float
    cpu_seconds: float
    peak_bytes: int
    per_state: float | None = None
    same_counts: bool = True
    exhaustive: bool = True


@dataclass(frozen=True, slots=True)
class Skipped:
    """A peer that cannot run here, or not in time, and why."""

    tool: str
    reason: str

    def __str__(self) -> str:
        """Say what to do about it."""
        return f"skipped: {self.reason}"


class PeerError(Exception):
    """A peer that is installed failed."""


class TooLongError(Exception):
    """A command was stopped at its limit of time."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished command: its output, both streams together, and what it used."""

    output: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measure(command: list[str], folder: Path, limit: float = 0) -> Measured:
    """Run one command in a folder, by way of a fresh small process, and measure it.

    Raises:
        PeerError: it failed.
        TooLongError: it was stopped after `limit` seconds (0: there is none).
    """
    helper = [sys.executable, "-I", __file__, str(limit), *command]
    done = subprocess.run(
        helper, cwd=folder, capture_output=True, text=True, check=False, env=environment()
    )
    if done.returncode == TOO_LONG:
        message = f"more than {limit:g} s"
        raise TooLongError(message)
    if done.returncode != 0:
        message = f"{' '.join(command)}: {done.stderr or done.stdout}"
        raise PeerError(message)
    return Measured(**json.loads(done.stdout))


def environment() -> dict[str, str]:
    """Return ours, in which Python keeps what it has compiled, as an installation does."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def main(limit: float, command: list[str]) -> int:
    """Run a command and print its output and what it used as JSON."""
    stopped = threading.Event()
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:

        def stop() -> None:
            stopped.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit, stop)
        if limit:
            timer.start()
        output = process.stdout.read() if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if stopped.is_set():
        return TOO_LONG
    if process.returncode != 0:
        sys.stderr.write(f"ended with {process.returncode}\n{output}")
        return 1
    # Linux counts the peak in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    run = {
        "output": output,
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * unit,
    }
    sys.stdout.write(json.dumps(run))
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
