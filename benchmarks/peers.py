"""The peers of the benchmark: runs SPIN and the hand-written C search on the model `defer`.

It must not know the engine that they are compared with. The models are `peers/defer.pml` and
`peers/defer.c`. Run as a script it runs one command and reports what the command used, because
the peak memory of a child that a large process starts would be that of its parent.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Variant = Literal["locked", "late", "noack"]
Search = Literal["dfs", "bfs"]

MODELS = Path(__file__).resolve().parent / "peers"
COMPILERS = ("cc", "gcc", "clang")

# At most 8 GiB, and a hash table of 2^24 slots, which SPIN doubles by itself when it fills up.
SPIN_MEMORY_LIMIT = "-DMEMLIM=8192"
SPIN_TABLE = "-w24"

# The counts are compared, so SPIN's reduction is off.
SPIN_OPTIONS = ("-O2", "-w", "-DNOREDUCE", SPIN_MEMORY_LIMIT)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a tool said and used; None where it does not say.

    Attributes:
        tool: The tool and its kind of search.
        states: Distinct states stored.
        transitions: Actions taken, those to states already stored included.
        depth: Actions on the longest of the shortest paths to a state; None for a depth-first
            search, whose depth is only that of its stack.
        verdict: `holds`, `violated`, or `unknown` where the search ended at a bound.
        trace_length: Actions of the counterexample, the one that violates included.
        seconds_total: Wall time of the whole command, with translation and compilation.
        seconds_search: Wall time of the search process alone.
        cpu_seconds: CPU time of the whole command.
        peak_bytes: Peak resident memory of the search process. It cannot be less than that
            of the bare interpreter that starts it, about 14 MB.
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


@dataclass(frozen=True, slots=True)
class Skipped:
    """A peer that cannot run here, and why."""

    tool: str
    reason: str

    def __str__(self) -> str:
        """Say what to install."""
        return f"skipped: {self.reason}"


class PeerError(Exception):
    """A peer that is installed failed."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished command: its output, both streams together, and what it used."""

    output: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def run_spin(
    n: int,
    p: int,
    k: int,
    variant: Variant = "locked",
    *,
    search: Search = "dfs",
    safety: bool = False,
) -> Figures | Skipped:
    """Run SPIN on the model with n CPUs, p pages and k iterations.

    With `safety` it is compiled for safety properties alone, which these are, and is faster.

    Raises:
        PeerError: SPIN, the compiler or the search failed.
    """
    tool = f"spin {search}" + (" SAFETY" if safety else "")
    reason = _missing("spin")
    if reason is not None:
        return Skipped(tool, reason)
    sizes = [f"-DN={n}", f"-DP={p}", f"-DK={k}"]
    sizes += [] if variant == "locked" else [f"-D{variant.upper()}"]
    options = [*SPIN_OPTIONS, *(["-DBFS"] if search == "bfs" else [])]
    options += ["-DSAFETY"] if safety else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        translate = measure(["spin", "-a", *sizes, str(MODELS / "defer.pml")], folder)
        compile_ = measure([_compiler(), *options, "-o", "pan", "pan.c"], folder)
        search_ = measure(["./pan", SPIN_TABLE], folder)
    output = search_.output
    stored = _number(r"(\d+) states, stored", output)
    matched = _number(r"(\d+) states, matched", output)
    return _figures(
        tool,
        [translate, compile_, search_],
        states=stored,
        # SPIN prints stored + matched, but no transition leads to the initial state.
        transitions=stored + matched - 1,
        depth=_number(r"depth reached (\d+)", output) if search == "bfs" else None,
        verdict=_spin_verdict(output),
        trace_length=_spin_trace_length(output),
    )


def run_c(n: int, p: int, k: int, variant: Variant = "locked") -> Figures | Skipped:
    """Run the hand-written search on the model with n CPUs, p pages and k iterations.

    Raises:
        PeerError: The compiler or the search failed.
    """
    tool = "c bfs"
    reason = _missing("c")
    if reason is not None:
        return Skipped(tool, reason)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compile_ = measure([_compiler(), "-O2", "-o", "defer", str(MODELS / "defer.c")], folder)
        search = measure(["./defer", str(n), str(p), str(k), variant], folder)
    said = json.loads(search.output)
    return _figures(
        tool,
        [compile_, search],
        states=said["states"],
        transitions=said["transitions"],
        depth=said["depth"],
        verdict=said["verdict"],
        trace_length=said.get("trace_length"),
    )


def _figures(
    tool: str,
    runs: list[Measured],
    *,
    states: int,
    transitions: int,
    depth: int | None,
    verdict: str,
    trace_length: int | None,
) -> Figures:
    """Put together what a tool said and what its commands used, the last one being the search."""
    return Figures(
        tool,
        states,
        transitions,
        depth,
        verdict,
        trace_length,
        seconds_total=sum(run.seconds for run in runs),
        seconds_search=runs[-1].seconds,
        cpu_seconds=sum(run.cpu_seconds for run in runs),
        peak_bytes=runs[-1].peak_bytes,
    )


def _spin_verdict(output: str) -> str:
    if _number(r"errors: (\d+)", output) > 0:
        return "violated"
    bounded = "Search not completed" in output or "max search depth too small" in output
    return "unknown" if bounded else "holds"


def _spin_trace_length(output: str) -> int | None:
    """Return the actions of the counterexample, the guilty one included.

    SPIN says how many steps come before the failing one. Where that is the judge's, which alone
    does not speak of the shadow, it is no action of the model; nor is an invalid end state.
    """
    found = re.search(r"^pan:1: (.*) \(at depth (\d+)\)", output, re.MULTILINE)
    if found is None:
        return None
    return int(found[2]) + ("shadow" in found[1])


def _number(pattern: str, output: str) -> int:
    found = re.search(pattern, output)
    if found is None:
        message = f"expected {pattern!r} in the output of SPIN, found\n{output}"
        raise PeerError(message)
    return int(found[1])


def _missing(peer: str) -> str | None:
    """Return why a peer cannot run, or None."""
    if peer == "spin" and shutil.which("spin") is None:
        return "spin is not installed (Debian package `spin`)"
    if not any(shutil.which(compiler) for compiler in COMPILERS):
        return "no C compiler is installed (Debian package `gcc`)"
    return None


def _compiler() -> str:
    return next(compiler for compiler in COMPILERS if shutil.which(compiler))


def measure(command: list[str], folder: Path) -> Measured:
    """Run one command in a folder, by way of a fresh small process, and measure it."""
    helper = [sys.executable, "-I", __file__, *command]
    done = subprocess.run(helper, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"{' '.join(command)}: {done.stderr or done.stdout}"
        raise PeerError(message)
    return Measured(**json.loads(done.stdout))


def main(command: list[str]) -> int:
    """Run a command and print its output and what it used as JSON."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        output = process.stdout.read() if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
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
    sys.exit(main(sys.argv[1:]))
