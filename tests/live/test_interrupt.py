"""Ctrl-C: a search that is stopped says what was covered, and exits with 130."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.shell import SMPMMU, Done, environment, python

if TYPE_CHECKING:
    from pathlib import Path

BIG = """\
from pathlib import Path

from smpmmu import Word, call, fetch_add, scenario, value, variant

WORDS = tuple(Word(f"w{n}", 8) for n in range(5))


async def count(word):
    for _ in range(60):
        await fetch_add(word, 1)


@scenario(variant("small", cpus=1), variant("big", cpus=5), variant("other", cpus=5))
def counters(setup, *, cpus):
    for n in range(cpus):
        setup.cpu(n, call(count, WORDS[n]))
    setup.always("never_full", value(WORDS[0]) < 200)
    Path(f"built{cpus}").touch()
"""

WAIT = 60.0


def interrupted(tmp_path: Path, *arguments: str, seconds: float = 0.5) -> Done:
    """Run the command line, and interrupt it a moment after it began with a big system."""
    (tmp_path / "big.py").write_text(BIG, encoding="utf-8")
    running = subprocess.Popen(
        [*SMPMMU, *arguments],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # Where pytest itself runs in the background, SIGINT is ignored and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    try:
        began = time.monotonic()
        while not (tmp_path / "built5").exists():
            assert running.poll() is None
            assert time.monotonic() - began < WAIT
            time.sleep(0.01)
        time.sleep(seconds)
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=WAIT)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()
    return Done(running.returncode, out.decode(), err.decode())


def test_a_search_that_is_stopped_says_what_was_covered(tmp_path: Path) -> None:
    done = interrupted(tmp_path, "explore", "big.py:counters/big")
    assert (done.status, done.out) == (130, "")
    first, second = done.err.splitlines()
    assert first == "interrupted: 0 of 1 variants were answered"
    told = re.fullmatch(
        r"big\.py:counters/big: ([\d,]+) states, ([\d,]+) transitions up to depth (\d+) "
        r"without a verdict",
        second,
    )
    assert told is not None
    states, transitions, depth = (int(n.replace(",", "")) for n in told.groups())
    assert states > 1
    assert transitions > states
    assert depth > 1


def test_what_was_answered_before_is_printed(tmp_path: Path) -> None:
    done = interrupted(tmp_path, "explore", "big.py")
    assert done.status == 130
    assert done.out.startswith("big.py:counters/small  HOLDS\n  61 states, 60 transitions")
    assert done.err.startswith("interrupted: 1 of 3 variants were answered\nbig.py:counters/big: ")
    assert "Traceback" not in done.err


def test_stress_that_is_stopped_says_so(tmp_path: Path) -> None:
    done = interrupted(tmp_path, "stress", "big.py:counters/big", "--seeds", "0:10000000")
    assert (done.status, done.out) == (130, "")
    assert done.err.startswith("interrupted")
    assert "Traceback" not in done.err


def test_a_live_search_can_be_stopped(tmp_path: Path) -> None:
    done = interrupted(tmp_path, "explore", "big.py:counters/big", "--engine", "live")
    assert (done.status, done.out) == (130, "")
    assert done.err.startswith("interrupted: 0 of 1 variants were answered\n")
    assert "Traceback" not in done.err


def test_processes_side_by_side_can_be_stopped(tmp_path: Path) -> None:
    targets = ("big.py:counters/big", "big.py:counters/other")
    done = interrupted(tmp_path, "explore", *targets, "--jobs", "2")
    assert (done.status, done.out) == (130, "")
    assert done.err.startswith("interrupted: 0 of 2 variants were answered\n")
    assert "Traceback" not in done.err


# At the worst moment.

FALLING_ASLEEP = """
import signal
import sys
import trio
from smpmmu.checking import explore
from tests.live.systems import SYSTEMS

moment, slept = int(sys.argv[1]), 0
sleep = trio.lowlevel.wait_task_rescheduled


def interrupted(abort):
    global slept
    slept += 1
    if slept == moment:
        signal.raise_signal(signal.SIGINT)
    return sleep(abort)


trio.lowlevel.wait_task_rescheduled = interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    explore(SYSTEMS["locked"], engine="live")
except BaseException as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("moment", [3, 4, 11])
def test_ctrl_c_at_the_moment_of_falling_asleep(moment: int) -> None:
    done = python(FALLING_ASLEEP, str(moment))
    assert (done.out, done.err) == ("KeyboardInterrupt\n", "")


COMING_AND_GOING = """
import contextlib
import signal
import sys
from smpmmu.checking import explore
from tests.live.systems import SYSTEMS

where, engine = sys.argv[1:]
Manager = contextlib._AsyncGeneratorContextManager
enter, leave = Manager.__aenter__, Manager.__aexit__


async def entered(self):
    result = await enter(self)
    if where == "entered":
        signal.raise_signal(signal.SIGINT)
    return result


async def leaving(self, *how):
    if where == "leaving":
        signal.raise_signal(signal.SIGINT)
    return await leave(self, *how)


Manager.__aenter__, Manager.__aexit__ = entered, leaving
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.alarm(20)
try:
    explore(SYSTEMS["locked"], engine=engine)
except BaseException as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("where", ["entered", "leaving"])
@pytest.mark.parametrize("engine", ["batch", "live"])
def test_ctrl_c_while_a_machine_starts_or_stops(where: str, engine: str) -> None:
    done = python(COMING_AND_GOING, where, engine)
    assert (done.status, done.out, done.err) == (0, "KeyboardInterrupt\n", "")
