"""What every context of many machines would do next: can it move, which word does it access.

What strategies choose by. Tables of each automaton's positions make it a look-up per context. It
must not know how a choice is made. `Single` answers the same for one live machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from smpmmu.engine.steps import enabled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.reading import Block
    from smpmmu.engine.steps import Column, Mask, Step
    from smpmmu.engine.vcpus import Machine

NOTHING, AT_ONCE = 0, 1
"""Kinds of positions: there is no step; its step waits for nothing. Greater ones wait."""


class WordNumbers(dict[str, int]):
    """Numbers of words by name, given out as they are asked for; -1 is no word."""

    def __missing__(self, name: str) -> int:
        number = self[name] = len(self)
        return number


class Pending(Protocol):
    """The pending actions of some machines; of an indivisible action, its first step.

    Attributes:
        able: (contexts, machines) bool, it can be taken now.
    """

    able: Mask

    @property
    def numbers(self) -> WordNumbers:
        """The number of every word."""

    @property
    def words(self) -> NDArray[np.int32]:
        """(contexts, machines): number of the word that it accesses, or -1."""

    @property
    def writes(self) -> Mask:
        """(contexts, machines) bool: it may change that word."""


@dataclass(slots=True)
class _Table:
    """A column for each thing to know of a resting position of one automaton."""

    kinds: NDArray[np.int64]
    words: NDArray[np.int32]
    writes: Mask


class Lookout:
    """Looks up what is pending in machines of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        """Begin with empty tables."""
        self.kernel = kernel
        self.numbers = WordNumbers()
        self._tables: list[_Table | None] = [None] * len(kernel.automata)
        self._waits: list[dict[object, tuple[int, Step]]] = [{} for _ in kernel.automata]

    def look(self, block: Block) -> Many:
        """Return what is pending in every machine of `block`."""
        able = np.empty((len(self._tables), len(block)), dtype=np.bool_)
        for number, eligible in enumerate(self.kernel.eligible(block)):
            ready = self._ready(block, number)
            able[number] = ready if eligible is None else ready & eligible
        return Many(able, self, block)

    def table(self, context: int) -> _Table:
        """Return the table of a context, brought up to date."""
        table, automaton = self._tables[context], self.kernel.automata[context]
        if table is None or table.kinds.shape[0] != len(automaton.resting):
            steps = [automaton.positions[index].step for index in automaton.resting]
            words = [s.word for s in steps if s is not None and s.word is not None]
            for word in words:
                self.numbers[word.name]
            table = self._tables[context] = _Table(
                np.array([self._kind(context, step) for step in steps], dtype=np.int64),
                np.array(
                    [-1 if s is None or s.word is None else self.numbers[s.word.name]
                     for s in steps], dtype=np.int32),
                np.array([s is not None and bool(s.writes) for s in steps], dtype=np.bool_),
            )  # fmt: skip
        return table

    def _kind(self, context: int, step: Step | None) -> int:
        if step is None:
            return NOTHING
        if step.wait is None or step.word is None:
            return AT_ONCE
        waits = self._waits[context]
        return waits.setdefault((step.word.name, step.wait), (len(waits) + AT_ONCE + 1, step))[0]

    def _ready(self, block: Block, context: int) -> Mask:
        """Return where the pending step of a context need not wait."""
        kinds = self.table(context).kinds
        rests = self.kernel.rests(block, context)
        at = np.full(len(block), kinds[0]) if rests is None else kinds[rests.view(np.int64)]
        ready: Mask = at == AT_ONCE
        if ready.all():
            return ready
        found = np.bincount(at, minlength=1)
        for kind, step in self._waits[context].values():
            if kind < found.size and found[kind]:
                rows = np.flatnonzero(at == kind)
                assert step.word is not None
                values = self.kernel.word(block, step.word)
                able = enabled(step, values if isinstance(values, int) else values[rows])
                ready[rows] = able
        return ready


@dataclass(slots=True)
class Many:
    """The pending actions of a block of machines; words and writes are looked up when asked for."""

    able: Mask
    lookout: Lookout
    block: Block
    _words: NDArray[np.int32] | None = None
    _writes: Mask | None = None

    @property
    def numbers(self) -> WordNumbers:
        """The number of every word."""
        return self.lookout.numbers

    @property
    def words(self) -> NDArray[np.int32]:
        """(contexts, machines): number of the word that is accessed, or -1."""
        self._fill()
        assert self._words is not None
        return self._words

    @property
    def writes(self) -> Mask:
        """(contexts, machines) bool: that word may change."""
        self._fill()
        assert self._writes is not None
        return self._writes

    def _fill(self) -> None:
        if self._words is not None:
            return
        self._words = np.empty(self.able.shape, dtype=np.int32)
        self._writes = np.empty(self.able.shape, dtype=np.bool_)
        for context in range(self.able.shape[0]):
            table = self.lookout.table(context)
            rests: Column | None = self.lookout.kernel.rests(self.block, context)
            at = np.zeros(len(self.block), np.int64) if rests is None else rests.view(np.int64)
            self._words[context] = table.words[at]
            self._writes[context] = table.writes[at]


class Single:
    """What is pending in one live machine, as a block of one."""

    def __init__(self, machine: Machine) -> None:
        """Look at `machine`; `look` again whenever it has moved."""
        self.machine = machine
        self.numbers = WordNumbers()
        shape = (len(machine.system.contexts), 1)
        self.able: Mask = np.zeros(shape, dtype=np.bool_)
        self.words: NDArray[np.int32] = np.empty(shape, dtype=np.int32)
        self.writes: Mask = np.empty(shape, dtype=np.bool_)

    def look(self, able: list[int]) -> Single:
        """Return what is pending now; `able` are the contexts that can move."""
        self.able[:] = False
        self.able[able] = True
        for number in range(self.able.shape[0]):
            step = self.machine.runner(number).step
            word = None if step is None else step.word
            self.words[number] = -1 if word is None else self.numbers[word.name]
            self.writes[number] = step is not None and bool(step.writes)
        return self
