"""The command line: every command, every exit status, every kind of output it may have to suit."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import smpmmu
from smpmmu import stressing, work
from smpmmu.engine.live import in_trio
from smpmmu.engine.verdict import Budget
from smpmmu.scenarios.theorem import CELLS
from smpmmu.targets import catalogue
from tests.shell import (
    DEFECT,
    ESCAPES,
    PAIR,
    REPAIR,
    ROOT,
    SMPMMU,
    Shell,
    environment,
    in_terminal,
    python,
    spawn,
)

Users = Callable[[str, str], str]

KNOBS = """\
from smpmmu import Word, call, fetch_add, holds, load, scenario, store, value, variant, violated

X = Word("x", 4)


async def increment(word):
    seen = await load(word)
    await store(word, seen + 1)


async def add(word):
    await fetch_add(word, 1)


BAD = "both_count"


@scenario(
    variant("safe", holds("an addition is one step"), way=add),
    variant("torn", violated(BAD, "the textbook"), way=increment),
    variant("believed_safe", holds("hope"), way=increment),
    variant("believed_torn", violated(BAD, "despair"), way=add),
    variant("believed_otherwise", violated("another_property", "confusion"), way=increment),
    variant("nothing_expected", way=add),
    variant("nothing_foretold", way=increment),
    variant("vacuous", holds("nobody writes 9"), way=add, wanted=9),
)
def counter(setup, *, way, wanted=1):
    \"\"\"Two programs count in one word.\"\"\"
    for cpu in range(2):
        setup.cpu(cpu, call(way, X))
    setup.always("at_most_two", value(X) <= 2)
    setup.at_quiescence(BAD, value(X) == 2)
    setup.sometimes("wanted", value(X) == wanted)
