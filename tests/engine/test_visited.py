"""Removing duplicates among fingerprints, against Python's own sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpmmu.engine import visited
from smpmmu.engine.errors import InternalError
from smpmmu.engine.visited import Fingerprints, first_of_each
from tests.engine.programs import hypothetically

M64 = (1 << 64) - 1

clashing = st.builds(
    lambda high, low: high << 8 | low, st.sampled_from((1, 2, 1 << 55)), st.integers(0, 255)
)
"""Fingerprints of which many differ in their low bits only."""
wrapping = st.integers(M64 - 40, M64)
"""Fingerprints that all belong into the last slot of any table."""
anything = st.integers(1, M64)
columns = st.one_of(
    st.lists(st.one_of(clashing, anything), max_size=60),
    st.lists(clashing, max_size=60),
    st.lists(wrapping, max_size=60),
    st.lists(st.sampled_from((1, 2, 3, M64)), max_size=20),
)


def column(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


@hypothetically(100)
@given(columns)
def test_the_first_of_each_is_found(values: list[int]) -> None:
    order, distinct = first_of_each(column(values))
    assert distinct.tolist() == sorted(set(values))
    assert order.tolist() == [values.index(v) for v in sorted(set(values))]


def test_fingerprints_that_agree_but_for_the_bits_of_the_index_are_told_apart() -> None:
    # Ten values: the index rides in the low 4 bits, in which alone 0x31, 0x32 and 0x33 differ.
    values = [0x33, 0x31, 0x32, 0x31, 0x33, 0x77, 0x32, 0x31, 0x77, 0x32]
    order, distinct = first_of_each(column(values))
    assert distinct.tolist() == [0x31, 0x32, 0x33, 0x77]
    assert order.tolist() == [1, 2, 0, 5]


@hypothetically(100)
@given(st.lists(columns, max_size=6), st.integers(1, 64))
def test_the_table_is_a_set(batches: list[list[int]], slots: int) -> None:
    table, known = Fingerprints(slots), set()
    for batch in batches:
        distinct = sorted(set(batch))
        new = table.add(column(distinct))
        assert new.tolist() == [v not in known for v in distinct]
        known |= set(distinct)
        assert len(table) == len(known)
    everything = column(sorted(known))
    assert not table.add(everything).any()
    assert len(table) == len(known)


def test_probing_goes_round_the_end_of_the_table() -> None:
    table = Fingerprints(16)
    # The high halves put all of them into slot 15 of 16; three of the four go round to 0, 1, 2.
    values = column([M64 - 3, M64 - 2, M64 - 1, M64])
    assert table.add(values).all()
    assert table.nbytes == 16 * 8
    assert not table.add(values).any()
    assert table.add(column([M64 - 4])).all()
    assert len(table) == 5


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_a_growing_table_forgets_nothing(batch: int) -> None:
    values = np.random.default_rng(1).integers(1, M64, 5000, dtype=np.uint64)
    table = Fingerprints(4)
    for begin in range(0, values.size, batch):
        assert table.add(np.sort(values[begin : begin + batch])).all()
    assert len(table) == 5000
    assert not table.add(np.sort(values)).any()
    assert table.nbytes >= 5000 * 8


@pytest.mark.parametrize("at_once", [3, 500, 1 << 16])
def test_a_divided_table_forgets_nothing(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(visited, "DIVIDE_AT", 300)
    monkeypatch.setattr(visited, "AT_ONCE", at_once)
    monkeypatch.setattr(visited, "ONE_BY_ONE", 2)
    table, known = Fingerprints(4), set()
    numbers = np.random.default_rng(2)
    for _ in range(40):
        # Half of them begin with the same 44 bits, so that one of the tables is crowded.
        values = numbers.integers(0, M64, 100, dtype=np.uint64)
        values[::2] = values[::2] & np.uint64(0xFFFFF) | np.uint64(0xC << 60)
        values = np.unique(values)
        assert table.add(values).tolist() == [v not in known for v in values.tolist()]
        known |= set(values.tolist())
        assert len(table) == len(known)
    assert not table.add(column(sorted(known))).any()


def test_zero_is_a_fingerprint_too() -> None:
    table = Fingerprints(4)
    assert table.add(column([0, 1, 1 << 63])).tolist() == [True, True, True]
    assert table.add(column([0, 1 << 63])).tolist() == [False, False]
    assert len(table) == 3


@pytest.mark.parametrize("values", [[2, 1], [1, 1]])
def test_what_does_not_rise_is_refused(values: list[int]) -> None:
    with pytest.raises(InternalError, match="distinct and sorted"):
        Fingerprints().add(column(values))


def test_the_empty_column_is_in_order() -> None:
    order, distinct = first_of_each(column([]))
    assert (order.size, distinct.size) == (0, 0)
    assert Fingerprints().add(distinct).size == 0
