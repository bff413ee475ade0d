"""Properties as expressions over words, which evaluate on integers and on columns alike.

`value(word)` begins one; `&`, `|`, `^`, `>>`, `+` and the comparisons build it up, and `~`, `&`,
`|`, `implies` combine truths. Being data, an expression tells which words it reads. This module
must not know how a machine is stored; whoever evaluates passes a reader.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from smpmmu.engine.errors import ModelError
from smpmmu.engine.steps import ALL, Word

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from smpmmu.engine.steps import Column, Mask


class Reader(Protocol):
    """What an expression asks of a machine, or of a matrix of them."""

    def word(self, word: Word) -> int | Column:
        """Return the value of a word: an int, or (states,) uint64."""

    def finished(self, context: str) -> bool | Mask:
        """Return whether a context's program has ended: a bool, or (states,) bool."""


@dataclass(frozen=True, slots=True, eq=False)
class Expr:
    """A number or a truth computed from a machine's words.

    Attributes:
        op: `word`, `const`, `finished`, `not`, or the name of an operator.
        args: sub-expressions, or the operand of a leaf.
        truth: it is a truth rather than a number.
    """

    op: str
    args: tuple[Any, ...]
    truth: bool = False

    def evaluate(self, reader: Reader) -> Any:  # noqa: ANN401  an int, a bool, or a column
        """Return the value on what `reader` reads."""
        if self.op == "word":
            return reader.word(self.args[0])
        if self.op == "const":
            return self.args[0]
        if self.op == "finished":
            return reader.finished(self.args[0])
        values = [arg.evaluate(reader) for arg in self.args]
        if self.op == "not":
            return not values[0] if isinstance(values[0], bool) else ~values[0]
        result = getattr(operator, self.op)(*values)
        return result & ALL if self.op == "add" else result

    def words(self) -> Iterator[Word]:
        """Yield the words that the expression reads."""
        if self.op == "word":
            yield self.args[0]
        for arg in self.args:
            if isinstance(arg, Expr):
                yield from arg.words()

    def contexts(self) -> Iterator[str]:
        """Yield the contexts whose end the expression reads."""
        if self.op == "finished":
            yield self.args[0]
        for arg in self.args:
            if isinstance(arg, Expr):
                yield from arg.contexts()

    def __bool__(self) -> bool:
        msg = (
            "a property is an expression, not a value: combine truths with & | ~ and implies(), "
            "in parentheses, not with and, or, not, if"
        )
        raise ModelError(msg)

    __hash__ = None  # type: ignore[assignment]  # equality builds an expression

    def __and__(self, other: Expr | int) -> Expr:
        return _combine("and_", self, other)

    def __or__(self, other: Expr | int) -> Expr:
        return _combine("or_", self, other)

    def __xor__(self, other: Expr | int) -> Expr:
        return _combine("xor", self, other)

    def __invert__(self) -> Expr:
        if not self.truth:
            msg = "~ negates a truth; of a number, mask the bits you mean and compare"
            raise ModelError(msg)
        return Expr("not", (self,), truth=True)

    def __rshift__(self, bits: int) -> Expr:
        return _arithmetic("rshift", self, bits)

    def __add__(self, other: Expr | int) -> Expr:
        return _arithmetic("add", self, other)

    def __eq__(self, other: object) -> Expr:  # type: ignore[override]
        return _compare("eq", self, other)

    def __ne__(self, other: object) -> Expr:  # type: ignore[override]
        return _compare("ne", self, other)

    def __lt__(self, other: Expr | int) -> Expr:
        return _compare("lt", self, other)

    def __le__(self, other: Expr | int) -> Expr:
        return _compare("le", self, other)

    def __gt__(self, other: Expr | int) -> Expr:
        return _compare("gt", self, other)

    def __ge__(self, other: Expr | int) -> Expr:
        return _compare("ge", self, other)


def _number(value: object) -> Expr:
    if isinstance(value, Expr):
        return value
    if isinstance(value, int) and 0 <= value <= ALL:
        return Expr("const", (value,), truth=isinstance(value, bool))
    msg = f"a property compares words with integers of 0 to 2^64 - 1, not with {value!r}"
    raise ModelError(msg)


def _combine(op: str, left: Expr, right: Expr | int) -> Expr:
    other = _number(right)
    if left.truth != other.truth:
        msg = f"{op.strip('_')!r} mixes a number and a truth: compare the number first"
        raise ModelError(msg)
    return Expr(op, (left, other), truth=left.truth)


def _arithmetic(op: str, left: Expr, right: Expr | int) -> Expr:
    other = _number(right)
    if left.truth or other.truth:
        msg = f"{op!r} is for numbers; a truth cannot be counted"
        raise ModelError(msg)
    return Expr(op, (left, other))


def _compare(op: str, left: Expr, right: object) -> Expr:
    return Expr(op, (left, _number(right)), truth=True)


def value(word: Word) -> Expr:
    """Return the expression that reads `word`, an unsigned number of its width.

    Build it up with `& | ^ >> +` and comparisons, and truths with `& | ~`, in parentheses.

    Raises:
        ModelError: where it is used as if it had a value already, with `and`, `or`, `not`, `if`.
    """
    return Expr("word", (word,))


def finished(context: str) -> Expr:
    """Return the truth that the program of a context, such as "cpu0", has ended."""
    return Expr("finished", (context,), truth=True)


def implies(condition: Expr, consequence: Expr) -> Expr:
    """Return the truth that `consequence` holds wherever `condition` does."""
    return ~condition | consequence


def _fold(combine: Callable[[Expr, Expr], Expr], terms: tuple[Expr, ...], empty: bool) -> Expr:  # noqa: FBT001
    result = Expr("const", (empty,), truth=True)
    for number, term in enumerate(terms):
        result = combine(result, term) if number else term
    return result


def all_of(*terms: Expr) -> Expr:
    """Return the truth that every term holds."""
    return _fold(operator.and_, terms, empty=True)


def any_of(*terms: Expr) -> Expr:
    """Return the truth that some term holds."""
    return _fold(operator.or_, terms, empty=False)
