"""What every command prints with; nothing else prints.

It must not decide anything about runs, verdicts or exit statuses.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from smpmmu.engine.verdict import Exploration
    from smpmmu.report.text import Page
    from smpmmu.work import Watch

STATUSES = """\b
Exit status:
  0    holds, as expected, or the replay is confirmed
  1    violated, or not as expected (beats 3)
  2    wrong usage: an unknown name, a bad option
  3    undecided: a budget ended the search
  4    the model or a file is wrong, or a HOLDS is vacuous
  70   internal: the live and the batch engine disagree
  130  interrupted
"""

PIPED_WIDTH = 120
"""Columns of output that does not go to a terminal."""


def report() -> Any:  # noqa: ANN401  a module, imported late because rich is slow to start
    """Return the module that lays out text."""
    from smpmmu.report import text

    return text


def out(text: str) -> None:
    """Print to standard output; a reader that has gone, or lacks a character, is no error."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        click.echo(text.encode(encoding, "backslashreplace").decode(encoding), nl=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_page(compose: Callable[[Page], None]) -> None:
    """Compose a page for where standard output goes, and print it."""
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size((PIPED_WIDTH, 24)).columns if terminal else PIPED_WIDTH
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    page: Page = report().Page(
        max(width, 40),
        colour=terminal and not os.environ.get("NO_COLOR"),
        ascii_only=not encoding.startswith("utf"),
    )
    compose(page)
    out(page.text)


class Stopwatch:
    """Tells on standard error how fast something went; time is never part of an answer."""

    def __init__(self) -> None:
        """Start."""
        self._began = self._until = time.monotonic()

    def lap(self) -> None:
        """Measure up to here."""
        self._until = time.monotonic()

    def tell(self, what: str, count: int) -> None:
        """Say how many there were, and how many a second."""
        seconds = max(self._until - self._began, 1e-3)
        click.echo(
            f"{count:,} {what} in {seconds:.1f} s, {count / seconds:,.0f} a second", err=True
        )


class Progress:
    """A line on standard error about work that takes over a second, on a terminal only."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self.last: tuple[str, Exploration] | None = None
        self._began = time.monotonic()
        self._first: Any = None  # what was covered then
        self._shown: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.pause()

    def pause(self) -> None:
        """Get out of the way of what is printed next."""
        if self._shown is not None:
            self._shown.stop()
            self._shown = None

    @property
    def watch(self) -> Watch:
        """What to call with the coverage so far."""

        def look(name: str, found: Exploration) -> None:
            before = self.last
            if before is None or before[0] != name or found.states < before[1].states:
                self._began, self._first = time.monotonic(), found
            self.last = (name, found)
            if self._visible:
                from smpmmu.report.progress import so_far

                seconds, first = time.monotonic() - self._began, self._first
                text = so_far(found, seconds, first.states, first.expanded)
                self._show(f"{name}: {text}")

        return look

    def count(self, done: int, of: int) -> None:
        """Tell how many variants have been answered."""
        if self._visible:
            self._show(f"{done} of {of} variants")

    @property
    def _visible(self) -> bool:
        return time.monotonic() - self._began > 1 and sys.stderr.isatty()

    def _show(self, text: str) -> None:
        if self._shown is None:
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn, TextColumn

            console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")))
            ascii_only = not (console.encoding or "").lower().startswith("utf")
            spinner = SpinnerColumn("line" if ascii_only else "dots")
            columns = (spinner, TextColumn("{task.description}", markup=False))
            self._shown = Progress(*columns, console=console, transient=True)
            self._task = self._shown.add_task("")
            self._shown.start()
        self._shown.update(self._task, description=text)
