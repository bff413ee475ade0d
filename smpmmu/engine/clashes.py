"""What an action clashes with: whatever any other context may still do before it.

Two accesses clash if their order matters. What lies behind a wait that is false, and stays so
until the candidate's own context moves (a guard), does not count. But if the candidate may end that
wait, what could keep it from moving at all does: an interrupt whose handler waits, or interrupts
switched off before a wait. This module must not know which actions are candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.footprints import NOTHING, Access, access, holding, onwards

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.automaton import Automaton
    from smpmmu.engine.steps import Column, Mask, Step, Wait, Word


@dataclass(frozen=True, slots=True)
class Guard:
    """A wait that is false and stays so until the candidate's own context moves.

    Attributes:
        word: what is waited for.
        wait: the condition.
        bits: those that show that it is false, and that nobody else brings nearer.
    """

    word: Word
    wait: Wait
    bits: int

    def holds_back(self, values: int | Column) -> bool | Mask:
        """Whether, at these values of the word, the wait is false by `bits`."""
        if self.wait.equal:
            return (values ^ self.wait.value) & self.bits != 0
        return values & self.wait.mask == self.wait.value


@dataclass(frozen=True, slots=True)
class Candidate:
    """An action that may be taken alone, where nothing clashes with it.

    Attributes:
        context: whose.
        footprint: what it accesses.
        guards: what may be relied on to hold others back.
        behind: contexts of the same vCPU that cannot move before it.
        beside: those that can.
    """

    context: int
    footprint: tuple[tuple[str, Access], ...]
    guards: tuple[Guard, ...] = ()
    behind: frozenset[int] = frozenset()
    beside: frozenset[int] = frozenset()

    def wakes(self) -> bool:
        """Whether it may end a wait that it relies on."""
        footprint = dict(self.footprint)
        return any(
            footprint.get(guard.word.name, NOTHING).may_reach(guard.wait, guard.wait.mask)
            for guard in self.guards
        )


class Clashes:
    """Finds clashes of some candidates, numbered in order."""

    def __init__(self, candidates: list[Candidate], bits: dict[str, int]) -> None:
        """Look for clashes over `bits`, those of each word that anybody reads."""
        self._bits = bits
        self._everyone = (1 << len(candidates)) - 1
        self._lanes = max(1, (len(candidates) + 63) // 64)
        self._accesses: dict[str, list[tuple[int, Access]]] = {}
        self._guards: dict[str, list[tuple[int, Guard]]] = {}
        self._cuts: dict[tuple[str, Wait], int] = {}
        self._spared: dict[int, int] = {}
        self._waking: dict[int, int] = {}
        self._known: dict[tuple[str, Access], int] = {}
        for number, candidate in enumerate(candidates):
            for context in (candidate.context, *candidate.behind):
                self._spared[context] = self._spared.get(context, 0) | 1 << number
            for context in candidate.beside if candidate.wakes() else ():
                self._waking[context] = self._waking.get(context, 0) | 1 << number
            for name, does in candidate.footprint:
                self._accesses.setdefault(name, []).append((number, does))
            for guard in candidate.guards:
                key = (guard.word.name, guard.wait)
                self._cuts[key] = self._cuts.get(key, 0) | 1 << number
                self._guards.setdefault(guard.word.name, []).append((number, guard))

    def table(
        self, context: int, automaton: Automaton, *, hopeful: bool = False
    ) -> NDArray[np.uint64]:
        """Return (lanes, positions + 1): a bit for each candidate that clashes with what may come.

        Positions are the resting ones of `context`; the last column is for those not yet known.
        Anything may come after a step that nobody has taken yet, or, if `hopeful`, nothing.
        """
        concerned = self._everyone & ~self._spared.get(context, 0)
        steps = [position.step for position in automaton.positions]
        known = [bool(position.following) for position in automaton.positions]
        local = [
            self._of(step) & concerned if led or hopeful else concerned * (step is not None)
            for step, led in zip(steps, known, strict=True)
        ]
        waking = self._waking.get(context, 0)
        if waking:
            holds = holding(automaton, hopeful=hopeful)
            local = [bits | waking * held for bits, held in zip(local, holds, strict=True)]
        after = onwards(automaton, local, [self._held_back(step) for step in steps])
        masks = [*(after[index] for index in automaton.resting), concerned]
        low = (1 << 64) - 1
        lanes = [[mask >> 64 * lane & low for mask in masks] for lane in range(self._lanes)]
        return np.array(lanes, dtype=np.uint64)

    def _held_back(self, step: Step | None) -> int:
        """Return the candidates that have a guard for what this step waits for."""
        if step is None or step.wait is None or step.word is None:
            return 0
        return self._cuts.get((step.word.name, step.wait), 0)

    def _of(self, step: Step | None) -> int:
        """Return the candidates that clash with a step, or whose guard it may bring nearer."""
        if step is None or step.word is None:
            return 0
        name = step.word.name
        does = masked(access(step), self._bits.get(name, 0))
        found = self._known.get((name, does))
        if found is None:
            found = 0
            for number, mine in self._accesses.get(name, ()):
                found |= mine.conflicts(does) << number
            for number, guard in self._guards.get(name, ()):
                found |= does.may_reach(guard.wait, guard.bits) << number
            self._known[name, does] = found
        return found


def masked(does: Access, bits: int) -> Access:
    """Return the accesses without writes to bits that nobody ever reads."""
    return Access(does.reads, does.sets & bits, does.clears & bits, does.changes & bits)
