"""Programs: contexts as sequences of calls, and how one call gives way to the next.

It must not know about memory; `engine/automaton.py` and `engine/live.py` walk programs.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from smpmmu.engine.errors import ModelError
from smpmmu.engine.local import Activation, Call


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
        cyclic: begin again after the last call (always so but for main contexts).
        priority: of an interrupt: it may interrupt main and handlers of lower priority.
    """

    name: str
    cpu: str
    calls: tuple[Call, ...]
    role: Role = Role.MAIN
    cyclic: bool = False
    priority: int = 0

    @property
    def repeats(self) -> bool:
        """Whether the program begins again after its last call."""
        return self.cyclic or self.role is not Role.MAIN


@dataclass(slots=True)
class Place:
    """Where a program stands: a call of it, running; or its end."""

    number: int
    activation: Activation
    ended: bool = False


def begin(context: Context, dropped: frozenset[str] = frozenset()) -> Place:
    """Start the program of `context` and run to its first step.

    Raises:
        ModelError: the program is empty, never takes a step, or breaks a rule; or an interrupt
            does not begin by waiting.
    """
    if not context.calls:
        msg = f"{context.name} has no program"
        raise ModelError(msg)
    masked = context.role is Role.IRQ
    first = Activation(context.calls[0], not masked, frozenset(), dropped)
    first.start()
    place = settle(context, Place(0, first))
    step = place.activation.step
    if masked and (step is None or step.wait is None):
        found = "ends at once" if step is None else f"begins with {step.label!r}"
        msg = f"{context.name} must begin by waiting until its vector is pending; it {found}"
        raise ModelError(msg)
    if masked and place.activation.loop is not None:
        msg = (
            f"{context.name} begins with a retry, so that a failed round would look as if the "
            "handler had not begun; let it take its vector first"
        )
        raise ModelError(msg)
    return place


def settle(context: Context, place: Place) -> Place:
    """Move on past ended calls to the next pending step, the program's end, or a bug."""
    skipped = 0
    activation, number = place.activation, place.number
    while activation.step is None and not activation.bug:
        number += 1
        skipped += 1
        irqs, held = activation.irqs, activation.held
        last = number == len(context.calls)
        if last and (bug := _left_behind(context, activation)):
            activation.bug = bug
            break
        if last and not context.repeats:
            return Place(number, activation, ended=True)
        if skipped > len(context.calls):
            msg = f"the program of {context.name} never takes a step"
            raise ModelError(msg)
        if last:
            number, irqs = 0, context.role is not Role.IRQ
        dropped = activation.dropped
        activation.close()
        activation = Activation(context.calls[number], irqs, held, dropped)
        activation.start()
    return Place(number, activation)


def _left_behind(context: Context, activation: Activation) -> str:
    """Return the property broken by a program that ends in this private state, or ""."""
    if activation.held:
        return "no_lock_held_at_end"
    if context.role is Role.MAIN and not activation.irqs:
        return "interrupts_on_at_end"
    return ""
