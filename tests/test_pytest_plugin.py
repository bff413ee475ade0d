"""The pytest plugin, tried in test files of its own: `pytester` runs pytest inside this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import smpmmu.replaying  # numpy, which this loads, can be loaded only once: before pytester does
from tests.shell import environment

assert smpmmu.replaying
pytest_plugins = ["pytester"]

MODEL = """\
import smpmmu as s

W = s.Word("w", 2)


async def add():
    old = await s.load(W)
    await s.store(W, old + 1)


async def add_at_once():
    assert await s.fetch_add(W, 1, W.mask) < 4, "pytest rewrites this"


async def nothing():
    pass


@s.scenario(
    s.variant("at_once", s.holds("one instruction"), how=add_at_once),
    s.variant("in_two", s.violated("none_is_lost", "two steps"), how=add),
)
def count(setup, *, how):
    setup.cpu(0, s.call(how))
    setup.cpu(1, s.call(how))
    setup.at_quiescence("none_is_lost", s.value(W) == 2)
"""
WRONG = MODEL.replace('s.violated("none_is_lost", "two steps")', 's.holds("I thought so")')
PLAIN = ("-p", "no:cacheprovider")


def test_every_variant_is_a_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_count=MODEL)
    listed = pytester.runpytest("--collect-only", "-q", *PLAIN)
    listed.stdout.fnmatch_lines(
        ["test_count.py::count[[]at_once]", "test_count.py::count[[]in_two]"]
    )
    pytester.runpytest(*PLAIN).assert_outcomes(passed=2)
    for chosen, number in ((("-k", "in_two"), 1), (("test_count.py::count",), 2),
                           (("test_count.py::count[at_once]",), 1)):  # fmt: skip
        pytester.runpytest(*chosen, *PLAIN).assert_outcomes(
            passed=number, deselected=2 - number if "-k" in chosen else 0
        )


def test_a_failure_tells_the_story_and_what_to_type(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_count=WRONG)
    done = pytester.runpytest("-p", "cacheprovider")
    done.assert_outcomes(passed=1, failed=1)
    file = ".pytest_cache/d/smpmmu/test_count/count.in_two.schedule"
    done.stdout.fnmatch_lines([
        "test_count.py:count/in_two: expected HOLDS, found VIOLATED none_is_lost",
        "*shortest schedule, 4 choices, 2 context switches (the fewest)",
        " >4*store w = 1*",
        "  not as expected: HOLDS, from: I thought so",
        f"  replay: python -m smpmmu replay {file}",
        "FAILED test_count.py::count[[]in_two]*",
    ])  # fmt: skip
    assert "Traceback" not in done.stdout.str()
    replayed = type_in("replay", file)
    assert (replayed.returncode, replayed.stderr) == (0, "")
    assert replayed.stdout.endswith("confirmed: none_is_lost is violated after 4 choices\n")


def type_in(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smpmmu", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", env=environment(), check=False
    )


def test_schedules_go_where_they_are_wanted_each_files_apart(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_count=WRONG)
    pytester.mkpydir("more")
    (pytester.path / "more/test_count.py").write_text(WRONG, encoding="utf-8")
    pytester.makeini("[pytest]\nsmpmmu_save = kept\n")
    pytester.runpytest(*PLAIN).assert_outcomes(passed=2, failed=2)
    saved = sorted(p.relative_to("kept") for p in Path("kept").rglob("*.schedule"))
    assert [str(p) for p in saved] == [
        "more.test_count/count.in_two.schedule", "test_count/count.in_two.schedule",
    ]  # fmt: skip
    for path in saved:
        assert type_in("replay", f"kept/{path}").returncode == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('s.violated("none_is_lost"', 's.violated("other"'),
         "expected VIOLATED other, found VIOLATED none_is_lost"),
        (("how=add)", "how=add_at_once)"), "expected VIOLATED none_is_lost, found HOLDS"),
        (("how=add_at_once)", "how=nothing)"), "HOLDS, but nothing was explored"),
        (("s.value(W) == 2)", 's.value(W) < 3)\n    setup.sometimes("seen", s.value(W) == 3)'),
         "HOLDS, but this was never reached: seen"),
        (("how=add_at_once)", "how=len)"), "error: "),
        (("setup.cpu(1, s.call(how))", "setup.cpu(1, how)"), "expected call(add)"),
        (("setup.cpu(1, s.call(how))", "raise LookupError('no')"), "LookupError: no"),
    ],
    ids=["another_property", "holds", "nothing_explored", "vacuous", "not_async", "no_call",
         "raises"],
)  # fmt: skip
def test_what_is_not_as_said_fails(
    change: tuple[str, str], said: str, pytester: pytest.Pytester
) -> None:
    text = MODEL.replace("s.value(W) == 2", "s.value(W) < 3") if "nothing" in change[1] else MODEL
    assert change[0] in text
    pytester.makepyfile(test_count=text.replace(*change))
    done = pytester.runpytest(*PLAIN)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines([f"*{said}*"])
    assert "pytest_smpmmu.py" not in done.stdout.str()


def test_without_an_expectation_it_must_hold(pytester: pytest.Pytester) -> None:
    bare = MODEL.replace(', s.holds("one instruction")', "")
    pytester.makepyfile(test_count=bare.replace(', s.violated("none_is_lost", "two steps")', ""))
    pytester.runpytest(*PLAIN).assert_outcomes(passed=1, failed=1)


# Inside a test.

INSIDE = """\
import pytest
import smpmmu as s
from model import count


