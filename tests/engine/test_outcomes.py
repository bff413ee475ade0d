"""The table of outcomes does what a dictionary does, whatever the hashes and however it grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpmmu.engine import outcomes
from smpmmu.engine.outcomes import Outcome, Outcomes
from tests.engine.programs import hypothetically

if TYPE_CHECKING:
    from smpmmu.engine.steps import Column

LANES, RESTS = 2, 4
TOP = 1 << 63

near = st.builds(lambda high, low: high << 60 | low, st.integers(0, 15), st.integers(0, 3))
hashes = st.one_of(st.sampled_from((0, 1, TOP, 2**64 - 1)), near, st.integers(0, 2**64 - 1))
found = st.builds(
    Outcome,
    after=st.integers(-1, 2**31 - 1),
    keys=st.integers(0, 2**64 - 1),
    deltas=st.lists(st.integers(0, 2**64 - 1), min_size=LANES, max_size=LANES),
    progress=st.booleans(),
    path=st.lists(st.integers(0, RESTS - 1), min_size=1, max_size=4).map(tuple),
    seen=st.just([0] * LANES),
)
puts = st.dictionaries(hashes, found, min_size=1, max_size=12)
forgets = st.sets(st.integers(0, RESTS - 1), max_size=2)


def empty() -> Outcomes:
    masks = np.full((LANES, RESTS), 2**64 - 1, dtype=np.uint64)
    return Outcomes(LANES, masks, np.arange(RESTS, dtype=np.uint64))


def column(values: list[int]) -> Column:
    return np.array(values, dtype=np.uint64)


def insist(table: Outcomes, known: dict[int, Outcome], others: set[int]) -> None:
    """Look up what is known, twice, and what is not, and compare all that is said of it."""
    asked = [*known, *others, *known]
    which, missed = table.find(column(asked))
    assert missed.tolist() == [n for n, each in enumerate(asked) if each not in known]
    assert len(table) == len(known)
    for number, each in zip(which.tolist(), asked, strict=True):
        if each in known:
            said = known[each]
            assert table.after[number] == said.after
            assert table.keys[number] == said.keys
            assert table.progress[number] == said.progress
            assert table.actions[number] == len(said.path) - 1
            assert table.deltas[:, number].tolist() == said.deltas


@pytest.mark.parametrize("first", [2, 256])
@hypothetically(60)
@given(st.lists(st.one_of(puts, forgets), max_size=8), st.sets(hashes, max_size=8))
def test_it_is_a_dictionary(
    first: int, changes: list[dict[int, Outcome] | set[int]], others: set[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcomes, "FIRST", first)
        table, known = empty(), dict[int, Outcome]()
        for change in changes:
            if isinstance(change, dict):
                new = {each: said for each, said in change.items() if each not in known}
                if new:
                    table.put(column([*new]), [*new.values()])
                known |= new
            else:
                table.forget(change)
                known = {h: said for h, said in known.items() if change.isdisjoint(said.path)}
            insist(table, known, others)


def test_hashes_that_want_one_slot_are_all_found_however_many() -> None:
    """They go on from the last slot to the first."""
    table = empty()
    said = {
        2**64 - 1 - n: Outcome(n, n, [n, n], n % 2 == 0, (0, n % RESTS), []) for n in range(700)
    }
    for begin in range(0, 700, 70):
        part = dict([*said.items()][begin : begin + 70])
        table.put(column([*part]), [*part.values()])
    insist(table, said, {0, 1, 5, 2**64 - 701})
    table.forget({1})
    insist(table, {h: s for h, s in said.items() if 1 not in s.path}, {0, 2**64 - 2})


def test_only_bits_that_matter_where_it_rests_make_a_hash() -> None:
    table = empty()
    table.masks[:, 1] = (1, 0)
    rows, at = np.arange(4), np.ones(4, dtype=np.int64)
    alike = table.hashes([column([0, 1, 2, 3]), column([9, 8, 7, 6])], rows, at)
    assert alike[0] == alike[2]
    assert alike[1] == alike[3]
    assert alike[0] != alike[1]
    unlike = table.hashes([column([0] * 4), column([0] * 4)], rows, np.arange(4))
    assert len(set(unlike.tolist())) == 4, "positions have salts"
