"""Scenarios: programs side by side, what must hold, and for each variant what is expected.

A scenario is a function that fills a `Setup`; its keyword arguments are the knobs that variants
turn. This module must not know page tables: ours and users' scenarios are built with it alike.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smpmmu.engine.errors import ModelError, UsageError
from smpmmu.engine.local import Call
from smpmmu.engine.program import Context, Role
from smpmmu.engine.purity import check_pure
from smpmmu.engine.system import (
    Interchangeable,
    Property,
    System,
    always,
    at_quiescence,
    sometimes,
)
from smpmmu.engine.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from smpmmu.engine.expressions import Expr
    from smpmmu.engine.steps import Word


def _named(number: object, name: object = "") -> None:
    """Refuse what is no number of a vCPU, or no name of what it is given."""
    for value, kind, what in ((number, int, "the number of a vCPU"), (name, str, "a name")):
        if not isinstance(value, kind):
            found = "a call" if isinstance(value, Call) else repr(value)
            msg = f"expected {what}, found {found}: setup.irq(number, name, call(function))"
            raise ModelError(msg)


class Setup:
    """Collects a system: a column per CPU, and the properties under them."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._contexts: list[Context] = []
        self._properties: list[Property] = []
        self._words: list[Word] = []
        self._evictors: list[Context] = []
        self._interchangeable: list[Interchangeable] = []

    def cpu(self, number: int, *calls: Call, cyclic: bool = False) -> None:
        """Give vCPU `number` its program: `calls` in order, or, if cyclic, for ever."""
        _named(number)
        self._contexts.append(Context(f"cpu{number}", f"cpu{number}", calls, cyclic=cyclic))

    def irq(self, number: int, vector: str, *calls: Call, priority: int = 0) -> None:
        """Give vCPU `number` a handler; its first step must wait for the vector.

        It begins with interrupts off, and runs again whenever its vector is pending. It may land in
        main code, and in handlers of lower `priority` that have switched interrupts on.
        """
        _named(number, vector)
        name = f"cpu{number}.irq.{vector}"
        self._contexts.append(Context(name, f"cpu{number}", calls, Role.IRQ, priority=priority))

    def daemon(self, number: int, name: str, *calls: Call) -> None:
        """Give vCPU `number` a piece of hardware that may move at any time, or never."""
        _named(number, name)
        self._contexts.append(
            Context(f"cpu{number}.{name}", f"cpu{number}", calls, Role.DAEMON, cyclic=True)
        )

    def hardware(self, number: int, name: str, *calls: Call) -> None:
        """Give vCPU `number` hardware that acts whenever it can, beside the vCPU, and must.

        Its first step waits until there is something to do. It masks nothing and is not masked.
        """
        _named(number, name)
        whole = f"cpu{number}.{name}"
        self._contexts.append(Context(whole, whole, calls, Role.IRQ))

    def evictor(self, number: int, name: str, *calls: Call) -> None:
        """Give vCPU `number` hardware that drops what it has cached at any time, or never.

        It is left out at first; whatever HOLDS is explored once more with it.
        """
        _named(number, name)
        self._evictors.append(
            Context(f"cpu{number}.{name}", f"cpu{number}", calls, Role.DAEMON, cyclic=True)
        )

    @property
    def has_evictors(self) -> bool:
        """Whether there is hardware that is left out at first."""
        return bool(self._evictors)

    def always(self, name: str, truth: Expr) -> None:
        """Demand that `truth` holds in every state; `name` is a positive sentence.

        Raises:
            ModelError: `truth` is a number, or was decided by Python rather than built up.
        """
        self._properties.append(always(name, truth))

    def at_quiescence(self, name: str, truth: Expr) -> None:
        """Demand that `truth` holds whenever all is finished and nothing is pending."""
        self._properties.append(at_quiescence(name, truth))

    def sometimes(self, name: str, truth: Expr) -> None:
        """Demand that `truth` holds in some state, lest a pass be vacuous."""
        self._properties.append(sometimes(name, truth))

    def symmetric(
        self,
        *members: int | tuple[int, ...],
        bits: Iterable[Word] = (),
        values: Mapping[Word, Sequence[int | tuple[int, ...]]] | None = None,
    ) -> None:
        """Declare vCPUs, or groups of vCPUs, that may change places and nothing changes.

        In the words `bits`, bit n means vCPU n. In those of `values`, at most 12 bits wide, these
        values mean the members, in their order. That it is so is verified, when a search has become
        large; a claim that is wrong is told, and nothing is reduced by it.

        Raises:
            ModelError: the members are not alike, or do not fit the words.
        """
        groups = tuple((m,) if isinstance(m, int) else m for m in members)
        named = (values or {}).items()
        self._interchangeable.append(
            Interchangeable(
                tuple(tuple(f"cpu{number}" for number in group) for group in groups),
                tuple((word, groups) for word in bits),
                tuple(
                    (word, tuple((v,) if isinstance(v, int) else tuple(v) for v in each))
                    for word, each in named
                ),
            )
        )

    def system(self, *, evictor: bool = False) -> System:
        """Return what was collected, mains first, as the order of columns and of ties.

        With `evictor`, evictors are among it.

        Raises:
            ModelError: there is no program, or one that could carry values past its calls.
        """
        contexts = self._contexts + (self._evictors if evictor else [])
        for context in contexts:
            program: tuple[object, ...] = context.calls  # users' files are seldom type-checked
            for entry in program:
                if not isinstance(entry, Call):
                    found = getattr(entry, "__name__", type(entry).__name__)
                    msg = f"the program of {context.name} holds {found}; expected call({found})"
                    raise ModelError(msg)
                check_pure(entry)
        # By number: cpu10 comes after cpu9.
        ordered = sorted(contexts, key=lambda c: (list(Role).index(c.role), len(c.cpu), c.cpu))
        return System(
            tuple(ordered),
            tuple(self._properties),
            tuple(self._words),
            tuple(self._interchangeable),
        )


