"""Counter-based numbers: the published generator, and values that may never change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpmmu.engine.numbers import (
    M64,
    key_table,
    mix64,
    mix64_column,
    named_stream,
    number,
    pick,
    pick_column,
    seed_stream,
)
from tests.engine.programs import hypothetically

words = st.integers(0, M64)

SEED_0 = [1, 2, 1, 1, 2, 0, 2, 0, 1, 1, 1, 0, 0, 1, 1, 1]
SEED_1 = [1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 1, 0, 2]
STREAMS = (16294208416658607535, 538020821241227815)
NAMED = 10512543193991115328
KEYS = [16987969650003870716, 289553339629024054, 2291518031596340029]


def test_splitmix64_gives_the_published_numbers() -> None:
    assert [number(1234567, index) for index in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@hypothetically(100)
@given(st.lists(words, min_size=1, max_size=8))
def test_one_number_and_a_column_of_them_are_the_same(values: list[int]) -> None:
    column = mix64_column(np.array(values, dtype=np.uint64))
    assert column.tolist() == [mix64(v) for v in values]


@hypothetically(200)
@given(words, st.integers(0, 1 << 20), st.integers(1, 300))
def test_a_pick_is_one_of_the_agents(stream: int, index: int, among: int) -> None:
    assert 0 <= pick(stream, index, among) < among


@hypothetically(100)
@given(st.lists(st.tuples(words, st.integers(1, 9)), min_size=1, max_size=8), st.integers(0, 9999))
def test_picks_of_many_runs_are_those_of_each(runs: list[tuple[int, int]], index: int) -> None:
    streams = np.array([stream for stream, _ in runs], dtype=np.uint64)
    among = np.array([count for _, count in runs], dtype=np.uint64)
    expected = [pick(stream, index, count) for stream, count in runs]
    assert pick_column(streams, index, among).tolist() == expected


def test_picks_are_even_enough() -> None:
    counts = np.bincount([pick(seed_stream(1), index, 3) for index in range(30_000)], minlength=3)
    # Three standard deviations of a fair choice among three are 245.
    assert abs(counts - 10_000).max() < 245


def test_seeds_decide_the_same_for_ever() -> None:
    assert [pick(seed_stream(0), index, 3) for index in range(16)] == SEED_0
    assert [pick(seed_stream(1), index, 3) for index in range(16)] == SEED_1
    assert (seed_stream(0), seed_stream(1)) == STREAMS
    assert seed_stream(-1) == seed_stream(M64)


def test_keys_are_the_same_for_ever() -> None:
    assert named_stream("pte[0]") == NAMED
    assert key_table("pte[0]", 3).tolist() == KEYS
    assert key_table("pte[0]", 3).tolist() == [number(NAMED, index) for index in range(3)]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_longer_table_begins_with_the_shorter(size: int) -> None:
    assert key_table("x", 200)[:size].tolist() == key_table("x", size).tolist()
    assert len(set(key_table("x", 200).tolist()) | set(key_table("y", 200).tolist())) == 400
