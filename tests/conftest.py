"""What tests outside the engine share: the command line, users' files, the catalogue's answer."""

from __future__ import annotations

import importlib
import json
import signal
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from tests.shell import Done, Shell, spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# A shell that runs the tests in the background has them ignore Ctrl-C, and what they start, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    """Return what runs the command line in this process."""
    main = importlib.import_module("smpmmu.cli").main
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))  # a user's file adds its directory

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["smpmmu", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        return Done(int(exit_.value.code or 0), out, err)

    yield run
    for name in set(sys.modules) - before:
        if name.startswith("smpmmu_user_"):
            del sys.modules[name]


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Return what writes a user's file into the directory that is then the current one."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(textwrap.dedent(text), encoding="utf-8")
        return name

    return write


@pytest.fixture(scope="session")
def catalogue() -> dict[str, dict[str, Any]]:
    """Return what `explore all --format json` says of every variant, by scenario/variant."""
    done = spawn("explore", "all", "--format", "json", "--live-runs", "5", "--no-reduction")
    assert done.status == 0, done.err
    results = json.loads(done.out)["results"]
    return {f"{r['scenario']}/{r['variant']}": r for r in results}