@dataclass(frozen=True, slots=True)
class Expected:
    """A verdict foretold, with the property it violates, and why we believe it."""

    verdict: Verdict
    name: str
    source: str


def holds(source: str) -> Expected:
    """Expect HOLDS; `source` is a document, a commit, or an argument."""
    return Expected(Verdict.HOLDS, "", source)


def violated(name: str, source: str) -> Expected:
    """Expect VIOLATED by the property `name`."""
    return Expected(Verdict.VIOLATED, name, source)


@dataclass(frozen=True, slots=True)
class Variant:
    """One setting of a scenario's knobs, and what is expected of it (None: nothing)."""

    name: str
    expected: Expected | None
    knobs: tuple[tuple[str, Any], ...]


def variant(name: str, expected: Expected | None = None, /, **knobs: object) -> Variant:
    """Return a variant; `knobs` are passed to the scenario's function.

    `expected` is made by `holds` or `violated`; it is compared with what is found.
    """
    return Variant(name, expected, tuple(knobs.items()))


@dataclass(frozen=True, slots=True)
class Scenario:
    """A named scenario: how to build it, its variants in order, and numbers of vCPUs it takes."""

    name: str
    summary: str
    build: Callable[..., None]
    variants: tuple[Variant, ...]
    cpus: range = range(0)

    def scaled(self, chosen: Variant, cpus: int) -> Variant:
        """Return a variant with another number of vCPUs.

        Raises:
            UsageError: the scenario does not take so many.
        """
        if cpus in self.cpus:
            return Variant(chosen.name, chosen.expected, (*chosen.knobs, ("cpus", cpus)))
        if not self.cpus:
            msg = f"scenario {self.name} has a fixed number of vCPUs"
        else:
            most = f"{self.cpus.start} to {self.cpus.stop - 1}"
            msg = f"scenario {self.name} takes {most} vCPUs, not {cpus}"
        raise UsageError(msg)

    def system(self, chosen: Variant, *, evictor: bool = False) -> System:
        """Build the system of a variant, with its evictors or without.

        Raises:
            ModelError: as for `systems`.
        """
        without, evicted = self.systems(chosen)
        return evicted or without if evictor else without

    def systems(self, chosen: Variant) -> tuple[System, System | None]:
        """Build the system of a variant, and the same with its evictors if it has any.

        What both have in common are the same objects.

        Raises:
            ModelError: the scenario's function raised, or its programs break a rule.
        """
        setup = Setup()
        self.build(setup, **dict(chosen.knobs))
        return setup.system(), setup.system(evictor=True) if setup.has_evictors else None

    def variant(self, name: str) -> Variant:
        """Return a variant by name.

        Raises:
            UsageError: there is none.
        """
        for candidate in self.variants:
            if candidate.name == name:
                return candidate
        known = ", ".join(v.name for v in self.variants)
        msg = f"scenario {self.name} has no variant {name!r}; it has {known}"
        raise UsageError(msg)


def scenario(
    *variants: Variant, cpus: range = range(0)
) -> Callable[[Callable[..., None]], Scenario]:
    """Make a scenario of a function; without variants it has one, called `default`.

    The function gets a `Setup` and the knobs of the variant as keyword arguments.
    One that takes other numbers of `cpus` has a keyword argument of that name, with a default; what
    its variants expect is of every number.

    Raises:
        ModelError: two variants have one name.
    """

    def make(build: Callable[..., None]) -> Scenario:
        names = [v.name for v in variants]
        if len(set(names)) != len(names):
            msg = f"scenario {build.__name__} has two variants of one name"
            raise ModelError(msg)
        summary = (inspect.getdoc(build) or "").split("\n")[0]
        return Scenario(build.__name__, summary, build, variants or (variant("default"),), cpus)

    return make
