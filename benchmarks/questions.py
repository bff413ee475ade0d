"""What is asked of every tool: models, sizes and variants, and who can answer.

A question names a scenario file's variant for smpmmu, and a model with macros for SPIN. It must not
know how tables look.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import spin
from kernel_models import TWINS
from measuring import Figures, Skipped, TooLongError, measure
from peers import PYTHON_PEERS, figures, run_c, run_python

from smpmmu.engine.answer import REDUCE_FROM

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
Size = tuple[int, int, int]

SIZES: tuple[Size, ...] = ((3, 2, 1), (4, 2, 1), (5, 2, 1), (4, 2, 2), (6, 2, 1), (4, 2, 3))
LARGE: tuple[Size, ...] = ((4, 2, 2), (6, 2, 1), (4, 2, 3))
"""Sizes that take a checker in Python half a minute or more, and gigabytes."""
VARIANTS = ("late", "noack")
VARIANT_SIZE: Size = (4, 2, 1)

OURS = "smpmmu"
PLAIN = ("--no-reduction", "--cores", "1")
FEW_WAYS: tuple[tuple[str, ...], ...] = ((), PLAIN)
ALL_WAYS: tuple[tuple[str, ...], ...] = (
    (),
    ("--without", "dead-words"),
    ("--without", "partial-order"),
    ("--no-reduction",),
    PLAIN,
)
"""Options that smpmmu is asked with: as it comes, and what each part of that contributes."""


@dataclass(frozen=True, slots=True)
class Question:
    """One model at one size.

    Attributes:
        title: what the table calls it.
        target: what smpmmu explores.
        model: the Promela model for SPIN.
        defines: its macros.
        defer: (cpus, pages, iterations, variant), where it is the benchmark model.
    """

    title: str
    target: str
    model: str
    defines: tuple[str, ...]
    defer: tuple[int, int, int, str] | None = None

    @property
    def is_large(self) -> bool:
        """Whether it has over a million states."""
        if self.defer is None:
            return "N=5" in self.defines
        return self.defer[:3] in LARGE or self.defer[3] == "noack"


def defer(size: Size, variant: str = "locked") -> Question:
    """Return the question about the benchmark model."""
    n, p, k = size
    macros = [f"N={n}", f"P={p}", f"K={k}"] + ([] if variant == "locked" else [variant.upper()])
    return Question(
        f"defer {variant} ({n},{p},{k})",
        f"{HERE / 'defer_model.py'}:benchmark/{variant}.{n}.{p}.{k}",
        "defer",
        tuple(macros),
        (n, p, k, variant),
    )


KERNEL = {
    each.name: Question(
        each.name.replace(".", " ", 1).replace(".", ", "),
        f"{HERE / 'kernel_models.py'}:twin/{each.name}",
        each.scenario.name,
        each.defines,
    )
    for each in TWINS
}
FEW_OF_THE_KERNEL = (
    "reliant_flusher.deferred_under_ptl",
    "reliant_flusher.deferred_after_unlock",
    "two_cpus_speculation.immediate_after_unlock",
    "unmap_free.deferred_after_unlock",
    "dirty_writeback.deferred_under_ptl",
    "reliant_flusher.deferred_under_ptl.4cpus",
)
"""One of each shape, and a larger one."""


def answers(
    question: Question,
    ways: tuple[tuple[str, ...], ...],
    configurations: tuple[spin.Configuration, ...],
    *,
    limit: float,
    slow: bool,
) -> Iterator[Figures | Skipped]:
    """Ask everybody; with `slow` also checkers in Python that take minutes.

    Raises:
        PeerError: a tool failed.
    """
    states = 0
    for found in ours(question, ways, limit=limit):
        states = max(states, found.states or 0) if isinstance(found, Figures) else states
        yield found
    for configuration in configurations:
        yield spin.run_spin(
            question.model, question.defines, configuration, states=states, limit=limit
        )
    if question.defer is None:
        return
    n, p, k, variant = question.defer
    yield run_c(n, p, k, variant, limit=limit)
    for tool in PYTHON_PEERS:
        if question.is_large and not slow:
            yield Skipped(tool, "takes long at large sizes (--slow)")
        else:
            yield run_python(tool, n, p, k, variant, limit=limit)


def ours(
    question: Question, ways: tuple[tuple[str, ...], ...] = FEW_WAYS, *, limit: float = 0
) -> Iterator[Figures | Skipped]:
    """Ask smpmmu in all `ways`; once only where the space is so small that they are the same."""
    for options in ways:
        name = " ".join([OURS, *options])
        command = [sys.executable, "-m", "smpmmu", "explore", "--expected", "--format", "json"]
        try:
            done = measure([*command, *options, question.target], HERE.parent, limit)
        except TooLongError as error:
            yield Skipped(name, str(error))
            continue
        said = json.loads(done.output)["results"][0]
        found = figures(name, [done], {**said, "trace_length": said["choices"]})
        yield replace(found, same_counts=not said["reductions"])
        if said["states"] <= REDUCE_FROM and not said["reductions"]:
            return
