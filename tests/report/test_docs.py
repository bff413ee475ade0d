"""The example and the commands in docs/reports.md do what is said of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from smpmmu.showing import told
from tests.shell import ROOT, Shell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXT = (ROOT / "docs/reports.md").read_text(encoding="utf-8")


def test_the_example_has_tables(users: Callable[[str, str], str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    account = told(f"{users('caching.py', example)}:caching/default").account()
    assert account.violated == "nobody_writes_where_it_is_forbidden"
    assert {(w.table, w.row, w.column) for w in account.words} == {
        ("page tables", "pte", "primary"),
        ("TLB entries", "pte", "cpu1"),
    }
    changes = [(c.before, c.after) for step in account.steps for c in step.changes]
    assert changes == [("0x5 P-RW", "0x5 P"), ("0", "0x5 P-RW")]


def test_its_commands_are_as_written(shell: Shell, tmp_path: Path) -> None:
    commands = re.findall(r"^    python -m smpmmu (show .*)$", TEXT, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        *words, out = command.split()
        done = shell(*words, str(tmp_path / out))
        assert (done.status, done.err) == (0, "")
        assert (tmp_path / out).stat().st_size > 10_000
