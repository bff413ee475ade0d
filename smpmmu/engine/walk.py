"""One machine walked by hand, without trio: for asking many times what another order leads to.

What is reported of a walk is run again on live vCPUs by whoever reports it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.engine.run import Ending
from smpmmu.engine.vcpus import Machine

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smpmmu.engine.run import Action
    from smpmmu.engine.system import System


@dataclass(frozen=True, slots=True, order=True)
class Cost:
    """How much a schedule asks of its reader; less is better, the first field first.

    Attributes:
        switches: consecutive choices of different contexts.
        preemptions: switches away from a context that could have gone on.
        choices: its length.
    """

    switches: int
    preemptions: int
    choices: int


class Walk:
    """A machine and the choices that led it here.

    Attributes:
        machine: as it is now.
        actions: what was done so far.
        cost: of the choices so far.
        able: the contexts that can move, in order.
    """

    def __init__(self, system: System) -> None:
        """Begin at the first state of `system`."""
        self.machine = Machine(system)
        for cpu in dict.fromkeys(c.cpu for c in system.contexts):
            self.machine.power_on(cpu)
        self.actions: list[Action] = []
        self.cost = Cost(0, 0, 0)
        self.last = -1
        self.able = self.machine.runnable()

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.close()

    def take(self, number: int) -> Action:
        """Let a context that is `able` take its pending action."""
        switch = self.last not in (-1, number)
        self.cost = Cost(
            self.cost.switches + switch,
            self.cost.preemptions + (switch and self.last in self.able),
            self.cost.choices + 1,
        )
        cpu = self.machine.system.contexts[number].cpu
        action = self.machine.cpus[cpu].act(number, self.machine)
        self.actions.append(action)
        self.last = number
        self.able = self.machine.runnable()
        return action

    def ending(self) -> tuple[Ending, str] | None:
        """Return how the run ends in the present state; None if it goes on."""
        return ending(self.machine, self.able)


def ending(machine: Machine, able: list[int]) -> tuple[Ending, str] | None:
    """Return how a run ends in the machine's present state, or None if one of `able` goes on."""
    broken = machine.violated()
    if broken:
        return Ending.VIOLATION, broken[0]
    if machine.quiescent():
        return Ending.QUIESCENT, ""
    if not able:
        return Ending.STUCK, ""
    return None


def cost(system: System, choices: Iterable[str]) -> Cost:
    """Return what a schedule that can be run costs."""
    with Walk(system) as walk:
        for choice in choices:
            walk.take(walk.machine.numbers[choice])
        return walk.cost
