"""The tables of a reduction: which actions may be taken alone, and what they clash with.

A candidate is an action that properties do not see, after which an interrupt can land wherever it
could before, and that goes forwards in its program (or is a handler that takes away what it waited
for), so that on every cycle of states some state has all its successors. What it clashes with
is in `engine/clashes.py`. This module must not know about machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.clashes import Candidate, Clashes, Guard, masked
from smpmmu.engine.footprints import NOTHING, Access, access, onwards, read_bits, taking
from smpmmu.engine.program import Role
from smpmmu.engine.system import Scope

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from smpmmu.engine.automaton import Automaton
    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.footprints import Taking
    from smpmmu.engine.steps import Step, Wait, Word

ALL_WORDS = (1 << 4_096) - 1
"""What may be read from a position of which nobody knows where it leads."""


@dataclass(slots=True)
class Tables:
    """All that is looked up, for the automata as they were.

    Attributes:
        edges: compiled transitions of all automata.
        candidates: numbered in order of their bits.
        choices: for each context, (positions + 1,) number of the candidate without guards, or -1;
            the last is for positions not yet known.
        guarded: likewise with guards.
        clashes: for each context, (lanes, positions + 1) uint64, a bit for each candidate.
        waits: for each context, by resting position, the step to be enabled.
        live: for each context, for each resting position, a bit for each word it may still read.
        written: for each context and resting position, the words that the action there writes.
        hopeful: the clashes, and what is live, if nothing comes after steps not taken yet.
    """

    edges: int
    candidates: list[Candidate]
    choices: list[NDArray[np.int32]]
    guarded: list[NDArray[np.int32]]
    clashes: list[NDArray[np.uint64]]
    waits: list[dict[int, Step]]
    live: list[list[int]]
    written: list[list[int]]
    hopeful: Hopes


@dataclass(slots=True)
class Hopes:
    """What `Tables` has of the same names, if nothing comes after a step that nobody took yet."""

    clashes: list[NDArray[np.uint64]]
    live: list[list[int]]


class Maker:
    """Makes tables for the automata as far as they are compiled.

    Attributes:
        words: those that some step reads or writes, by number.
        numbers: the number of each, by name; it stays.
        always_live: a bit for each word that a property reads.
    """

    def __init__(self, kernel: Kernel, reached: Collection[str]) -> None:
        """Look at the programs of `kernel`; the `sometimes` in `reached` need not be seen again."""
        self.kernel = kernel
        system = kernel.system
        open_ = [p for p in system.scoped(Scope.SOMETIMES) if p.name not in reached]
        seen = [*system.scoped(Scope.ALWAYS), *open_]
        self._visible = {w.name for p in seen for w in p.truth.words()}
        self._ends_seen = {name for p in seen for name in p.truth.contexts()}
        judged = [*seen, *system.scoped(Scope.QUIESCENCE)]
        self._judged = {w.name: w.mask for p in judged for w in p.truth.words()}
        self._given: dict[Candidate, int] = {}  # a number is never another one's
        self._waits: list[list[Step]] = []
        self.words: list[Word] = []
        self.numbers: dict[str, int] = {}
        self.always_live = 0

    def actions(self) -> list[list[Taking | None]]:
        """Return the action at each resting position of each context."""
        return [
            [taking(automaton, start) for start in automaton.resting]
            for automaton in self.kernel.automata
        ]

    def bits(self) -> dict[str, int]:
        """Return the bits of each word that any step or property reads."""
        bits = read_bits(self.kernel.automata)
        for name, mask in self._judged.items():
            bits[name] = bits.get(name, 0) | mask
        return bits

    def tables(
        self,
        actions: list[list[Taking | None]],
        bits: dict[str, int],
        relied: Collection[Candidate],
    ) -> Tables:
        """Return the tables, with a column for each candidate that was relied on, too."""
        candidates, numbers = list(self._given), self._given
        for candidate in relied:
            if candidate not in numbers:
                numbers[candidate] = len(candidates)
                candidates.append(candidate)
        self._waits = [list(_waiting(automaton)) for automaton in self.kernel.automata]
        choices: list[NDArray[np.int32]] = []
        guarded: list[NDArray[np.int32]] = []
        waits: list[dict[int, Step]] = []
        for context, takings in enumerate(actions):
            plain = np.full(len(takings) + 1, -1, dtype=np.int32)
            with_guards = np.full(len(takings) + 1, -1, dtype=np.int32)
            mine: dict[int, Step] = {}
            for rest, action in enumerate(takings):
                if action is None or not action.known or not self.eligible(context, rest, action):
                    continue
                found = self._candidates(context, rest, action, bits)
                for candidate, table in zip(found, (plain, with_guards), strict=False):
                    if candidate not in numbers:
                        numbers[candidate] = len(candidates)
                        candidates.append(candidate)
                    table[rest] = numbers[candidate]
                if action.first.wait is not None:
                    mine[rest] = action.first
            choices.append(plain)
            guarded.append(with_guards)
            waits.append(mine)
        automata, clashes = self.kernel.automata, Clashes(candidates, bits)
        masks = [clashes.table(n, automaton) for n, automaton in enumerate(automata)]
        live = [self._live(automaton) for automaton in automata]
        hopes = Hopes([*masks], [*live])
        for number, automaton in enumerate(automata):
            if any(p.step is not None and not p.following for p in automaton.positions):
                hopes.clashes[number] = clashes.table(number, automaton, hopeful=True)
                hopes.live[number] = self._live(automaton, hopeful=True)
        written = self._written(actions)
        edges = sum(len(automaton.grown) for automaton in automata)
        return Tables(edges, candidates, choices, guarded, masks, waits, live, written, hopes)

    def eligible(self, context: int, rest: int, action: Taking) -> bool:
        """Whether the action at a position may be taken alone at all."""
        automaton, system = self.kernel.automata[context], self.kernel.system
        what = system.contexts[context]
        start = automaton.positions[automaton.resting[rest]]
        ends = [automaton.positions[index] for index in action.outcomes]
        if what.role is Role.DAEMON or (what.role is Role.MAIN and what.repeats):
            return False
        if any(does.writes and name in self._visible for name, does in action.footprint.items()):
            return False
        if any(p.bug or (p.ended and what.name in self._ends_seen) for p in ends):
            return False
        if start.open and self._interrupted(context):
            handler = what.role is Role.IRQ
            if any(not p.open and not (handler and p.index == 0) for p in ends):
                return False
        if what.role is Role.IRQ and start.index == 0:
            return all(p.index == 0 for p in ends) and self._self_limiting(action)
        return all(start.loop is None or p.loop != start.loop for p in ends)

    def _interrupted(self, context: int) -> bool:
        """Whether a vCPU has (other) interrupts."""
        contexts = self.kernel.system.contexts
        cpu = contexts[context].cpu
        return any(
            c.cpu == cpu and c.role is Role.IRQ for n, c in enumerate(contexts) if n != context
        )

    def _self_limiting(self, action: Taking) -> bool:
        """Whether a handler's only action ends what it waited for, and wakes no handler.

        All bits waited for become what the action makes them, whatever they were. If it was not
        the end of the wait, then the action would bring it nearer, as it would another's.
        """
        step = action.first
        wait = step.wait
        if wait is None or not wait.mask or step.when is not None or step.add:
            return False
        if wait.mask & step.and_mask:
            return False
        for automaton in self.kernel.automata:
            if automaton.context.role is Role.IRQ:
                other = automaton.positions[0].step
                assert other is not None
                assert other.word is not None
                assert other.wait is not None
                does = action.footprint.get(other.word.name, NOTHING)
                if does.may_reach(other.wait, other.wait.mask):
                    return False
        return True

    def _candidates(
        self, context: int, rest: int, action: Taking, bits: dict[str, int]
    ) -> Iterator[Candidate]:
        """Yield what clashes are looked up for: without guards, then with, if there are any."""
        accessed = footprint(action, bits)
        behind = self._behind(context, rest)
        beside = self._others(context) - behind
        yield Candidate(context, accessed, (), behind, beside)
        start = self.kernel.automata[context].positions[self.kernel.automata[context].resting[rest]]
        guards = tuple(self._guards(context, dict(accessed), start.held, behind))
        if guards:
            yield Candidate(context, accessed, guards, behind, beside)

    def _others(self, context: int) -> frozenset[int]:
        """Return the other contexts of the same vCPU."""
        return frozenset(n for stack in self.kernel.stacks if context in stack for n in stack) - {
            context
        }

    def _behind(self, context: int, rest: int) -> frozenset[int]:
        """Return the contexts of the same vCPU that cannot move before this one has."""
        contexts = self.kernel.system.contexts
        automaton = self.kernel.automata[context]
        start = automaton.positions[automaton.resting[rest]]
        what = contexts[context]
        if what.role is Role.IRQ and start.index == 0:
            return frozenset()
        found = set()
        for number in self._others(context):
            other = contexts[number]
            if what.role is Role.MAIN:
                blocked = not start.open
            else:
                blocked = other.role is Role.MAIN or not start.open
                blocked = blocked or other.priority <= what.priority
            if blocked:
                found.add(number)
        return frozenset(found)

    def _guards(
        self,
        context: int,
        footprint: dict[str, Access],
        held: frozenset[str],
        behind: frozenset[int],
    ) -> Iterator[Guard]:
        """Yield waits of others that the candidate clashes with, and of the locks it holds."""
        seen: set[tuple[str, Wait]] = set()
        exclusive = self._exclusive(context, held)
        for number in range(len(self.kernel.automata)):
            if number == context or number in behind:
                continue
            for step in self._waits[number]:
                assert step.word is not None
                assert step.wait is not None
                name, wait = step.word.name, step.wait
                if (name, wait) in seen:
                    continue
                mine = footprint.get(name, NOTHING)
                bits = 0
                if mine.conflicts(access(step)):
                    touched = mine.reads | mine.writes
                    bits = wait.mask & touched if wait.equal else wait.mask
                elif name in exclusive and wait.equal:
                    bits = wait.mask & exclusive[name][0]
                    if (wait.value ^ exclusive[name][1]) & bits:
                        bits = 0
                if bits:
                    seen.add((name, wait))
                    yield Guard(step.word, wait, bits)

    def _exclusive(self, context: int, held: frozenset[str]) -> dict[str, tuple[int, int]]:
        """Return, of locks held for oneself, the bits that show it, and what they are when free."""
        found: dict[str, tuple[int, int]] = {}
        for step in self._waits[context]:
            assert step.word is not None
            assert step.wait is not None
            name = step.word.name
            if step.lock != 1 or name not in held or not step.wait.equal:
                continue
            bits = 0 if step.add else step.xor_mask & step.and_mask & step.wait.mask
            if name in found:
                bits &= found[name][0]
            found[name] = (bits, step.wait.value)
        return {name: each for name, each in found.items() if each[0]}

    def _live(self, automaton: Automaton, *, hopeful: bool = False) -> list[int]:
        """Return, by resting position, a bit for each word that may yet be read."""
        local = []
        for position in automaton.positions:
            step = position.step
            if step is not None and not position.following and not hopeful:
                local.append(ALL_WORDS)
            elif step is None or step.word is None or not step.reads:
                local.append(0)
            else:
                local.append(1 << self._number(step.word))
        after = onwards(automaton, local, [0] * len(local))
        return [after[index] for index in automaton.resting]

    def _written(self, actions: list[list[Taking | None]]) -> list[list[int]]:
        """Return, by context and resting position, a bit for each word that is written there."""
        writes = []
        for takings in actions:
            mine = []
            for action in takings:
                written = 0
                for name, does in action.footprint.items() if action is not None else ():
                    if does.writes:
                        written |= 1 << self._number(self.kernel.known(name))
                mine.append(written)
            writes.append(mine)
        self.always_live = 0
        for name in self._judged:
            if name in self.numbers:
                self.always_live |= 1 << self.numbers[name]
        return writes

    def _number(self, word: Word) -> int:
        found = self.numbers.get(word.name)
        if found is None:
            found = self.numbers[word.name] = len(self.words)
            self.words.append(word)
        return found


def footprint(action: Taking, bits: dict[str, int]) -> tuple[tuple[str, Access], ...]:
    """Return what an action accesses, without writes to bits that nobody reads."""
    return tuple(
        (name, seen)
        for name, does in sorted(action.footprint.items())
        if (seen := masked(does, bits.get(name, 0))) != NOTHING
    )


def _waiting(automaton: Automaton) -> Iterator[Step]:
    """Yield the distinct steps of a program that wait."""
    seen = set()
    for position in automaton.positions:
        step = position.step
        if step is not None and step.wait is not None and step.word is not None:
            key = (step.word.name, step.wait, access(step), step.lock)
            if key not in seen:
                seen.add(key)
                yield step
