"""The results of judging, kept in results.json, and the reviewed reasons, in survivors.toml.

It must not know how either is shown.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.mutate.judge import Result

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
SURVIVORS = HERE / "survivors.toml"

WHYS = {
    "equivalent": "the mutant does what the code does, step for step as others can see it",
    "harmless": "it does something else, and an argument says that nobody can lose anything by it",
    "not judged": "it does harm that the model, as documented, leaves out",
    "hole": "it does harm, and the catalogue has no variant that shows it",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why some mutants survive.

    Attributes:
        why: one of `WHYS`.
        text: the argument, or for a hole the scenario that would be needed.
        mutants: their names.
    """

    why: str
    text: str
    mutants: tuple[str, ...]


def read(file: Path = RESULTS) -> dict[str, Result]:
    """Return the results by the names of their mutants, in order."""
    if not file.exists():
        return {}
    data = json.loads(file.read_text(encoding="utf-8"))
    return {name: Result(name, **fields) for name, fields in data.items()}


def write(results: dict[str, Result], file: Path = RESULTS) -> None:
    """Write the results, a mutant a line."""
    lines = []
    for name, result in results.items():
        fields = {k: v for k, v in asdict(result).items() if k != "mutant" and v not in ("", {})}
        lines.append(f" {json.dumps(name)}: {json.dumps(fields)}")
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def reasons(file: Path = SURVIVORS) -> list[Reason]:
    """Return the reviewed reasons."""
    data = tomllib.loads(file.read_text(encoding="utf-8"))
    return [
        Reason(each["why"], " ".join(each["reason"].split()), tuple(each["mutants"]))
        for each in data["survivors"]
    ]


def survivors(results: dict[str, Result]) -> list[str]:
    """Return the names of the mutants that no variant kills."""
    return [name for name, result in results.items() if not result.killed_by]
