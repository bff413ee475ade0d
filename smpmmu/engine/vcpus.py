"""One machine of live vCPUs: memory, contexts that really run, and who may move next.

This is the reference semantics, written for one machine in plain Python, apart from the batch
kernel on purpose. It must not know about trio: `engine/live.py` gives each vCPU its own task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.errors import InternalError, ModelError
from smpmmu.engine.program import Context, Place, Role, begin, settle
from smpmmu.engine.run import Action, Taken
from smpmmu.engine.steps import TAKEN, Step, Word, enabled, overflow, taken, updated
from smpmmu.engine.system import Scope

if TYPE_CHECKING:
    from smpmmu.engine.automaton import Automaton
    from smpmmu.engine.system import System


class Runner:
    """A context being run for real, unfolded, call after call."""

    def __init__(self, context: Context, dropped: frozenset[str]) -> None:
        """Start the program of `context`."""
        self.context = context
        self.place: Place = begin(context, dropped)
        self.idle = True
        self.raw: list[int] = []

    @property
    def step(self) -> Step | None:
        """The pending step; None after the end or a bug."""
        return None if self.place.ended else self.place.activation.step

    @property
    def bug(self) -> str:
        """The property that the context found broken, or ""."""
        return self.place.activation.bug

    @property
    def open(self) -> bool:
        """An interrupt may land before the pending step."""
        return self.place.ended or self.place.activation.open

    def resume(self, result: int) -> None:
        """Give the pending step its result."""
        before = self.place.activation
        before.resume(result)
        self.place = settle(self.context, self.place)
        if self.place.activation is before:
            self.raw.append(result)
        else:
            self.raw = []
        self.idle = self.place.activation is not before and self.place.number == 0

    def key(self) -> object:
        """Return where the program stands, with its unfolded history."""
        if self.place.ended or self.bug:
            return self.bug or "ended"
        activation = self.place.activation
        return (self.place.number, activation.irqs, activation.held, tuple(self.raw))

    def close(self) -> None:
        """Drop the running coroutine."""
        self.place.activation.close()


class VCpu:
    """A vCPU: its contexts, and the words that only they can touch (its TLB).

    Attributes:
        eligible: whom interrupts and handlers let go next; only an action of its own changes that.
    """

    def __init__(self, contexts: list[tuple[int, Context]], dropped: frozenset[str]) -> None:
        """Start every program of the vCPU."""
        ranked = sorted(contexts, key=lambda c: (c[1].role is Role.IRQ, c[1].priority))
        self.runners = {number: Runner(context, dropped) for number, context in ranked}
        self.private: dict[str, int] = {}
        self.eligible = self._let_go()

    def _let_go(self) -> frozenset[int]:
        """Return whom interrupts and handlers let go next."""
        running = {n: r for n, r in self.runners.items() if r.context.role is not Role.DAEMON}
        daemons = self.runners.keys() - running.keys()
        active = [n for n, r in running.items() if r.context.role is Role.MAIN or not r.idle]
        if not active:  # a vCPU without a program idles with interrupts on
            return frozenset(self.runners)
        top = running[active[-1]]
        landing = [
            number
            for number, runner in running.items()
            if number not in active
            and top.open
            and (top.context.role is Role.MAIN or top.context.priority < runner.context.priority)
        ]
        return frozenset((active[-1], *landing, *daemons))

    def act(self, number: int, machine: Machine) -> Action:
        """Take the whole pending action of a context."""
        runner = self.runners[number]
        steps = []
        while True:
            steps.append(self._step(runner, machine))
            if runner.step is None or not runner.place.activation.mid:
                self.eligible = self._let_go()
                return Action(runner.context.name, tuple(steps))

    def _step(self, runner: Runner, machine: Machine) -> Taken:
        step = runner.step
        if step is None:
            msg = f"{runner.context.name} was chosen but has nothing to do"
            raise InternalError(msg)
        self._obey(runner, step)
        before = after = result = 0
        if step.word is not None:
            before = after = machine.read(step.word)
            if step.wait is not None and not enabled(step, before):
                msg = f"{runner.context.name} was chosen but waits: {step.label!r}"
                raise InternalError(msg)
            result = before & step.returns
            if step.when is None or taken(step, before):
                after = updated(step, before)
                if not 0 <= after <= step.word.mask:
                    raise overflow(step, before)
                machine.write(step.word, after)
                result |= 0 if step.when is None else TAKEN
        runner.resume(result)
        return Taken(step, before, after, result)

    def _obey(self, runner: Runner, step: Step) -> None:
        """Refuse a step that breaks a rule of models, as the automaton does."""
        name = runner.context.name
        if runner.place.activation.mid and step.wait is not None:
            msg = f"{name} waits ({step.label!r}) inside an indivisible action"
            raise ModelError(msg)
        if step.word is not None and step.word.owner not in ("", runner.context.cpu):
            msg = f"{name} touches {step.word.name}, which is private to {step.word.owner}"
            raise ModelError(msg)

    def close(self) -> None:
        """Drop all running coroutines."""
        for runner in self.runners.values():
            runner.close()


class Machine:
    """All vCPUs of a system, and the memory they share."""

    def __init__(self, system: System, dropped: frozenset[str] = frozenset()) -> None:
        """Make the first state of `system`; vCPUs are added as their tasks start."""
        self.system = system
        self.dropped = dropped
        self.shared: dict[str, int] = {}
        self.words: dict[str, Word] = {}
        self.cpus: dict[str, VCpu] = {}
        self.numbers = {c.name: n for n, c in enumerate(system.contexts)}

    def power_on(self, cpu: str) -> VCpu:
        """Start the programs of one vCPU."""
        mine = [(n, c) for n, c in enumerate(self.system.contexts) if c.cpu == cpu]
        self.cpus[cpu] = VCpu(mine, self.dropped)
        return self.cpus[cpu]

    def close(self) -> None:
        """Drop all running coroutines."""
        for cpu in self.cpus.values():
            cpu.close()

    def _store(self, word: Word) -> dict[str, int]:
        known = self.words.setdefault(word.name, word)
        if known is not word and known != word:
            msg = f"two words are named {word.name!r} but differ: {known} and {word}"
            raise ModelError(msg)
        if not word.owner:
            return self.shared
        owner = self.cpus.get(word.owner)
        return self.shared if owner is None else owner.private

    def read(self, word: Word) -> int:
        """Return a word's value."""
        return self._store(word).get(word.name, word.initial)

    def write(self, word: Word, value: int) -> None:
        """Change a word's value."""
        self._store(word)[word.name] = value

    def runner(self, number: int) -> Runner:
        """Return a context by number."""
        return self.cpus[self.system.contexts[number].cpu].runners[number]

    def can_move(self, number: int) -> bool:
        """Whether a context can take the next action."""
        cpu = self.cpus[self.system.contexts[number].cpu]
        step = cpu.runners[number].step
        if step is None or number not in cpu.eligible:
            return False
        return step.wait is None or step.word is None or enabled(step, self.read(step.word))

    def runnable(self) -> list[int]:
        """Return the contexts that can take the next action, in order."""
        return [n for n in range(len(self.system.contexts)) if self.can_move(n)]

    def quiescent(self) -> bool:
        """Whether obligatory agents are finished and no interrupt is pending."""
        for number, context in enumerate(self.system.contexts):
            runner = self.runner(number)
            if context.role is Role.MAIN and not runner.place.ended:
                return False
            if context.role is Role.IRQ:
                step = runner.step
                if not runner.idle or step is None or step.word is None:
                    return False
                if enabled(step, self.read(step.word)):
                    return False
        return True

    # What expressions ask.

    def word(self, word: Word) -> int:
        """Return a word's value."""
        return self.read(word)

    def finished(self, context: str) -> bool:
        """Return whether a context's program has ended."""
        return self.runner(self.numbers[context]).place.ended

    def violated(self) -> list[str]:
        """Return the properties broken in this state, by importance."""
        broken = [p.name for p in self.system.scoped(Scope.ALWAYS) if not p.truth.evaluate(self)]
        at_rest = self.system.scoped(Scope.QUIESCENCE)
        if at_rest and self.quiescent():
            broken += [p.name for p in at_rest if not p.truth.evaluate(self)]
        bugs = [r.bug for c in self.cpus.values() for r in c.runners.values() if r.bug]
        return broken + sorted(bugs)

    def key(self) -> object:
        """Return the state: every word, and every context's unfolded history in its call."""
        words = self.values()
        return words, tuple(self.runner(n).key() for n in range(len(self.system.contexts)))

    def values(self) -> tuple[tuple[str, int], ...]:
        """Return the words that are not as they were at first, by name."""
        changed = [
            (word.name, value)
            for word in self.words.values()
            if (value := self.read(word)) != word.initial
        ]
        return tuple(sorted(changed))


