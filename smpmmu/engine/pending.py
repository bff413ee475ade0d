"""What every context of many machines would do next: can it move, which word does it access.

What strategies choose by. Tables of the positions of every automaton make it a look-up. It must
not know how a choice is made. `Single` answers the same for one live machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.layout import Field
    from smpmmu.engine.reading import Block
    from smpmmu.engine.steps import Mask, Step
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


class Lookout:
    """Looks up what is pending in machines of one kernel, for all contexts at once."""

    def __init__(self, kernel: Kernel) -> None:
        """Begin with empty tables, (contexts, resting positions)."""
        self.kernel = kernel
        self.numbers = WordNumbers()
        many = len(kernel.automata)
        self._known = [0] * many
        self._kinds = np.zeros((many, 0), dtype=np.int32)
        self._words = np.zeros((many, 0), dtype=np.int32)
        self._writes = np.zeros((many, 0), dtype=np.bool_)
        self._waits: dict[object, int] = {}
        self._waiting: list[tuple[Step, list[int]]] = []
        self._fields: dict[str, Field] | None = None
        self._places = np.zeros((3, many, 1), dtype=np.uint64)

    def look(self, block: Block) -> Many:
        """Return what is pending in every machine of `block`."""
        rests = self.rests(block)
        kinds = _looked_up(self._kinds, rests)
        able = kinds == AT_ONCE
        for kind in np.flatnonzero(np.bincount(kinds[~able])).tolist():
            if kind != NOTHING:
                step, contexts = self._waiting[kind - AT_ONCE - 1]
                able[contexts] |= (kinds[contexts] == kind) & self.kernel.ready(block, step)
        for number, eligible in enumerate(self.kernel.eligible(block)):
            if eligible is not None:
                able[number] &= eligible
        return Many(able, self, block)

    def accesses(self, block: Block) -> tuple[NDArray[np.int32], Mask]:
        """Return, (contexts, machines), the word that each would access, and if it may write."""
        rests = self.rests(block)
        return _looked_up(self._words, rests), _looked_up(self._writes, rests)

    def rests(self, block: Block) -> NDArray[np.int64]:
        """Return (contexts, machines): the number of the resting position."""
        self._catch_up()
        lanes, shifts, masks = self._places
        rests = block.lanes.take(lanes[:, 0].view(np.int64), axis=0)
        rests >>= shifts
        rests &= masks
        numbers: NDArray[np.int64] = rests.view(np.int64)
        return numbers

    def _catch_up(self) -> None:
        """Take in positions that are new, and where the layout puts them."""
        for context, automaton in enumerate(self.kernel.automata):
            known, now = self._known[context], len(automaton.resting)
            if known < now:
                self._make_room(now)
                for rest in range(known, now):
                    step = automaton.positions[automaton.resting[rest]].step
                    self._kinds[context, rest] = self._kind(context, step)
                    if step is not None and step.word is not None:
                        self._words[context, rest] = self.numbers[step.word.name]
                        self._writes[context, rest] = bool(step.writes)
                self._known[context] = now
        if self._fields is not self.kernel.layout.fields:
            self._fields = self.kernel.layout.fields
            for context in range(len(self._known)):
                place = self.kernel.place(context)
                where = (0, 0, 0) if place is None else (place.lane, place.shift, place.mask)
                self._places[:, context, 0] = where

    def _make_room(self, positions: int) -> None:
        more = positions - self._kinds.shape[1]
        if more > 0:
            wider = ((0, 0), (0, 2 * more))
            self._kinds = np.pad(self._kinds, wider)
            self._words = np.pad(self._words, wider, constant_values=-1)
            self._writes = np.pad(self._writes, wider)

    def _kind(self, context: int, step: Step | None) -> int:
        if step is None:
            return NOTHING
        if step.wait is None or step.word is None:
            return AT_ONCE
        kind = self._waits.setdefault((step.word.name, step.wait), len(self._waiting))
        if kind == len(self._waiting):
            self._waiting.append((step, []))
        contexts = self._waiting[kind][1]
        if context not in contexts:
            contexts.append(context)
        return AT_ONCE + 1 + kind


def _looked_up(table: NDArray[Any], rests: NDArray[np.int64]) -> NDArray[Any]:
    """Return the entry in each context's row of a table for each of its resting numbers."""
    found = np.empty(rests.shape, dtype=table.dtype)
    for row, numbers, out in zip(table, rests, found, strict=True):
        row.take(numbers, out=out, mode="clip")  # which needs no copy
    return found


@dataclass(slots=True)
class Many:
    """The pending actions of a block of machines; words and writes are looked up when asked for."""

    able: Mask
    lookout: Lookout
    block: Block
    _accesses: tuple[NDArray[np.int32], Mask] | None = None

    @property
    def numbers(self) -> WordNumbers:
        """The number of every word."""
        return self.lookout.numbers

    @property
    def words(self) -> NDArray[np.int32]:
        """(contexts, machines): number of the word that is accessed, or -1."""
        return self._looked_up()[0]

    @property
    def writes(self) -> Mask:
        """(contexts, machines) bool: that word may change."""
        return self._looked_up()[1]

    def _looked_up(self) -> tuple[NDArray[np.int32], Mask]:
        if self._accesses is None:
            self._accesses = self.lookout.accesses(self.block)
        return self._accesses


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
