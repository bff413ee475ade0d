"""One call of modelled code being run: the real coroutine, and its folded local history.

`Activation` is used in both ways the design knows: resumed step after step on a live vCPU, and
started again from a recorded history to learn what comes next (`engine/automaton.py`). It must
not know about memory or other contexts.
"""

from __future__ import annotations

import linecache
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpmmu.engine.errors import ModelError
from smpmmu.engine.routines import (
    AGAIN,
    RUN,
    Ask,
    Bug,
    Enter,
    Kind,
    Leave,
    Returned,
    shape,
)
from smpmmu.engine.steps import TAKEN, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

OWN = Path(__file__).parent
LONGEST_HISTORY = 2_500
"""Entries in one folded history before the model is taken to poll without `retry`.

A call may go twice through a table of 1,024 entries;
a history of this length takes some seconds."""
MOST_ALIKE = 100
"""Reads of the same in a row, before the same."""


@dataclass(frozen=True, slots=True)
class Call:
    """One kernel entry of a program: a modelled function and its arguments (frozen values)."""

    fn: Callable[..., Coroutine[Any, Any, Any]]
    args: tuple[object, ...] = ()
    kwargs: tuple[tuple[str, object], ...] = ()

    @property
    def name(self) -> str:
        """The function's name."""
        return str(getattr(self.fn, "__name__", self.fn))


def call(fn: Callable[..., Coroutine[Any, Any, Any]], *args: object, **kwargs: object) -> Call:
    """Return one entry of a program: `fn(*args, **kwargs)` is run when its turn comes.

    What it remembers is forgotten when it returns. Arguments are values that cannot change:
    integers, strings, enums, tuples, frozen dataclasses, words and functions of the model.

    Raises:
        ModelError: when the scenario is built, `fn` or an argument reaches what can change.
    """
    return Call(fn, args, tuple(kwargs.items()))


Entry = int | Enter | Returned
"""An item of a local history: the result of a step, an open routine, a finished one."""


@dataclass(slots=True)
class _Frame:
    kind: Kind
    start: int
    irqs: bool
    held: frozenset[str]
    fresh: bool
    stepped: bool = False


