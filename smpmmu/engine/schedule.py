"""Schedule files: text, a choice a line, checked against the live run on replay.

Reading one never runs code. It must not know scenarios beyond their names.

    smpmmu schedule 1
    scenario reliant_flusher/deferred_after_unlock
    expect   VIOLATED no_write_after_promise

    cpu0     lock ptl
    cpu1     load 0x2[1] -> 0x0

The first word of a step is the choice; what follows is what the step did. A person may write
choices alone; they are then not compared, and `replay --fill` writes the rest. What is expected
at the end is one of

    VIOLATED property    the last state breaks it
    PASSES               the system comes to rest, and no state breaks anything
    UNDECIDED            no state breaks anything, and it can go on: a run cut off, or a prefix

A line `without cpu1 cpu2[0]` may follow the scenario: programs and calls of it that are left out.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.engine.errors import ScheduleError
from smpmmu.engine.run import Ending
from smpmmu.engine.system import NO_DEADLOCK

if TYPE_CHECKING:
    from smpmmu.engine.run import Run

VERSION = 1
HEADER = f"smpmmu schedule {VERSION}"


class Expect(enum.Enum):
    """What a schedule ends with."""

    VIOLATED = "VIOLATED"
    PASSES = "PASSES"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True, slots=True)
class Line:
    """A choice, what its action is said to do ("" if unsaid), and where it stands in the file."""

    choice: str
    text: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule: which scenario, which property it breaks ("" if none), and the choices.

    Programs and calls of the scenario may be left out (`engine/reduced.py`).
    """

    scenario: str
    violated: str
    lines: tuple[Line, ...]
    expect: Expect = Expect.VIOLATED
    without: tuple[str, ...] = ()

    @property
    def choices(self) -> tuple[str, ...]:
        """The contexts chosen, in order."""
        return tuple(line.choice for line in self.lines)

    def write(self) -> str:
        """Return the text of the file."""
        width = max((len(line.choice) for line in self.lines), default=0)
        steps = [f"{line.choice:{width}}  {line.text}".rstrip() for line in self.lines]
        head = [
            HEADER,
            f"scenario {self.scenario}",
            *([f"without  {' '.join(self.without)}"] if self.without else []),
            f"expect   {self.expect.value} {self.violated}".rstrip(),
            "",
        ]
        return "\n".join([*head, *steps]) + "\n"


def filled(text: str, schedule: Schedule, run: Run) -> str:
    """Return the text of a schedule file with what each choice did, its comments kept."""
    lines = text.split("\n")
    width = max(len(line.choice) for line in schedule.lines)
    for line, action in zip(schedule.lines, run.actions, strict=True):
        lines[line.number - 1] = f"{line.choice:{width}}  {action.text}"
    return "\n".join(lines)


def recorded(scenario: str, run: Run, violated: str) -> Schedule:
    """Return the schedule of a live run that breaks `violated`."""
    return Schedule(scenario, violated, _lines(run))


def ended(scenario: str, run: Run) -> Schedule:
    """Return the schedule of a live run, however it ended."""
    expect, violated = {
        Ending.VIOLATION: (Expect.VIOLATED, run.violated),
        Ending.STUCK: (Expect.VIOLATED, NO_DEADLOCK),
        Ending.QUIESCENT: (Expect.PASSES, ""),
        Ending.CUT: (Expect.UNDECIDED, ""),
    }[run.ending]
    return Schedule(scenario, violated, _lines(run), expect)


def _lines(run: Run) -> tuple[Line, ...]:
    return tuple(Line(action.context, action.text) for action in run.actions)


def read(text: str, name: str) -> Schedule:
    """Parse the text of the file called `name`.

    Raises:
        ScheduleError: with the line, what was expected and what was found.
    """
    lines = text.split("\n")
    if lines[0].strip() != HEADER:
        found = lines[0].strip() or "an empty line"
        msg = f"{name}:1: expected {HEADER!r}, found {found!r}"
        raise ScheduleError(msg)
    keys: dict[str, str] = {}
    steps: list[Line] = []
    body = False
    for number, raw in enumerate(lines[1:], 2):
        line = raw.split("#", 1)[0].rstrip() if raw.lstrip().startswith("#") else raw.rstrip()
        if not line:
            body = body or {"scenario", "expect"} <= keys.keys()
            continue
        word, _, rest = line.strip().partition(" ")
        if body:
            steps.append(Line(word, rest.strip(), number))
            continue
        if word not in ("scenario", "without", "expect") or word in keys:
            wanted = " or ".join(k for k in ("scenario", "expect") if k not in keys)
            msg = f"{name}:{number}: expected {wanted or 'an empty line'}, found {word!r}"
            raise ScheduleError(msg)
        keys[word] = rest.strip()
    for key in ("scenario", "expect"):
        if not keys.get(key):
            msg = f"{name}: no line says '{key}'; the file is truncated"
            raise ScheduleError(msg)
    expect, violated = _expect(keys["expect"], name)
    if not steps:
        msg = f"{name}: there is no step in it; the file is truncated"
        raise ScheduleError(msg)
    left_out = tuple(keys.get("without", "").split())
    return Schedule(keys["scenario"], violated, tuple(steps), expect, left_out)


def _expect(text: str, name: str) -> tuple[Expect, str]:
    word, _, rest = text.partition(" ")
    violated = rest.strip()
    known = [each for each in Expect if each.value == word]
    if not known or bool(violated) != (known[0] is Expect.VIOLATED):
        msg = (
            f"{name}: expected 'expect VIOLATED property', 'expect PASSES' or "
            f"'expect UNDECIDED', found 'expect {text}'"
        )
        raise ScheduleError(msg)
    return known[0], violated