class Mirror:
    """Follows a live machine on the compiled automata, and finds where they differ."""

    def __init__(self, automata: list[Automaton], machine: Machine) -> None:
        """Begin at the start of every program."""
        self._automata = automata
        self._machine = machine
        self._at = [0] * len(automata)
        for number in range(len(automata)):
            self._agree(number)

    def follow(self, action: Action) -> None:
        """Take the same action on the automaton.

        Raises:
            InternalError: the automaton says something else than the live vCPU.
        """
        number = self._machine.numbers[action.context]
        automaton = self._automata[number]
        for taken_step in action.steps:
            expected = automaton.positions[self._at[number]].step
            if expected != taken_step.step:
                raise self._differ(number, expected, taken_step.step)
            self._at[number] = automaton.follow(self._at[number], taken_step.result)
        self._agree(number)

    def _agree(self, number: int) -> None:
        position = self._automata[number].positions[self._at[number]]
        runner = self._machine.runner(number)
        if position.step != runner.step:
            raise self._differ(number, position.step, runner.step)
        live = (runner.bug, runner.open, runner.idle)
        # A handler is idle exactly at its first position; nothing else has an idle.
        handler = runner.context.role is Role.IRQ
        idle = self._at[number] == 0 if handler else runner.idle
        if (position.bug, position.open, idle) != live and not runner.bug:
            msg = (
                f"live and batch disagree on {self._automata[number].context.name}: "
                f"{live} live, {(position.bug, position.open, idle)} in the automaton"
            )
            raise InternalError(msg)

    def _differ(self, number: int, batch: Step | None, live: Step | None) -> InternalError:
        texts = [repr(s.label) if s is not None else "nothing" for s in (batch, live)]
        return InternalError(
            f"live and batch disagree on {self._automata[number].context.name}: the automaton "
            f"takes {texts[0]}, the live vCPU {texts[1]}"
        )
