"""What becomes of values, steps and properties when interchangeable things are exchanged.

A word may be named after what is exchanged (then another word stands for it), and its values may
name it: by a bit, as a mask of vCPUs does, or whole, as the owner in a lock does. All is compared
exactly: by masks, or for every value of a narrow word. This module must not know about machines or
positions; `engine/symmetry.py` puts permutations together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from smpmmu.engine.steps import ALL, TAKEN, enabled, taken, updated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smpmmu.engine.expressions import Expr
    from smpmmu.engine.steps import Column, Step, Wait, When, Word

NARROW = 12
"""Bits of a word up to which a step is compared for every value."""


class Refused(Exception):
    """What was declared to be interchangeable is not, or cannot be shown to be; says why."""


@dataclass(frozen=True, slots=True)
class Change:
    """A permutation of the values of a word.

    Attributes:
        moved: (from, to) of every bit that moves, or of every value that becomes another one.
        whole: values, not bits.
    """

    moved: tuple[tuple[int, int], ...] = ()
    whole: bool = False

    def of(self, value: int) -> int:
        """Return what becomes of one value, or of a mask of bits."""
        if self.whole:
            return dict(self.moved).get(value, value)
        changed = value
        for from_, _ in self.moved:
            changed &= ~(1 << from_)
        for from_, to in self.moved:
            changed |= (value >> from_ & 1) << to
        return changed

    def column(self, values: Column) -> Column:
        """Return what becomes of (n,) values."""
        changed: Column = values.copy()
        if self.whole:
            for from_, to in self.moved:
                changed[values == from_] = to
            return changed
        changed &= np.uint64(ALL & ~sum(1 << from_ for from_, _ in self.moved))
        for from_, to in self.moved:
            changed |= (values >> np.uint64(from_) & np.uint64(1)) << np.uint64(to)
        return changed

    def then(self, after: Change) -> Change:
        """Return this permutation followed by another one of the same kind."""
        first, second = dict(self.moved), dict(after.moved)
        pairs = []
        for item in sorted(first.keys() | second.keys()):
            to = first.get(item, item)
            to = second.get(to, to)
            if to != item:
                pairs.append((item, to))
        return Change(tuple(pairs), self.whole or after.whole) if pairs else SAME


SAME = Change()


# Steps.


def alike(step: Step, other: Step, change: Change) -> bool:
    """Whether `other` does to changed values what `step` does to values."""
    if (step.irqs, step.lock, step.word is None) != (other.irqs, other.lock, other.word is None):
        return False
    word = step.word
    if word is None:
        return True
    if change.whole:
        return all(_do_alike(step, other, change, value) for value in range(1 << word.width))
    if change.moved and (step.add or other.add):
        return False
    mine = (
        _guard(step.wait, change), _guard(step.when, change), change.of(step.and_mask & word.mask),
        change.of(step.xor_mask), step.add, change.of(step.returns),
    )  # fmt: skip
    theirs = (
        _guard(other.wait, SAME), _guard(other.when, SAME), other.and_mask & word.mask,
        other.xor_mask, other.add, other.returns,
    )  # fmt: skip
    return mine == theirs


def answer_of(step: Step, other: Step, change: Change, result: int) -> int:
    """Return the result of `other` on the changed value, where `step` gives `result`.

    Raises:
        Refused: that depends on what `step` does not return.
    """
    if not change.whole or step.word is None:
        return change.of(result & ALL) | result & TAKEN
    found = {
        _effect(other, change.of(value))[1]
        for value in range(1 << step.word.width)
        if _effect(step, value)[:2] == (True, result)
    }
    if len(found) != 1:
        msg = f"what {step.label!r} reads does not say which value {step.word.name} has"
        raise Refused(msg)
    return found.pop()


def _do_alike(step: Step, other: Step, change: Change, value: int) -> bool:
    assert step.word is not None
    able, _, new = _effect(step, value)
    partner_able, _, partner_new = _effect(other, change.of(value))
    most = step.word.mask
    if new > most or partner_new > most:
        return able is partner_able and new > most and partner_new > most
    return able is partner_able and change.of(new) == partner_new


def _guard(guard: Wait | When | None, change: Change) -> tuple[object, ...]:
    if guard is None:
        return ()
    return (change.of(guard.mask), change.of(guard.value), getattr(guard, "equal", True))


def _effect(step: Step, value: int) -> tuple[bool, int, int]:
    """Return whether a step can be taken at a value, its result, and the new value."""
    if step.wait is not None and not enabled(step, value):
        return False, 0, value
    result, new = value & step.returns, value
    if step.when is None or taken(step, value):
        result |= 0 if step.when is None else TAKEN
        new = updated(step, value)
    return True, result, new


# Properties.

COMMUTE = ("and_", "or_", "xor", "add", "eq", "ne")
FLAT = ("and_", "or_", "xor", "add")
TURNED = {"gt": "lt", "ge": "le"}


class Renames(Protocol):
    """Says what stands for what, after an exchange."""

    def word(self, word: Word) -> tuple[Word, Change] | None:
        """Return what stands for a word; None for one that nobody has touched."""

    def context(self, name: str) -> str:
        """Return what stands for a context."""


class Itself:
    """Everything stands for itself; but words that nobody has touched are still constants."""

    def __init__(self, renames: Renames) -> None:
        """Take from `renames` which words nobody has touched."""
        self._renames = renames

    def word(self, word: Word) -> tuple[Word, Change] | None:
        """Return the word."""
        return (word, SAME) if self._renames.word(word) is not None else None

    def context(self, name: str) -> str:
        """Return the name."""
        return name


def form(truth: Expr, renames: Renames) -> object:
    """Return a truth after an exchange, such that equal forms mean the same.

    Raises:
        Refused: it computes with values in a way that the exchange does not keep.
    """
    if truth.op == "finished":
        return ("finished", renames.context(truth.args[0]))
    if truth.op == "const":
        return ("const", truth.args[0])
    if truth.op == "not":
        return ("not", form(truth.args[0], renames))
    if all(arg.truth for arg in truth.args):
        return _ordered(truth.op, [form(arg, renames) for arg in truth.args])
    change = _change(truth, renames)
    if change.moved and truth.op not in ("eq", "ne"):
        msg = f"a property orders values of {_names(truth)}, which the exchange changes"
        raise Refused(msg)
    return _ordered(truth.op, [_number(arg, change, renames) for arg in truth.args])


def _number(number: Expr, change: Change, renames: Renames) -> object:
    if number.op == "const":
        return ("const", change.of(number.args[0]))
    if number.op == "word":
        found = renames.word(number.args[0])
        if found is None:
            return ("const", change.of(number.args[0].initial))
        return ("word", found[0].name)
    if change.moved and (change.whole or number.op not in ("and_", "or_", "xor")):
        msg = f"a property computes with {_names(number)}, whose values the exchange changes"
        raise Refused(msg)
    return _ordered(number.op, [_number(arg, change, renames) for arg in number.args])


def _change(comparison: Expr, renames: Renames) -> Change:
    """Return how the values of all words of a comparison change.

    Raises:
        Refused: not all alike.
    """
    found = {renamed[1] for word in comparison.words() if (renamed := renames.word(word))}
    if len(found) > 1:
        msg = f"a property compares {_names(comparison)}, whose values change differently"
        raise Refused(msg)
    return found.pop() if found else SAME


def _ordered(op: str, parts: list[object]) -> object:
    if op in TURNED:
        op, parts = TURNED[op], parts[::-1]
    if op in FLAT:
        flat: list[object] = []
        for part in parts:
            flat += part[1:] if isinstance(part, tuple) and part[0] == op else [part]
        parts = flat
    return (op, *(sorted(parts, key=repr) if op in COMMUTE else parts))


def _names(expression: Expr) -> str:
    names: Iterator[str] = (word.name for word in expression.words())
    return ", ".join(dict.fromkeys(names))
