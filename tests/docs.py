"""Runs the documents: `python -m tests.docs [FILE...]` fills in anew what their commands print.

A document's blocks are used in order, in an empty directory of its own (the README's in the
checkout). The comment before a block says what it is:

    <!-- file: NAME -->      is written to the file
    <!-- more of: NAME -->   is added to its end
    <!-- checked -->         commands ($) with what they print
    <!-- checked: verdicts -->  the same, but only the lines that say how it came out
    <!-- not run: WHY -->    is only shown
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.shell import ROOT

DOCUMENTS = ("docs/modelling.md", "docs/pytest.md", "docs/stories.md", "docs/tutorial.md")
"""The documents of which every block is marked."""
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<kind>\w*)\n(?P<body>.*?)```\n", re.DOTALL
)
ALL = re.compile(r".*\n")
VERDICTS = re.compile(r"(?:\S+  (?:HOLDS|VIOLATED|UNDECIDED)\b|error: |  never reached: ).*\n")
SECONDS = re.compile(r"\b(in|after) \d+\.\d+s\b")
SPEED = re.compile(r"[\d,]+ steps in [\d.]+ s, [\d,]+ a second\n")


def filled(document: str, where: Path) -> str:
    """Return a document's text with what its commands print in `where`."""
    text = (ROOT / document).read_text(encoding="utf-8")

    def fill(block: re.Match[str]) -> str:
        mark, body = block["mark"] or "", block["body"]
        kind, _, name = mark.partition(": ")
        if kind in ("file", "more of"):
            path = where / name
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.read_text(encoding="utf-8") if kind == "more of" else ""
            path.write_text(before + body, encoding="utf-8")
        elif kind == "checked":
            commands = [line[2:] for line in body.splitlines() if line.startswith("$ ")]
            shown = VERDICTS if name == "verdicts" else ALL
            printed = [
                f"$ {command}\n" + "".join(shown.findall(output(command, where)))
                for command in commands
            ]
            return block[0].replace(body, "".join(printed))
        return block[0]

    return BLOCK.sub(fill, text)


def output(command: str, where: Path) -> str:
    """Return what a command prints, standard output first, without its times and `where`."""
    program, *arguments = command.split()
    assert program == "python", command
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=where,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={"PATH": "", "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    text = SECONDS.sub(r"\1 0.00s", done.stdout + SPEED.sub("", done.stderr)).strip("\n")
    text = text.replace(f"{where}/", "")
    return f"{text}\n" if text else ""


def unmarked(text: str) -> list[str]:
    """Return the first lines of the blocks that nobody runs."""
    return [block["body"].partition("\n")[0] for block in BLOCK.finditer(text) if not block["mark"]]


def main() -> None:
    """Fill in the documents that are named, or all."""
    for document in sys.argv[1:] or DOCUMENTS:
        with tempfile.TemporaryDirectory() as empty:
            text = filled(document, ROOT if document == "README.md" else Path(empty))
        (ROOT / document).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
