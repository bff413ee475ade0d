"""docs/coverage.md: from each acting line of the patches to what models it, and who misses it.

It must not know how mutants are judged.
"""

from __future__ import annotations

import ast
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smpmmu.engine.verdict import Verdict
from smpmmu.targets import EVICTOR, one
from tests.shell import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.mutate.judge import Result
    from tests.mutate.operators import Mutant

FILE = ROOT / "docs/coverage.md"
PATCHES = Path(__file__).with_name("patches.toml")
NOT_YET = "not modelled yet"

HEAD = """# From the patches to the model

Written by `python -m tests.mutate` from `tests/mutate/patches.toml`, which names the acting lines
of both patches by their hunks, and from the results of mutation (`docs/mutants.md`). A line is
modelled where the function of its name in `smpmmu/kernel` calls its hook. Who fails without it is
every variant that no longer gets the verdict, or the violated property, that it has with it.
"""


@dataclass(frozen=True, slots=True)
class Line:
    """An acting line of a patch.

    Attributes:
        hunk: file and first old line of its hunk.
        around: the C function or macro that it is in; "" for a declaration.
        hook: the hook that it calls or declares.
        text: the line, shortened.
        note: why nothing that holds rests on it, if nothing does.
        by: the function that models it, where its name differs from the C's.
        number: which of that function's calls of the hook it is, where knobs have several.
    """

    hunk: str
    around: str
    hook: str
    text: str
    note: str = ""
    by: str = ""
    number: int = 1

    def removal(self, mutants: Iterable[Mutant]) -> Mutant | None:
        """Return the mutant that lacks this line, if the line is modelled."""
        name = self.by or self.around.lstrip("_")
        found = []
        for mutant in mutants:
            called = mutant.text.removeprefix("await ").split("(")[0].rpartition(".")[2]
            wanted = called in (self.hook, f"paravirt_{self.hook}")
            if wanted and mutant.mutation == "removed" and mutant.function == name:
                found.append(mutant)
        return found[self.number - 1] if len(found) >= self.number else None


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch and its acting lines."""

    title: str
    commit: str
    lines: tuple[Line, ...]


def patches(file: Path = PATCHES) -> list[Patch]:
    """Return the patches."""
    data = tomllib.loads(file.read_text(encoding="utf-8"))
    return [
        Patch(
            each["title"],
            each["commit"],
            tuple(
                Line(
                    line["hunk"],
                    line.get("in", ""),
                    line["hook"],
                    line["text"],
                    " ".join(line.get("note", "").split()),
                    line.get("by", ""),
                    line.get("number", 1),
                )
                for line in each["lines"]
            ),
        )
        for each in data["patch"]
    ]


def acting(mutants: list[Mutant]) -> set[str]:
    """Return the names of the mutants that lack an acting line of a patch."""
    lines = [line for patch in patches() for line in patch.lines if line.around]
    return {found.name for line in lines if (found := line.removal(mutants)) is not None}


def declared() -> set[str]:
    """Return the hooks of the hook table."""
    source = (ROOT / "smpmmu/kernel/paravirt.py").read_text(encoding="utf-8")
    return {
        statement.target.id
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "ParavirtOps"
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


def coverage(mutants: list[Mutant], results: dict[str, Result]) -> str:
    """Return the text of the map."""
    parts = [HEAD]
    for patch in patches():
        commit = f" ({patch.commit})" if patch.commit else ""
        parts += [f"## {patch.title}{commit}\n", _table(patch, mutants, results)]
        parts += [_failing(line, mutants, results) for line in patch.lines if line.around]
    return "\n".join(part for part in parts if part)


def _table(patch: Patch, mutants: list[Mutant], results: dict[str, Result]) -> str:
    lines = ["| hunk | line | in the C | modelled by | without it |", "|---|---|---|---|---|"]
    for line in patch.lines:
        by, without = _row(line, mutants, results)
        around = line.around or "the hook itself"
        lines.append(f"| {line.hunk} | `{line.text}` | {around} | {by} | {without} |")
    return "\n".join(lines) + "\n"


def _row(line: Line, mutants: list[Mutant], results: dict[str, Result]) -> tuple[str, str]:
    if not line.around:
        if line.hook in declared():
            return f"`ParavirtOps.{line.hook}`, natively `native_nop`", "see its callers"
        return NOT_YET, ""
    mutant = line.removal(mutants)
    if mutant is None:
        return NOT_YET, ""
    result = results[mutant.name]
    by = f"kernel/{mutant.file} `{mutant.function}`"
    rests, others = len(resting(result)), len(result.differ) - len(resting(result))
    return by, f"{rests} of {result.reached} no longer hold; {others} others differ"


def resting(result: Result) -> list[str]:
    """Return the variants that hold, and do not in the mutant."""
    return [name for name in result.differ if _holds(name.removesuffix(EVICTOR))]


def _holds(name: str) -> bool:
    expected = one(name).variant.expected
    return expected is not None and expected.verdict is Verdict.HOLDS


def _failing(line: Line, mutants: list[Mutant], results: dict[str, Result]) -> str:
    mutant = line.removal(mutants)
    if mutant is None:
        return ""
    result = results[mutant.name]
    lines = [f"### Without `{line.hook}` in {line.around}\n"]
    lines += [f"{line.note}\n"] if line.note else []
    lines += ["| variant | then says |", "|---|---|"]
    lines += [f"| {name} | {says} |" for name, says in result.differ.items()]
    lines += ["", "Other mutants of that statement and of its neighbours:\n"]
    for other in mutants:
        if (other.file, other.function) != (mutant.file, mutant.function) or other == mutant:
            continue
        found = results[other.name]
        fate = f"killed by {found.killed_by}: {found.says}" if found.killed_by else "survives"
        lines.append(f"- `{other.text}` {other.mutation}: {fate}")
    return "\n".join(lines) + "\n"
