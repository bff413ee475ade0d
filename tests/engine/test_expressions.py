"""Properties as expressions: the same on an integer machine and on columns of them."""

from __future__ import annotations

from operator import add, and_, eq, ge, gt, le, lt, ne, or_, xor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpmmu.engine.answer import answer
from smpmmu.engine.errors import ModelError
from smpmmu.engine.expressions import Expr, all_of, any_of, finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import ALL, Word, load
from smpmmu.engine.system import Property, always
from smpmmu.engine.verdict import Verdict
from tests.engine.programs import hypothetically, main, steps, system

if TYPE_CHECKING:
    from collections.abc import Callable

A, B, NEVER = Word("a", 64), Word("b", 64), Word("never", 8, 7)

Machine = dict[str, int]


class Integers:
    """One machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def word(self, word: Word) -> int:
        return self.machine.get(word.name, word.initial)

    def finished(self, context: str) -> bool:
        return bool(self.machine[context])


class Columns:
    """Many machines; a word that nothing wrote is an integer even so."""

    def __init__(self, machines: list[Machine]) -> None:
        self.machines = machines

    def word(self, word: Word) -> object:
        if word is NEVER:
            return word.initial
        return np.array([m[word.name] for m in self.machines], dtype=np.uint64)

    def finished(self, context: str) -> object:
        return np.array([bool(m[context]) for m in self.machines])


def compared(relation: Callable[[Expr, Expr | int], Expr], left: Expr, right: Expr | int) -> Expr:
    return relation(left, right)


small = st.integers(0, 3)
wide = st.one_of(small, st.integers(0, ALL))
numbers = st.recursive(
    st.sampled_from((value(A), value(B), value(NEVER))),
    lambda inner: st.one_of(
        st.builds(compared, st.sampled_from((and_, or_, xor, add)), inner, st.one_of(inner, wide)),
        st.builds(lambda e, bits: e >> bits, inner, st.integers(0, 70)),
    ),
    max_leaves=4,
)
comparisons = st.builds(
    compared, st.sampled_from((eq, ne, lt, le, gt, ge)), numbers, st.one_of(numbers, wide)
)
truths = st.recursive(
    st.one_of(comparisons, st.just(finished("cpu0"))),
    lambda inner: st.one_of(
        st.builds(compared, st.sampled_from((and_, or_, xor, eq, ne)), inner, inner),
        st.builds(lambda e: ~e, inner),
        st.builds(implies, inner, inner),
        st.builds(lambda e, known: e & known, inner, st.booleans()),
        st.lists(inner, max_size=2).map(lambda es: all_of(*es)),
        st.lists(inner, max_size=2).map(lambda es: any_of(*es)),
    ),
    max_leaves=5,
)
machines = st.fixed_dictionaries({"a": wide, "b": wide, "cpu0": st.integers(0, 1)})


@hypothetically(200)
@given(st.one_of(truths, numbers), st.lists(machines, min_size=1, max_size=5))
def test_integers_and_columns_agree(expression: Expr, rows: list[Machine]) -> None:
    column = expression.evaluate(Columns(rows))
    expected = [expression.evaluate(Integers(row)) for row in rows]
    assert np.broadcast_to(np.asarray(column), len(rows)).tolist() == expected
    assert all(isinstance(e, bool) == expression.truth for e in expected)


def test_operators_mean_what_python_means() -> None:
    at = Integers({"a": 6, "b": 3, "cpu0": 1})
    a, b = value(A), value(B)
    for expression, expected in [
        (a & 3, 2),
        (a | b, 7),
        (a ^ b, 5),
        (a >> 1, 3),
        (a + b, 9),
        (a + ALL, 5),
        (a == 6, True),
        (a != 6, False),
        (a < b, False),
        (a <= 6, True),
        (a > b, True),
        (b >= 4, False),
        (~(a == 6), False),
        ((a == 6) & (b == 3), True),
        ((a == 0) | (b == 0), False),
        ((a == 6) ^ (b == 3), False),
        (finished("cpu0"), True),
        (value(NEVER), 7),
    ]:
        assert expression.evaluate(at) == expected
        assert type(expression.evaluate(at)) is type(expected)


@pytest.mark.parametrize("condition", [0, 1])
@pytest.mark.parametrize("consequence", [0, 1])
def test_implies_fails_only_where_the_consequence_does(condition: int, consequence: int) -> None:
    truth = implies(value(A) == 1, value(B) == 1)
    at = Integers({"a": condition, "b": consequence})
    assert truth.evaluate(at) == (not condition or bool(consequence))


def test_all_and_any_of_nothing() -> None:
    at = Integers({})
    assert all_of().evaluate(at) is True
    assert any_of().evaluate(at) is False
    assert all_of().truth
    assert any_of().truth


def test_an_expression_tells_which_words_it_reads() -> None:
    truth = implies(value(A) & 1 == 1, all_of(value(B) != 0, finished("cpu0")))
    assert [word.name for word in truth.words()] == ["a", "b"]
    assert list(finished("cpu0").words()) == []


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: bool(value(A) == 1), "not with and, or, not, if"),
        (lambda: value(A) == 1 and value(B) == 1, "not with and, or, not, if"),
        (lambda: not value(A), "not with and, or, not, if"),
        (lambda: 0 < value(A) < 3, "not with and, or, not, if"),
        (lambda: ~value(A), "~ negates a truth"),
        (lambda: value(A) & (value(B) == 1), "mixes a number and a truth"),
        (lambda: (value(A) == 1) | 1, "mixes a number and a truth"),
        (lambda: (value(A) == 1) ^ value(B), "mixes a number and a truth"),
        (lambda: value(A) & True, "mixes a number and a truth"),
        (lambda: (value(A) == 1) + (value(B) == 1), "a truth cannot be counted"),
        (lambda: value(A) + (value(B) == 1), "a truth cannot be counted"),
        (lambda: (value(A) == 1) >> 1, "a truth cannot be counted"),
        (lambda: value(A) == -1, "integers of 0 to 2\\^64 - 1, not with -1"),
        (lambda: value(A) < ALL + 1, "integers of 0 to 2\\^64 - 1"),
        (lambda: value(A) == "one", "not with 'one'"),
        (lambda: value(A) + 1.5, "not with 1.5"),
        (lambda: value(A) == A, "not with Word"),
        (lambda: Property("p", value(A)), "property 'p' is not a truth"),
        (lambda: Property("p", True), "property 'p' was decided by Python, to be True"),  # noqa: FBT003
    ],
)
def test_what_is_no_property_is_refused(build: Callable[[], object], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        build()


def test_expressions_cannot_be_looked_up_by_equality() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        {value(A): 1}


def test_a_property_that_reads_nothing_is_judged_even_so() -> None:
    program = main("cpu0", call(steps, load(A)))
    assert answer(system(program, holds=(always("true", all_of()),))).verdict is Verdict.HOLDS
    found = answer(system(program, holds=(always("false", any_of()),)))
    assert [v.name for v in found.violations] == ["false"]
    assert found.violations[0].choices == ()


def test_finished_refuses_a_context_that_is_not_there() -> None:
    program = main("cpu0", call(steps, load(A)))
    with pytest.raises(ModelError, match="cpu1"):
        answer(system(program, holds=(always("ends", finished("cpu1")),)))


def test_finished_refuses_the_name_of_a_property() -> None:
    program = main("cpu0", call(steps, load(A)))
    holds = (always("small", value(A) == 0), always("ends", finished("small")))
    with pytest.raises(ModelError, match="reads the end of 'small', no context"):
        answer(system(program, holds=holds))