"""


@pytest.fixture
def knobs(users: Users) -> str:
    return users("knobs.py", KNOBS)


# Exit statuses.

STATUSES = [
    # Named: the verdict.
    ("safe", (), 0),
    ("torn", (), 1),
    ("believed_safe", (), 1),
    ("believed_torn", (), 0),
    ("nothing_expected", (), 0),
    ("nothing_foretold", (), 1),
    ("vacuous", (), 4),
    ("safe", ("--max-states", "2"), 3),
    ("torn", ("--max-states", "2"), 3),
    ("torn", ("--engine", "live"), 1),
    ("safe", ("--engine", "live"), 0),
    ("safe", ("--engine", "live", "--max-states", "2"), 3),
    # Judged by what is expected.
    ("safe", ("--expected",), 0),
    ("torn", ("--expected",), 0),
    ("believed_safe", ("--expected",), 1),
    ("believed_torn", ("--expected",), 1),
    ("believed_otherwise", ("--expected",), 1),
    ("vacuous", ("--expected",), 4),
    ("torn", ("--expected", "--max-states", "2"), 3),
]


@pytest.mark.parametrize(("variant", "options", "status"), STATUSES)
@pytest.mark.parametrize("form", ["text", "json"])
def test_the_exit_status_of_explore(
    variant: str, options: tuple[str, ...], status: int, form: str, knobs: str, shell: Shell
) -> None:
    done = shell("explore", f"{knobs}:counter/{variant}", *options, "--format", form)
    assert (done.status, done.err) == (status, "")
    verdict = {0: "HOLDS", 1: "VIOLATED", 3: "UNDECIDED", 4: "HOLDS"}[status]
    if "--expected" not in options:
        assert verdict in done.out


def test_of_several_the_worst_counts(knobs: str, shell: Shell) -> None:
    def status(*variants: str) -> int:
        targets = [f"{knobs}:counter/{v}" for v in variants]
        return shell("explore", *targets, "--max-states", "7").status

    assert status("safe", "vacuous") == 4
    # The torn one has ten states more, so that the same budget leaves it undecided.
    assert status("safe", "torn") == 3
    assert status("torn", "vacuous", "safe") == 3
    assert shell("explore", knobs).status == 1
    assert shell("explore", knobs, "--expected").status == 1


def test_a_violation_beats_undecided(knobs: str, shell: Shell) -> None:
    endless = Path(knobs).with_name("endless.py")
    endless.write_text(KNOBS.replace("range(2)", "range(4)"), encoding="utf-8")
    done = shell(
        "explore", f"{knobs}:counter/torn", f"{endless}:counter/torn", "--max-states", "12"
    )
    assert (done.status, "UNDECIDED" in done.out, "VIOLATED" in done.out) == (1, True, True)


def test_a_violation_nobody_foretold_is_no_success(knobs: str, shell: Shell) -> None:
    assert shell("explore", f"{knobs}:counter/nothing_foretold", "--expected").status == 1


def test_undecided_is_not_as_expected(knobs: str, shell: Shell) -> None:
    asked = ("explore", f"{knobs}:counter/safe", "--max-states", "2")
    (row,) = json.loads(shell(*asked, "--format", "json").out)["results"]
    assert row["as_expected"] is None
    assert "  as expected" not in shell(*asked).out


def test_the_exit_statuses_of_replay(knobs: str, shell: Shell) -> None:
    torn, safe = f"{knobs}:counter/torn", f"{knobs}:counter/safe"
    assert shell("explore", torn, "--save", ".").status == 1
    assert shell("replay", "counter.torn.schedule").status == 0
    Path("counter.torn.schedule").write_text("something else", encoding="utf-8")
    assert shell("replay", "counter.torn.schedule").status == 4
    assert shell("replay", "counter.worn.schedule").status == 2
    assert shell("replay", safe, "--seed", "0").status == 0
    statuses = {shell("replay", torn, "--seed", str(seed)).status for seed in range(8)}
    assert statuses == {0, 1}


def test_a_seed_that_never_comes_to_rest_is_undecided(
    users: Users, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stressing, "LONGEST_RUN", 70)
    text = KNOBS.replace("call(way, X))", "call(blink, X), cyclic=True)").replace(
        "async def add", "async def blink(word):\n    await store(word, 1)\n\n\nasync def add"
    )
    file = users("endless.py", text)
    done = shell("replay", f"{file}:counter/safe", "--seed", "0", "--longest", "70")
    assert done.status == 3
    assert "cut off; undecided after 70 choices" in done.out
    done = shell("stress", f"{file}:counter/safe", "--seeds", "0:5")
    assert done.status == 3
    assert "seeds 0:5, none of 5 fails, 5 cut off" in done.out


def test_the_exit_statuses_of_stress(knobs: str, shell: Shell) -> None:
    done = shell("stress", f"{knobs}:counter/safe", "--seeds", "0:100")
    assert done.status == 0
    assert done.out == (
        "knobs.py:counter/safe: seeds 0:100, none of 100 fails\n"
        "distinct: 1 last states; 2 happens-before classes, 0 of these seen once\n"
        "  by Good and Turing's estimate, 0.00% of the runs that would follow are of classes not "
        "seen yet\n"
        "random runs prove nothing; `explore` looks at all of them\n"
    )
    done = shell("stress", f"{knobs}:counter/torn", "--seeds", "0:100")
    assert done.status == 1
    found = re.fullmatch(
        r"knobs\.py:counter/torn: seeds 0:100, (\d+) of 100 fail \((\d+)\.000%\)\n"
        r"  \1 violate both_count\n"
        # Two loads do not conflict: of six schedules, two pairs are one class each.
        r"distinct: \d last states; 4 happens-before classes, 0 of these seen once\n"
        r"  by Good and Turing's estimate, 0\.00% of the runs that would follow .*\n"
        r"first failing seed: (\d+), after 4 choices; 20 of \1 failing runs repeated live\n"
        r"  python -m smpmmu replay knobs\.py:counter/torn --seed \3\n"
        r"shrunk: 2 context switches \(1 preemption\), 4 choices: the least there is, .*\n"
        r"  critical race: \*\d cpu. 'load .*' before \*\d cpu. 'store .*'\n"
        r"  python -m smpmmu shrink knobs\.py:counter/torn --seed \3\n",
        done.out,
    )
    assert found is not None
    # Of six schedules four lose an update, but not all are equally likely: 1/2 of all runs.
    assert 30 < int(found[1]) < 70
    replayed = shell("replay", f"{knobs}:counter/torn", "--seed", found[3])
    assert replayed.status == 1
    assert replayed.out.endswith(f"seed {found[3]}: VIOLATED both_count after 4 choices\n")


def test_stress_tells_the_same_in_json(knobs: str, shell: Shell) -> None:
    done = shell("stress", f"{knobs}:counter/torn", "--seeds", "10:60", "--format", "json")
    found = json.loads(done.out)
    assert done.status == 1
    assert found.keys() == {
        "schema", "name", "strategy", "seeds", "failing", "violated", "failing_by_strategy",
        "first_failing_seed", "choices", "first_of_each", "repeated_live", "cut", "steps",
        "last_states", "happens_before_classes", "classes_seen_once", "unseen_share", "kept",
    }  # fmt: skip
    assert found["violated"] == {"both_count": found["failing"]}
    assert (found["schema"], found["seeds"], found["cut"]) == (1, [10, 60], 0)
    assert 10 <= found["first_failing_seed"] < 60


WRONG_USAGE = [
    ((), "Usage:"),
    (("bogus",), "No such command 'bogus'"),
    (("explore", "--bogus"), "No such option"),
    (("explore", "all", PAIR), "'all' stands alone"),
    (("explore", "reliant_flushr"), "no scenario is called 'reliant_flushr'; did you mean "),
    (("explore", "zzz"), "no scenario is called 'zzz'; there are: reliant_flusher"),
    (("explore", f"{PAIR}/deferred_after"), "did you mean deferred_after_unlock?"),
    (("explore", f"{PAIR}/zzz"), "there are: native_under_ptl, native_after_unlock, "),
    (("explore", "nofile.py"), "there is no file nofile.py"),
    (("explore", "nofile.py:name/variant"), "there is no file nofile.py"),
    (("explore", "--format", "yaml"), "'yaml' is not one of 'text', 'json'"),
    (("explore", "--engine", "spin"), "'spin' is not one of 'batch', 'live'"),
    (("explore", "--max-states", "0"), "--max-states"),
    (("explore", "--max-seconds", "0"), "--max-seconds"),
    (("explore", "--max-memory", "0"), "expected a number of bytes, or one with K, M or G behind"),
    (("explore", "--max-memory", "1T"), "found '1T'"),
    (("explore", "--max-memory", ""), "found ''"),
    (("explore", "--jobs", "0"), "--jobs"),
    (("explore", "--live-runs", "-1"), "--live-runs"),
    (("explore", "--save", str(ROOT / "README.md")), "--save"),
    (("replay",), "Missing argument 'FILE | NAME/VARIANT'"),
    (("replay", PAIR, "--seed", "1"), f"{PAIR} has several variants; name one: "),
    (("replay", DEFECT, "--seed", "1", "--fill"), "--fill is for schedule files"),
    (("replay", "nothere.schedule"), "cannot read the schedule nothere.schedule: No such file"),
    (("stress",), "Missing argument 'NAME/VARIANT'"),
    (("stress", PAIR), "has several variants"),
    (("stress", "zzz"), "there are: reliant_flusher"),
    (("list", "something"), "unexpected extra argument"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG_USAGE)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], said: str, shell: Shell) -> None:
    done = shell(*arguments)
    assert (done.status, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (":countr", "no scenario is called 'countr' in knobs.py; did you mean counter?"),
        (":counter/tron", "no variant of counter is called 'tron' in knobs.py; did you mean torn?"),
        (":zzz/torn", "no scenario is called 'zzz' in knobs.py; there are: counter"),
    ],
)
def test_names_in_a_users_file_are_suggested_too(
    typed: str, said: str, knobs: str, shell: Shell
) -> None:
    done = shell("explore", knobs + typed)
    assert (done.status, done.out, done.err) == (2, "", f"error: {said}\n")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("²", 2),
        ("0x10", 2),
        ("1_0", 2),
        ("-1", 2),
        ("1KK", 2),
        ("K", 2),
        ("100", 3),
        ("1k", 3),
        ("1G", 0),
    ],
)
def test_numbers_of_bytes_are_read_or_refused(
    text: str, status: int, knobs: str, shell: Shell
) -> None:
    done = shell("explore", f"{knobs}:counter/safe", "--max-memory", text)
    assert done.status == status


def test_cores_and_a_frontier_on_the_disk_change_no_byte(shell: Shell) -> None:
    asked = ("explore", "reliant_flusher/deferred_after_unlock")
    plain = shell(*asked, "--cores", "1")
    assert plain.status == 1
    assert shell(*asked, "--cores", "2", "--frontier-memory", "1K") == plain


# Help.

COMMANDS = sorted(importlib.import_module("smpmmu.cli").cli.commands)


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_is_there(command: tuple[str, ...], option: str, shell: Shell) -> None:
    done = shell(*command, option)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("Usage: ")
    if command != ("list",):
        for status in ("0", "1", "2", "3", "4", "70", "130"):
            assert re.search(rf"^ +{status}  +\w", done.out, re.MULTILINE), status


def test_the_version_is_that_of_the_package(shell: Shell) -> None:
    done = shell("--version")
    assert (done.status, done.out) == (0, f"smpmmu, version {smpmmu.__version__}\n")


def test_the_group_can_be_invoked_by_clicks_own_runner() -> None:
    from smpmmu.cli import cli

    runner = CliRunner()
    listed = runner.invoke(cli, ["list"])
    assert listed.exit_code == 0
    assert re.search("deferred_after_unlock +VIOLATED no_write_after_promise", listed.stdout)
    explored = runner.invoke(cli, ["explore", REPAIR, "--max-states", "50", "--format", "json"])
    assert explored.exit_code == 3
    (row,) = json.loads(explored.stdout)["results"]
    assert row["undecided_because"] == "states (50)"


# list.


def test_list_names_every_variant_with_what_is_expected(shell: Shell) -> None:
    done = shell("list")
    assert (done.status, done.err) == (0, "")
    for target in catalogue():
        scenario, variant = target.name.split("/")
        expected = target.variant.expected
        wanted = f"{expected.verdict.value} {expected.name}".strip()
        assert re.search(rf"^{scenario}$", done.out, re.MULTILINE)
        assert re.search(rf"^  {variant} +{wanted}$", done.out, re.MULTILINE)


def test_list_needs_neither_numpy_nor_trio_nor_rich() -> None:
    code = """
