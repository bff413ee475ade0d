"""Stepping by hand: by commands from a pipe, in a session, and on a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from smpmmu.stepping import Session
from tests.shell import DEFECT, ROOT, SMPMMU, Shell, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXAMPLE = f"{ROOT / 'docs' / 'example.py'}:move_page/not_waiting"
FILE = ROOT / "schedules" / "reliant_flusher.deferred_after_unlock.schedule"


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session(EXAMPLE)
    yield made
    made.close()


def piped(*arguments: str, typed: bytes) -> tuple[int, str, str]:
    """Run `step` with commands from a pipe."""
    command = [*SMPMMU, "step", *arguments]
    done = subprocess.run(command, input=typed, capture_output=True, env=environment(), check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_it_begins_with_who_can_move(session: Session) -> None:
    assert session.greet()[1:] == [
        "at the beginning",
        "   1  cpu0  lock ptl",
        "   2  cpu1  load pte",
        "   3  cpu2  load pte",
    ]


def test_a_race_by_hand(session: Session) -> None:
    assert session.answer("cpu1")[:2] == ["1. cpu1: load pte -> 1", "after step 1"]
    for _ in range(4):
        told = session.answer("1")
    assert told[:3] == [
        "5. cpu0: store freed = 1",
        "     freed: 0 -> 1",
        "     the old frame was freed: not here -> true here",
    ]
    told = session.answer("cpu1")
    assert told[:3] == [
        "6. cpu1: load freed -> 1",
        "     nobody_touches_a_freed_frame: - -> VIOLATED",
        "after step 6: VIOLATED nobody_touches_a_freed_frame",
    ]
    assert session.answer("show pte") == ["  pte = 2"]
    assert session.answer("show") == ["  freed = 1", "  ipi = 6", "  pte = 2", "  ptl = 1"]
    assert "  nobody_touches_a_freed_frame: VIOLATED" in session.answer("props")


def test_back_and_forward(session: Session) -> None:
    for word in ("cpu1", "cpu0", "cpu0", "cpu0", "cpu0", "cpu1"):
        session.answer(word)
    story = session.answer("story")
    assert "after step 4, 2 more known" in session.answer("b 2")
    assert session.answer("show freed") == ["  freed = 0"]
    assert session.answer("")[1].startswith(" * 1  cpu0")  # what is known to come next
    session.answer("f 2")
    assert session.answer("story") == story
    session.answer("go 0")
    assert session.answer("next")[0] == "5. cpu0: store freed = 1"
    assert session.answer("next nobody_touches_a_freed_frame")[0] == "6. cpu1: load freed -> 1"
    assert session.answer("prev the old frame was freed")[0] == "5. cpu0: store freed = 1"
    assert session.answer("prev") == ["no change of any property before step 5 among the known"]
    session.answer("go 1")
    session.answer("cpu2")  # another way: what was known after it is forgotten
    assert session.answer("f") == ["error: there is no step 3; 2 are known, and this is 2"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("jump", "'jump' is neither a command nor an agent that can move; try help"),
        ("7", "'7' is neither a command nor an agent that can move"),
        ("cpu1.irq.invalidate", "'cpu1.irq.invalidate' is neither"),
        ("b", "there is no step -1; 0 are known, and this is 0"),
        ("go x", "expected a number of steps, found 'x'"),
        ("go", "expected a number of steps, found 'nothing'"),
        ("next what", "there is no property 'what' among the known steps; there are: the old"),
        ("save", "save needs a FILE"),
        ("save it.schedule", "there is no step to save yet"),
    ],
)
def test_what_cannot_be_done_is_told(line: str, message: str, session: Session) -> None:
    (told,) = session.answer(line)
    assert told.startswith(f"error: {message}")
    assert session.answer("")[0] == "at the beginning"


def test_what_is_saved_replays(session: Session, shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "it.schedule"
    for word in ("cpu1", "cpu0", "cpu0", "cpu0"):
        session.answer(word)
    assert session.answer(f"save {file}") == [f"{file}: expect UNDECIDED"]
    assert shell("replay", str(file)).status == 0
    session.answer("cpu0")
    session.answer("cpu1")
    assert session.answer(f"save {file}") == [
        f"{file}: expect VIOLATED nobody_touches_a_freed_frame"
    ]
    done = shell("replay", str(file))
    assert "confirmed: nobody_touches_a_freed_frame is violated after 6 choices" in done.out


def test_a_schedule_is_gone_along() -> None:
    status, out, err = piped(str(FILE), typed=b"next\ngo 42\nshow page\n")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[1] == "at the beginning, 42 more known"
    assert "41. cpu1: set frozen in page 0x3" in lines
    assert "     the page was promised to be final: not here -> true here" in lines
    assert "after step 42: VIOLATED no_write_after_promise" in lines
    assert [line[:13] for line in lines[-1:]] == ["  page 0x3 = "]


def test_from_a_pipe_all_of_it_is_the_same_each_time() -> None:
    typed = b"1\n2\n3\nb\nprops\nshow\n\xff\xfe\nhelp\nquit\n1\n"
    first, again = (piped(DEFECT, typed=typed) for _ in range(2))
    assert first == again
    assert first[0] == 0
    assert "error: " in first[1]
    assert first[1].endswith("(or Ctrl-D)\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("reliant_flusher",), "has several variants; name one"),
        (("nothere.schedule",), "cannot read the schedule nothere.schedule"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str, shell: Shell) -> None:
    done = shell("step", *arguments)
    assert (done.status, done.out) == (2, "")
    assert message in done.err


@pytest.mark.parametrize(("key", "status"), [("eof", 0), ("interrupt", 130)])
def test_a_terminal_is_left_cleanly(key: str, status: int) -> None:
    leader, follower = pty.openpty()
    running = subprocess.Popen(
        [*SMPMMU, "step", EXAMPLE],
        stdin=follower, stdout=follower, stderr=follower,
        env=environment(TERM="xterm"), start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    text = b""
    while not text.endswith(b"> "):
        text += os.read(leader, 4096)
    os.write(leader, b"cpu1\n")
    while not (b"after step 1" in text and text.endswith(b"> ")):
        text += os.read(leader, 4096)
    # Python misses a signal that comes between readline's prompt and its wait for a key; a user
    # would press the key again.
    for _ in range(20):
        if key == "eof":
            os.write(leader, b"\x04")
        else:
            running.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(timeout=3)
            break
    assert running.wait(timeout=1) == status
    with contextlib.suppress(OSError):
        text += os.read(leader, 4096)
    os.close(leader)
    assert b"Traceback" not in text
    assert b"1. cpu1: load pte -> 1" in text
