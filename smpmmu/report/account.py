"""A run told in full, as plain data: the one record that pages and traces are made from.

Agents, steps with what they changed, locks, interrupts, waits. It must not know how it is shown;
`report/telling.py` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Agent:
    """Somebody who can move: a program, an interrupt, or hardware.

    Attributes:
        name: what choices call it.
        cpu: the vCPU it belongs to.
        role: `main`, `irq` or `daemon`.
    """

    name: str
    cpu: str
    role: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A word that the run touches, and where it is shown.

    Attributes:
        name: its name in steps.
        table: what kind of word it is; "" if nothing says so.
        row: which one of them.
        column: whose it is.
        initial: its value before the first step, as text.
        lock: it is taken and released as a lock.
        telling: its values are shown by names (flags, entries, CPUs) rather than as numbers.
    """

    name: str
    table: str
    row: str
    column: str
    initial: str
    lock: bool
    telling: bool


@dataclass(frozen=True, slots=True)
class Change:
    """A word changed its value; `word` is its number among the words."""

    word: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Place:
    """A line of modelled code.

    Attributes:
        file: relative to where the package lies, or to the current directory; else its name.
        line: from 1.
        function: the function that it is in.
    """

    file: str
    line: int
    function: str


@dataclass(frozen=True, slots=True)
class Moment:
    """One action.

    Attributes:
        agent: number of the agent.
        text: what it did, as in the story.
        changes: what it changed, a word at most once, oldest first.
        takes: numbers of the lock words that it takes.
        releases: numbers of the lock words that it releases.
        sends: numbers of the agents (interrupts) for whom something is pending from here on.
        sent_at: for the first step of an interrupt: the step that made it pending, 0 if none did.
        where: the lines of code that take it, the innermost call first.
    """

    agent: int
    text: str
    changes: tuple[Change, ...] = ()
    takes: tuple[int, ...] = ()
    releases: tuple[int, ...] = ()
    sends: tuple[int, ...] = ()
    sent_at: int = 0
    where: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """Something of an agent that lasts: from step `first` up to step `last`, both within it.

    Attributes:
        kind: `lock` (it holds one), `handler` (it runs), `waits` (its next step cannot be taken),
            `masked` (its vCPU's interrupts are off).
        agent: number of the agent.
        text: the lock's name, or the step that waits.
        first: from 1; a lock is held from the step that takes it on, a wait begins after a step,
            which can be the last.
        last: the step that ends it, or the last step of the run if none does.
        ends: it ends within the run.
    """

    kind: str
    agent: int
    text: str
    first: int
    last: int
    ends: bool


@dataclass(frozen=True, slots=True)
class Arrow:
    """An interrupt: made pending at step `first`, taken by `agent` at step `last` (0: never)."""

    agent: int
    word: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Account:
    """A run from its first state to its end. Steps count from 1.

    Attributes:
        name: what the user would type to mean the variant.
        summary: the scenario in a sentence.
        ending: how the run ended (`violation`, `quiescent`, `stuck`, `cut`).
        violated: the property that it breaks, or "".
        broken: all properties broken in its last state.
        conclusion: what it comes to, in words.
        command: what shows it again.
        agents: everybody, in the order that breaks ties.
        words: what it touches.
        steps: what happens.
        spans: what lasts.
        arrows: interrupts.
        critical: the two steps whose reversal makes the violation go away, if that is known. The
            second can be one past the last: a step that waits for ever.
    """

    name: str
    summary: str
    ending: str
    violated: str
    broken: tuple[str, ...]
    conclusion: str
    command: str
    agents: tuple[Agent, ...]
    words: tuple[Shown, ...]
    steps: tuple[Moment, ...]
    spans: tuple[Span, ...]
    arrows: tuple[Arrow, ...]
    critical: tuple[int, int] | None = None

    @property
    def lanes(self) -> tuple[int, ...]:
        """Numbers of the agents who move, or for whom something is pending, by vCPU."""
        there = {step.agent for step in self.steps} | {arrow.agent for arrow in self.arrows}
        cpus = list(dict.fromkeys(agent.cpu for agent in self.agents))
        return tuple(sorted(there, key=lambda n: (cpus.index(self.agents[n].cpu), n)))

    @property
    def guilty(self) -> int:
        """The step that breaks the property; 0 if none is broken, or no one step breaks it."""
        return len(self.steps) if self.ending == "violation" else 0

    def values(self, number: int) -> tuple[str, ...]:
        """Return the words' values after step `number` (0: at first)."""
        values = [word.initial for word in self.words]
        for step in self.steps[:number]:
            for change in step.changes:
                values[change.word] = change.after
        return tuple(values)
