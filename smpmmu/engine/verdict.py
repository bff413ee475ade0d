"""What an exploration knows, and the budgets that may end it. Values, never exceptions."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from smpmmu.engine.errors import UsageError


class Verdict(enum.Enum):
    """HOLDS on every interleaving, VIOLATED with a schedule, or UNDECIDED by a budget."""

    HOLDS = "HOLDS"
    VIOLATED = "VIOLATED"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a search may take, and where it stops then; None: as much as there is.

    Attributes:
        states: how many to see.
        seconds: how long to look.
        memory: bytes that the search may take, with what it works with for a while.
        frontier: bytes of that for states still to expand; the rest of them goes to the disk.
        cores: how many search together; what they find does not depend on it.
    """

    states: int | None = None
    seconds: float | None = None
    memory: int | None = None
    frontier: int | None = None
    cores: int | None = None

    @property
    def room(self) -> int:
        """Bytes for states still to expand: unless asked for, a gigabyte, or a quarter of all."""
        if self.frontier is not None:
            return self.frontier
        return FRONTIER if self.memory is None else min(FRONTIER, self.memory // 4)


FRONTIER = 10**9
"""Bytes of the frontier from which on it goes to the disk."""


def bytes_of(text: str) -> int:
    """Return the number of bytes that `500`, `500K`, `500M` or `2G` (powers of ten) means.

    Raises:
        UsageError: it means none, or zero.
    """
    units = {"K": 10**3, "M": 10**6, "G": 10**9}
    number, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 1)
    if not (number.isascii() and number.isdigit() and int(number)):
        msg = f"expected a number of bytes, or one with K, M or G behind it, found {text!r}"
        raise UsageError(msg)
    return int(number) * unit


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A violated property and a schedule that breaks it.

    Attributes:
        name: the property.
        choices: the names of the contexts, an action each, in order; none can be left out.
        switches: consecutive choices of different contexts; the fewest among the shortest
            schedules if `fewest_switches`.
        fewest_switches: whether the budget allowed to compare all shortest schedules.
        shortest: whether no schedule that breaks the property has fewer choices.
    """

    name: str
    choices: tuple[str, ...]
    switches: int
    fewest_switches: bool = True
    shortest: bool = True


@dataclass(frozen=True, slots=True)
class Exploration:
    """What exploring found.

    Attributes:
        verdict: the answer.
        violations: the first violated property, or all of them if asked; shortest first.
        states: distinct states seen.
        transitions: actions taken between them.
        depth: actions of the longest shortest path.
        levels: states at each depth.
        reached: for every `sometimes` (and `quiescence`) whether some state has it.
        reason: which budget ended the search, if one did.
        exact: duplicates were compared whole; otherwise see `collision_bound`.
        nbytes: bytes of the visited set and the parents.
        peak_nbytes: the most that the search's own arrays took, the frontier included.
        expanded: states whose successors are all known, while it goes on.
        reductions: what left out states that make no difference; the counts are of what is left.
        refused: why what is declared to be interchangeable was not reduced by symmetry, or "".
        worked_out: values that actions depend on and that were told apart by a hash of 64 bits.
    """

    verdict: Verdict
    violations: tuple[Counterexample, ...] = ()
    states: int = 0
    transitions: int = 0
    depth: int = 0
    levels: tuple[int, ...] = ()
    reached: dict[str, bool] = field(default_factory=dict)
    reason: str = ""
    exact: bool = True
    nbytes: int = 0
    peak_nbytes: int = 0
    expanded: int = 0
    reductions: tuple[str, ...] = ()
    refused: str = ""
    worked_out: int = 0

    @property
    def collision_bound(self) -> float:
        """A bound on the probability that two of n states, or values, shared a hash: n^2 / 2^65."""
        return 0.0 if self.exact else (self.states**2 + self.worked_out**2) / 2**65

    @property
    def vacuous(self) -> tuple[str, ...]:
        """The `sometimes` that no state has."""
        return tuple(name for name, seen in self.reached.items() if not seen)
