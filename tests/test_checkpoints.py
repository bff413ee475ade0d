"""Explorations that are stopped, by whatever means, and gone on with end as if they were not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from smpmmu import checking
from smpmmu.engine.checkpoint import read
from tests.shell import DEFECT, REPAIR, ROOT, SMPMMU, Shell, environment

if TYPE_CHECKING:
    from pathlib import Path

MODEL = ROOT / "benchmarks" / "defer_model.py"


def answered(out: str) -> dict[str, Any]:
    """Return the answer; how full the table of fingerprints is depends on how it was filled."""
    (row,) = json.loads(out)["results"]
    del row["bytes_per_state"]
    return dict(row)


def asked(target: str, *more: str) -> tuple[str, ...]:
    return ("explore", target, "--format", "json", "--live-runs", "1", *more)


KILLED = """\
import os, sys
from smpmmu.cli import main
from smpmmu.engine import keeper

keeper.SHARE = 0  # write as often as can be
sync, how, left = os.fsync, int(sys.argv[1]), int(sys.argv[2])

def fsync(number):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), how)
    sync(number)

os.fsync = fsync
sys.argv[:] = ["smpmmu", *sys.argv[3:]]
main()
"""


def stopped_by(how: signal.Signals, after: int, *command: str) -> tuple[int, str, str]:
    """Run a command that is sent a signal while it writes a checkpoint.

    Two calls of fsync make one; the first is before the file has its name.
    """
    made = subprocess.run(
        [sys.executable, "-c", KILLED, str(int(how)), str(after), *command],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return made.returncode, made.stdout, made.stderr


@pytest.mark.parametrize(
    ("target", "how"),
    [(DEFECT, signal.SIGKILL), (DEFECT, signal.SIGINT), (REPAIR, signal.SIGKILL)],
    ids=str,
)
def test_a_process_killed_again_and_again(
    target: str, how: signal.Signals, tmp_path: Path, shell: Shell
) -> None:
    whole = shell(*asked(target))
    path = tmp_path / "kept"
    command = asked(target, "--checkpoint", str(path), "--checkpoint-every", "0")
    after, stops, second = 75 if target == DEFECT else 135, 0, False
    while True:
        status, out, err = stopped_by(how, after + stops, *command)
        if status == whole.status:
            break
        assert status == (-9 if how is signal.SIGKILL else 130)
        if how is signal.SIGINT:
            assert f"the same command goes on from {path}" in err
        assert f"going on from {path}: depth" in err or stops == 0
        second |= read(path)["first"] is not None
        stops += 1
    assert stops >= 2
    assert second == (target == REPAIR)  # also while it was exploring with evictors
    assert answered(out) == answered(whole.out)
    assert list(tmp_path.iterdir()) == []


def test_a_larger_one_killed_from_outside(tmp_path: Path, shell: Shell) -> None:
    """45,182 states and 110,339 transitions, of which blocks of many machines are some."""
    path = tmp_path / "kept"
    target = f"{MODEL}:benchmark/locked.4.2.1"
    command = asked(target, "--checkpoint", str(path), "--checkpoint-every", "0")
    running = subprocess.Popen([*SMPMMU, *command], env=environment(), stdout=subprocess.DEVNULL)
    while not path.exists() or path.stat().st_size < 100_000:
        assert running.poll() is None
        time.sleep(0.001)
    running.kill()
    assert running.wait() == -9
    done = shell(*command)
    row = answered(done.out)
    assert (row["verdict"], row["states"], row["transitions"]) == ("HOLDS", 45_182, 110_339)
    assert "going on from" in done.err
    assert answered(shell(*asked(target)).out) == row


def test_a_budget_ends_it_for_today(tmp_path: Path, shell: Shell) -> None:
    path = tmp_path / "kept"
    kept = ("--checkpoint", str(path))
    whole = shell(*asked(REPAIR))
    states = []
    for most in ("500", "1500", "3089", "3500"):  # the last while it has evictors
        done = shell(*asked(REPAIR, *kept, "--max-states", most))
        row = answered(done.out)
        assert (done.status, row["verdict"]) == (3, "UNDECIDED")
        states.append(row["states"])
    assert states == sorted(set(states))
    done = shell(*asked(REPAIR, *kept))
    assert answered(done.out) == answered(whole.out)
    assert not path.exists()


def test_ctrl_c_keeps_what_is_done(
    tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, breaths = tmp_path / "kept", 0
    breathe = checking.breathe

    async def interrupted() -> None:
        nonlocal breaths
        breaths += 1
        if breaths == 50:
            raise KeyboardInterrupt
        await breathe()

    with monkeypatch.context() as patch:
        patch.setattr(checking, "breathe", interrupted)
        stopped = shell(*asked(DEFECT, "--checkpoint", str(path)))
    assert stopped.status == 130
    assert f"the same command goes on from {path}" in stopped.err
    done = shell(*asked(DEFECT, "--checkpoint", str(path)))
    assert "going on from" in done.err
    assert answered(done.out) == answered(shell(*asked(DEFECT)).out)


@pytest.fixture
def kept(tmp_path: Path, shell: Shell) -> Path:
    path = tmp_path / "kept"
    assert shell(*asked(DEFECT, "--checkpoint", str(path), "--max-states", "500")).status == 3
    return path


@pytest.mark.parametrize(
    ("target", "more", "message"),
    [
        (REPAIR, (), f"a checkpoint of {DEFECT}, expected {REPAIR}"),
        (DEFECT, ("--live-runs", "7"), "with --live-runs 1, expected 7"),
        (DEFECT, ("--all",), "is not what this checkpoint is of (it was asked with"),
    ],
)
def test_a_foreign_checkpoint_is_refused(
    kept: Path, shell: Shell, target: str, more: tuple[str, ...], message: str
) -> None:
    before = kept.read_bytes()
    done = shell(*asked(target, "--checkpoint", str(kept), *more))
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert kept.read_bytes() == before


def test_a_damaged_checkpoint_is_refused(kept: Path, shell: Shell) -> None:
    kept.write_bytes(kept.read_bytes()[:-1])
    done = shell(*asked(DEFECT, "--checkpoint", str(kept)))
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        f"error: {kept}: this checkpoint is damaged or cut off; delete the file to begin anew\n"
    )


COUNTER = """\
from smpmmu import Word, call, load, scenario, store, value