@dataclass(slots=True)
class Activation:
    """A running call.

    Attributes:
        step: the pending step; None once the call has ended or hit a bug.
        bug: the property that `bug_on` found broken, or "".
        history: what has been read in this call, finished routines folded to their values.
        irqs: the interrupt flag.
        held: names of the locks held.
        mid: the pending step continues an indivisible action.
        open: an interrupt may land before the pending step.
        entry: the interrupt flag and the locks held when the call began.
    """

    call: Call
    irqs: bool
    held: frozenset[str]
    dropped: frozenset[str] = frozenset()
    step: Step | None = None
    bug: str = ""
    history: list[Entry] = field(default_factory=list)
    mid: bool = False
    open: bool = False
    entry: tuple[bool, frozenset[str]] = (True, frozenset())
    _last: tuple[str, int] = ("", 0)
    _alike: int = 0
    _coro: Coroutine[Any, Any, Any] | None = None
    _frames: list[_Frame] = field(default_factory=list)

    def start(self, replay: tuple[Entry, ...] = ()) -> None:
        """Begin the call and run to its first step that `replay` does not answer.

        Raises:
            ModelError: the modelled code raised, awaited something else than a step, or did not
                ask for what `replay` says it asked for before.
        """
        try:
            coro = self.call.fn(*self.call.args, **dict(self.call.kwargs))
        except (Exception, SystemExit) as error:
            raise model_raised(self.call.name, error) from error
        if not hasattr(coro, "send"):
            msg = f"{self.call.name} is not an async function: it returned {coro!r}"
            raise ModelError(msg)
        self._coro = coro
        self.entry = (self.irqs, self.held)
        self._run(None, list(replay))

    def resume(self, result: int) -> None:
        """Give the pending step its result and run to the next one."""
        assert self.step is not None
        if not self._took(self.step, result):
            self._run(result, [])

    def close(self) -> None:
        """Drop the coroutine without running any more of it."""
        if self._coro is not None:
            try:
                self._coro.close()
            except RuntimeError as error:
                msg = f"{self.call.name} takes a step while it is being closed (try/finally?)"
                raise ModelError(msg) from error
            self._coro = None

    def stack(self) -> list[tuple[str, int, str]]:
        """Return (file, line, function) of every modelled function that runs, the outermost first.

        What runs a routine or a retry is not modelled and left out.
        """
        found: list[tuple[str, int, str]] = []
        running: Any = self._coro
        while (frame := getattr(running, "cr_frame", None)) is not None:
            if Path(frame.f_code.co_filename).parent != OWN:
                found.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
            running = running.cr_await
        return found

    @property
    def loop(self) -> tuple[Entry, ...] | None:
        """Where the outermost running `retry` began, as a history; None outside any."""
        for frame in self._frames:
            if frame.kind is Kind.RETRY:
                return tuple(self.history[: frame.start])
        return None

    def _took(self, step: Step, result: int) -> bool:
        """Record a step's result and private effects; True if they end the run as a bug."""
        self.history.append(result)
        same = (step.label, result) == self._last and not step.writes
        self._alike = self._alike + 1 if same else 0
        self._last = (step.label, result)
        polls = self._alike == MOST_ALIKE
        if polls or len(self.history) > LONGEST_HISTORY:
            many = f"{MOST_ALIKE} equal steps in a row" if polls else f"{LONGEST_HISTORY:,} steps"
            msg = (
                f"{self.call.name} has taken {many} in one call, the last "
                f"{step.label!r}; a loop that spins must be a step that waits, `await "
                "wait_until(word, value)`, and one that tries again `retry`; see docs/modelling.md"
                f"\n  {self._line()}"
            )
            raise ModelError(msg)
        for frame in self._frames:
            frame.stepped = True
        if step.irqs is not None:
            self.irqs = step.irqs
        if step.lock and step.word is not None:
            if step.lock > 0:
                if step.when is None or result & TAKEN:
                    self.held |= {step.word.name}
            elif step.word.name not in self.held:
                self._end(f"{step.word.name}_unlocked_only_by_its_holder")
                return True
            else:
                self.held -= {step.word.name}
        return False

    def _line(self) -> str:
        """Return the line of modelled code that took the last step."""
        line = ""
        part: Any = self._coro
        while part is not None and getattr(part, "cr_frame", None) is not None:
            file, number = part.cr_frame.f_code.co_filename, part.cr_frame.f_lineno
            if not _is_engines(file):
                line = f"{file}:{number}: {linecache.getline(file, number).strip()}"
            part = part.cr_await
        return line

    def _run(self, send: object, replay: list[Entry]) -> None:
        replay.reverse()
        while True:
            event = self._next(send)
            if event is None:
                return
            send = None
            if isinstance(event, Step):
                if not replay:
                    self.step = event
                    self._look()
                    return
                entry = replay.pop()
                if not isinstance(entry, int):
                    msg = f"step {event.label!r}"
                    raise self._changed(msg, entry)
                if self._took(event, entry):
                    return
                send = entry
            elif isinstance(event, Enter):
                send = self._enter(event, replay)
            elif isinstance(event, Leave):
                self._leave(event)
            elif isinstance(event, Ask):
                send = self.irqs if event.lock is None else event.lock.name in self.held
            else:
                msg = (
                    f"{self.call.name} awaited {type(event).__name__!r}; modelled code may await "
                    "only steps and other modelled functions"
                )
                raise ModelError(msg)

    def _next(self, send: object) -> object | None:
        assert self._coro is not None
        try:
            event: object = self._coro.send(send)
        except StopIteration:
            self._end("")
            return None
        except Bug as bug:
            self._end(str(bug))
            return None
        except ModelError as error:
            raise located(error) from error
        except (Exception, SystemExit) as error:
            raise model_raised(self.call.name, error) from error
        return event if event is not None else object()

    def _end(self, bug: str) -> None:
        self.step, self.bug, self.mid, self.open = None, bug, False, False

    def _look(self) -> None:
        """Work out whether the pending step continues an action or an instruction."""
        inside = [f.kind for f in self._frames if f.stepped]
        self.mid = Kind.INDIVISIBLE in inside
        self.open = self.irqs and not self.mid and Kind.INSTRUCTION not in inside

    def _enter(self, event: Enter, replay: list[Entry]) -> Returned | None:
        if replay and isinstance(replay[-1], Returned):
            done = replay.pop()
            assert isinstance(done, Returned)
            self.history.append(done)
            self.irqs, self.held = done.irqs, done.held
            for frame in self._frames:
                frame.stepped |= done.stepped
            return done
        if replay and replay.pop() != event:
            msg = f"entering {event.name}"
            raise self._changed(msg, event)
        kind = event.kind
        if kind is Kind.INDIVISIBLE and event.why in self.dropped:
            kind = Kind.ROUTINE
        if kind is Kind.RETRY and any(f.kind is Kind.INDIVISIBLE for f in self._frames):
            msg = f"{event.name} is retried inside an indivisible action, which might never end"
            raise ModelError(msg)
        fresh = any(f.kind is Kind.INSTRUCTION and not f.stepped for f in self._frames)
        self._frames.append(_Frame(kind, len(self.history), self.irqs, self.held, fresh))
        self.history.append(event)
        return RUN

    def _leave(self, event: Leave) -> None:
        frame = self._frames.pop()
        if event.raised:
            return
        del self.history[frame.start :]
        self._alike = 0
        if event.value is AGAIN and frame.kind is Kind.RETRY:
            if not frame.stepped:
                msg = f"a round of retry in {self.call.name} took no step and would run for ever"
                raise ModelError(msg)
            if frame.fresh:
                msg = (
                    f"an instruction begins with a retry in {self.call.name}, so that a failed "
                    "round would be forgotten with it; let each round be an instruction instead"
                )
                raise ModelError(msg)
            if (frame.irqs, frame.held) != (self.irqs, self.held):
                msg = (
                    f"a failed round of retry in {self.call.name} leaves the interrupt flag or "
                    "the locks held other than it found them"
                )
                raise ModelError(msg)
            return
        self.history.append(
            Returned(shape(event.value), event.value, self.irqs, self.held, frame.stepped)
        )

    def _changed(self, asked: str, recorded: object) -> ModelError:
        return ModelError(
            f"{self.call.name} is not deterministic: run again with the same values read, it asked "
            f"for {asked} where it had {recorded!r} before; it may not read a clock, a random "
            "source or Python state that is shared between calls"
        )


def located(error: ModelError) -> ModelError:
    """Return the error with the modeller's line that led to it."""
    where = _modellers_line(error)
    return ModelError(f"{error}\n  {where}") if where and where not in str(error) else error


def model_raised(name: str, error: BaseException) -> ModelError:
    """Return a model error that points at the line of the modeller's file which raised."""
    where = _modellers_line(error)
    return ModelError(f"{name} raised {type(error).__name__}: {error}\n  {where}".rstrip())


def _modellers_line(error: BaseException) -> str:
    own = [f for f in traceback.extract_tb(error.__traceback__) if not _is_engines(f.filename)]
    return f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else ""


def _is_engines(file: str) -> bool:
    """Whether code in `file` is not the modeller's: the engine's, or what Python generates."""
    ours = ("/smpmmu/engine/", "/smpmmu/__init__.py")
    return file.startswith("<") or any(part in file.replace("\\", "/") for part in ours)
