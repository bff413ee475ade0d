"""A closed system: contexts, and what must hold of them. The input of every driver.

It must not know how it is explored, nor what its words stand for.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.engine.errors import ModelError
from smpmmu.engine.expressions import Expr
from smpmmu.engine.program import Context, Role

if TYPE_CHECKING:
    from smpmmu.engine.steps import Word


class Scope(enum.Enum):
    """Where a property is judged."""

    ALWAYS = "always"
    QUIESCENCE = "quiescence"
    SOMETIMES = "sometimes"


@dataclass(frozen=True, slots=True)
class Property:
    """A named truth: in every state, in every quiescent state, or in at least one state."""

    name: str
    truth: Expr
    scope: Scope = Scope.ALWAYS

    def __post_init__(self) -> None:
        given: object = self.truth  # users' files are seldom type-checked
        if not isinstance(given, Expr) or not given.truth:
            msg = f"property {self.name!r} is not a truth: compare a word with something"
            if isinstance(given, bool):
                msg = (
                    f"property {self.name!r} was decided by Python, to be {given}: write "
                    "value(word) where a word is compared"
                )
            raise ModelError(msg)


def always(name: str, truth: Expr) -> Property:
    """Return the property that `truth` holds in every state."""
    return Property(name, truth)


def at_quiescence(name: str, truth: Expr) -> Property:
    """Return the property that `truth` holds whenever all is finished and nothing is pending."""
    return Property(name, truth, Scope.QUIESCENCE)


def sometimes(name: str, truth: Expr) -> Property:
    """Return the property that `truth` holds in some state: the guard against vacuous passes."""
    return Property(name, truth, Scope.SOMETIMES)


MOST_CONTEXTS = 255
QUIESCENCE = "quiescence"
"""Name of the implicit `sometimes`: that the system can come to rest at all."""
NO_DEADLOCK = "no_deadlock"
QUIESCENCE_STAYS_REACHABLE = "quiescence_stays_reachable"


@dataclass(frozen=True, slots=True)
class Interchangeable:
    """A claim, to be verified by whoever uses it: these may be exchanged, and nothing changes.

    Attributes:
        members: of each its vCPUs, in corresponding order; none where pages are exchanged.
        bits: words of which some bits name members, and for each member its bits.
        values: words of which some values name members, and for each member its values.
    """

    members: tuple[tuple[str, ...], ...]
    bits: tuple[tuple[Word, tuple[tuple[int, ...], ...]], ...] = ()
    values: tuple[tuple[Word, tuple[tuple[int, ...], ...]], ...] = ()

    def __post_init__(self) -> None:
        self._check("members", self.members, len(self.members))
        for what, words in (("bits", self.bits), ("values", self.values)):
            for word, named in words:
                self._check(f"{what} of {word.name!r}", named, len(self.members))
                most = word.mask if what == "values" else word.width - 1
                if any(not 0 <= item <= most for part in named for item in part):
                    msg = f"word {word.name!r} has {word.width} bits; not all {what} of {named} fit"
                    raise ModelError(msg)

    def _check(self, what: str, parts: tuple[tuple[object, ...], ...], count: int) -> None:
        flat = [item for part in parts for item in part]
        if count < 2 or len(parts) != count or len({len(part) for part in parts}) != 1:
            msg = f"what is interchangeable has two or more members alike; {what} are {parts}"
            raise ModelError(msg)
        if len(set(flat)) != len(flat):
            msg = f"what is interchangeable has nothing in common; {what} are {parts}"
            raise ModelError(msg)


@dataclass(frozen=True, slots=True)
class System:
    """Contexts in the order that breaks ties, and the properties in order of importance.

    Attributes:
        interchangeable: what may be exchanged, as far as that is declared.
    """

    contexts: tuple[Context, ...]
    properties: tuple[Property, ...] = ()
    words: tuple[Word, ...] = ()
    interchangeable: tuple[Interchangeable, ...] = ()

    def __post_init__(self) -> None:
        self._check_names()
        self._check_contexts()
        self._check_interchangeable()

    def _check_names(self) -> None:
        names = [c.name for c in self.contexts] + [p.name for p in self.properties]
        for name in names:
            if names.count(name) > 1:
                msg = f"two contexts or properties are named {name!r}"
                raise ModelError(msg)
            if name in (QUIESCENCE, NO_DEADLOCK, QUIESCENCE_STAYS_REACHABLE):
                msg = f"the name {name!r} is taken by a property that every system has"
                raise ModelError(msg)
        for context in self.contexts:
            if not context.name or any(c.isspace() or c == "#" for c in context.name):
                msg = f"a context is named {context.name!r}; a name has no blanks and no '#'"
                raise ModelError(msg)
        for prop in self.properties:
            for name in prop.truth.contexts():
                if name not in [c.name for c in self.contexts]:
                    msg = f"property {prop.name!r} reads the end of {name!r}, no context"
                    raise ModelError(msg)

    def _check_contexts(self) -> None:
        if len(self.contexts) > MOST_CONTEXTS:
            msg = f"{len(self.contexts)} contexts; a system has at most {MOST_CONTEXTS}"
            raise ModelError(msg)
        mains = [c.cpu for c in self.contexts if c.role is Role.MAIN]
        if not mains:
            msg = "a system needs at least one vCPU with a program"
            raise ModelError(msg)
        for cpu in mains:
            if mains.count(cpu) > 1:
                msg = f"vCPU {cpu!r} has two main programs"
                raise ModelError(msg)

    def _check_interchangeable(self) -> None:
        names = {c.name for c in self.contexts}
        bits = {word.name for declared in self.interchangeable for word, _ in declared.bits}
        for declared in self.interchangeable:
            for word, _ in declared.values:
                if word.name in bits:
                    msg = f"word {word.name!r} names members by bits and by values"
                    raise ModelError(msg)
            for cpu in (cpu for member in declared.members for cpu in member):
                if not any(name == cpu or name.startswith(f"{cpu}.") for name in names):
                    msg = f"{cpu} is to be interchangeable, and there is no such vCPU"
                    raise ModelError(msg)

    @property
    def terminates(self) -> bool:
        """Whether every main program is finite, so that quiescence means anything."""
        return not any(c.cyclic for c in self.contexts if c.role is Role.MAIN)

    def scoped(self, scope: Scope) -> tuple[Property, ...]:
        """Return the properties of one scope, in order."""
        return tuple(p for p in self.properties if p.scope is scope)
