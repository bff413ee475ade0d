"""Stepping through a variant by hand: a session takes lines and answers with lines.

The machine is walked without trio, so that going back is cheap; a schedule that is saved has
been run on live vCPUs. It must not read nor print.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smpmmu.engine.errors import SmpmmuError, UsageError
from smpmmu.engine.live import in_trio, pending, replay
from smpmmu.engine.program import Role
from smpmmu.engine.run import Ending
from smpmmu.engine.schedule import Schedule, ended
from smpmmu.engine.system import NO_DEADLOCK, Scope
from smpmmu.engine.walk import Walk
from smpmmu.replaying import load
from smpmmu.targets import one
from smpmmu.work import save_schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from smpmmu.engine.run import Action, Run
    from smpmmu.engine.steps import Word
    from smpmmu.targets import Target

HELP = """\
  NUMBER or NAME     let that agent take its pending step
  (an empty line)    the agents that can move, again
  f [N], b [N]       forward along the known steps, back; N of them
  go N               to after step N; 0 is the beginning
  next [PROPERTY]    forward to where the property changes, or any
  prev [PROPERTY]    back to where it last changed
  show [TEXT]        the words whose names have TEXT in them, or all that were touched
  props              the properties, and whether they hold here
  story              the steps up to here
  save FILE          write the steps up to here as a schedule, run on live vCPUs
  help, quit         (or Ctrl-D)"""


class Session:
    """A machine being stepped, and the steps known: those taken, and those gone back over.

    Attributes:
        over: the user has left.
    """

    def __init__(self, what: str) -> None:
        """Begin with a variant, or with a schedule file, whose steps are then known.

        Raises:
            UsageError: there is no such variant or file.
            ScheduleError: the file is none.
        """
        path = Path(what)
        self._target: Target
        self._known: list[int] = []
        if path.suffix == ".schedule" or (path.is_file() and path.suffix != ".py"):
            schedule, self._target, _ = load(path)
            self._system = self._target.system()
            self._known = self._choices(schedule, path)
        else:
            self._target = one(what)
            self._system = self._target.system()
        self.over = False
        self._walk = Walk(self._system)
        self._commands: dict[str, Callable[[str], list[str]]] = {
            "f": lambda n: self._go(self._at + _count(n)),
            "b": lambda n: self._go(self._at - _count(n)),
            "go": lambda n: self._go(_count(n, least=0)),
            "next": lambda name: self._seek(name, 1),
            "prev": lambda name: self._seek(name, -1),
            "show": self._show,
            "props": lambda _: self._properties(),
            "story": lambda _: self._story(),
            "save": self._save,
            "help": lambda _: HELP.split("\n"),
            "quit": self._quit,
        }

    def close(self) -> None:
        """Drop the machine."""
        self._walk.machine.close()

    def greet(self) -> list[str]:
        """Return what stands at the beginning."""
        return [f"{self._target.name}: type help for the commands", *self._here()]

    def answer(self, line: str) -> list[str]:
        """Do what a line says and return what comes of it."""
        word, _, rest = line.strip().partition(" ")
        try:
            if not word:
                return self._here()
            agent = self._agent(word)
            if agent is not None:
                return self._take(agent)
            command = self._commands.get(word)
            if command is None:
                msg = f"{word!r} is neither a command nor an agent that can move; try help"
                raise UsageError(msg)
            return command(rest.strip())
        except SmpmmuError as error:
            return [f"error: {error}"]

    @property
    def _at(self) -> int:
        """How many steps have been taken."""
        return len(self._walk.actions)

    def _choices(self, schedule: Schedule, path: Path) -> list[int]:
        """Return the choices of a schedule that can be run.

        Raises:
            UsageError: somebody in it cannot move; `replay` says more.
        """
        numbers = {c.name: n for n, c in enumerate(self._system.contexts)}
        choices = []
        with Walk(self._system) as walk:
            for line in schedule.lines:
                number = numbers.get(line.choice, -1)
                if number not in walk.able:
                    msg = f"{path}:{line.number}: {line.choice} cannot move; replay the file"
                    raise UsageError(msg)
                walk.take(number)
                choices.append(number)
        return choices

    def _agent(self, word: str) -> int | None:
        """Return the number of the agent that a user means."""
        able = self._walk.able
        if word.isascii() and word.isdigit():
            if 1 <= int(word) <= len(able):
                return able[int(word) - 1]
            return None
        return next((n for n in able if self._system.contexts[n].name == word), None)

    # Moving.

    def _take(self, number: int) -> list[str]:
        if self._known[self._at : self._at + 1] != [number]:
            self._known = [*self._known[: self._at], number]
        before = self._truths()
        action = self._walk.take(number)
        return [*self._told(action), *self._changed(before), *self._here()]

    def _go(self, to: int) -> list[str]:
        """Go to after step `to`, along what is known."""
        if not 0 <= to <= len(self._known):
            msg = f"there is no step {to}; {len(self._known)} are known, and this is {self._at}"
            raise UsageError(msg)
        before = self._truths()
        self._move(to)
        told = self._told(self._walk.actions[-1]) if to else []
        return [*told, *self._changed(before), *self._here()]

    def _move(self, to: int) -> None:
        if to < self._at:
            self._walk.machine.close()
            self._walk = Walk(self._system)
        while self._at < to:
            self._walk.take(self._known[self._at])

    def _seek(self, name: str, way: int) -> list[str]:
        """Go on to where a property's truth changes; stay where there is no such step."""
        truths = self._all_truths()
        names = list(dict.fromkeys(n for each in truths for n in each))
        if name and name not in names:
            known = ", ".join(names) or "none"
            msg = f"there is no property {name!r} among the known steps; there are: {known}"
            raise UsageError(msg)
        here = self._at
        last = len(self._known) if way > 0 else 0
        steps = range(here + 1, last + 1) if way > 0 else range(here - 1, last, -1)
        for step in steps:
            changed = [n for n in names if truths[step].get(n) != truths[step - 1].get(n)]
            if name in changed or (not name and changed):
                return self._go(step)
        where = "after" if way > 0 else "before"
        return [f"no change of {name or 'any property'} {where} step {here} among the known"]

    def _all_truths(self) -> list[dict[str, str]]:
        """Return the truths in every known state."""
        with Walk(self._system) as walk:
            truths = [_truths(walk)]
            for number in self._known:
                walk.take(number)
                truths.append(_truths(walk))
        return truths

    # Telling.

    def _here(self) -> list[str]:
        """Return where the session stands and who can move."""
        machine = self._walk.machine
        more = len(self._known) - self._at
        head = f"after step {self._at}" if self._at else "at the beginning"
        lines = [head + (f", {more} more known" if more else "") + self._ending()]
        following = self._known[self._at] if more else -1
        steps = dict(pending(machine))
        width = max((len(name) for name in steps), default=0)
        for index, number in enumerate(self._walk.able, 1):
            name = self._system.contexts[number].name
            mark = "*" if number == following else " "
            lines.append(f" {mark}{index:2}  {name:{width}}  {steps[name]}")
        for number, context in enumerate(self._system.contexts):
            runner = machine.runner(number)
            idle = context.role is Role.IRQ and runner.idle
            step = None if idle else runner.step
            if step is not None and number not in self._walk.able and step.wait is not None:
                lines.append(f"   -  {context.name:{width}}  {step.label} (waits)")
        return lines

    def _ending(self) -> str:
        ending = self._walk.ending()
        if ending is None:
            return ""
        words = {
            Ending.VIOLATION: f": VIOLATED {ending[1]}",
            Ending.QUIESCENT: ": at rest",
            Ending.STUCK: f": VIOLATED {NO_DEADLOCK}, nobody can move",
            Ending.CUT: "",
        }
        return words[ending[0]]

    def _told(self, action: Action) -> list[str]:
        """Return a step that was taken, and what it changed."""
        lines = [f"{self._at}. {action.context}: {action.text}"]
        for taken in action.steps:
            word = taken.step.word
            if word is not None and taken.before != taken.after:
                show = word.format.show
                lines.append(f"     {word.name}: {show(taken.before)} -> {show(taken.after)}")
        return lines

    def _truths(self) -> dict[str, str]:
        return _truths(self._walk)

    def _changed(self, before: dict[str, str]) -> list[str]:
        """Return the properties that are other than they were."""
        now = self._truths()
        names = dict.fromkeys([*before, *now])
        return [
            f"     {name}: {before.get(name, '-')} -> {now.get(name, '-')}"
            for name in names
            if before.get(name) != now.get(name)
        ]

    def _properties(self) -> list[str]:
        return [f"  {name}: {truth}" for name, truth in self._truths().items()] or ["  none"]

    def _story(self) -> list[str]:
        return [
            f"{number:3}. {a.context}: {a.text}" for number, a in enumerate(self._walk.actions, 1)
        ]

    def _show(self, text: str) -> list[str]:
        """Return words by name, as they are now."""
        machine = self._walk.machine
        words: dict[str, Word] = {word.name: word for word in self._system.words}
        for prop in self._system.properties:
            words |= {word.name: word for word in prop.truth.words()}
        words |= machine.words
        found = [words[name] for name in sorted(words) if text in name]
        if not text:
            found = [word for word in found if word.name in machine.words]
        return [f"  {w.name} = {w.format.show(machine.read(w))}" for w in found] or [
            f"  no word that was touched has {text!r} in its name"
        ]

    # Leaving.

    def _save(self, name: str) -> list[str]:
        """Run the steps up to here on live vCPUs and write their schedule."""
        if not name or not self._at:
            msg = "save needs a FILE" if not name else "there is no step to save yet"
            raise UsageError(msg)
        choices = tuple(action.context for action in self._walk.actions)

        async def run_it() -> Run:
            return await replay(self._system, choices)

        run = in_trio(run_it)
        schedule = ended(self._target.name, run)
        path = Path(name)
        text = Schedule(
            schedule.scenario, schedule.violated, schedule.lines, schedule.expect,
            self._target.without,
        ).write()  # fmt: skip
        saved = save_schedule(text, self._target.name, path.parent, path.name.removesuffix(SUFFIX))
        return [f"{saved}: expect {schedule.expect.value} {schedule.violated}".rstrip()]

    def _quit(self, _: str) -> list[str]:
        self.over = True
        return []


SUFFIX = ".schedule"


def _truths(walk: Walk) -> dict[str, str]:
    """Return what there is to say of every property in a state."""
    machine = walk.machine
    rest = machine.quiescent()
    truths = {}
    for prop in machine.system.properties:
        true = prop.scope is Scope.QUIESCENCE and not rest
        true = true or bool(prop.truth.evaluate(machine))
        if prop.scope is Scope.SOMETIMES:
            truths[prop.name] = "true here" if true else "not here"
        elif prop.scope is Scope.QUIESCENCE and not rest:
            truths[prop.name] = "judged at rest"
        else:
            truths[prop.name] = "holds" if true else "VIOLATED"
    bugs = [name for name in machine.violated() if name not in truths]
    return truths | dict.fromkeys(bugs, "VIOLATED")


def _count(text: str, *, least: int = 1) -> int:
    """Return a number of steps; 1 if there is none.

    Raises:
        UsageError: it is no number.
    """
    if not text and least:
        return 1
    if not (text.isascii() and text.isdigit()):
        msg = f"expected a number of steps, found {text or 'nothing'!r}"
        raise UsageError(msg)
    return int(text)
