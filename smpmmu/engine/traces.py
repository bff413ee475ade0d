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
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from smpmmu.engine.steps import Column, Mask, Step
    from smpmmu.engine.system import System

    Took = tuple[int, Step, int, NDArray[np.intp]]  # context, step, result, runs
    _Event = tuple[NDArray[np.intp], tuple[int, int, int, bool]]  # runs, word, line, kind, writes

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

    def took(self, steps: Sequence[Took]) -> None:
        """Add steps in the order in which each run took them."""
        done = np.zeros(self.last.shape[1], dtype=np.intp)
        rounds: list[list[_Event]] = []
        for context, step, result, runs in steps:
            if step.word is None:
                continue
            number = int(done[runs[0]])  # they all took the same steps before
            done[runs] = number + 1
            if number == len(rounds):
                rounds.append([])
            word = self._numbers[step.word.name]
            writes = bool(step.writes) and (step.when is None or bool(result & TAKEN))
            kind = _kind(self._names[context], step.word.name, writes)
            rounds[number].append((runs, (word, self._lines[context], kind, writes)))
        more = len(self._numbers) - self.written.shape[0]
        if more > 0:
            room = np.zeros((more + MORE_WORDS, self.last.shape[1]), dtype=np.uint64)
            self.written = np.concatenate((self.written, room))
            self.read = np.concatenate((self.read, room))
        for events in rounds:
            self._add(events)

    def _add(self, events: list[_Event]) -> None:
        """Add an event to each of some runs; nobody has two of them."""
        sizes = [runs.size for runs, _ in events]
        each = np.array([event for _, event in events], dtype=np.uint64).T
        each = np.repeat(each, sizes, axis=1)
        runs = np.concatenate([runs for runs, _ in events])
        words, lines, writes = (each[n].view(np.int64) for n in (0, 1, 3))
        before = self.written[words, runs]
        before += np.where(writes, self.read[words, runs] * np.uint64(GAMMA), 0)
        before += each[2]
        event = mix64_column(self.last[lines, runs] ^ mix64_column(before))
        self.last[lines, runs] = event
        written, read = np.flatnonzero(writes), np.flatnonzero(writes == 0)
        self.written[words[written], runs[written]] = event[written]
        self.read[words[written], runs[written]] = 0
        self.read[words[read], runs[read]] += event[read]

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
