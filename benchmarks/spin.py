"""SPIN as a peer: its configurations, and one model translated, compiled and searched.

It must not know the engine that it is compared with. Source of the options: pan's directives and
run-time options, spinroot.com/spin/Man/Pan.html.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from measuring import Figures, Measured, PeerError, Skipped, TooLongError, measure

MODELS = Path(__file__).resolve().parent / "peers"
COMPILERS = ("cc", "gcc", "clang")

MEMORY_LIMIT = "-DMEMLIM=8192"
"""At most 8 GiB."""
SMALL_TABLE, LARGE_TABLE = "-w20", "-w24"
"""Hash tables of 2^20 and 2^24 slots. SPIN makes its own larger when it fills up; that costs time,
as clearing a large one does."""
MANY = 500_000
"""States from which on the large one is given."""

EVERY_STATE = ("-o1", "-o2")
"""Translate so that variables are kept that nobody reads again: they are part of a state here."""

JUDGES = ("disk", "left")
"""What the assertions of judges speak of; a judge's move is no action of the model."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way of running SPIN.

    Attributes:
        name: what rows are called.
        directives: how pan is compiled.
        options: how it is run, beside the size of its table.
        reduces: with partial-order reduction, and without what is dead: the counts may be less.
        exhaustive: that nothing is found means that there is nothing.
    """

    name: str
    directives: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    reduces: bool = False
    exhaustive: bool = True


DFS = Configuration("dfs")
DFS_SAFETY = Configuration("dfs SAFETY", ("-DSAFETY",))
BFS = Configuration("bfs", ("-DBFS",))
DFS_REDUCED = Configuration("dfs SAFETY, reduced", ("-DSAFETY",), reduces=True)
BFS_REDUCED = Configuration("bfs, reduced", ("-DBFS",), reduces=True)
FEW = (DFS_SAFETY, BFS, DFS_REDUCED)
ALL = (
    DFS,
    DFS_SAFETY,
    BFS,
    DFS_REDUCED,
    BFS_REDUCED,
    Configuration("dfs SAFETY COLLAPSE", ("-DSAFETY", "-DCOLLAPSE")),
    Configuration("dfs SAFETY, 2 cores", ("-DSAFETY", "-DNCORE=2")),
    Configuration("bfs, 2 cores", ("-DBFS_PAR",), ("-u2",)),
    Configuration("dfs bitstate", ("-DSAFETY", "-DBITSTATE"), ("-w30",), exhaustive=False),
)


def run_spin(
    model: str,
    defines: tuple[str, ...],
    configuration: Configuration = DFS,
    *,
    states: int = 0,
    optimise: str = "-O2",
    limit: float = 0,
) -> Figures | Skipped:
    """Translate, compile and search `peers/MODEL.pml` with macros such as `N=4`.

    It is given a table that is good for so many `states`.

    Raises:
        PeerError: SPIN, the compiler or the search failed.
    """
    tool = f"SPIN {configuration.name}"
    reason = missing()
    if reason is not None:
        return Skipped(tool, reason)
    macros = [f"-D{define}" for define in defines]
    keep = () if configuration.reduces else EVERY_STATE
    directives = [*configuration.directives, MEMORY_LIMIT]
    directives += [] if configuration.reduces else ["-DNOREDUCE"]
    table = LARGE_TABLE if states > MANY else SMALL_TABLE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pml = str(MODELS / f"{model}.pml")
        runs = [measure(["spin", *keep, "-a", *macros, pml], folder)]
        compile_ = [compiler(), optimise, "-w", *directives, "-o", "pan", "pan.c"]
        runs.append(measure(compile_, folder))
        try:
            runs.append(measure(["./pan", table, *configuration.options], folder, limit))
        except TooLongError as error:
            return Skipped(tool, str(error))
    return _figures(tool, configuration, runs)


def _figures(tool: str, configuration: Configuration, runs: list[Measured]) -> Figures:
    output = runs[-1].output
    breadth = any(directive.startswith("-DBFS") for directive in configuration.directives)
    stored = _number(r"(\d+) states, stored", output)
    matched = _number(r"(\d+) states, matched", output)
    return Figures(
        tool,
        states=stored,
        # SPIN prints stored + matched, but no transition leads to the initial state.
        transitions=stored + matched - 1,
        depth=_number(r"depth reached (\d+)", output) if breadth else None,
        verdict=_verdict(output, exhaustive=configuration.exhaustive),
        trace_length=_trace_length(output),
        seconds_total=sum(run.seconds for run in runs),
        seconds_search=runs[-1].seconds,
        cpu_seconds=sum(run.cpu_seconds for run in runs),
        peak_bytes=runs[-1].peak_bytes,
        same_counts=not configuration.reduces and configuration.exhaustive,
        exhaustive=configuration.exhaustive,
    )


def _verdict(output: str, *, exhaustive: bool) -> str:
    if _number(r"errors: (\d+)", output) > 0:
        return "violated"
    bounded = "Search not completed" in output or "max search depth too small" in output
    return "unknown" if bounded or not exhaustive else "holds"


def _trace_length(output: str) -> int | None:
    """Return the actions of the counterexample, the guilty one included.

    SPIN says how many steps come before the failing one. Where that is a judge's it is no action
    of the model; nor is an invalid end state.
    """
    found = re.search(r"^pan:1: (.*) \(at depth (\d+)\)", output, re.MULTILINE)
    if found is None:
        return None
    action = "assertion" in found[1] and not any(word in found[1] for word in JUDGES)
    return int(found[2]) + action


def _number(pattern: str, output: str) -> int:
    found = re.search(pattern, output)
    if found is None:
        message = f"expected {pattern!r} in the output of SPIN, found\n{output}"
        raise PeerError(message)
    return int(found[1])


def missing() -> str | None:
    """Return why SPIN cannot run, or None."""
    if shutil.which("spin") is None:
        return "spin is not installed (Debian package `spin`)"
    return no_compiler()


def no_compiler() -> str | None:
    """Return that there is no C compiler, or None."""
    if any(shutil.which(each) for each in COMPILERS):
        return None
    return "no C compiler is installed (Debian package `gcc`)"


def compiler() -> str:
    """Return the C compiler."""
    return next(each for each in COMPILERS if shutil.which(each))
