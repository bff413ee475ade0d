"""Fields in lanes: nothing overlaps, and repacking loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpmmu.engine.layout import Field, Layout
from tests.engine.programs import hypothetically


def test_a_layout_begins_with_nothing() -> None:
    layout = Layout()
    assert (layout.lanes, layout.fields) == (1, {})


def test_fields_share_lanes_first_fit() -> None:
    layout = Layout()
    for name, bits in (("a", 40), ("b", 30), ("c", 24), ("d", 64), ("e", 34)):
        layout.want(name, bits, 0)
    assert layout.grow() == {}
    assert layout.fields == {
        "a": Field(0, 0, 40),
        "b": Field(1, 0, 30),
        "c": Field(0, 40, 24),
        "d": Field(2, 0, 64),
        "e": Field(1, 30, 34),
    }
    assert layout.lanes == 3


def test_unpacked_fields_have_a_lane_each() -> None:
    layout = Layout(packed=False)
    for name, bits in (("a", 1), ("b", 64), ("c", 3)):
        layout.want(name, bits, 0)
    layout.grow()
    assert layout.fields == {"a": Field(0, 0, 1), "b": Field(1, 0, 64), "c": Field(2, 0, 3)}
    assert layout.lanes == 3


def test_a_wish_takes_effect_when_the_layout_grows() -> None:
    layout = Layout()
    layout.want("a", 2, 0)
    assert layout.fields == {}
    layout.grow()
    before = dict(layout.fields)
    layout.want("a", 4, 0)
    layout.want("a", 3, 0)
    assert layout.fields == before
    assert layout.grow() == before
    assert layout.fields["a"].bits == 4


def test_a_new_field_begins_with_its_initial_value() -> None:
    layout = Layout()
    layout.want("a", 8, 0xA5)
    layout.want("b", 64, (1 << 64) - 2)
    lanes = layout.repack(layout.grow(), np.zeros((1, 3), dtype=np.uint64))
    assert lanes.shape == (2, 3)
    assert lanes[0].tolist() == [0xA5] * 3
    assert lanes[1].tolist() == [(1 << 64) - 2] * 3


@pytest.mark.parametrize("packed", [True, False])
@hypothetically(40)
@given(data=st.data())
def test_repacking_keeps_every_value(packed: bool, data: st.DataObject) -> None:  # noqa: FBT001
    layout, rows = Layout(packed=packed), data.draw(st.integers(0, 3))
    known: dict[str, list[int]] = {}
    lanes = np.zeros((1, rows), dtype=np.uint64)
    for _ in range(data.draw(st.integers(1, 4))):
        wishes = data.draw(
            st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 64), min_size=1)
        )
        for name, bits in wishes.items():
            initial = 0 if name in known else data.draw(st.integers(0, (1 << bits) - 1))
            layout.want(name, bits, initial)
            known.setdefault(name, [initial] * rows)
        lanes = layout.repack(layout.grow(), lanes)
        assert lanes.shape == (layout.lanes, rows)
        for name, field in layout.fields.items():
            assert field.shift + field.bits <= 64
            assert field.mask == (1 << field.bits) - 1
            assert (lanes[field.lane] >> field.shift & field.mask).tolist() == known[name]
        taken = [
            (field.lane, bit)
            for field in layout.fields.values()
            for bit in range(field.shift, field.shift + field.bits)
        ]
        assert len(taken) == len(set(taken))
        name = data.draw(st.sampled_from(sorted(known)))
        field = layout.fields[name]
        known[name] = [data.draw(st.integers(0, field.mask)) for _ in range(rows)]
        lanes[field.lane] &= ~np.uint64(field.mask << field.shift)
        lanes[field.lane] |= np.array(known[name], dtype=np.uint64) << field.shift
