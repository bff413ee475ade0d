"""What programs access: of one action, and of everything that may come after a position.

Footprints are read off the steps, which are data, over the automata as far as they are compiled.
This module must not know what a reduction does with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.engine.program import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from smpmmu.engine.automaton import Automaton
    from smpmmu.engine.steps import Step, Wait


@dataclass(frozen=True, slots=True)
class Access:
    """What steps do to one word, as masks of its bits.

    Attributes:
        reads: what is done, or whether it can be, depends on them.
        sets: may become 1, whatever they were.
        clears: may become 0, whatever they were.
        changes: may change in another way.
    """

    reads: int = 0
    sets: int = 0
    clears: int = 0
    changes: int = 0

    @property
    def writes(self) -> int:
        """Bits that may change."""
        return self.sets | self.clears | self.changes

    @property
    def rises(self) -> int:
        """Bits that may go from 0 to 1."""
        return self.sets | self.changes

    @property
    def falls(self) -> int:
        """Bits that may go from 1 to 0."""
        return self.clears | self.changes

    def __or__(self, other: Access) -> Access:
        return Access(
            self.reads | other.reads,
            self.sets | other.sets,
            self.clears | other.clears,
            self.changes | other.changes,
        )

    def conflicts(self, other: Access) -> bool:
        """Whether the order of the two matters; two that only set, or only clear, commute."""
        both = self.writes & other.writes
        set_alike = self.sets & ~self.falls & other.sets & ~other.falls
        cleared_alike = self.clears & ~self.rises & other.clears & ~other.rises
        clash = both & ~set_alike & ~cleared_alike
        return bool(clash | self.writes & other.reads | other.writes & self.reads)

    def may_reach(self, guard: Wait, bits: int) -> bool:
        """Whether the accesses may bring `bits` of a false guard nearer to what it waits for."""
        towards = self.rises & guard.value | self.falls & ~guard.value
        away = self.falls & guard.value | self.rises & ~guard.value
        return bool((towards if guard.equal else away) & bits)


NOTHING = Access()
Footprint = dict[str, Access]
"""By name of the word."""


def access(step: Step) -> Access:
    """Return what a step does to its word."""
    word = step.word
    if word is None:
        return NOTHING
    if step.add:
        return Access(reads=step.reads, changes=word.mask)
    replaced = ~step.and_mask & word.mask
    return Access(
        step.reads,
        sets=replaced & step.xor_mask,
        clears=replaced & ~step.xor_mask,
        changes=step.and_mask & step.xor_mask & word.mask,
    )


def read_bits(automata: Iterable[Automaton]) -> dict[str, int]:
    """Return the bits of each word that any step reads."""
    bits: dict[str, int] = {}
    for automaton in automata:
        for position in automaton.positions:
            step = position.step
            if step is not None and step.word is not None:
                bits[step.word.name] = bits.get(step.word.name, 0) | step.reads
    return bits


@dataclass(slots=True)
class Taking:
    """The action that begins at a resting position.

    Attributes:
        footprint: the words it accesses on any of its branches.
        outcomes: the resting positions that it leads to.
        first: its first step.
        known: every step on the way has been taken at least once.
    """

    footprint: Footprint
    outcomes: list[int]
    first: Step
    known: bool


def taking(automaton: Automaton, start: int) -> Taking | None:
    """Return the action that begins at a position, as far as it is compiled; None without one."""
    positions = automaton.positions
    first = positions[start].step
    if first is None:
        return None
    footprint: Footprint = {}
    outcomes: list[int] = []
    known = True
    seen, stack = {start}, [start]
    while stack:
        index = stack.pop()
        known = known and bool(positions[index].following)
        step = positions[index].step
        assert step is not None
        if step.word is not None:
            name, does = step.word.name, access(step)
            footprint[name] = footprint.get(name, NOTHING) | does
        for after in positions[index].following.values():
            if not positions[after].mid:
                outcomes.append(after)
            elif after not in seen:
                seen.add(after)
                stack.append(after)
    return Taking(footprint, outcomes, first, known)


def onwards(automaton: Automaton, local: Sequence[int], cut: Sequence[int]) -> list[int]:
    """Return, for every position, the union of `local` over all that may come, it included.

    `local` and `cut` are sets as the bits of integers, one for each position: what its step
    stands for, and whose way ends before it.
    """
    positions = automaton.positions
    ways = [set(p.following.values()) for p in positions]
    found = [0] * len(positions)
    changed = True
    while changed:
        changed = False
        for index in range(len(positions) - 1, -1, -1):
            union = local[index]
            for after in ways[index]:
                union |= found[after]
            union &= ~cut[index]
            if union != found[index]:
                found[index] = union
                changed = True
    return found


def holding(automaton: Automaton, *, hopeful: bool = False) -> list[bool]:
    """Return, for every position, whether its step may hold up the others of the vCPU for long.

    That is: it leads to where some of them cannot move, and where this one may come to wait, or
    go round, before they can again. If `hopeful`, a step that nobody has taken yet does not.
    """
    positions, handler = automaton.positions, automaton.context.role is Role.IRQ
    passing = [p.step is None or (p.index == 0 if handler else p.open) for p in positions]
    if hopeful:
        for position in positions:
            step = position.step
            if step is not None and step.wait is None and not position.following:
                passing[position.index] = True
    changed = True
    while changed:
        changed = False
        for position in reversed(positions):
            step, ways = position.step, position.following.values()
            if passing[position.index] or step is None or step.wait is not None or not ways:
                continue
            if all(passing[after] for after in ways):
                passing[position.index] = changed = True
    return [not all(passing[after] for after in p.following.values()) for p in positions]
