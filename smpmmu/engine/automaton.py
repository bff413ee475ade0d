"""Programs compiled, lazily, into automata: a vCPU is deterministic given what it has read.

Each distinct local history is run through the real coroutine once; after that its next step is a
table look-up. This module must not know about memory or other contexts; `engine/batch.py` drives
automata over many machines at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from smpmmu.engine.errors import ModelError
from smpmmu.engine.local import Activation, Entry
from smpmmu.engine.program import Context, Place, begin, settle

if TYPE_CHECKING:
    from smpmmu.engine.steps import Step

LONGEST_ACTION = 4_096
"""Steps of one indivisible action before it is taken to be endless."""

MOST_POSITIONS = 200_000
"""Positions of one context before its program is taken to have no finite automaton."""


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
    key: tuple[object, ...]
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
        self.positions: list[Position] = []
        self.resting: list[int] = []
        self.grown: list[tuple[int, int]] = []  # every (position, result) followed, in order
        self._index: dict[object, int] = {}
        self._position(begin(context, dropped))

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
            self.grown.append((index, result))
        return found

    def progress(self, before: int, after: int) -> bool:
        """Whether a move can never be undone by later moves of this program."""
        if self.context.repeats:
            return False
        start = self.positions[before].loop
        return start is None or self.positions[after].loop != start

    def check_length(self, steps: int) -> None:
        """Refuse an indivisible action that goes on and on."""
        if steps > LONGEST_ACTION:
            msg = (
                f"an indivisible action of {self.context.name} has over {LONGEST_ACTION:,} steps; "
                "it may never end"
            )
            raise ModelError(msg)

    def _compile(self, position: Position, result: int) -> int:
        number, irqs, held, history = cast(
            "tuple[int, bool, frozenset[str], tuple[Entry, ...]]", position.key
        )
        activation = Activation(self.context.calls[number], irqs, held, self.dropped)
        activation.start(history)
        if activation.step != position.step:
            raise changed(self.context.name, position.step, activation.step)
        activation.resume(result)
        return self._position(settle(self.context, Place(number, activation)))

    def _position(self, place: Place) -> int:
        """Return the position of a place, new or known."""
        activation, step = place.activation, place.activation.step
        activation.close()
        key: tuple[object, ...]
        if place.ended:
            key = ("ended",)
        elif activation.bug:
            key = ("bug", activation.bug)
        else:
            key = (place.number, *activation.entry, tuple(activation.history))
        found = self._index.get(key)
        if found is not None:
            known = self.positions[found]
            if known.step != step or known.mid != activation.mid:
                raise changed(self.context.name, known.step, step)
            return found
        loop = activation.loop
        position = Position(
            index=len(self.positions),
            key=key,
            step=step,
            bug=activation.bug,
            irqs=activation.irqs,
            held=activation.held,
            mid=activation.mid,
            open=activation.open or place.ended,
            loop=None if loop is None else (*key[:3], loop),
        )
        self._check(position)
        self._index[key] = position.index
        self.positions.append(position)
        if not position.mid:  # other threads look at what rests, so this comes last
            position.rest = len(self.resting)
            self.resting.append(position.index)
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
