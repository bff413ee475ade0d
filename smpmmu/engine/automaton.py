"""Programs compiled, lazily, into automata: a vCPU is deterministic given what it has read.

Each distinct local history is run through the real coroutine once; after that its next step is a
table look-up. This module must not know about memory or other contexts; `engine/batch.py` drives
automata over many machines at once.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from smpmmu.engine.errors import ModelError
from smpmmu.engine.local import Activation, Call, Entry, model_raised
from smpmmu.engine.steps import Step

LONGEST_ACTION = 4_096
"""Steps of one indivisible action before it is taken to be endless."""

MOST_POSITIONS = 200_000
"""Positions of one context before its program is taken to have no finite automaton."""


class Role(enum.Enum):
    """What kind of agent a context is."""

    MAIN = "main"
    IRQ = "irq"
    DAEMON = "daemon"


@dataclass(frozen=True, slots=True)
class Context:
    """Something that takes steps: a vCPU's program, one of its interrupts, or hardware.

    Attributes:
        name: what a choice calls it, such as `cpu0` or `cpu0.irq.invalidate`.
        cpu: the vCPU it belongs to; its words may be touched by the contexts of that vCPU alone.
        calls: the program.
        role: main contexts and interrupts are obligatory; a daemon may stop at any time.
        cyclic: begin again after the last call (always so for an interrupt).
        priority: of an interrupt: it may interrupt main and handlers of lower priority.
    """

    name: str
    cpu: str
    calls: tuple[Call, ...]
    role: Role = Role.MAIN
    cyclic: bool = False
    priority: int = 0


@dataclass(slots=True)
class Position:
    """A place in a program, with everything it still remembers.

    Attributes:
        index: its number in the automaton.
        key: call, private state at its entry, and the folded history.
        step: the pending step; None if the program has ended or hit a bug.
        bug: the property found broken here, or "".
        irqs: the interrupt flag.
        held: names of the locks held.
        mid: inside an indivisible action; such a moment is no state.
        open: an interrupt may land here.
        loop: where the outermost running `retry` began; None outside any.
        rest: number among the positions that are not `mid`, or -1.
        following: where each result of the step leads.
    """

    index: int
    key: tuple[int, bool, frozenset[str], tuple[Entry, ...]] | tuple[str]
    step: Step | None
    bug: str = ""
    irqs: bool = True
    held: frozenset[str] = frozenset()
    mid: bool = False
    open: bool = False
    loop: object = None
    rest: int = -1
    following: dict[int, int] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """The program has finished as it should."""
        return self.step is None and not self.bug


class Automaton:
    """The compiled program of one context; position 0 is its start."""

    def __init__(self, context: Context, dropped: frozenset[str] = frozenset()) -> None:
        """Compile the start of `context`, treating the claims in `dropped` as not made."""
        self.context = context
        self.dropped = dropped
        self.cyclic = context.cyclic or context.role is not Role.MAIN
        self.positions: list[Position] = []
        self.resting: list[int] = []
        self._index: dict[object, int] = {}
        if not context.calls:
            msg = f"{context.name} has no program"
            raise ModelError(msg)
        masked = context.role is Role.IRQ
        start = self._settle(0, self._begin(0, not masked, frozenset()))
        if masked and (first := self.positions[start].step) is not None and first.wait is None:
            msg = (
                f"{context.name} must begin with a waiting step (its vector being pending), "
                f"not {first.label!r}"
            )
            raise ModelError(msg)

    def follow(self, index: int, result: int) -> int:
        """Return the position after `positions[index]` when its step gives `result`.

        Raises:
            ModelError: the modelled code broke a rule, or did not ask again for the step that it
                asked for when this history was first run.
        """
        position = self.positions[index]
        found = position.following.get(result)
        if found is None:
            found = position.following[result] = self._compile(position, result)
        return found

    def progress(self, before: int, after: int) -> bool:
        """Whether a move can never be undone by later moves of this program."""
        if self.cyclic:
            return False
        start = self.positions[before].loop
        return start is None or self.positions[after].loop != start

    def _compile(self, position: Position, result: int) -> int:
        number, irqs, held, history = position.key  # type: ignore[misc]
        activation = Activation(self.context.calls[number], irqs, held, self.dropped)
        activation.start(history)
        if activation.step != position.step:
            raise changed(self.context.name, position.step, activation.step)
        activation.resume(result)
        return self._settle(number, activation)

    def _begin(self, number: int, irqs: bool, held: frozenset[str]) -> Activation:  # noqa: FBT001
        activation = Activation(self.context.calls[number], irqs, held, self.dropped)
        try:
            activation.start()
        except TypeError as error:  # the arguments do not fit the function
            raise model_raised(self.context.calls[number].name, error) from error
        return activation

    def _settle(self, number: int, activation: Activation) -> int:
        """Turn where `activation` stands into a position, moving on past ended calls."""
        skipped = 0
        while activation.step is None and not activation.bug:
            number += 1
            skipped += 1
            irqs, held = activation.irqs, activation.held
            last = number == len(self.context.calls)
            if last and (bug := self._left_behind(irqs, held)):
                activation.bug = bug
                break
            if last and not self.cyclic:
                return self._position(("ended",), Position(-1, ("ended",), None, open=True))
            number %= len(self.context.calls)
            if skipped > len(self.context.calls):
                msg = f"the program of {self.context.name} never takes a step"
                raise ModelError(msg)
            if last:
                irqs = self.context.role is not Role.IRQ
            activation = self._begin(number, irqs, held)
        activation.close()
        if activation.bug:
            key: tuple[str] = ("bug " + activation.bug,)
            return self._position(key, Position(-1, key, None, bug=activation.bug))
        entry = (number, *activation.entry, tuple(activation.history))
        loop = activation.loop
        return self._position(
            entry,
            Position(
                -1,
                entry,
                activation.step,
                irqs=activation.irqs,
                held=activation.held,
                mid=activation.mid,
                open=activation.open,
                loop=None if loop is None else (*entry[:3], loop),
            ),
        )

    def _left_behind(self, irqs: bool, held: frozenset[str]) -> str:  # noqa: FBT001
        if held:
            return "no_lock_held_at_end"
        if self.context.role is Role.MAIN and not irqs:
            return "interrupts_on_at_end"
        return ""

    def _position(self, key: object, position: Position) -> int:
        found = self._index.get(key)
        if found is not None:
            known = self.positions[found]
            if known.step != position.step or known.mid != position.mid:
                raise changed(self.context.name, known.step, position.step)
            return found
        self._check(position)
        position.index = len(self.positions)
        if not position.mid:
            position.rest = len(self.resting)
            self.resting.append(position.index)
        self._index[key] = position.index
        self.positions.append(position)
        return position.index

    def _check(self, position: Position) -> None:
        name, step = self.context.name, position.step
        if step is None:
            return
        if position.mid and step.wait is not None:
            msg = f"{name} waits ({step.label!r}) inside an indivisible action"
            raise ModelError(msg)
        if step.word is not None and step.word.owner not in ("", self.context.cpu):
            msg = f"{name} touches {step.word.name}, which is private to {step.word.owner}"
            raise ModelError(msg)
        if len(self.positions) >= MOST_POSITIONS:
            msg = (
                f"the program of {name} has over {MOST_POSITIONS:,} distinct local histories; a "
                "loop that polls memory must be a waiting step or `retry`"
            )
            raise ModelError(msg)


def changed(name: str, before: Step | None, after: Step | None) -> ModelError:
    """Return the error for modelled code that asked for another step on the same history."""
    old, new = (repr(s.label) if s else "the end of its call" for s in (before, after))
    return ModelError(
        f"{name} is not deterministic: with the same values read it asked for {old} once and for "
        f"{new} another time; it may not read a clock, a random source, or Python state that is "
        "shared between calls"
    )
