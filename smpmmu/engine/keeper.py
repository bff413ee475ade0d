"""Keeping an exploration in a file: what is kept, when, and what may go on from it.

A file is of one variant in one version of this package, and holds how far its automata have grown
(`engine/growth.py`), so that a variant whose code has changed since is noticed. This module must
not print.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smpmmu.engine.checkpoint import UNFIT, damaged, read, write
from smpmmu.engine.errors import CheckpointError
from smpmmu.engine.growth import Differs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from smpmmu.engine.answer import Answer
    from smpmmu.engine.verdict import Exploration

    First = tuple[Exploration, int]

SECONDS = 60.0
"""Between two checkpoints, unless another number is asked for."""
SHARE = 20
"""A checkpoint that takes long is followed by this many times as long without one."""


@dataclass(slots=True)
class Keeper:
    """Keeps the exploration of one variant in a file.

    Attributes:
        path: the file.
        version: who writes it; another one's is refused.
        tell: what to call with what a user should know.
        seconds: between two checkpoints.
        first: what held of the variant without more hardware, and its live runs, once it does.
    """

    path: Path
    version: str
    tell: Callable[[str], None]
    seconds: float = SECONDS
    first: First | None = None
    _of: tuple[str, int] = ("", 0)
    _held: dict[str, Any] | None = None
    _next: float = 0.0

    def open(self, target: str, live_runs: int) -> None:
        """Begin with a variant: read what lies in the file, if anything does.

        Raises:
            CheckpointError: it is damaged, or not of this; or nothing can be written there.
        """
        self._of = (target, live_runs)
        self._next = time.monotonic() + self.seconds
        if not self.path.exists():
            self._try()
            return
        held = read(self.path)
        try:
            whose = (held["version"], *held["of"])
            self.first, self._held = held["first"], held["question"]
        except UNFIT as error:
            raise damaged(self.path) from error
        ours = (self.version, *self._of)
        for what, found, expected in zip(
            ("by smpmmu", "of", "with --live-runs"), whose, ours, strict=True
        ):
            if found != expected:
                msg = f"{self.path}: a checkpoint {what} {found}, expected {expected}"
                raise CheckpointError(msg)

    def _try(self) -> None:
        """See now, not in an hour, whether a file can be written there."""
        try:
            write(self.path, None)
            self.path.unlink()
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"cannot write the checkpoint {self.path}: {error.strerror}")

    def go_on(self, question: Answer) -> None:
        """Let a question that has not begun go on from what the file holds of it, if anything.

        Raises:
            CheckpointError: the file is about another question.
        """
        held, self._held = self._held, None
        if held is None:
            return
        try:
            question.go_on(held)
        except Differs as error:
            msg = (
                f"{self.path}: {self._of[0]} is not what this checkpoint is of ({error}); "
                "delete the file to begin anew"
            )
            raise CheckpointError(msg) from error
        except UNFIT as error:
            raise damaged(self.path) from error
        search = question.search
        depth = len(search.levels) - 1
        self.tell(f"going on from {self.path}: depth {depth}, {search.states:,} states")

    def look(self, question: Answer) -> None:
        """Write a checkpoint if it is time to, or if a budget has ended the search."""
        if question.search.stopped or time.monotonic() >= self._next:
            self.save(question)

    def save(self, question: Answer) -> None:
        """Write a checkpoint; where that cannot be done say so, and leave the one before it."""
        began = time.monotonic()
        held = {
            "version": self.version,
            "of": self._of,
            "first": self.first,
            "question": question.kept(),
        }
        try:
            write(self.path, held)
        except OSError as error:
            self.tell(str(self._unwritten(error)))
        ended = time.monotonic()
        self._next = ended + max(self.seconds, SHARE * (ended - began))

    def close(self, *, stopped: bool) -> None:
        """The question is answered: the file is of no more use, unless a budget ended it."""
        if not stopped:
            self.path.unlink(missing_ok=True)
