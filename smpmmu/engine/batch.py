"""The transition kernel: one action of every machine in a matrix, as a handful of array operations.

Machines lie as lanes of 64 bits; all machines at one position of an automaton take the same step,
so that its fields are scalars and only values are columns. This is the hot path of exploring and
of stress. It must not know about frontiers, seeds or verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from smpmmu.engine.automaton import Automaton
from smpmmu.engine.changes import Changes
from smpmmu.engine.errors import ModelError
from smpmmu.engine.fingerprints import Keys
from smpmmu.engine.layout import Field, Grown, Layout
from smpmmu.engine.moved import Moved, Waiting
from smpmmu.engine.reading import Block, Reader, place_name
from smpmmu.engine.steps import TAKEN, Step, Word, enabled, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

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
        via: positions between, of actions taken along with it.
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
    via: tuple[int, ...] = ()


LONGEST_CHAIN = 1_024
"""Actions of one context that are taken at once, where it may go on."""


class GoesOn(Protocol):
    """Decides which machines go on with their context's next action at once."""

    def split(
        self, block: Block, context: int, after: int, moved: Moved
    ) -> tuple[Moved | None, Moved | None]:
        """Return those that go on from the position `after`, and those that rest there."""


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
        self._writable: dict[str, Word] = {}
        self.keys = Keys()
        self._changed = Changes(self.keys)
        self.meet_all()

    def meet_all(self) -> None:
        """Take note of every word, also of steps that another kernel has compiled."""
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
        self,
        block: Block,
        context: int,
        eligible: Mask | None,
        tap: Tap | None = None,
        goes_on: GoesOn | None = None,
    ) -> Iterator[Emission]:
        """Yield the successors by `context` of the machines that are `eligible` (None: all)."""
        for index, rows in self._groups(block, context, eligible):
            if rows.size and self.automata[context].positions[index].step is not None:
                yield from self._act(block, context, index, rows, tap, goes_on)

    def _groups(
        self, block: Block, context: int, eligible: Mask | None
    ) -> Iterator[tuple[int, Rows]]:
        """Yield the positions of a context, and which machines are at each."""
        resting = self.automata[context].resting
        rests = self.rests(block, context)
        if rests is None:  # all are at one position, as most interrupts are
            step = self.automata[context].positions[resting[0]].step
            if step is not None and step.wait is not None:
                ready = self.ready(block, step)
                eligible = ready if eligible is None else ready & eligible
            rows = np.arange(len(block)) if eligible is None else eligible.nonzero()[0]
            yield resting[0], rows
            return
        chosen = None if eligible is None else eligible.nonzero()[0]
        narrow = rests.astype(_narrowest(len(resting)))
        narrow = narrow if chosen is None else narrow.take(chosen)
        order = np.argsort(narrow, kind="stable")
        counts = np.bincount(narrow, minlength=len(resting))
        ends = np.cumsum(counts)
        for rest in counts.nonzero()[0].tolist():
            rows = order[ends[rest] - counts[rest] : ends[rest]]
            yield resting[rest], rows if chosen is None else chosen.take(rows)

    def _act(
        self,
        block: Block,
        context: int,
        start: int,
        rows: Rows,
        tap: Tap | None,
        goes_on: GoesOn | None,
    ) -> Iterator[Emission]:
        """Take the action that begins at position `start` in all machines `rows`."""
        automaton = self.automata[context]
        nothing: tuple[int, ...] = ()
        waiting = Waiting(merged=goes_on is not None)
        waiting.put((nothing, 0, start), Moved(rows, 0, [0] * self.layout.lanes, {}))
        while waiting.parts:
            (via, length, index), moved = waiting.take()
            step = automaton.positions[index].step
            assert step is not None
            automaton.check_length(length)
            if step.word is None:
                outcomes: Iterator[tuple[int, Moved]] = iter([(0, moved)])
            else:
                outcomes = self._apply(block, step, step.word, moved)
            for result, outcome in outcomes:
                if tap is not None:
                    tap(context, step, result, outcome.rows)
                after = self.follow(automaton, index, result)
                if automaton.positions[after].mid:
                    waiting.put((via, length + 1, after), outcome)
                    continue
                rests: Moved | None = outcome
                if goes_on is not None and len(via) < LONGEST_CHAIN:
                    more, rests = goes_on.split(block, context, after, outcome)
                    if more is not None:
                        waiting.put(((*via, after), 0, after), more)
                if rests is not None:
                    yield self._emit(block, context, start, after, rests, via)

    def _apply(
        self, block: Block, step: Step, word: Word, moved: Moved
    ) -> Iterator[tuple[int, Moved]]:
        """Apply one step; yield the distinct results, and the machines that have each."""
        field = self.layout.fields.get(word.name)
        if field is None:
            if step.writes:
                raise self.grown()
            if step.wait is not None and not enabled(step, word.initial):
                return
            result = word.initial & step.returns
            if step.when is not None and taken(step, word.initial):
                result |= TAKEN
            yield result, moved
            return
        values = moved.read(block, field)
        if step.wait is not None:
            able = enabled(step, values).nonzero()[0]
            if not able.size:
                return
            if able.size < values.size:
                moved, values = moved.part(able), values.take(able)
        if step.when is None:
            yield from self._outcomes(step, field, moved, values, 0)
            return
        takes = taken(step, values)
        for where, mark in ((~takes, None), (takes, TAKEN)):
            part = where.nonzero()[0]
            if part.size == values.size:
                yield from self._outcomes(step, field, moved, values, mark)
            elif part.size:
                yield from self._outcomes(step, field, moved.part(part), values.take(part), mark)

    def _outcomes(
        self, step: Step, field: Field, moved: Moved, values: Column, mark: int | None
    ) -> Iterator[tuple[int, Moved]]:
        """Split by what was read, and write where the step is taken (`mark` is not None)."""
        writes = mark is not None and step.writes
        if not step.returns:
            yield mark or 0, self._written(step, field, moved, values) if writes else moved
            return
        results = values & step.returns
        first = int(results[0])
        if np.count_nonzero(results == first) == results.size:
            part = self._written(step, field, moved, values) if writes else moved
            yield first | (mark or 0), part
            return
        for result in _distinct(results):
            at = (results == result).nonzero()[0]
            part = moved.part(at)
            if writes:
                part = self._written(step, field, part, values.take(at))
            yield result | (mark or 0), part

    def _written(self, step: Step, field: Field, moved: Moved, values: Column) -> Moved:
        """Return what is moved after a step has written where its word has `values`."""
        first = int(values[0])
        if np.count_nonzero(values == first) == values.size:
            change, keys = self._changed.one(step, field, first)
        else:
            change, keys = self._changed.column(step, field, values)
        deltas = moved.deltas.copy()
        deltas[field.lane] = deltas[field.lane] ^ change
        return Moved(moved.rows, moved.keys ^ keys, deltas, moved.bases)

    def _emit(
        self,
        block: Block,
        context: int,
        start: int,
        after: int,
        moved: Moved,
        via: tuple[int, ...],
    ) -> Emission:
        automaton = self.automata[context]
        before, rest = automaton.positions[start].rest, automaton.positions[after].rest
        deltas, keys = moved.deltas, moved.keys
        if before != rest:
            field = self.place(context)
            if field is None or max(rest, before) > field.mask:
                raise self.grown()
            keys = keys ^ self.keys.move(context, before, rest)
            deltas = deltas.copy()
            deltas[field.lane] = deltas[field.lane] ^ ((before ^ rest) << field.shift)
        fps = block.fps.take(moved.rows)
        fps ^= keys
        progress = automaton.progress(start, after)
        return Emission(context, start, after, moved.rows, fps, deltas, progress, via)

    def follow(self, automaton: Automaton, index: int, result: int) -> int:
        """Return where `result` leads from position `index`, compiling it if it is new."""
        found = automaton.positions[index].following.get(result)
        if found is not None:
            return found
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
        for word in self._writable.values():
            self.layout.want(word.name, word.width, word.initial)
        return Grown()

    # Words.

    def _meet(self, step: Step | None) -> None:
        """Take note of the word of a step that a program can come to."""
        if step is not None and step.word is not None:
            self._know(step.word)
            if step.writes:
                self._writable[step.word.name] = step.word

    def known(self, name: str) -> Word:
        """Return a word that some step accesses, by name."""
        return self._words[name]

    def _know(self, word: Word) -> None:
        known = self._words.setdefault(word.name, word)
        if known != word:
            msg = f"two words are named {word.name!r} but differ: {known} and {word}"
            raise ModelError(msg)