X = Word("x", 4)


async def increment(by):
    for _ in range(3):
        seen = await load(X)
        await store(X, seen + by & 15)


@scenario()
def counter(setup):
    for cpu in range(2):
        setup.cpu(cpu, call(increment, 1))
    setup.always("few", value(X) <= 6)
"""


def test_a_file_that_was_edited_is_refused(users: Any, tmp_path: Path, shell: Shell) -> None:
    users("counter.py", COUNTER)
    kept = ("--checkpoint", "kept")

    def run(*more: str, folder: Path = tmp_path, file: str = "counter.py") -> Any:
        command = [sys.executable, "-m", "smpmmu", *asked(file, *more)]
        return subprocess.run(
            command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
        )

    assert run(*kept, "--max-states", "60").returncode == 3
    users("counter.py", COUNTER.replace("seen + by", "seen + 1 + by"))
    done = run(*kept)
    assert done.returncode == 2
    assert "counter.py:counter/default is not what this checkpoint is of" in done.stderr
    assert done.stderr.count("\n") == 1
    users("counter.py", "# A comment changes nothing.\n" + COUNTER)
    (tmp_path / "away").mkdir()
    there = run("--checkpoint", "../kept", folder=tmp_path / "away", file="../counter.py")
    assert there.returncode == 0, there.stderr
    assert answered(there.stdout)["levels"] == answered(shell(*asked("counter.py")).out)["levels"]


def test_a_checkpoint_is_of_one_variant(shell: Shell, tmp_path: Path) -> None:
    done = shell("explore", "reliant_flusher", "--checkpoint", str(tmp_path / "kept"))
    assert done.status == 2
    assert "a checkpoint is of one variant, not of" in done.err
    done = shell("explore", DEFECT, "--engine", "live", "--checkpoint", str(tmp_path / "kept"))
    assert (done.status, "keeps no checkpoints" in done.err) == (2, True)
    done = shell("explore", DEFECT, "--checkpoint-every", "3")
    assert (done.status, "is for --checkpoint" in done.err) == (2, True)
    done = shell("explore", DEFECT, "--checkpoint", str(tmp_path / "no" / "kept"))
    assert (done.status, "cannot write the checkpoint" in done.err) == (2, True)
