"""Happens-before classes of runs: one hash for all schedules that differ in no conflict.

Two accesses conflict if they are to the same word and one of them writes. Schedules that order all
conflicts alike, and what each vCPU does, are one Mazurkiewicz trace and end alike. The hash of an
event is made of the hashes of the last event of its vCPU (a daemon is a line of its own), of the
last write to its word, and, if it writes, of all reads since. It must not know how machines move.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.numbers import GAMMA, mix64_column, named_stream
from smpmmu.engine.pending import WordNumbers
from smpmmu.engine.program import Role
from smpmmu.engine.steps import TAKEN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.steps import Column, Mask, Step
    from smpmmu.engine.system import System

MORE_WORDS = 16


class Traces:
    """The traces of runs side by side.

    Attributes:
        written: (words, runs) uint64, the last write to each word.
        read: (words, runs) uint64, the sum of the reads since.
        last: (lines, runs) uint64, the last event of each vCPU and daemon.
    """

    def __init__(self, system: System, runs: int) -> None:
        """Begin with empty traces."""
        lines = WordNumbers()
        self._lines = [lines[c.name if c.role is Role.DAEMON else c.cpu] for c in system.contexts]
        self._names = [c.name for c in system.contexts]
        self._numbers = WordNumbers()
        self.written: Column = np.zeros((0, runs), dtype=np.uint64)
        self.read: Column = np.zeros((0, runs), dtype=np.uint64)
        self.last: Column = np.zeros((len(lines), runs), dtype=np.uint64)

    def took(self, context: int, step: Step, result: int, runs: NDArray[np.intp]) -> None:
        """Add a step that a context took in some runs, with its result."""
        if step.word is None:
            return
        word = self._numbers[step.word.name]
        if word >= self.written.shape[0]:
            more = np.zeros((MORE_WORDS, self.last.shape[1]), dtype=np.uint64)
            self.written = np.concatenate((self.written, more))
            self.read = np.concatenate((self.read, more))
        writes = bool(step.writes) and (step.when is None or bool(result & TAKEN))
        line = self._lines[context]
        before = self.written[word, runs]
        if writes:
            before = before + self.read[word, runs] * np.uint64(GAMMA)
        before += np.uint64(_kind(self._names[context], step.word.name, writes))
        event = mix64_column(self.last[line, runs] ^ mix64_column(before))
        self.last[line, runs] = event
        if writes:
            self.written[word, runs] = event
            self.read[word, runs] = 0
        else:
            self.read[word, runs] += event

    def classes(self, runs: NDArray[np.intp]) -> Column:
        """Return the hash of the trace of each of `runs`, (n,) uint64."""
        lines = np.arange(self.last.shape[0], dtype=np.uint64)[:, None]
        mixed = mix64_column(self.last[:, runs] + lines * np.uint64(GAMMA))
        total: Column = mixed.sum(axis=0, dtype=np.uint64)
        return total

    def keep(self, runs: Mask) -> None:
        """Go on with some of the runs only."""
        self.written, self.read = self.written[:, runs], self.read[:, runs]
        self.last = self.last[:, runs]


@functools.lru_cache(maxsize=1 << 16)
def _kind(context: str, word: str, writes: bool) -> int:  # noqa: FBT001
    return named_stream(f"{context} {'writes' if writes else 'reads'} {word}")
