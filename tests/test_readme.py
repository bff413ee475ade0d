"""The README says what the commands in it print, and its example is the file beside it."""

import re

import pytest

from tests.docs import output
from tests.shell import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- checked -->\n```console\n\$ (.*?)\n(.*?)```", README, re.DOTALL)


def test_there_are_blocks_to_check():
    assert len(BLOCKS) == README.count("<!-- checked -->") >= 4


@pytest.mark.parametrize(("command", "printed"), BLOCKS, ids=[b[0] for b in BLOCKS])
def test_a_command_prints_what_the_readme_says(command, printed):
    assert output(command, ROOT) == printed.strip("\n") + "\n"


def test_the_example_is_the_file():
    example = (ROOT / "docs/example.py").read_text(encoding="utf-8").rstrip()
    assert f"```python\n{example}\n```" in README
    assert len(example.splitlines()) < 40


def test_ci_runs_the_readmes_test_command():
    block = README.split("<!-- test command -->")[1].split("```")[1]
    commands = [line for line in block.splitlines() if line.startswith("python3")]
    assert len(commands) == 1
    assert commands[0].endswith("-m pytest -n auto")


@pytest.mark.parametrize("status", [0, 1, 2, 3, 4, 70, 130])
def test_the_readme_and_the_help_have_the_same_statuses(status):
    from smpmmu.cli import STATUSES

    meaning = next(line for line in STATUSES.splitlines() if line.split()[:1] == [str(status)])
    row = next(line for line in README.splitlines() if line.startswith(f"| {status} |"))
    assert " ".join(meaning.split()[1:4]).rstrip(",;") in row