class Unknown(Exception):
    """A result was met for the first time, and modelled code may not be run now."""


class _Settled(Kernel):
    """A kernel that shares everything with another one, and never changes anything of it."""

    def follow(self, automaton: Automaton, index: int, result: int) -> int:
        """Return where `result` leads, as `Kernel.follow`.

        Raises:
            Unknown: it is new.
        """
        after = automaton.positions[index].following.get(result)
        if after is None:
            raise Unknown
        return after

    def grown(self) -> Grown:
        """Ask for nothing."""
        return Grown()


def settled(kernel: Kernel) -> Kernel:
    """Return a kernel that knows what this one knows, now and later, and learns nothing."""
    view = object.__new__(_Settled)
    view.__dict__ = kernel.__dict__
    return view


def _narrowest(count: int) -> type[np.unsignedinteger[Any]]:
    """Return the type for numbers below `count`; the narrower, the faster they are sorted."""
    return np.uint8 if count <= 1 << 8 else np.uint16 if count <= 1 << 16 else np.uint32


def _distinct(keys: Column) -> list[int]:
    """Return the distinct values of a column, rising; counting beats sorting for small ones."""
    if keys.size > 1_000 and int(keys.max()) < 4_096:
        return np.bincount(keys.view(np.int64)).nonzero()[0].tolist()
    return sorted(set(keys.tolist())) if keys.size < 1_000 else np.unique(keys).tolist()