import sys
sys.argv = ["smpmmu", "list"]
from smpmmu.cli import main
try:
    main()
except SystemExit as done:
    heavy = {"numpy", "trio", "rich", "asyncio", "multiprocessing"} & set(sys.modules)
    sys.stderr.write(f"{done.code} {sorted(heavy)}")
"""
    done = python(code)
    assert done.err == "0 []"
    assert PAIR in done.out


# JSON.


def test_json_of_a_violation_holds_its_schedule(knobs: str, shell: Shell) -> None:
    done = shell("explore", f"{knobs}:counter/torn", "--format", "json")
    data = json.loads(done.out)
    assert (done.status, data["schema"], data.keys()) == (1, 1, {"schema", "results"})
    (row,) = data["results"]
    (violation,) = row["violations"]
    Path("again.schedule").write_text(violation["schedule"], encoding="utf-8")
    assert shell("replay", "again.schedule").status == 0
    assert [s["context"] for s in violation["story"]] == [
        line.split()[0] for line in violation["schedule"].splitlines()[4:]
    ]
    assert (row["schedule_file"], violation["file"]) == (None, "")
    assert (row["expected_verdict"], row["source"]) == ("VIOLATED", "the textbook")


def test_json_names_the_file_that_was_saved(knobs: str, shell: Shell) -> None:
    done = shell("explore", f"{knobs}:counter/torn", "--format", "json", "--save", "out")
    (row,) = json.loads(done.out)["results"]
    assert row["schedule_file"] == row["violations"][0]["file"] == "out/counter.torn.schedule"
    assert Path("out/counter.torn.schedule").is_file()


# --all, budgets, engines.


def test_all_tells_every_violated_property(users: Users, shell: Shell) -> None:
    file = users("many.py", KNOBS.replace("value(X) <= 2", "value(X) < 1"))
    first = shell("explore", f"{file}:counter/torn", "--format", "json")
    (row,) = json.loads(first.out)["results"]
    assert [v["name"] for v in row["violations"]] == ["at_most_two"]
    every = shell("explore", f"{file}:counter/torn", "--format", "json", "--all", "--save", ".")
    (row,) = json.loads(every.out)["results"]
    assert [(v["name"], v["choices"]) for v in row["violations"]] == [
        ("at_most_two", 2),
        ("both_count", 4),
    ]
    names = ["counter.torn.schedule", "counter.torn.both_count.schedule"]
    assert [v["file"] for v in row["violations"]] == names
    for name in names:
        assert shell("replay", name).status == 0
    text = shell("explore", f"{file}:counter/torn", "--all").out
    assert text.count("VIOLATED at_most_two: ") == text.count("VIOLATED both_count: ") == 1


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--max-states", "50", "states (50)"),
        ("--max-seconds", "0.000001", "seconds (1e-06)"),
        ("--max-memory", "1K", "memory (1,000 bytes)"),
        ("--max-memory", "2000", "memory (2,000 bytes)"),
    ],
)
def test_a_budget_leaves_it_undecided_and_says_how_far_it_came(
    option: str, value: str, reason: str, shell: Shell
) -> None:
    done = shell("explore", REPAIR, option, value)
    assert (done.status, done.err) == (3, "")
    lines = done.out.splitlines()
    assert lines[0] == f"{REPAIR}  UNDECIDED  {reason}"
    assert f"  not everything was looked at: {reason} ended it" in lines
    assert any(line.startswith("  states at the last depths: 1") for line in lines)
    assert "HOLDS" not in done.out.replace("expected: HOLDS", "")


def test_a_generous_budget_changes_nothing(shell: Shell) -> None:
    plain = shell("explore", REPAIR)
    budget = ("--max-states", "1000000", "--max-seconds", "1e6", "--max-memory", "2g")
    assert shell("explore", REPAIR, *budget) == plain
    assert plain.status == 0


def test_the_live_engine_does_not_claim_the_shortest(knobs: str, shell: Shell) -> None:
    done = shell("explore", f"{knobs}:counter/torn", "--engine", "live")
    assert "a schedule (not necessarily the shortest)" in done.out
    holds = shell("explore", f"{knobs}:counter/safe", "--engine", "live")
    assert "explored on the live vCPUs themselves" in holds.out
    assert "random runs" not in holds.out


def test_the_number_of_live_runs_is_told(knobs: str, shell: Shell) -> None:
    for runs in ("0", "3"):
        done = shell("explore", f"{knobs}:counter/safe", "--live-runs", runs)
        assert f"backed by {runs} random runs on live vCPUs" in done.out


# --save.


def test_only_whole_files_are_saved(knobs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there stays as it was until the new file is whole."""
    row = in_trio(work.do, work.Job(f"{knobs}:counter/torn", Budget()))
    target = Path("out/counter.torn.schedule")
    work.save(row, Path("out"))
    whole = target.read_bytes()
    target.write_text("older", encoding="utf-8")
    write = Path.write_text

    def half(self: Path, text: str, **how: Any) -> int:
        write(self, text[: len(text) // 2], **how)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_text", half)
        with pytest.raises(KeyboardInterrupt):
            work.save(row, Path("out"))
    assert target.read_text(encoding="utf-8") == "older"
    saved = work.save(row, Path("out"))
    assert target.read_bytes() == whole
    assert [b.file for b in saved.broken] == [str(target)]
    assert list(Path("out").iterdir()) == [target]


def test_nothing_is_saved_of_what_holds(knobs: str, shell: Shell) -> None:
    assert shell("explore", f"{knobs}:counter/safe", "--save", "out").status == 0
    assert not Path("out").exists()


def test_where_nothing_can_be_saved_is_told(knobs: str) -> None:
    Path("file").touch()
    done = spawn("explore", f"{knobs}:counter/torn", "--save", "file/below", cwd=Path.cwd())
    assert done.status in (2, 4)
    assert done.err.startswith("error: ")
    assert "file/below" in done.err


@pytest.mark.parametrize(
    ("old", "new", "variant"),
    [('"torn"', '"torn/apart"', "torn/apart"), ('"both_count"', '"both/count"', "torn")],
)
def test_names_with_slashes_can_be_saved(
    old: str, new: str, variant: str, users: Users, shell: Shell
) -> None:
    text = KNOBS.replace("value(X) <= 2", "value(X) < 1").replace(old, new)
    file = users("slashes.py", text)
    done = spawn("explore", f"{file}:counter/{variant}", "--all", "--save", "out", cwd=Path.cwd())
    assert (done.status, done.err) == (1, "")
    saved = list(Path("out").rglob("*.schedule"))
    assert len(saved) == 2
    for file in saved:
        assert shell("replay", str(file)).status == 0


def test_a_command_left_in_the_middle_closes_its_generators(knobs: str) -> None:
    Path("file").touch()
    asked = ("explore", f"{knobs}:counter/torn", "--save", "file/below")
    done = spawn(*asked, cwd=Path.cwd(), PYTHONDEVMODE="1")
    assert "NotADirectoryError" in done.err or done.err.startswith("error: ")
    assert "ResourceWarning" not in done.err


# The same question, the same bytes.


def test_side_by_side_is_the_same_as_one_after_the_other(knobs: str) -> None:
    for arguments in ((knobs, "--format", "json"), (knobs,)):
        made = [spawn("explore", *arguments, "--jobs", jobs, cwd=Path.cwd()) for jobs in ("1", "2")]
        assert made[0] == made[1]
        assert made[0].status == 1


def test_other_hash_seeds_give_the_same_bytes(shell: Shell) -> None:
    for arguments in (("explore",), ("explore", DEFECT), ("stress", DEFECT), ("list",)):
        here = shell(*arguments)
        there = spawn(*arguments, PYTHONHASHSEED="12345")
        assert (there.status, there.out) == (here.status, here.out)
        # Only stress tells how fast it was, where it does not matter.
        assert arguments[0] == "stress" or there.err == here.err == ""


def test_twice_in_one_process_is_the_same(knobs: str, shell: Shell) -> None:
    assert shell("explore", knobs, "--all") == shell("explore", knobs, "--all")


# Where the output goes.

BRIEF = ("--max-states", "50")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize(
    ("command", "status"), [(("explore", *BRIEF), 3), (("explore", DEFECT), 1), (("list",), 0)]
)
def test_piped_output_is_plain(command: tuple[str, ...], status: int, encoding: str) -> None:
    done = spawn(*command, PYTHONIOENCODING=encoding)
    assert (done.status, done.err) == (status, "")
    assert "\x1b" not in done.out
    assert max(len(line) for line in done.out.splitlines()) <= 120
    if encoding != "utf-8":
        assert done.out.isascii()
    elif command != ("list",):
        assert "─" in done.out


def test_ascii_and_unicode_say_the_same() -> None:
    frame = re.compile(r"[-+|─ ]+")
    plain, drawn = (
        spawn("explore", DEFECT, PYTHONIOENCODING=encoding).out for encoding in ("ascii", "utf-8")
    )
    assert frame.sub(" ", plain).split() == frame.sub(" ", drawn).split()


def test_names_that_the_encoding_lacks_are_printed_somehow(users: Users, tmp_path: Path) -> None:
    file = users("greek.py", KNOBS.replace('"x", 4', '"χ", 4'))
    done = spawn("explore", f"{file}:counter/torn", cwd=tmp_path, PYTHONIOENCODING="latin-1")
    assert (done.status, done.err) == (1, "")
    assert "both_count" in done.out


def test_names_beyond_ascii_in_an_ascii_world(users: Users, tmp_path: Path) -> None:
    file = users("greek.py", KNOBS.replace('"x", 4', '"χ", 4'))
    done = spawn("explore", f"{file}:counter/torn", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (done.status, done.err) == (1, "")
    assert "Traceback" not in done.out


@pytest.mark.parametrize("columns", [40, 66, 100, 160])
def test_a_story_fits_the_terminal(columns: int) -> None:
    done = in_terminal("explore", DEFECT, columns=columns, PYTHONIOENCODING="utf-8")
    assert done.status == 1
    assert "\x1b[1;31mVIOLATED" in done.out
    lines = ESCAPES.sub("", done.out).splitlines()
    assert max(len(line) for line in lines) <= columns
    words = " ".join(lines)
    assert "clear_bit" in words
    # Where three columns do not fit, who moved is said in words.
    table = words.split("critical race:")[0]
    assert ("cpu0.irq" in table) == (columns < 86)


def test_the_environment_can_take_the_colour_away() -> None:
    done = in_terminal("explore", REPAIR, columns=100, NO_COLOR="1")
    assert done.status == 0
    assert "HOLDS" in done.out
    assert "\x1b" not in done.out


def test_the_main_table_keeps_its_verdicts_on_a_narrow_terminal() -> None:
    done = in_terminal("explore", *BRIEF, columns=50, PYTHONIOENCODING="utf-8")
    assert done.status == 3
    shown = ESCAPES.sub("", done.out)
    marks = [line.split()[-1] for line in shown.splitlines() if re.match(r" {1,4}\d+ \w+ .$", line)]
    assert len(marks) == len(CELLS)
    assert f"{marks.count('?')} undecided" in shown


def test_a_narrow_ascii_terminal_is_given_ascii() -> None:
    done = in_terminal("explore", *BRIEF, columns=50, PYTHONIOENCODING="ascii")
    assert done.status == 3
    assert ESCAPES.sub("", done.out).isascii()


@pytest.mark.parametrize(
    "command", ["list", f"explore {DEFECT}", "explore --format json --max-states 50"]
)
def test_a_reader_that_leaves_early_hears_nothing(command: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{SMPMMU[0]} -m smpmmu {command} | head -1"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert done.stderr == b""
    assert done.stdout.count(b"\n") == 1


def closed_pipe(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command line with nobody at the other end of its standard output."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*SMPMMU, *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    return done


def test_a_closed_pipe_is_quiet() -> None:
    assert closed_pipe("list").stderr == b""


def test_a_closed_pipe_is_no_violation() -> None:
    assert closed_pipe("explore", REPAIR).returncode != 1


def test_nothing_but_the_answer_goes_to_standard_output(knobs: str, tmp_path: Path) -> None:
    """No times, no paths of ours, no progress: the bytes are those of the question."""
    done = spawn("explore", f"{knobs}:counter/torn", cwd=tmp_path)
    assert (done.status, done.err) == (1, "")
    assert str(tmp_path) not in done.out
    assert str(ROOT) not in done.out
    assert not re.search(r"\d\.\d+ ?s\b", done.out)


@pytest.mark.parametrize("nothing", ["", "/", "/deferred_under_ptl"])
def test_a_name_of_nothing_is_not_the_whole_catalogue(nothing: str, shell: Shell) -> None:
    done = shell("explore", nothing)
    assert done.status == 2
    assert "names no scenario" in done.err
