"""Several cores for one search: blocks are expanded in threads before their turn comes.

Numpy lets go of Python's lock in what takes long. A thread changes nothing: where modelled code
would have to be run, or the layout to grow, it gives up, and the block is expanded when its turn
has come. So everything is found in the order in which one core would find it. This module must not
know what is done with successors.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from smpmmu.engine.visited import first_of_each

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from smpmmu.engine.frontier import Frontier, Level
    from smpmmu.engine.moves import Successors
    from smpmmu.engine.steps import Column
    from smpmmu.engine.successors import Expander, Peek


LEAST = 1 << 12
"""States of a block from which on it is worth another thread."""


def processors() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(slots=True)
class Expanded:
    """A block, its successors, and where each distinct fingerprint comes first among them.

    Attributes:
        transitions: how many successors there are; some that change nothing may be left out.
        peek: what found them, if that was before their turn.
    """

    part: Frontier
    successors: Successors
    order: NDArray[np.int64]
    distinct: Column
    transitions: int
    peek: Peek | None = None


def expanded(part: Frontier, successors: Successors) -> Expanded:
    """Return a block with all its successors."""
    return Expanded(part, successors, *first_of_each(successors.keys), len(successors))


class Helper(Protocol):
    """Whoever expands blocks before they are asked for."""

    @property
    def cores(self) -> int:
        """How many blocks are worked with at once."""

    def look(self, level: Level, number: int) -> None:
        """Begin to expand a block, unless that has begun, or enough others have."""

    def take(self, level: Level, number: int) -> Expanded | None:
        """Return what was found of a block, if that has begun and nothing had to grow for it."""

    def forget(self) -> None:
        """Forget what was found; the layout is about to grow."""

    def close(self) -> None:
        """Stop."""


@dataclass(slots=True)
class _Task:
    level: Level
    number: int
    future: Future[Expanded | None]


class Ahead:
    """Expands the blocks of a level before they are asked for.

    Attributes:
        cores: how many are used, one of which is the caller's.
    """

    def __init__(self, expander: Expander, cores: int) -> None:
        """Use so many cores."""
        self._expander = expander
        self.cores = cores
        self._pool: ThreadPoolExecutor | None = None
        self._tasks: list[_Task] = []

    def look(self, level: Level, number: int) -> None:
        """Begin to expand a block, unless that has begun, or enough others have."""
        if self.cores == 1 or len(self._tasks) >= self.cores:
            return
        if any(t.level is level and t.number == number for t in self._tasks):
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.cores - 1, "smpmmu")
        part, peek = level.block(number), self._expander.ahead()
        if peek is not None and part.ids.size >= LEAST:
            future = self._pool.submit(_expanded, peek, part)
            self._tasks.append(_Task(level, number, future))

    def take(self, level: Level, number: int) -> Expanded | None:
        """Return what was found of a block, if that has begun and nothing had to grow for it."""
        for task in self._tasks:
            if task.level is level and task.number == number:
                break
        else:
            return None
        self._tasks.remove(task)
        if task.future.cancel():  # nobody has come to it
            return None
        self._help(task.future)
        found = task.future.result()
        if found is None or found.peek is None:
            return found
        return found if self._expander.accepts(found.peek, len(found.part)) else None

    def _help(self, awaited: Future[Expanded | None]) -> None:
        """Expand other blocks while waiting."""
        for task in self._tasks:
            if awaited.done():
                return
            if task.future.cancel():
                task.future = Future()
                peek = self._expander.ahead()
                assert peek is not None
                task.future.set_result(_expanded(peek, task.level.block(task.number)))

    def forget(self) -> None:
        """Forget what was found; the layout is about to grow."""
        for task in self._tasks:
            if not task.future.cancel():
                task.future.exception()
        self._tasks = []

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._tasks = []


def _expanded(peek: Peek, part: Frontier) -> Expanded | None:
    """Return what is found without changing anything, or None."""
    successors = peek.successors(part.block)
    if successors is None:
        return None
    found = expanded(part, successors)
    found.peek = peek
    return found
