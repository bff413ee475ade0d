"""What one live run did, as values: the story is told from it, and schedules are written from it.

It must not know how the run was driven.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from smpmmu.engine.steps import TAKEN, Step


class Ending(enum.Enum):
    """How a run ended."""

    VIOLATION = "violation"
    QUIESCENT = "quiescent"
    STUCK = "stuck"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class Taken:
    """One step as it was taken.

    Attributes:
        step: what was asked for.
        before: the word's value before it.
        after: the word's value after it.
        result: what the modelled code was given.
    """

    step: Step
    before: int
    after: int
    result: int

    @property
    def text(self) -> str:
        """The step in words, with what it read."""
        step = self.step
        words = step.label
        if step.word is not None and step.returns:
            words += f" -> {step.word.format.show(self.result & ~TAKEN)}"
        if step.when is not None and not self.result & TAKEN:
            words += " (not taken)"
        return words


@dataclass(frozen=True, slots=True)
class Action:
    """One choice and the steps it led to; more than one only if they are indivisible."""

    context: str
    steps: tuple[Taken, ...]

    @property
    def text(self) -> str:
        """The action in words."""
        return "; ".join(taken.text for taken in self.steps)


@dataclass(frozen=True, slots=True)
class Run:
    """One run from the first state to an ending.

    Attributes:
        ending: how it ended.
        actions: what was done, in order.
        violated: the most important property broken in the last state, or "".
        broken: all properties broken in the last state.
        values: the value in the last state of every word that was touched, by name.
    """

    ending: Ending
    actions: tuple[Action, ...]
    violated: str = ""
    values: tuple[tuple[str, int], ...] = ()
    broken: tuple[str, ...] = ()

    @property
    def choices(self) -> tuple[str, ...]:
        """The schedule."""
        return tuple(action.context for action in self.actions)
