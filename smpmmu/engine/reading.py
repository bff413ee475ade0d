"""Reading a matrix of machines: words, positions, who has finished, and who may run.

Machines lie as lanes of 64 bits. This module must not know how machines move; see
`engine/batch.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.program import Role
from smpmmu.engine.steps import enabled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.automaton import Automaton
    from smpmmu.engine.layout import Field, Lanes, Layout
    from smpmmu.engine.steps import Column, Mask, Step, Word
    from smpmmu.engine.system import System

    Rows = NDArray[np.intp]


@dataclass(slots=True)
class Block:
    """Machines side by side: `lanes` (lanes, states) uint64, `fps` (states,) uint64."""

    lanes: Lanes
    fps: Column

    def __len__(self) -> int:
        return int(self.fps.shape[0])


class Reader:
    """A system's automata and layout, and what they say of a block.

    Attributes:
        system: whose machines they are.
        automata: the compiled program of each context.
        layout: how a machine lies in lanes.
        stacks: per vCPU, its contexts, those that interrupt others last.
    """

    def __init__(self, system: System, automata: list[Automaton], layout: Layout) -> None:
        """Read machines of `system`."""
        self.system = system
        self.automata = automata
        self.layout = layout
        self._tables: dict[tuple[int, str], Mask] = {}
        self._bugs: dict[int, Mask] = {}
        by_cpu: dict[str, list[int]] = {}
        for number, context in enumerate(system.contexts):
            if context.role is not Role.DAEMON:
                by_cpu.setdefault(context.cpu, []).append(number)
        self.stacks: list[list[int]] = []
        for numbers in by_cpu.values():
            ranked = sorted(
                numbers,
                key=lambda n: (system.contexts[n].role is Role.IRQ, system.contexts[n].priority),
            )
            self.stacks.append(ranked)

    def word(self, block: Block, word: Word) -> int | Column:
        """Return a word's values, (states,) uint64, or an int while nothing ever wrote it."""
        field = self.layout.fields.get(word.name)
        if field is None:
            return word.initial
        values: Column = block.lanes[field.lane] >> field.shift & field.mask
        return values

    def place(self, context: int) -> Field | None:
        """Return where the resting number of a context lies, or None while it has only one."""
        return self.layout.fields.get(place_name(context))

    def rests(self, block: Block, context: int) -> Column | None:
        """Return the resting numbers of a context, (states,), or None while it has only one."""
        field = self.place(context)
        return None if field is None else block.lanes[field.lane] >> field.shift & field.mask

    def lookup(self, block: Block, context: int, attribute: str) -> Mask:
        """Return (states,) bool: an attribute of the position of `context` is true."""
        table = self.table(context, attribute)
        rests = self.rests(block, context)
        if rests is None:
            return np.full(len(block), table[0])
        return table[rests.view(np.int64)]

    def table(self, context: int, attribute: str) -> Mask:
        """Return (resting positions,) bool: the attribute of each."""
        automaton = self.automata[context]
        table = self._tables.get((context, attribute))
        if table is None or table.shape[0] != len(automaton.resting):
            values = [bool(getattr(automaton.positions[i], attribute)) for i in automaton.resting]
            table = self._tables[context, attribute] = np.array(values)
        return table

    def bugs(self, context: int) -> Mask:
        """Return (positions,) bool: whether a program has met a bug there."""
        positions = self.automata[context].positions
        table = self._bugs.get(context)
        if table is None or table.shape[0] != len(positions):
            table = self._bugs[context] = np.array([bool(p.bug) for p in positions])
        return table

    def finished(self, block: Block, context: int) -> Mask:
        """Return (states,) bool: the program of `context` has ended."""
        return self.lookup(block, context, "ended")

    def quiescent(self, block: Block) -> Mask:
        """Return (states,) bool: obligatory agents are finished and no interrupt is pending."""
        rest = np.ones(len(block), dtype=np.bool_)
        for number, context in enumerate(self.system.contexts):
            if context.role is Role.MAIN:
                rest &= self.finished(block, number)
        if not rest.any():
            return rest
        for number, context in enumerate(self.system.contexts):
            if context.role is Role.IRQ:
                rests = self.rests(block, number)
                if rests is not None:
                    rest &= rests == 0
                pending = self.automata[number].positions[0].step
                assert pending is not None
                rest &= ~self.ready(block, pending)
        return rest

    def ready(self, block: Block, step: Step) -> Mask:
        """Return (states,) bool: what `step` waits for is so; it is compared where it lies."""
        word, wait = step.word, step.wait
        assert word is not None
        assert wait is not None
        field = self.layout.fields.get(word.name)
        if field is None:
            return np.full(len(block), enabled(step, word.initial))
        values = block.lanes[field.lane] & (wait.mask << field.shift)
        wanted = wait.value << field.shift
        ready: Mask = values == wanted if wait.equal else values != wanted
        return ready

    def eligible(self, block: Block) -> list[Mask | None]:
        """Return, per context, the machines in which its vCPU lets it run; None means all."""
        result: list[Mask | None] = [None] * len(self.automata)
        for stack in self.stacks:
            if len(stack) > 1 or self.system.contexts[stack[0]].role is Role.IRQ:
                self._gate(block, stack, result)
        return result

    def pending(self, block: Block, masks: list[Mask | None]) -> list[Mask | None]:
        """Return `masks`, per context, without idle handlers that nobody waits for."""
        narrowed = list(masks)
        for number, mask in enumerate(masks):
            if self.system.contexts[number].role is not Role.IRQ:
                continue
            step = self.automata[number].positions[0].step
            assert step is not None
            ready, rests = self.ready(block, step), self.rests(block, number)
            if rests is not None:
                ready |= rests != 0
            narrowed[number] = ready if mask is None else ready & mask
        return narrowed

    def _gate(self, block: Block, stack: list[int], result: list[Mask | None]) -> None:
        """Work out for one vCPU who may run: the handler on top, or who may interrupt it."""
        contexts = [self.system.contexts[number] for number in stack]
        main = contexts[0].role is Role.MAIN
        landing = self.lookup(block, stack[0], "open") if main else np.ones(len(block), np.bool_)
        top: Column | None = None  # which context of the stack runs, 0 for main or for idling
        busy = [self.rests(block, number) for number in stack]
        for level, number in enumerate(stack):
            rests = busy[level]
            if rests is None or contexts[level].role is Role.MAIN:
                continue
            active = rests != 0
            if top is None:
                top = np.zeros(len(block), dtype=np.uint64)
            top[active] = level + 1
            landing = np.where(active, self.lookup(block, number, "open"), landing)
        below = np.array([0] + [contexts[level].priority for level in range(len(stack))])
        for level, number in enumerate(stack):
            if contexts[level].role is Role.MAIN:
                result[number] = None if top is None else top == 0
                continue
            starts = landing
            if top is not None:
                lower = below[top.view(np.int64)] < contexts[level].priority
                starts = landing & ((top == 0) | lower)
            rests = busy[level]
            if rests is None:
                result[number] = starts
            else:
                assert top is not None
                result[number] = np.where(rests == 0, starts, top == level + 1)


def place_name(context: int) -> str:
    """Name of the field that holds the position of a context; no word can be called so."""
    return f"\0{context}"
