"""Checkpoint files: what was written is read, and anything else is refused in one line."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from smpmmu.engine import checkpoint
from smpmmu.engine.answer import Answer
from smpmmu.engine.checkpoint import FORM, read, write
from smpmmu.engine.errors import CheckpointError, UsageError
from smpmmu.engine.growth import Growth
from smpmmu.engine.keeper import Keeper
from smpmmu.engine.local import call
from smpmmu.engine.steps import load, store
from smpmmu.engine.verdict import Exploration, Verdict
from tests.engine.programs import X, Y, main, system

if TYPE_CHECKING:
    from pathlib import Path

    from smpmmu.engine.system import System


async def writer(*, more: bool) -> None:
    await store(X, 1)
    seen = await load(Y)
    if seen and more:
        await store(X, 2)
    await store(Y, 1)


async def late(*, more: bool) -> None:
    await writer(more=False)
    await load(X)
    if more:
        await load(Y)


def pair(fn: Any = writer, *, more: bool = False) -> System:
    return system(main("a", call(fn, more=more)), main("b", call(writer, more=False)))


def keeper(path: Path, told: list[str] | None = None, **how: Any) -> Keeper:
    found = Keeper(path, "1", [].append if told is None else told.append, 0.0)
    found.open(how.get("of", "name/variant"), how.get("live_runs", 20))
    return found


def half(asked: System, **how: Any) -> Answer:
    """Return a question that has been worked on for some blocks."""
    question = Answer(asked, **how)
    for _, _ in zip(range(10), question.work(), strict=False):
        pass
    return question


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "kept"
    keeper(path).save(half(pair()))
    return path


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text


def test_what_is_written_is_read(tmp_path: Path) -> None:
    held = {
        "arrays": [np.arange(5, dtype=np.uint64)[::2], np.zeros((2, 0), np.int64), np.eye(3) > 0],
        "narrow": (np.array([1, 2], dtype=np.uint8), None, -1, 1 << 64, "\0a", 1.5, True),
        "of": Growth((((0, 1 << 64),), ()), (("\0" + "0", 2, 0),), ("x",)),
        "first": (Exploration(Verdict.HOLDS, levels=(1, 2), reached={"quiescence": True}), 20),
    }
    write(tmp_path / "held", held)
    found = read(tmp_path / "held")
    arrays, expected = found.pop("arrays"), held.pop("arrays")
    for array, other in zip(arrays, expected, strict=True):
        assert (array.dtype, array.tolist()) == (other.dtype, other.tolist())
        assert array.flags.writeable
    narrow = found.pop("narrow")
    assert (narrow[0].dtype, narrow[0].tolist()) == (np.uint8, [1, 2])
    assert narrow[1:] == held.pop("narrow")[1:]
    assert found == held
    assert [path.name for path in tmp_path.iterdir()] == ["held"]


def test_what_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot hold function"):
        write(tmp_path / "held", {"code": lambda: 0})
    with pytest.raises(TypeError):
        write(tmp_path / "held", {"x": {1, 2}})


def test_a_file_cut_off_anywhere_is_refused(kept: Path) -> None:
    data = kept.read_bytes()
    assert len(data) > 2_000
    for length in {*range(0, len(data), 97), *range(60), *range(len(data) - 60, len(data))}:
        kept.write_bytes(data[:length])
        assert ("damaged or cut off" if length >= len(FORM) else "expected") in refused(kept)
    kept.write_bytes(data + b"\0")
    assert "damaged" in refused(kept)
    kept.write_bytes(data)
    read(kept)


def test_a_flipped_bit_anywhere_is_refused(kept: Path) -> None:
    data = bytearray(kept.read_bytes())
    for at in {*range(0, len(data), 61), *range(80), *range(len(data) - 40, len(data))}:
        data[at] ^= 1 << at % 8
        kept.write_bytes(data)
        refused(kept)
        data[at] ^= 1 << at % 8
    kept.write_bytes(data)
    read(kept)


@pytest.mark.parametrize("text", ["", "smp", "a letter\n" * 50, "smpmmu schedule 1\n"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "other").write_text(text)
    assert "found no checkpoint" in refused(tmp_path / "other")


def test_another_form_is_refused(kept: Path) -> None:
    kept.write_bytes(kept.read_bytes().replace(b"checkpoint 1\n", b"checkpoint 2\n", 1))
    assert "found another form of checkpoint" in refused(kept)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read"):
        read(tmp_path)


def signed(path: Path, head: object, rest: bytes = b"") -> Path:
    """Write a file with the right checksum."""
    data = FORM + (head if isinstance(head, bytes) else json.dumps(head).encode()) + b"\n" + rest
    path.write_bytes(data + hashlib.sha256(data).digest())
    return path


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"[",
        b"\xff\xfe",
        b"[" * 100_000,
        [],
        {"held": 1},
        {"held": {"record": "system", "of": {"command": "true"}}, "arrays": []},
        {"held": {"record": "Stuck", "of": {"__class__": "x"}}, "arrays": []},
        {"held": {"verdict": "MAYBE"}, "arrays": []},
        {"held": {"array": 0}, "arrays": []},
        {"held": {"array": 0}, "arrays": [["|O", [1]]]},
        {"held": {"array": 0}, "arrays": [["<u8", [1 << 50]]]},
        {"held": {"array": 0}, "arrays": [["<u8", [-1]]]},
        {"held": {"array": 0}, "arrays": [["nonsense", [1]]]},
        {"held": {}, "arrays": []},
    ],
    ids=lambda head: repr(head)[:40],
)
def test_a_forged_file_is_refused(tmp_path: Path, head: object) -> None:
    assert "damaged" in refused(signed(tmp_path / "forged", head, bytes(16)))


def test_a_failed_write_leaves_the_file_before_it(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, told = kept.read_bytes(), list[str]()
    again = keeper(kept, told)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    again.save(half(pair(more=True)))
    assert told == [f"cannot write the checkpoint {kept}: No space left on device"]
    assert kept.read_bytes() == before
    assert [path.name for path in kept.parent.iterdir()] == ["kept"]


def test_a_place_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write the checkpoint .*nowhere"):
        keeper(tmp_path / "nowhere" / "kept")
    keeper(tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"of": "name/other"}, "a checkpoint of name/variant, expected name/other"),
        ({"live_runs": 5}, "a checkpoint with --live-runs 20, expected 5"),
    ],
)
def test_what_is_of_something_else_is_refused(
    kept: Path, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        keeper(kept, **how)


def test_another_version_is_refused(kept: Path) -> None:
    with pytest.raises(CheckpointError, match="by smpmmu 1, expected 2"):
        Keeper(kept, "2", [].append).open("name/variant", 20)


def test_a_file_that_keeps_something_else_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "kept", {"version": "1"})
    with pytest.raises(CheckpointError, match="damaged"):
        keeper(tmp_path / "kept")
    write(
        tmp_path / "kept",
        {"version": "1", "of": ("name/variant", 20), "first": None, "question": {"how": 1}},
    )
    with pytest.raises(CheckpointError):
        keeper(tmp_path / "kept").go_on(Answer(pair()))


def test_changed_code_is_refused(kept: Path) -> None:
    keeper(kept).go_on(Answer(pair()))
    for question in (
        Answer(pair(more=True)),
        Answer(pair(), every=True),
        Answer(pair(), packed=False),
        Answer(pair(), dropped=frozenset({"claim"})),
        Answer(system(main("a", call(writer, more=False)))),
    ):
        with pytest.raises(CheckpointError, match="is not what this checkpoint is of"):
            keeper(kept).go_on(question)


def test_code_that_was_not_reached_may_change(tmp_path: Path) -> None:
    """What was explored is the same then, and the answer is that of the new code."""
    question = Answer(pair(late))
    for _, _ in zip(range(3), question.work(), strict=False):
        pass
    keeper(tmp_path / "kept").save(question)
    changed = Answer(pair(late, more=True))
    keeper(tmp_path / "kept").go_on(changed)
    fresh = Answer(pair(late, more=True))
    for each in (changed, fresh):
        for _ in each.work():
            pass
    assert changed.result is not None
    assert fresh.result is not None
    assert changed.result.levels == fresh.result.levels
    assert changed.result.transitions == fresh.result.transitions


def test_the_user_is_told_where_it_goes_on(kept: Path) -> None:
    told: list[str] = []
    question = Answer(pair())
    keeper(kept, told).go_on(question)
    depth, states = len(question.search.levels) - 1, question.search.states
    assert depth > 2
    assert told == [f"going on from {kept}: depth {depth}, {states} states"]


def test_a_checkpoint_that_takes_long_is_not_written_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = half(pair())
    times = iter([0.0, 1.0, 1.0, 3.0, 40.0, 43.0, 43.0, 43.5])
    monkeypatch.setattr("smpmmu.engine.keeper.time.monotonic", lambda: next(times))
    saver = keeper(tmp_path / "kept")  # at 0
    saver.look(question)  # at 1: written from 1 to 3
    (tmp_path / "kept").unlink()
    saver.look(question)  # at 40: too early by three seconds
    assert not (tmp_path / "kept").exists()
    saver.look(question)  # at 43: written from 43 to 43.5
    assert (tmp_path / "kept").exists()
