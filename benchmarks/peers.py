"""The peers on the model `defer` beside SPIN: a C search, and checkers written in Python.

It must not know the engine that they are compared with. The models are `peers/defer.c` and
`peers/defer_python.py`. A peer for another version of Python is looked for in the interpreters
that are on the path.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import Figures, Measured, Skipped, TooLongError, measure
from spin import compiler, no_compiler

MODELS = Path(__file__).resolve().parent / "peers"
PYTHON_PEERS = ("plain", "minicheck", "musil")
"""`plain` is a search in twenty lines of Python."""
OTHER_PYTHONS = ("python3.12", "python3.13", "python3.14")
INSTALL = {
    "minicheck": "pip install minicheck",
    "musil": "pip install musil, with Python 3.12 or newer",
    "frontrun": "pip install frontrun",
    "ploom": "pip install ploom, with Python 3.13 or newer",
}


def run_c(n: int, p: int, k: int, variant: str, *, limit: float = 0) -> Figures | Skipped:
    """Compile and run the hand-written search with n CPUs, p pages and k iterations.

    Raises:
        PeerError: the compiler or the search failed.
    """
    tool = "C breadth-first"
    reason = no_compiler()
    if reason is not None:
        return Skipped(tool, reason)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = str(MODELS / "defer.c")
        compile_ = measure([compiler(), "-O2", "-o", "defer", source], folder)
        try:
            search = measure(["./defer", str(n), str(p), str(k), variant], folder, limit)
        except TooLongError as error:
            return Skipped(tool, str(error))
    return figures(tool, [compile_, search], json.loads(search.output))


def run_python(
    tool: str, n: int, p: int, k: int, variant: str, *, limit: float = 0
) -> Figures | Skipped:
    """Run a checker written in Python.

    Raises:
        PeerError: it failed.
    """
    called = "Python breadth-first" if tool == "plain" else tool
    python = sys.executable if tool == "plain" else python_with(tool)
    if python is None:
        return Skipped(called, f"not installed ({INSTALL[tool]})")
    script = str(MODELS / "python_search.py")
    try:
        search = measure(
            [python, script, tool, str(n), str(p), str(k), variant], MODELS.parent, limit
        )
    except TooLongError as error:
        return Skipped(called, str(error))
    return figures(called, [search], json.loads(search.output))


def figures(tool: str, runs: list[Measured], said: dict[str, Any]) -> Figures:
    """Put together what a tool said and what its commands used, the last one being the search."""
    return Figures(
        tool,
        said["states"],
        said["transitions"],
        said.get("depth"),
        said["verdict"].lower(),
        said.get("trace_length"),
        seconds_total=sum(run.seconds for run in runs),
        seconds_search=said.get("seconds", runs[-1].seconds),
        cpu_seconds=sum(run.cpu_seconds for run in runs),
        peak_bytes=runs[-1].peak_bytes,
        per_state=said.get("bytes_per_state"),
    )


@functools.cache
def python_with(module: str) -> str | None:
    """Return a Python that can import `module`: this one, or one on the path; None if none can."""
    for python in (sys.executable, *map(shutil.which, OTHER_PYTHONS)):
        if python is None:
            continue
        command = [python, "-c", f"import {module}"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return python
    return None