def test_it(interleavings):
    row = interleavings.must_hold(count, "at_once")
    assert row.states == 4
    interleavings.must_be_violated(count, "in_two", by="none_is_lost")


def test_wrong(interleavings):
    interleavings.must_hold(count, "in_two")


@pytest.mark.parametrize("name", ["", "in_too"])
def test_no_such(interleavings, name):
    interleavings.must_hold(count, name)


test_count = count
"""


def test_the_fixture(pytester: pytest.Pytester) -> None:
    """A scenario that is imported is a test only under a test's name."""
    pytester.makepyfile(model=MODEL, test_inside=INSIDE)
    done = pytester.runpytest("-p", "cacheprovider")
    done.assert_outcomes(passed=3, failed=3)
    done.stdout.fnmatch_lines([
        ">       interleavings.must_hold(count, \"in_two\")",
        "E *model.py:count/in_two: expected HOLDS, found VIOLATED none_is_lost",
        "E *replay: python -m smpmmu replay .pytest_cache/*/count.in_two.schedule",
        "E *scenario count has several variants; name one: *'at_once', 'in_two'*",
        "E *scenario count has no variant 'in_too'; it has at_once, in_two",
    ])  # fmt: skip
    done.stdout.no_fnmatch_line("*def _demand*")
    assert "test_count[at_once]" in pytester.runpytest("-v", *PLAIN).stdout.str()


BY_OTHER_NAMES = (
    MODEL
    + """\


def both(setup):
    setup.cpu(0, s.call(add))
    setup.cpu(1, s.call(add))
    setup.at_quiescence("none_is_lost", s.value(W) == 2)


renamed = s.scenario(s.variant("a"))(both)
_hidden = s.scenario(s.variant("b"))(both)
again = renamed
"""
)


def test_a_scenario_is_a_test_under_whatever_name(pytester: pytest.Pytester) -> None:
    """One that no name is taken of would be green because nothing looks at it."""
    pytester.makepyfile(test_names=BY_OTHER_NAMES)
    done = pytester.runpytest("-v", "-k", "renamed or hidden or again", *PLAIN)
    done.assert_outcomes(failed=2, deselected=2)
    done.stdout.fnmatch_lines(["*::renamed[[]a] FAILED*", "*::_hidden[[]b] FAILED*"])


def test_a_scenario_in_a_class_is_refused(pytester: pytest.Pytester) -> None:
    inside = (
        MODEL
        + """\


class TestInside:
    @s.scenario(s.variant("a"))
    def lost(setup):
        setup.cpu(0, s.call(add))

    same = count
"""
    )
    pytester.makepyfile(test_inside=inside)
    done = pytester.runpytest(*PLAIN)
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["scenario lost stands in a class, where nothing explores it*"])


ASYNC = """\
import pytest
import smpmmu
from model import count


@pytest.mark.trio
async def test_in_trio():
    found = await smpmmu.check(count.system(count.variant("at_once")))
    assert found.exploration.verdict is smpmmu.Verdict.HOLDS


@pytest.mark.trio
async def test_must_await(interleavings):
    interleavings.must_hold(count, "at_once")


test_count = count
"""


