"""The documents say what the commands in them print; every block of them is run.

After a change, `python -m tests.docs` fills them in anew; look at the difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import docs
from tests.shell import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("document", docs.DOCUMENTS)
def test_a_document_says_what_its_commands_print(document: str, tmp_path: Path) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    now = docs.filled(document, tmp_path).splitlines()
    assert now == text.splitlines(), f"look at what `python -m tests.docs {document}` changes"


@pytest.mark.parametrize("document", docs.DOCUMENTS)
def test_every_block_is_run(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert docs.unmarked(text) == []
    assert text.count("<!-- checked") >= 3


def test_a_wrong_output_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    where = tmp_path / "empty"
    where.mkdir()
    text = (
        "<!-- file: a.py -->\n```python\nx = 1\n```\n\n"
        "<!-- more of: a.py -->\n```python\nprint(x)\n```\n\n"
        "<!-- checked -->\n```console\n$ python a.py\n2\n```\n\n```sh\nls\n```\n"
    )
    (tmp_path / "a.md").write_text(text, encoding="utf-8")
    assert docs.filled("a.md", where) == text.replace("\n2\n", "\n1\n")
    assert docs.unmarked(text) == ["ls"]
