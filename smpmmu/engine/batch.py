"""The transition kernel: one action of every machine in a matrix, as a handful of array operations.

Machines lie as lanes of 64 bits; all machines at one position of an automaton take the same step,
so that its fields are scalars and only values are columns. This is the hot path of exploring and
of stress. It must not know about frontiers, seeds or verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.automaton import Automaton
from smpmmu.engine.errors import ModelError
from smpmmu.engine.fingerprints import Keys
from smpmmu.engine.layout import Field, Grown, Layout
from smpmmu.engine.reading import Block, Reader, place_name
from smpmmu.engine.steps import TAKEN, Step, Word, enabled, overflow, taken, updated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from smpmmu.engine.reading import Rows
    from smpmmu.engine.steps import Column, Mask
    from smpmmu.engine.system import System

    Tap = Callable[[int, Step, int, Rows], None]  # told: context, step, result, who took it


@dataclass(slots=True)
class Emission:
    """Successors by one action of one context to one position.

    Attributes:
        context: number of the context that moved.
        before: the automaton position it moved from.
        after: the automaton position it moved to.
        rows: (successors,) which machine of the block each comes from.
        fps: (successors,) uint64 fingerprints.
        deltas: per lane, what to exclusive-or into the parent's: a column or an int.
        progress: the move can never be undone by later moves of this context.
    """

    context: int
    before: int
    after: int
    rows: Rows
    fps: Column
    deltas: list[Column | int]
    progress: bool


class Kernel(Reader):
    """All automata of a system, its layout and its fingerprint keys."""

    def __init__(
        self,
        system: System,
        *,
        packed: bool = True,
        dropped: frozenset[str] = frozenset(),
        after: Kernel | None = None,
    ) -> None:
        """Compile the start of every program of `system`.

        The automata of contexts that are the very same objects in a kernel `after` which this
        one comes are taken over from it.
        """
        taken_over: list[Automaton] = after.automata if after is not None else []
        known = {id(a.context): a for a in taken_over if a.dropped == dropped}
        automata = [known.get(id(c)) or Automaton(c, dropped) for c in system.contexts]
        super().__init__(system, automata, Layout(packed=packed))
        self._words: dict[str, Word] = {}
        self._written: dict[str, Word] = {}
        self.keys = Keys()
        self._start_words()

    def _start_words(self) -> None:
        for automaton in self.automata:
            for position in automaton.positions:
                self._meet(position.step)
        for word in self.system.words:
            self._know(word)
        for prop in self.system.properties:
            for word in prop.truth.words():
                self._know(word)

    def initial(self) -> Block:
        """Return the one machine that nothing has happened to; its fingerprint is not 0."""
        lanes = self.layout.repack({}, np.zeros((self.layout.lanes, 1), dtype=np.uint64))
        return Block(lanes, np.ones(1, dtype=np.uint64))

    # Moving.

    def expand(self, block: Block) -> Iterator[Emission]:
        """Yield every successor of every machine, context by context, position by position.

        Raises:
            Grown: something was written for the first time; repack and call again.
            ModelError: modelled code broke a rule.
        """
        for number, eligible in enumerate(self.eligible(block)):
            yield from self.fire(block, number, eligible)

    def fire(
        self, block: Block, context: int, eligible: Mask | None, tap: Tap | None = None
    ) -> Iterator[Emission]:
        """Yield the successors by `context` of the machines that are `eligible` (None: all)."""
        for index, rows in self._groups(block, context, eligible):
            if rows.size and self.automata[context].positions[index].step is not None:
                yield from self._act(block, context, index, rows, tap)

    def _groups(
        self, block: Block, context: int, eligible: Mask | None
    ) -> Iterator[tuple[int, Rows]]:
        resting = self.automata[context].resting
        rests = self.rests(block, context)
        chosen = None if eligible is None else np.flatnonzero(eligible)
        if rests is None:
            yield resting[0], np.arange(len(block)) if chosen is None else chosen
            return
        narrow = rests.astype(np.uint16 if len(resting) <= 65_536 else np.uint32)
        narrow = narrow if chosen is None else narrow[chosen]
        order = np.argsort(narrow, kind="stable")
        counts = np.bincount(narrow, minlength=len(resting))
        ends = np.cumsum(counts)
        for rest in np.flatnonzero(counts).tolist():
            rows = order[ends[rest] - counts[rest] : ends[rest]]
            yield resting[rest], rows if chosen is None else chosen[rows]

    def _act(
        self, block: Block, context: int, start: int, rows: Rows, tap: Tap | None
    ) -> Iterator[Emission]:
        """Take the action that begins at position `start` in all machines `rows`."""
        automaton = self.automata[context]
        deltas: list[Column | int] = [0] * self.layout.lanes
        fps: Column | None = None
        stack: list[tuple[int, Rows, Column | None, list[Column | int], int]] = [
            (start, rows, fps, deltas, 0)
        ]
        while stack:
            index, rows, fps, deltas, length = stack.pop()
            step = automaton.positions[index].step
            assert step is not None
            automaton.check_length(length)
            if step.word is None:
                branches: Iterator[_Branch] = iter([_Branch(0, rows, fps, deltas)])
            else:
                branches = self._apply(block, step, step.word, rows, fps, deltas)
            for branch in branches:
                if tap is not None:
                    tap(context, step, branch.result, branch.rows)
                after = self.follow(automaton, index, branch.result)
                if automaton.positions[after].mid:
                    stack.append((after, branch.rows, branch.fps, branch.deltas, length + 1))
                else:
                    yield self._emit(block, context, start, after, branch)

    def _apply(
        self,
        block: Block,
        step: Step,
        word: Word,
        rows: Rows,
        fps: Column | None,
        deltas: list[Column | int],
    ) -> Iterator[_Branch]:
        """Apply one step to `rows`; yield the outcomes, one for each distinct result."""
        field = self.layout.fields.get(word.name)
        if field is None:
            if step.writes:
                raise self.grown()
            if step.wait is not None and not enabled(step, word.initial):
                return
            result = word.initial & step.returns
            if step.when is not None and taken(step, word.initial):
                result |= TAKEN
            yield _Branch(result, rows, fps, deltas)
            return
        values = _read(block, field, rows, deltas)
        if step.wait is not None:
            able = enabled(step, values)
            if not able.all():
                rows, values = rows[able], values[able]
                if not rows.size:
                    return
        if fps is None:
            fps = block.fps.take(rows)
        if step.when is None:
            yield from self._outcomes(step, word, field, rows, fps, deltas, values, 0)
            return
        takes = taken(step, values)
        for flag in (False, True):
            part = np.flatnonzero(takes == flag)
            if part.size:
                picked = _pick(deltas, part)
                parts = (rows[part], fps[part], picked, values[part])
                yield from self._outcomes(step, word, field, *parts, TAKEN if flag else None)

    def _outcomes(
        self,
        step: Step,
        word: Word,
        field: Field,
        rows: Rows,
        fps: Column,
        deltas: list[Column | int],
        values: Column,
        mark: int | None,
    ) -> Iterator[_Branch]:
        """Write where the step is taken (`mark` is not None), and split by what was read."""
        if mark is not None and step.writes:
            new = updated(step, values)
            if step.add:
                wrong = np.flatnonzero(new > word.mask)
                if wrong.size:
                    raise overflow(step, int(values[wrong[0]]))
            fps = fps ^ self.keys.word(word, values) ^ self.keys.word(word, new)
            deltas = deltas.copy()
            deltas[field.lane] = deltas[field.lane] ^ ((values ^ new) << field.shift)
        if not step.returns:
            yield _Branch(mark or 0, rows, fps, deltas)
            return
        keys = values & step.returns
        first = int(keys[0])
        if (keys == first).all():
            yield _Branch(first | (mark or 0), rows, fps, deltas)
            return
        for key in _distinct(keys):
            part = np.flatnonzero(keys == key)
            yield _Branch(key | (mark or 0), rows[part], fps[part], _pick(deltas, part))

    def _emit(
        self, block: Block, context: int, start: int, after: int, branch: _Branch
    ) -> Emission:
        automaton = self.automata[context]
        before, rest = automaton.positions[start].rest, automaton.positions[after].rest
        deltas = branch.deltas
        fps = block.fps.take(branch.rows) if branch.fps is None else branch.fps
        if before != rest:
            field = self.place(context)
            if field is None or max(rest, before) > field.mask:
                raise self.grown()
            fps = fps ^ np.uint64(self.keys.move(context, before, rest))
            deltas = deltas.copy()
            deltas[field.lane] = deltas[field.lane] ^ ((before ^ rest) << field.shift)
        progress = automaton.progress(start, after)
        return Emission(context, start, after, branch.rows, fps, deltas, progress)

    def follow(self, automaton: Automaton, index: int, result: int) -> int:
        """Return where `result` leads from position `index`, compiling it if it is new."""
        known = len(automaton.positions)
        after = automaton.follow(index, result)
        for position in automaton.positions[known:]:
            self._meet(position.step)
        return after

    def grown(self) -> Grown:
        """Ask for every field that the positions known so far need, so that few calls are lost."""
        for number, automaton in enumerate(self.automata):
            if len(automaton.resting) > 1:
                bits = max(2, (len(automaton.resting) - 1).bit_length() + 1 & ~1)
                self.layout.want(place_name(number), bits, 0)
        for word in self._written.values():
            self.layout.want(word.name, word.width, word.initial)
        return Grown()

    # Words.

    def _meet(self, step: Step | None) -> None:
        """Take note of the word of a step that a program can come to."""
        if step is not None and step.word is not None:
            self._know(step.word)
            if step.writes:
                self._written[step.word.name] = step.word

    def _know(self, word: Word) -> None:
        known = self._words.setdefault(word.name, word)
        if known != word:
            msg = f"two words are named {word.name!r} but differ: {known} and {word}"
            raise ModelError(msg)


@dataclass(slots=True)
class _Branch:
    result: int
    rows: Rows
    fps: Column | None
    deltas: list[Column | int]


def _read(block: Block, field: Field, rows: Rows, deltas: list[Column | int]) -> Column:
    values: Column = block.lanes[field.lane].take(rows)
    delta = deltas[field.lane]
    if not isinstance(delta, int) or delta:
        values ^= delta
    if field.shift:
        values >>= np.uint64(field.shift)
    values &= np.uint64(field.mask)
    return values


def _distinct(keys: Column) -> list[int]:
    """Return the distinct values of a column, rising; counting beats sorting for small ones."""
    if keys.size > 1_000 and int(keys.max()) < 4_096:
        return np.flatnonzero(np.bincount(keys.view(np.int64))).tolist()
    return [int(key) for key in np.unique(keys)]


def _pick(deltas: list[Column | int], part: Rows) -> list[Column | int]:
    return [d if isinstance(d, int) else d[part] for d in deltas]