@pytest.mark.parametrize("mode", ["false", "true"])
def test_beside_pytest_trio(mode: str, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(model=MODEL, test_async=ASYNC)
    pytester.makeini(f"[pytest]\ntrio_mode = {mode}\n")
    done = pytester.runpytest(*PLAIN)
    done.assert_outcomes(passed=3, failed=1)
    done.stdout.fnmatch_lines(["*this is a trio program already*await*"])


# Budgets and seeds.


def test_undecided_fails_or_is_skipped(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_count=MODEL)
    done = pytester.runpytest("--smpmmu-max-states", "3", *PLAIN)
    done.assert_outcomes(failed=2)
    done.stdout.fnmatch_lines(["*in_two: undecided: states (3) ended it after * states"])
    done = pytester.runpytest("--smpmmu-max-states=3", "--smpmmu-allow-undecided", "-rs", *PLAIN)
    done.assert_outcomes(skipped=2)
    done.stdout.fnmatch_lines(["SKIPPED*undecided: states (3) ended it*"])
    pytester.makeini("[pytest]\nsmpmmu_max_states = 3\nsmpmmu_allow_undecided = true\n")
    pytester.runpytest(*PLAIN).assert_outcomes(skipped=2)
    pytester.runpytest("--smpmmu-max-states=99", *PLAIN).assert_outcomes(passed=2)


def test_seeds_judge_what_is_undecided(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_count=MODEL)
    seeds = ("--smpmmu-max-states=3", "--smpmmu-seeds=50")
    done = pytester.runpytest(*seeds, *PLAIN)
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(["*at_once: undecided: *; none of 50 random runs fails"])
    pytester.makepyfile(test_count=WRONG)
    done = pytester.runpytest(*seeds, "--smpmmu-allow-undecided", *PLAIN)
    done.assert_outcomes(skipped=1, failed=1)
    done.stdout.fnmatch_lines([
        "*in_two: expected HOLDS, found seed *: VIOLATED none_is_lost after 4 choices",
        "*first failing seed: *",
    ])  # fmt: skip
    command = next(line for line in done.outlines if line.startswith("  python -m smpmmu replay"))
    assert type_in(*command.split()[3:]).returncode == 1


def test_seeds_back_what_holds(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_count=MODEL)
    done = pytester.runpytest("--smpmmu-seeds=7", "-rP", *PLAIN)
    done.assert_outcomes(passed=2)
    done.stdout.fnmatch_lines(["*backed by 7 random runs on live vCPUs*"])


@pytest.mark.parametrize("option", ["max-states=x", "max-states=0", "max-seconds=-1", "seeds=1.5",
                                    "max-memory=2T", "max-seconds=nan"])  # fmt: skip
def test_a_wrong_option_ends_pytest(option: str, pytester: pytest.Pytester) -> None:
    done = pytester.runpytest(f"--smpmmu-{option}", *PLAIN)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    name = option.partition("=")[0]
    done.stderr.fnmatch_lines([f"ERROR: --smpmmu-{name} (in ini: smpmmu_*): expected *"])


def test_memory_is_a_budget(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_count=MODEL)
    done = pytester.runpytest("--smpmmu-max-memory=1K", *PLAIN)
    done.assert_outcomes(failed=2)
    done.stdout.fnmatch_lines(["*undecided: memory*"])


# The process.


def test_side_by_side_in_workers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_count=WRONG)
    done = pytester.runpytest_subprocess("-n", "2", "-p", "xdist")
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(["  replay: python -m smpmmu replay .pytest_cache/*in_two.schedule"])


LOADED = """\
import sys


def test_nothing_of_ours_is_loaded():
    assert [n for n in sys.modules if n.split(".")[0] in ("smpmmu", "numpy", "rich", "trio")] == []
"""


def test_it_costs_nothing_where_no_scenario_is(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LOADED)
    done = pytester.runpytest_subprocess("-p", "no:trio", "-p", "no:hypothesispytest", *PLAIN)
    done.assert_outcomes(passed=1)


BIG = """\
from pathlib import Path
import smpmmu as s

WORDS = tuple(s.Word(f"w{n}", 8) for n in range(5))


async def count(word):
    for _ in range(60):
        await s.fetch_add(word, 1)


@s.scenario()
def counters(setup):
    for n in range(5):
        setup.cpu(n, s.call(count, WORDS[n]))
    Path("built").touch()
"""


def test_ctrl_c(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_big=BIG)
    running = subprocess.Popen(
        [sys.executable, "-m", "pytest", *PLAIN],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    try:
        deadline = time.monotonic() + 60
        while not Path("built").exists():
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)
        os.killpg(running.pid, signal.SIGINT)
        out, _ = running.communicate(timeout=60)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()
    assert running.returncode == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in out
