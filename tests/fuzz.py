"""Damaged input gives only clear errors: `python -m tests.fuzz [INPUTS]`, 100,000 by default.

Each input is a real one (a schedule, a file of seeds, the name of a variant, a user's scenario)
with a few changes, decided by its number. What it gives must be an answer or an error of ours with
a message. Whatever else comes is printed, with the number that makes it again.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from smpmmu import targets
from smpmmu.engine.batch import Kernel
from smpmmu.engine.errors import SmpmmuError
from smpmmu.engine.numbers import number, pick, seed_stream
from smpmmu.engine.schedule import read
from smpmmu.replaying import load, replay_file
from smpmmu.seeds import Kept
from smpmmu.targets import find
from tests.shell import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

INPUTS = 100_000
REPLAYED = 100
"""One in so many schedules is run live, too."""

SCHEDULES = sorted(p.read_text(encoding="utf-8") for p in (ROOT / "schedules").glob("*.schedule"))
NAMES = [target.name for target in targets.catalogue()]
SEEDS = "smpmmu seeds 1\n" + "".join(
    f"{n * 977} {s} no_write_after_promise {NAMES[n]}\n"
    for n, s in enumerate(("uniform", "pct:3", "pos", "surw") * 3)
)
EXAMPLE = (ROOT / "docs/example.py").read_text(encoding="utf-8")
PIECES = (
    "", " ", "\n", "\n\n", "\t", "#", "0", "7", "-1", "64", "x", "é", "\0", "\r", "\ufeff",
    "\u2028", "(", ")", "[", "]", "{", "}", ":", ",", ".", "=", "+", "/", "'", '"', "\\",
    "cpu0", "cpu1", "cpu9", "cpu0.irq.invalidate", "lock ptl", "scenario", "expect", "VIOLATED",
    "PASSES", "without", "await ", "async ", "def ", "None", "True", "lambda: 0", "return",
    "raise", "s.load(pte)", "s.Word", "+evictor", "+4cpus", "smpmmu schedule 1",
    "smpmmu seeds 1", "a" * 300,
)  # fmt: skip


class Numbers:
    """The numbers of one input."""

    def __init__(self, which: int) -> None:
        self.stream, self.index = seed_stream(which), 0

    def below(self, limit: int) -> int:
        self.index += 1
        return pick(self.stream, self.index, limit)

    def bits(self) -> int:
        self.index += 1
        return number(self.stream, self.index)


def damaged(text: str, numbers: Numbers) -> str:
    """Change a text in one to six places."""
    for _ in range(1 + numbers.below(6)):
        at = numbers.below(len(text) + 1)
        other = numbers.below(len(text) + 1)
        piece = PIECES[numbers.below(len(PIECES))]
        low, high = min(at, other), max(at, other)
        high = low + min(high - low, 1 + numbers.below(40))
        lines = text.split("\n")
        line = numbers.below(len(lines))
        way = numbers.below(8)
        if way == 0:
            text = text[:at] + piece + text[at:]
        elif way == 1:
            text = text[:low] + text[high:]
        elif way == 2:
            text = text[:low] + piece + text[high:]
        elif way == 3:
            text = "\n".join(lines[:line] + lines[line + 1 :])
        elif way == 4:
            text = "\n".join([*lines[:line], lines[line], *lines[line:]])
        elif way == 5:
            text = text[:at]
        elif way == 6:
            text = text[:at] + chr(numbers.below(0xD800)) + text[at + 1 :]
        else:
            swap = numbers.below(len(lines))
            lines[line], lines[swap] = lines[swap], lines[line]
            text = "\n".join(lines)
    return text


def schedule(numbers: Numbers, folder: Path) -> None:
    text = damaged(SCHEDULES[numbers.below(len(SCHEDULES))], numbers)
    found = read(text, "a.schedule")
    find(found.scenario)
    if numbers.below(REPLAYED) == 0:
        path = folder / "a.schedule"
        path.write_text(text, encoding="utf-8", newline="")
        replay_file(path)


def seeds(numbers: Numbers, folder: Path) -> None:
    path = folder / "seeds"
    path.write_text(damaged(SEEDS, numbers), encoding="utf-8", newline="")
    Kept.read(path)


def raw(numbers: Numbers, folder: Path) -> None:
    """Read a schedule that is not even text."""
    data = bytearray(SCHEDULES[numbers.below(len(SCHEDULES))].encode())
    for _ in range(1 + numbers.below(4)):
        data[numbers.below(len(data))] = numbers.bits() & 0xFF
    path = folder / "b.schedule"
    path.write_bytes(data)
    load(path)


def name(numbers: Numbers, folder: Path) -> None:
    for target in find(damaged(NAMES[numbers.below(len(NAMES))], numbers)):
        assert target.name


def scenario(numbers: Numbers, folder: Path) -> None:
    path = folder / "user.py"
    path.write_text(damaged(EXAMPLE, numbers), encoding="utf-8", newline="")
    before = set(sys.modules)
    try:
        for target in find(str(path)):
            Kernel(target.system())
    finally:
        targets._LOADED.clear()
        for module in set(sys.modules) - before:
            if module.startswith("smpmmu_user_"):
                del sys.modules[module]


KINDS: tuple[Callable[[Numbers, Path], None], ...] = (
    schedule,
    schedule,
    seeds,
    raw,
    name,
    scenario,
)


def attempt(which: int, folder: Path) -> tuple[str, str]:
    """Try one input; return its kind, and what came of it: "", an error of ours, or "BAD ..."."""
    numbers = Numbers(which)
    kind = KINDS[numbers.below(len(KINDS))]
    try:
        kind(numbers, folder)
    except SmpmmuError as error:
        clear = str(error).strip() and "Traceback" not in str(error)
        return kind.__name__, type(error).__name__ if clear else f"BAD message {error!r}"
    except Exception as error:  # noqa: BLE001  that is what is looked for
        return kind.__name__, f"BAD {type(error).__name__}: {error}"
    return kind.__name__, ""


def fuzz(inputs: range) -> Counter[tuple[str, str]]:
    """Try many inputs; return how often what came of which kind."""
    found: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a user's file: unknown escapes and the like
        for which in inputs:
            kind, outcome = attempt(which, Path(folder))
            if outcome.startswith("BAD"):
                print(f"input {which}, {kind}: {outcome}")
                outcome = "BAD"
            found[kind, outcome] += 1
    return found


def main() -> None:
    """Try as many as asked for."""
    found = fuzz(range(int(sys.argv[1]) if len(sys.argv) > 1 else INPUTS))
    for (kind, outcome), count in sorted(found.items()):
        print(f"{kind:9} {outcome or 'accepted':15} {count:7,}")
    sys.exit(any(outcome == "BAD" for _, outcome in found))


if __name__ == "__main__":
    main()
