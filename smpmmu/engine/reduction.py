"""Reduction: fewer states to the same verdict. Partial order, dead words, and symmetry.

*Partial order.* Where the pending action of one context commutes with all that any other may do
before it, it alone is taken (a persistent set of one), at once if it follows the context's own
action. Tables by position (`engine/candidates.py`) say what clashes; the guards that hold others
back are looked at in each machine.

*Dead words.* A word that no context can read any more, from where they all stand, and no property
reads, is put back to its first value, so that states that differ in it alone are one.

*Symmetry.* Of states that differ only in which of several interchangeable vCPUs did what, one is
followed (`engine/symmetry.py`).

All rest on automata as far as they are compiled. `settle` looks again at the end: if what was
compiled since takes back a decision that was relied on, the search is to be repeated. This module
must not know about frontiers or verdicts.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from smpmmu.engine.candidates import Maker, Tables
from smpmmu.engine.dead_words import DeadWords
from smpmmu.engine.reliance import Reliance
from smpmmu.engine.steps import enabled
from smpmmu.engine.symmetry import Symmetry

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from smpmmu.engine.acting import Action
    from smpmmu.engine.batch import Emission, Kernel
    from smpmmu.engine.layout import Lanes
    from smpmmu.engine.moved import Moved
    from smpmmu.engine.moves import Successors
    from smpmmu.engine.reading import Block, Rows
    from smpmmu.engine.steps import Column, Mask, Word

    Masks = tuple[int, Column, Column]

PARTIAL_ORDER, DEAD_WORDS, SYMMETRY = "partial order", "dead words", "symmetry"
REDUCTIONS = (PARTIAL_ORDER, DEAD_WORDS, SYMMETRY)

STALE = 0.2
"""Share of ways compiled since the tables were made at which they are made anew."""
REFRESH = 1 << 17
"""Machines expanded since the tables were made before they are made anew."""


class Reduction:
    """Decides by tables, and remembers what it relied on.

    Attributes:
        kinds: which reductions are in use.
        valid: nothing that was relied on has been taken back.
        symmetry: of what is declared to be interchangeable; used if that is so.
    """

    def __init__(
        self, kernel: Kernel, kinds: Collection[str] = REDUCTIONS, reached: Collection[str] = ()
    ) -> None:
        """Reduce what `kernel` explores; the `sometimes` in `reached` need not be seen again."""
        self.kernel = kernel
        self.kinds = frozenset(kinds)
        self.valid = True
        self.symmetry = Symmetry(kernel, wanted=SYMMETRY in self.kinds)
        self._maker = Maker(kernel, reached)
        self._words = DeadWords(kernel, self._maker)
        self._plain: list[Mask] = []
        self._guarded: list[Mask] = []
        self._reliance = Reliance()
        self._at: list[Rows | int] | None = None
        self._split = False
        self._since = 0
        self._looking = False
        self.clashing: Lanes = np.zeros((1, 0), dtype=np.uint64)
        self.tables = self._made()

    @property
    def edges(self) -> int:
        """Compiled transitions of all automata."""
        return sum(len(automaton.grown) for automaton in self.kernel.automata)

    # Deciding ahead, in another thread.

    def view(self) -> Reduction:
        """Return one that decides by the same tables, and notes apart what it relies on."""
        view = copy(self)
        vars(view).update(
            _looking=True,
            _words=self._words.view(),
            _plain=[np.zeros_like(mask) for mask in self._plain],
            _guarded=[np.zeros_like(mask) for mask in self._guarded],
        )
        return view

    def accepts(self, view: Reduction, states: int) -> bool:
        """Whether this one would have decided as a view did about a block; if so, rely on it."""
        if view.tables is not self.tables or self._due(states):
            return False
        self._since += states
        for mine, other in ((self._plain, view._plain), (self._guarded, view._guarded)):
            for mask, more in zip(mine, other, strict=True):
                np.logical_or(mask, more, out=mask)
        self._words.reset |= view._words.reset
        return True

    def _due(self, states: int) -> bool:
        """Whether tables are to be made anew before so many machines more."""
        grown = self.edges - self.tables.edges
        return grown > STALE * self.tables.edges or bool(grown and self._since + states > REFRESH)

    def images(self, block: Block, successors: Successors) -> Column | None:
        """Return the keys of the successors of `block`, or None if these are their fingerprints."""
        before, found = self.symmetry.on, self.symmetry.images(block, successors)
        self.valid &= before is self.symmetry.on  # else what was left out may be another state
        return found

    # Choosing what to take alone.

    def restrict(self, block: Block, eligible: list[Mask | None]) -> list[Mask | None]:
        """Return, per context, the machines in which its action is to be taken.

        `eligible` is who could move (None: in all).
        """
        if not self._looking:
            due = self._due(len(block))
            self._since += len(block)
            if due:
                self.settle(hopeful=True)
        self._at, self._split = None, False
        eligible = self.kernel.pending(block, eligible)
        self.clashing = np.zeros((self.tables.clashes[0].shape[0], len(block)), dtype=np.uint64)
        if PARTIAL_ORDER not in self.kinds or not self.tables.candidates:
            return eligible
        tables, states = self.tables, len(block)
        at = self._where(block)
        self._split = True
        clashing = self.clashing
        for here, clashes in zip(at, tables.clashes, strict=True):
            for lane, table in enumerate(clashes):
                if table.any():
                    clashing[lane] |= table[here] if isinstance(here, int) else table.take(here)
        free = np.ones(states, dtype=np.bool_)
        alone: list[Rows | None] = [None] * len(eligible)
        for number, let_go in enumerate(eligible):
            here, choosable = at[number], tables.choices[number] >= 0
            if not choosable.any():
                continue
            may = free if let_go is None else let_go & free
            may = may & (choosable[here] if isinstance(here, int) else choosable.take(here))
            rows = np.flatnonzero(may)
            if rows.size:
                chosen = self._commuting(block, number, rows, here, clashing)
                free[chosen] = False
                alone[number] = chosen
        if free.all():
            return eligible
        result: list[Mask | None] = []
        for let_go, rows_alone in zip(eligible, alone, strict=True):
            mask = free.copy() if let_go is None else let_go & free
            if rows_alone is not None:
                mask[rows_alone] = True
            result.append(mask)
        return result

    def _where(self, block: Block) -> list[Rows | int]:
        """Return, for every context, the column of its tables for every machine."""
        if self._at is None:
            self._at = []
            for context, choices in enumerate(self.tables.choices):
                rests, last = self.kernel.rests(block, context), choices.shape[0] - 1
                at = 0 if rests is None else rests.view(np.int64)
                if rests is not None and len(self.kernel.automata[context].resting) > last:
                    at = np.minimum(at, last)
                self._at.append(at)
        return self._at

    def _commuting(
        self, block: Block, context: int, rows: Rows, at: Rows | int, clashing: NDArray[np.uint64]
    ) -> Rows:
        """Return those of `rows` in which the action of `context` can be taken alone."""
        tables = self.tables
        here = np.full(rows.size, at) if isinstance(at, int) else at.take(rows)
        clashes, guarded_clashes = np.zeros((2, rows.size), dtype=np.uint64)
        for lane, plain, with_guards in self._masks[context]:
            bits = clashing[lane].take(rows)
            clashes |= bits & plain.take(here)
            guarded_clashes |= bits & with_guards.take(here)
        fine = clashes == 0
        self._plain[context][here[fine]] = True
        others = np.flatnonzero(~fine & (guarded_clashes == 0))
        guarded = tables.guarded[context].take(here.take(others))
        others, guarded = others[guarded >= 0], guarded[guarded >= 0]
        for number in _present(guarded):
            part = others[guarded == number]
            held = np.ones(part.size, dtype=np.bool_)
            for guard in tables.candidates[number].guards:
                values = self.kernel.word(block, guard.word)
                column = values if isinstance(values, int) else values[rows[part]]
                held &= guard.holds_back(column)
            fine[part[held]] = True
            self._guarded[context][here[part[held]]] = True
        chosen = np.flatnonzero(fine)
        rows, here = rows.take(chosen), here.take(chosen)
        able, waits = np.ones(rows.size, dtype=np.bool_), tables.waits[context]
        for rest in waits.keys() & set(_present(here)):
            part, step = np.flatnonzero(here == rest), waits[rest]
            assert step.word is not None
            values = self.kernel.word(block, step.word)
            able[part] = enabled(step, values if isinstance(values, int) else values[rows[part]])
        taken: Rows = rows[able]
        return taken

    def split(
        self, block: Block, context: int, after: int, moved: Moved
    ) -> tuple[Moved | None, Moved | None]:
        """Return those machines whose next action can be taken alone, too, and the others."""
        tables = self.tables
        rest = self.kernel.automata[context].positions[after].rest
        choices = tables.choices[context]
        if not self._split or rest >= choices.shape[0] - 1 or choices[rest] < 0:
            return None, moved
        fine = self._unclashed(int(choices[rest]), moved.rows)
        many = np.count_nonzero(fine)  # many times as quick as `any` and `all` for a few machines
        if many:
            self._plain[context][rest] = True
        number = int(tables.guarded[context][rest])
        if number >= 0 and many < fine.size:
            held = self._unclashed(number, moved.rows) & ~fine
            if np.count_nonzero(held):
                for guard in tables.candidates[number].guards:
                    held &= guard.holds_back(self._value(block, guard.word, moved))
                if np.count_nonzero(held):
                    self._guarded[context][rest] = True
                    fine |= held
        step = tables.waits[context].get(rest)
        if step is not None:
            assert step.word is not None
            fine &= enabled(step, self._value(block, step.word, moved))
        many = np.count_nonzero(fine)
        if not many:
            return None, moved
        if many == fine.size:
            return moved, None
        return moved.part(fine.nonzero()[0]), moved.part((~fine).nonzero()[0])

    def _unclashed(self, number: int, rows: Rows) -> Mask:
        """Return where nothing clashes with one candidate."""
        bits = self.clashing[number >> 6].take(rows)
        bits &= np.uint64(1 << (number & 63))
        unclashed: Mask = bits == 0
        return unclashed

    def _value(self, block: Block, word: Word, moved: Moved) -> Column:
        field = self.kernel.layout.fields.get(word.name)
        if field is None:
            return np.full(moved.rows.shape, word.initial, dtype=np.uint64)
        return moved.read(block, field)

    def goes_on(self, context: int, after: int, action: Action) -> bool:
        """Decide for one machine what `split` does for many."""
        tables = self.tables
        rest = self.kernel.automata[context].positions[after].rest
        choices = tables.choices[context]
        if not self._split or rest >= choices.shape[0] - 1 or choices[rest] < 0:
            return False
        relied = self._plain
        if action.clashing(int(choices[rest])):
            number, relied = int(tables.guarded[context][rest]), self._guarded
            if number < 0 or action.clashing(number):
                return False
            for guard in tables.candidates[number].guards:
                if not guard.holds_back(action.value(guard.word)):
                    return False
        step = tables.waits[context].get(rest)
        word = None if step is None else step.word
        if step is not None and word is not None and not enabled(step, action.value(word)):
            return False
        relied[context][rest] = True
        return True

    # Forgetting words that nobody reads again.

    @property
    def word_lanes(self) -> int:
        """Columns of 64 bits that a bit for each word needs."""
        return self._words.lanes if DEAD_WORDS in self.kinds else 0

    def read_by_others(self, block: Block) -> list[list[Column]]:
        """Return, for each context, which words any other may yet read: columns of 64 bits."""
        if DEAD_WORDS not in self.kinds:
            return [[] for _ in self.tables.live]
        return self._words.read_by_others(len(block), self._where(block))

    def forget(self, block: Block, emission: Emission) -> Emission:
        """Put words that have died with this move back to their first values."""
        if DEAD_WORDS not in self.kinds:
            return emission
        return self._words.forget(block, emission, self._where(block))

    def put_back(self, context: int, starts: tuple[int, ...], after: int, action: Action) -> None:
        """Do for one machine what `forget` does for many."""
        if DEAD_WORDS in self.kinds:
            self._words.put_back(context, starts, after, action)

    # Making the tables, and making them anew.

    def settle(self, *, hopeful: bool = False) -> bool:
        """Look at what was compiled since; return whether all that was relied on still stands.

        Most of what a search meets is gone on from soon. While it goes on, what is relied on may
        stand in the hope that nothing comes after a step that nobody has taken yet; at its end
        anything may.
        """
        self._since = 0
        if self.edges != self.tables.edges:
            self._note()
            self.tables = self._made()
            self.valid = self.valid and self._reliance.stands(self.tables, self.tables.hopeful)
        if not hopeful and self.valid:
            self.valid = self._reliance.stands(self.tables, self.tables)
        return self.valid

    def _note(self) -> None:
        """Note the candidates that were taken alone since the tables were made."""
        tables = self.tables
        alone = [
            (context, rest, int(choices[context][rest]))
            for masks, choices in ((self._plain, tables.choices), (self._guarded, tables.guarded))
            for context, mask in enumerate(masks)
            for rest in np.flatnonzero(mask[:-1]).tolist()
        ]
        self._reliance.note(alone, self._words.reset, tables)

    def kept(self) -> dict[str, Any]:
        """Return what a search relies on, just after `settle`."""
        self._note()
        return self._reliance.kept(self._maker)

    def go_on(self, kept: dict[str, Any]) -> None:
        """Rely on what another reduction kept, in a kernel that has grown as that one had."""
        self._reliance.go_on(kept, self._maker, self.tables)
        for word in self._reliance.dead:
            self._words.reset |= 1 << word
        self.tables = self._made()

    def again(self) -> None:
        """Begin a search anew with today's tables."""
        self.settle()
        self.valid, self._words.reset = True, 0
        self._reliance = Reliance()
        for mask in (*self._plain, *self._guarded):
            mask[:] = False

    def _made(self) -> Tables:
        maker = self._maker
        actions, bits = maker.actions(), maker.bits()
        self.valid = self._reliance.renew(maker, actions, bits) and self.valid
        tables = maker.tables(actions, bits, self._reliance.clear)
        self._words.look_up(tables)
        self._plain = [np.zeros(c.shape[0], dtype=np.bool_) for c in tables.choices]
        self._guarded = [np.zeros(c.shape[0], dtype=np.bool_) for c in tables.choices]
        self._masks = [_masks(*both) for both in zip(tables.choices, tables.guarded, strict=True)]
        return tables


def _masks(choices: NDArray[np.int32], guarded: NDArray[np.int32]) -> list[Masks]:
    """Return, for each lane of clashes in question, the bits to look at for each position."""
    used = {number >> 6 for number in (*choices.tolist(), *guarded.tolist()) if number >= 0}
    return [(lane, _bits(choices, lane), _bits(guarded, lane)) for lane in sorted(used)]


def _bits(numbers: NDArray[np.int32], lane: int) -> Column:
    here = (numbers >= 0) & (numbers >> 6 == lane)
    return np.where(here, np.uint64(1) << (numbers & 63).astype(np.uint64), np.uint64(0))


def _present(numbers: NDArray[Any]) -> list[int]:
    """Return the distinct values of small numbers."""
    return np.flatnonzero(np.bincount(numbers)).tolist()
