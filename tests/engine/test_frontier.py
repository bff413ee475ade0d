"""Blocks of a frontier come back as they were put, from memory or from the disk."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from smpmmu.engine import frontier
from smpmmu.engine.answer import answer
from smpmmu.engine.errors import UsageError
from smpmmu.engine.frontier import Frontier, Level, Room, joined
from smpmmu.engine.layout import Layout
from smpmmu.engine.verdict import Budget, Verdict
from smpmmu.targets import one

if TYPE_CHECKING:
    from pathlib import Path


def some(begin: int, count: int, lanes: int = 2) -> Frontier:
    ids = np.arange(begin, begin + count)
    fps = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return Frontier(np.stack([fps ^ np.uint64(lane) for lane in range(lanes)]), fps, ids)


def same(one_way: Frontier, other: Frontier) -> bool:
    pairs = zip((one_way.lanes, one_way.fps, one_way.ids), (other.lanes, other.fps, other.ids),
                strict=True)  # fmt: skip
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("most", [None, 0, 2_000])
@pytest.mark.parametrize("rows", [1, 2, 7, 64, 1 << 17])
def test_blocks_come_back_in_order(
    most: int | None, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontier, "ROWS", rows)
    layout = Layout()
    layout.lanes = 2
    room = Room(most)
    level = Level(layout, room)
    begin = 0
    for size in (1, 3, 0, 40, 5, 100, 1):
        level.put(some(begin, size))
        begin += size
    level.close()
    level.close()
    blocks = [level.block(number) for number in range(len(level))]
    assert same(joined(blocks), some(0, 150))
    assert max(len(block) for block in blocks) < max(2, 1.5 * rows)
    assert np.concatenate(level.fps()).tolist() == some(0, 150).fps.tolist()
    assert (level.spilled > 0) == (most is not None)
    assert most is None or room.held <= most
    level.drop(0)
    left = level.closed()
    assert len(left) == len(level) - 1
    assert not left or same(joined(left), some(len(blocks[0]), 150 - len(blocks[0])))
    level.end()
    assert room.held == 0


@pytest.mark.parametrize("most", [None, 0])
def test_a_block_is_laid_out_as_of_now(most: int | None) -> None:
    layout = Layout()
    layout.want("a", 8, 3)
    before = layout.grow()
    level = Level(layout, Room(most))
    first = layout.repack(before, np.zeros((1, 4), dtype=np.uint64))
    level.put(Frontier(first, np.arange(4, dtype=np.uint64), np.arange(4)))
    level.close()
    level.put(Frontier(first, np.arange(4, dtype=np.uint64), np.arange(4)))
    layout.want("b", 64, 5)
    before = layout.grow()
    wide = layout.repack(before, first)
    level.put(Frontier(wide, np.arange(4, dtype=np.uint64), np.arange(4)))
    level.close()
    assert [level.block(number).lanes.tolist() for number in (0, 1)] == [
        [[3] * 4, [5] * 4], [[3] * 8, [5] * 8]
    ]  # fmt: skip


def test_a_disk_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    level = Level(Layout(), Room(0))
    level.put(some(0, 3, 1))
    with pytest.raises(UsageError, match=r"none cannot take it: No such file .* set TMPDIR"):
        level.close()


def test_a_search_with_its_frontier_on_the_disk_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(frontier, "ROWS", 64)
    asked = one("reliant_flusher/deferred_after_unlock").system()
    inside, outside = answer(asked), answer(asked, Budget(frontier=0))
    assert inside.verdict is Verdict.VIOLATED
    assert outside.violations == inside.violations
    assert outside.levels == inside.levels
    assert not list(tmp_path.iterdir())
