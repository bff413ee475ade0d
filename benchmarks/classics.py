"""The classic programs asked of smpmmu, and of tools that count executions.

A stateless checker runs a program once for each class of executions; smpmmu stores states. The two
counts say how large the same program is to either.
"""

from __future__ import annotations

import json
from math import factorial
from pathlib import Path
from typing import TYPE_CHECKING

import questions
from measuring import Figures, Skipped, TooLongError, measure
from peers import INSTALL, MODELS, python_with
from tables import Page

if TYPE_CHECKING:
    from collections.abc import Callable

HEADS = ("program", "states", "transitions", "depth", "verdict", "wall s", "classes",
         "frontrun", "s", "ploom", "s")  # fmt: skip

PROGRAMS = (
    ("dining", "left_first", (3, 6, 10)),
    ("dining", "ordered", (3, 6, 10)),
    ("inc", "", (2, 3, 4)),
    ("inc", "all", (2, 3, 4, 5, 8)),
    ("lockinc", "", (2, 3, 4, 5, 8)),
    ("readers", "", (2, 4, 8, 13)),
)

CLASSES: dict[str, Callable[[int], int]] = {
    "inc": lambda n: factorial(n) ** 2,
    "lockinc": factorial,
    "readers": lambda n: 2**n,
}
"""Executions of an optimal partial-order reduction: one for each class of them."""

EXECUTES: dict[str, dict[tuple[str, str], tuple[int, ...]]] = {
    "frontrun": {
        ("inc", ""): (2, 3, 4),
        ("inc", "all"): (2, 3),
        ("lockinc", ""): (2, 3, 4),
        ("readers", ""): (2, 4),
    },
    "ploom": {("inc", ""): (2, 3)},
}
"""What tools that execute programs are asked for: it is what they do in reasonable time."""


def variant(kind: str, size: int) -> str:
    """Return the name of a program's variant."""
    return f"{size}.{kind}" if kind == "all" else f"{kind}.{size}" if kind else f"{size}"


def page(*, limit: float) -> Page:
    """Ask smpmmu and those that execute for every program."""
    result = Page(HEADS)
    for name, kind, sizes in PROGRAMS:
        group = [_row(result, name, kind, size, limit) for size in sizes]
        result.groups.append((f"{name} {kind}".replace("_", " ").strip(), group))
    return result


def _row(result: Page, name: str, kind: str, size: int, limit: float) -> tuple[str, ...]:
    target = f"{Path(__file__).parent / 'classic_programs.py'}:{name}/{variant(kind, size)}"
    title = f"{name}({size})"
    question = questions.Question(title, target, "", ())
    ours = next(questions.ours(question, (questions.PLAIN,), limit=limit))
    if isinstance(ours, Skipped):
        result.note(f"{title}: {ours}")
        return (title, *[""] * (len(HEADS) - 1))
    classes = f"{CLASSES[name](size):,}" if name in CLASSES else ""
    cells = (title, *_found(ours), classes)
    for tool, asked in EXECUTES.items():
        if size in asked.get((name, kind), ()):
            cells += _executed(result, tool, f"{name}.{kind}".rstrip("."), size, limit)
        else:
            cells += ("", "")
    return cells


def _found(ours: Figures) -> tuple[str, ...]:
    verdict = ours.verdict + (f" in {ours.trace_length}" if ours.trace_length else "")
    return (f"{ours.states:,}", f"{ours.transitions:,}", str(ours.depth), verdict,
            f"{ours.seconds_total:.2f}")  # fmt: skip


def _executed(result: Page, tool: str, name: str, size: int, limit: float) -> tuple[str, str]:
    """Return how many executions a tool needed, and how long it took."""
    python = python_with(tool)
    if python is None:
        result.note(f"{tool}: skipped: not installed ({INSTALL[tool]})")
        return "", ""
    script = str(MODELS / f"{tool}_classics.py")
    # frontrun takes the place of locks before the program is loaded.
    under = [str(Path(python).with_name("frontrun"))] if tool == "frontrun" else []
    try:
        done = measure([*under, python, script, name, str(size)], MODELS, limit)
    except TooLongError as error:
        return str(error), ""
    said = json.loads(done.output.splitlines()[-1])
    return f"{said['executions']:,} {said['verdict']}", f"{done.seconds:.2f}"
