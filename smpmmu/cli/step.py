"""`step`: a variant stepped by hand, in a terminal or by commands from a pipe."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from smpmmu.cli.printing import STATUSES, out

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command(epilog=STATUSES)
@click.argument("what", metavar="FILE | NAME/VARIANT")
def step(what: str) -> NoReturn:
    """Step through a variant, or along a schedule, by hand: who moves next is your choice.

    Reads a command a line, also from a pipe; `help` lists them.
    """
    from smpmmu.stepping import Session

    session = Session(what)
    try:
        _print(session.greet())
        for line in _lines():
            _print(session.answer(line))
            if session.over:
                break
    finally:
        session.close()
    sys.exit(0)


def _print(lines: list[str]) -> None:
    out("".join(f"{line}\n" for line in lines))


def _lines() -> Iterator[str]:
    """Yield what the user types, with a prompt and line editing on a terminal."""
    if not sys.stdin.isatty():
        for line in sys.stdin.buffer:
            yield line.decode("utf-8", "replace")
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  it gives `input` its history
    while True:
        try:
            yield input("> ")
        except EOFError:
            out("\n")
            return
        except KeyboardInterrupt:
            out("\n")
            raise
