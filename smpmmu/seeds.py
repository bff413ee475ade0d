"""Files of failing seeds: text, a seed a line, read and written whole.

    smpmmu seeds 1
    4013 uniform no_write_after_promise reliant_flusher/deferred_range

Seed, strategy, what it violated, variant; a user's file is named as seen from where the file of
seeds lies, so that both may move together. It must not know how seeds are run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.engine.errors import ScheduleError, UsageError
from smpmmu.engine.strategies import PORTFOLIO, named
from smpmmu.work import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HEADER = "smpmmu seeds 1"
MOST = 100
"""Seeds that are kept of one variant, strategy and property; more tell nothing new."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A failing seed, and of what."""

    number: int
    strategy: str
    violated: str
    target: str

    @property
    def line(self) -> str:
        """The line of the file."""
        return f"{self.number} {self.strategy} {self.violated} {self.target}"


class Kept:
    """The seeds of a file, in order."""

    def __init__(self, seeds: Iterable[Seed] = ()) -> None:
        """Begin with some."""
        self.seeds = list(seeds)

    @classmethod
    def read(cls, path: Path) -> Kept:
        """Read a file; one that is not there yet has no seeds.

        Raises:
            UsageError: it cannot be read.
            ScheduleError: it is damaged; with the line.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls()
        except UnicodeDecodeError as error:
            msg = f"{path}: expected a file of seeds, found what is not text"
            raise ScheduleError(msg) from error
        except OSError as error:
            msg = f"cannot read the seeds in {path}: {error.strerror}"
            raise UsageError(msg) from error
        lines = text.split("\n")
        if lines[0] != HEADER:
            msg = f"{path}:1: expected {HEADER!r}, found {lines[0]!r}"
            raise ScheduleError(msg)
        if lines[-1]:
            msg = f"{path}:{len(lines)}: the last line is cut off: {lines[-1]!r}"
            raise ScheduleError(msg)
        return cls(_seed(line, f"{path}:{n}") for n, line in enumerate(lines[1:-1], 2))

    def of(self, target: str) -> list[Seed]:
        """Return the seeds of one variant."""
        return [seed for seed in self.seeds if seed.target == target]

    def add(self, seeds: Iterable[Seed]) -> None:
        """Add seeds that are not there yet, the first `MOST` of a kind."""
        known = set(self.seeds)
        kinds = Counter((s.target, s.strategy, s.violated) for s in self.seeds)
        places = {(s.number, s.strategy, s.target) for s in self.seeds}
        for seed in seeds:
            kind = (seed.target, seed.strategy, seed.violated)
            place = (seed.number, seed.strategy, seed.target)
            if seed not in known and place not in places and kinds[kind] < MOST:
                self.seeds.append(seed)
                places.add(place)
                kinds[kind] += 1

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            UsageError: it cannot be written.
        """
        text = "\n".join([HEADER, *(seed.line for seed in self.seeds)]) + "\n"
        try:
            write_whole(path, text)
        except OSError as error:
            msg = f"cannot write the seeds to {path}: {error.strerror}"
            raise UsageError(msg) from error


def _seed(line: str, where: str) -> Seed:
    """Return the seed of a line."""
    parts = line.split(" ", 3)
    if len(parts) != 4 or not all(parts):
        msg = f"{where}: expected 'SEED STRATEGY PROPERTY VARIANT', found {line!r}"
        raise ScheduleError(msg)
    number, strategy, violated, target = parts
    if not (number.isascii() and number.isdecimal() and len(number) <= 20) or (
        int(number) >= 1 << 64
    ):
        msg = f"{where}: expected a seed of 0 to 2^64 - 1, found {number!r}"
        raise ScheduleError(msg)
    try:
        known = strategy != PORTFOLIO and bool(named(strategy))
    except UsageError as error:
        msg = f"{where}: {error}"
        raise ScheduleError(msg) from error
    if not known:
        msg = f"{where}: expected one strategy, found {strategy!r}"
        raise ScheduleError(msg)
    return Seed(int(number), strategy, violated, target)
