"""How tests run the command line: in this process, in another one, or in a terminal.

In this process is quick; another process is for what only a process has (hash seed, encoding,
signals, pipes, imported modules).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMPMMU = (sys.executable, "-m", "smpmmu")
PAIR = "reliant_flusher"
DEFECT = f"{PAIR}/deferred_after_unlock"
REPAIR = f"{PAIR}/deferred_under_ptl"


@dataclass(frozen=True)
class Done:
    """What a command did."""

    status: int
    out: str
    err: str


Shell = Callable[..., Done]


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment, with smpmmu importable from anywhere, and changes."""
    plain = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "TERM")}
    return plain | {"PYTHONPATH": str(ROOT)} | changes


def spawn(*arguments: str, cwd: Path = ROOT, text: bool = True, **changes: str) -> Done:
    """Run the command line in a process of its own."""
    made = subprocess.run(
        [*SMPMMU, *arguments], cwd=cwd, env=environment(**changes), capture_output=True, check=False
    )
    return Done(made.returncode, made.stdout.decode(), made.stderr.decode())


def python(code: str, *arguments: str, **changes: str) -> Done:
    """Run Python code in a process of its own."""
    made = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        check=False,
    )
    return Done(made.returncode, made.stdout.decode(), made.stderr.decode())


ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_terminal(*arguments: str, columns: int, cwd: Path = ROOT, **changes: str) -> Done:
    """Run the command line on a terminal so many columns wide; both streams come as `out`."""
    import pty

    leader, follower = pty.openpty()
    running = subprocess.Popen(
        [*SMPMMU, *arguments],
        cwd=cwd,
        env=environment(COLUMNS=str(columns), TERM="xterm", **changes),
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    parts = []
    while True:
        try:
            part = os.read(leader, 1 << 16)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    os.close(leader)
    return Done(running.wait(), b"".join(parts).decode().replace("\r\n", "\n"), "")
