"""Telling a run in full: it is gone through once more, and every step looked at.

The run was driven by `engine/live.py`; here the same choices drive a machine without trio, which
must do the same. What a word is, is asked of the word (`Part`); what sends an interrupt, of the
handler: its first step waits, and whatever lets it go sends. It must not know what is modelled.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smpmmu.engine.errors import InternalError
from smpmmu.engine.program import Role
from smpmmu.engine.steps import PLAIN, TAKEN, enabled
from smpmmu.engine.vcpus import Machine
from smpmmu.report.account import Account, Agent, Arrow, Change, Moment, Place, Shown, Span

if TYPE_CHECKING:
    from collections.abc import Callable

    from smpmmu.engine.local import Activation
    from smpmmu.engine.run import Action, Run, Taken
    from smpmmu.engine.steps import Format, Step, Word
    from smpmmu.engine.system import System

PACKAGE = Path(__file__).resolve().parent.parent


def tell(
    system: System, run: Run, *, name: str = "", summary: str = "", conclusion: str = "",
    command: str = "", violated: str = "", critical: tuple[int, int] | None = None,
) -> Account:  # fmt: skip
    """Return the account of a live run of `system`.

    `violated` is the property if it is one of those that no single state shows (a deadlock).

    Raises:
        InternalError: the run cannot be repeated.
    """
    machine = Machine(system)
    try:
        teller = Teller(machine)
        for number, action in enumerate(run.actions, 1):
            teller.follow(number, action)
    finally:
        machine.close()
    if machine.values() != run.values:
        msg = "a run of live vCPUs ends with other values when it is told"
        raise InternalError(msg)
    return Account(
        name,
        summary,
        run.ending.value,
        run.violated or violated,
        run.broken,
        conclusion,
        command,
        tuple(Agent(c.name, c.cpu, c.role.value) for c in system.contexts),
        teller.shown(),
        tuple(teller.steps),
        teller.lasting(),
        tuple(teller.arrows),
        critical,
    )


class Teller:
    """Follows a run and writes down what each step did."""

    def __init__(self, machine: Machine) -> None:
        """Begin at the first state of `machine`."""
        self._machine, self._contexts = machine, machine.system.contexts
        for cpu in dict.fromkeys(c.cpu for c in self._contexts):
            machine.power_on(cpu)
        self._words: dict[str, tuple[int, Word]] = {}
        self._locks: set[str] = set()
        self._open: dict[tuple[str, int, str], int] = {}
        """Where what lasts began: (kind, agent, text) to step."""
        self._pending: dict[int, int] = {}
        """By agent, the arrow of what is pending for it."""
        self._spans: list[Span] = []
        self.steps: list[Moment] = []
        self.arrows: list[Arrow] = []
        self._look(0)

    def follow(self, number: int, action: Action) -> None:
        """Take step `number`.

        Raises:
            InternalError: something else happens than happened live.
        """
        agent = self._machine.numbers[action.context]
        context, runner = self._contexts[agent], self._machine.runner(agent)
        began = context.role is Role.IRQ and runner.idle
        before = self._waiting()
        where = places(runner.place.activation)
        done = self._machine.cpus[context.cpu].act(agent, self._machine)
        if done != action:
            msg = f"step {number} is told as {done.text!r}, but was {action.text!r}"
            raise InternalError(msg)
        sent_at = self._taken(agent, number) if began else 0
        changes = self._changes(done)
        takes = tuple(n for taken in done.steps if (n := self._lock(taken, 1)) is not None)
        releases = tuple(n for taken in done.steps if (n := self._lock(taken, -1)) is not None)
        sends = self._sent(number, before)
        if began and runner.idle:
            self._spans.append(Span("handler", agent, context.name, number, number, ends=True))
        self.steps.append(
            Moment(agent, action.text, changes, takes, releases, sends, sent_at, where)
        )
        self._look(number)

    def shown(self) -> tuple[Shown, ...]:
        """Return the words in the order in which they were first touched."""
        shown: list[Shown] = []
        for _, word in self._words.values():
            table, row, column = word.part[:3] if word.part else ("", word.name, "")
            first, lock = _text(word, word.initial), word.name in self._locks
            telling = _format(word) != PLAIN
            shown.append(Shown(word.name, table, row, column, first, lock, telling))
        return tuple(shown)

    def lasting(self) -> tuple[Span, ...]:
        """Return what lasts, by where it begins; what has not ended lasts to the last step."""
        last = len(self.steps)
        still = [Span(*key, first, last, ends=False) for key, first in self._open.items()]
        spans = [s for s in self._spans if s.first <= s.last] + still
        return tuple(sorted(spans, key=lambda s: (s.first, s.agent, s.kind, s.text)))

    def _number(self, word: Word) -> int:
        return self._words.setdefault(word.name, (len(self._words), word))[0]

    def _changes(self, action: Action) -> tuple[Change, ...]:
        first: dict[int, Taken] = {}
        last: dict[int, Taken] = {}
        for taken in action.steps:
            word = taken.step.word
            if word is not None:
                number = self._number(word)
                first.setdefault(number, taken)
                last[number] = taken
        return tuple(
            Change(n, _text(word, first[n].before), _text(word, last[n].after))
            for n in first
            if first[n].before != last[n].after and (word := first[n].step.word) is not None
        )

    def _lock(self, taken: Taken, direction: int) -> int | None:
        """Return the number of the lock word that a step takes (1) or releases (-1)."""
        step = taken.step
        if step.lock != direction or step.word is None:
            return None
        if step.when is not None and not taken.result & TAKEN:
            return None
        self._locks.add(step.word.name)
        return self._number(step.word)

    def _waiting(self) -> set[int]:
        """Return the interrupts that have nothing pending, among the agents."""
        idle = set()
        for agent, context in enumerate(self._contexts):
            if (
                context.role is Role.IRQ
                and self._machine.runner(agent).idle
                and self._blocked(agent)
            ):
                idle.add(agent)
        return idle

    def _blocked(self, agent: int) -> Step | None:
        """Return the step that an agent waits to take, if it waits."""
        step = self._machine.runner(agent).step
        if step is None or step.wait is None or step.word is None:
            return None
        return None if enabled(step, self._machine.read(step.word)) else step

    def _sent(self, number: int, before: set[int]) -> tuple[int, ...]:
        """Return for whom an action made an interrupt pending, and draw the arrows."""
        sent = before - self._waiting()
        for agent in sorted(sent):
            step = self._machine.runner(agent).step
            assert step is not None
            assert step.word is not None
            self._pending[agent] = len(self.arrows)
            self.arrows.append(Arrow(agent, step.word.name, number, 0))
        return tuple(sorted(sent))

    def _taken(self, agent: int, number: int) -> int:
        """End the arrow of what an interrupt takes, and return where it began."""
        arrow = self._pending.pop(agent, None)
        if arrow is None:
            return 0  # it was pending from the beginning
        sent = self.arrows[arrow]
        self.arrows[arrow] = Arrow(sent.agent, sent.word, sent.first, number)
        return sent.first

    def _look(self, number: int) -> None:
        """Note what begins and ends with step `number` (0: at first)."""
        lasting: dict[tuple[str, int, str], int] = {}
        for agent, context in enumerate(self._contexts):
            runner = self._machine.runner(agent)
            running = context.role is Role.MAIN or not runner.idle
            activation = runner.place.activation
            if context.role is Role.IRQ and not runner.idle:
                lasting["handler", agent, context.name] = max(number, 1)
            for lock in sorted(activation.held):
                lasting["lock", agent, lock] = max(number, 1)
            if runner.place.ended or context.role is Role.DAEMON:
                continue
            if context.role is Role.MAIN and not activation.irqs:
                lasting["masked", agent, "interrupts off"] = max(number, 1)
            step = self._blocked(agent)
            if running and step is not None:
                lasting["waits", agent, step.label] = number + 1
        for key in [k for k in self._open if k not in lasting]:
            self._spans.append(Span(*key, self._open.pop(key), number, ends=True))
        for key, first in lasting.items():
            self._open.setdefault(key, first)


def places(activation: Activation) -> tuple[Place, ...]:
    """Return where modelled code is about to take a step, the innermost call first."""
    stack = activation.stack()[::-1]
    return tuple(Place(_relative(file), line, function) for file, line, function in stack)


def defined(function: Callable[..., object]) -> Place:
    """Return where a function is defined."""
    code = function.__code__
    return Place(_relative(code.co_filename), code.co_firstlineno, code.co_name)


def _relative(file: str) -> str:
    """Return the name of a file that is the same on every machine."""
    path = Path(file).resolve()
    if path.is_relative_to(PACKAGE):
        return path.relative_to(PACKAGE.parent).as_posix()
    if path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd()).as_posix()
    return path.name


def _format(word: Word) -> Format:
    return word.part.format if word.part is not None and word.part.format else word.format


def _text(word: Word, value: int) -> str:
    return _format(word).show(value)
