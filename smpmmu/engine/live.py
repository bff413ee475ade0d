"""Live vCPUs: each is a trio task that runs its own programs; one baton goes around.

The only module that knows trio. A deterministic scheduler decides who moves; trio's own
scheduling order decides nothing, since at most one task is ever ready. Every run of a command
takes place inside one `trio.run`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import outcome
import trio

from smpmmu.engine.errors import ScheduleError, UsageError
from smpmmu.engine.numbers import pick, seed_stream
from smpmmu.engine.pending import Single
from smpmmu.engine.run import Action, Ending, Run
from smpmmu.engine.strategies.chooser import UNIFORM
from smpmmu.engine.strategies.plan import PLAIN, Plan
from smpmmu.engine.vcpus import Machine, Mirror
from smpmmu.engine.walk import ending as end_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from smpmmu.engine.automaton import Automaton
    from smpmmu.engine.system import System

T = TypeVar("T")

LONGEST_RUN = 100_000
"""Actions after which a random run is cut off."""


class Baton:
    """Passes between the scheduler and one vCPU at a time; whoever lacks it sleeps."""

    def __init__(self) -> None:
        """Begin with nobody waiting."""
        self._sleeper: trio.lowlevel.Task | None = None

    @trio.lowlevel.enable_ki_protection  # a Ctrl-C between noting who sleeps and sleeping
    async def wait(self) -> Any:  # noqa: ANN401  what is handed over depends on the direction
        """Sleep until the baton comes, and return what came with it."""
        self._sleeper = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    @trio.lowlevel.enable_ki_protection
    def hand(self, value: object = None) -> None:
        """Wake the sleeper with `value`."""
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            trio.lowlevel.reschedule(sleeper, outcome.Value(value))

    @trio.lowlevel.enable_ki_protection
    def fail(self, error: BaseException) -> None:
        """Wake the sleeper with an exception."""
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            trio.lowlevel.reschedule(sleeper, outcome.Error(error))


class Live:
    """A machine whose vCPUs are running tasks, as seen by the scheduler."""

    def __init__(self, machine: Machine) -> None:
        """Wrap `machine`; `running` starts its tasks."""
        self.machine = machine
        self._home = Baton()
        self._batons: dict[str, Baton] = {}

    async def take(self, number: int) -> Action:
        """Hand the baton to the vCPU of a context for one action of it."""
        cpu = self.machine.system.contexts[number].cpu
        self._batons[cpu].hand(number)
        action: Action = await self._home.wait()
        return action

    async def vcpu(self, name: str, task_status: trio.TaskStatus[None]) -> None:
        """Be a vCPU: start its programs, then act whenever the baton comes."""
        cpu = self.machine.power_on(name)
        baton = self._batons[name] = Baton()
        task_status.started()
        while True:
            number: int = await baton.wait()
            try:
                action = cpu.act(number, self.machine)
            except Exception as error:  # noqa: BLE001  the scheduler raises it where it is asked
                self._home.fail(error)
            else:
                self._home.hand(action)


@asynccontextmanager
async def running(system: System, dropped: frozenset[str] = frozenset()) -> AsyncIterator[Live]:
    """Start a task for every vCPU of `system`; whatever happens, none is left behind."""
    machine = Machine(system, dropped)
    live = Live(machine)
    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                for cpu in dict.fromkeys(c.cpu for c in system.contexts):
                    await nursery.start(live.vcpu, cpu)
                yield live
            except Exception as error:  # noqa: BLE001  a nursery would wrap it in a group
                failure = error
            nursery.cancel_scope.cancel()
    finally:
        machine.close()
    if failure is not None:
        raise failure


def _broken(machine: Machine) -> tuple[str, ...]:
    return tuple(machine.violated())


def choices_of(seed: int, plan: Plan, machine: Machine) -> Callable[[int, list[int]], int]:
    """Return who takes an action, by its number and the contexts that can move, for one seed."""
    stream = seed_stream(seed)
    if plan.strategy is UNIFORM:
        return lambda action, able: able[pick(stream, action, len(able))]
    pending = Single(machine)
    chooser = plan.start(np.array([stream], dtype=np.uint64), len(machine.system.contexts))
    return lambda action, able: int(chooser.choose(action, pending.look(able))[0])


async def random_run(
    system: System, seed: int, *, automata: list[Automaton] | None = None,
    longest: int = LONGEST_RUN, dropped: frozenset[str] = frozenset(),
    after: tuple[str, ...] = (), plan: Plan = PLAIN
) -> Run:  # fmt: skip
    """Run `system` live with the choices of `plan`; with `automata`, hold it against them.

    The choices in `after` are made first, whatever they lead to.

    Raises:
        InternalError: the live vCPUs and the automata disagree.
    """
    async with running(system, dropped) as live:
        choose = choices_of(seed, plan, live.machine)
        mirror = Mirror(automata, live.machine) if automata is not None else None
        actions: list[Action] = []
        for choice in after:
            actions.append(await live.take(live.machine.numbers[choice]))
            if mirror is not None:
                mirror.follow(actions[-1])
        able = live.machine.runnable()
        ending = end_of(live.machine, able)
        while ending is None and len(actions) < longest:
            actions.append(await live.take(choose(len(actions), able)))
            if mirror is not None:
                mirror.follow(actions[-1])
            able = live.machine.runnable()
            ending = end_of(live.machine, able)
        kind, name = ending or (Ending.CUT, "")
        return Run(kind, tuple(actions), name, live.machine.values(), _broken(live.machine))


async def replay(
    system: System, choices: tuple[str, ...], *, automata: list[Automaton] | None = None,
    check: Callable[[int, Machine, Action], None] | None = None,
    dropped: frozenset[str] = frozenset()
) -> Run:  # fmt: skip
    """Run `system` live along `choices`, to the end of them.

    `check`, if given, looks at every action as it has been taken, with its number from 0.

    Raises:
        ScheduleError: a choice is unknown or cannot move; its `number` is the choice's.
    """
    async with running(system, dropped) as live:
        machine = live.machine
        mirror = Mirror(automata, machine) if automata is not None else None
        actions: list[Action] = []
        for number, choice in enumerate(choices):
            if choice not in machine.numbers or not machine.can_move(machine.numbers[choice]):
                raise Stray(number, choice, machine)
            actions.append(await live.take(machine.numbers[choice]))
            if mirror is not None:
                mirror.follow(actions[-1])
            if check is not None:
                check(number, machine, actions[-1])
        ending, name = end_of(machine, machine.runnable()) or (Ending.CUT, "")
        return Run(ending, tuple(actions), name, machine.values(), _broken(machine))


class Stray(ScheduleError):
    """A schedule chooses a context that cannot move there.

    Attributes:
        number: which choice, from 0.
        choice: the context named.
        known: there is such a context.
        possible: what could have been chosen, with the pending step of each.
    """

    def __init__(self, number: int, choice: str, machine: Machine) -> None:
        """Describe the choices there were."""
        self.number = number
        self.choice = choice
        self.known = choice in machine.numbers
        self.possible = tuple(pending(machine))
        enabled = ", ".join(f"{name} {step!r}" for name, step in self.possible) or "none"
        known = "cannot move" if self.known else "is no context of this scenario"
        super().__init__(f"choice {number + 1}: {choice} {known}\n  enabled here: {enabled}")


def pending(machine: Machine) -> list[tuple[str, str]]:
    """Return the contexts that can move, each with the label of its pending step."""
    contexts = machine.system.contexts
    steps = [(contexts[n].name, machine.runner(n).step) for n in machine.runnable()]
    return [(name, step.label) for name, step in steps if step is not None]


async def breathe() -> None:
    """Let trio cancel or interrupt a long computation here."""
    await trio.lowlevel.checkpoint()


def in_trio(function: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run an async function to its end from synchronous code.

    Raises:
        UsageError: a trio program is already running in this thread.
        KeyboardInterrupt: as such, also where a nursery had wrapped it.
    """
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        pass
    else:
        msg = "this is a trio program already: await the async form of the function instead"
        raise UsageError(msg)
    try:
        # A Ctrl-C anywhere else could land while a nursery is being entered or left.
        return trio.run(function, *args, restrict_keyboard_interrupt_to_checkpoints=True)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            raise KeyboardInterrupt from None
        raise
