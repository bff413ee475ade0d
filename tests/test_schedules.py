"""Schedule files: those recorded replay to what they say; whatever else they become is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.errors import ScheduleError
from smpmmu.engine.schedule import HEADER, Line, Schedule, read
from smpmmu.engine.system import QUIESCENCE_STAYS_REACHABLE
from tests.shell import DEFECT, ROOT, Shell

if TYPE_CHECKING:
    from pathlib import Path

FILES = sorted(path for path in (ROOT / "schedules").rglob("*") if path.is_file())
AGAIN = (
    "  the file was edited, or the modelled code changed after it was written; record it again "
    "with\n  python -m smpmmu explore {} --save DIR\n"
)

Users = Callable[[str, str], str]

SMALL = """\
from smpmmu import Word, call, load, scenario, store, value, variant

X, Y = Word("x", 2), Word("y", 1)


async def increment():
    seen = await load(X)
    await store(X, seen + 1)


async def wait_for_two(word):
    if await load(word) == 2:
        await store(Y, 1)


@scenario(variant("two"), variant("looked", looks=True))
def lost_update(setup, *, looks=False):
    setup.cpu(0, call(increment))
    setup.cpu(1, call(increment))
    if looks:
        setup.cpu(2, call(wait_for_two, X))
    setup.at_quiescence("both_count", value(X) == 2)
"""

RECORDED = """\
smpmmu schedule 1
scenario small.py:lost_update/two
expect   VIOLATED both_count

cpu0  load x -> 0
cpu1  load x -> 0
cpu0  store x = 1
cpu1  store x = 1
"""


@pytest.fixture
def small(users: Users, tmp_path: Path) -> Path:
    """Return where a schedule of the small scenario is to be written."""
    users("small.py", SMALL)
    return tmp_path / "it.schedule"


def test_there_are_recorded_schedules() -> None:
    assert FILES
    assert {f.suffix for f in FILES} == {".schedule"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_every_recorded_schedule_replays_to_what_it_says(file: Path, shell: Shell) -> None:
    schedule = read(file.read_text(encoding="utf-8"), file.name)
    done = shell("replay", str(file))
    assert (done.status, done.err) == (0, "")
    count = len(schedule.lines)
    assert done.out.endswith(f"confirmed: {schedule.violated} is violated after {count} choices\n")
    assert all(line.text for line in schedule.lines)
    assert schedule.write() == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_recorded_again_it_is_no_shorter(file: Path, shell: Shell, tmp_path: Path) -> None:
    recorded = read(file.read_text(encoding="utf-8"), file.name)
    done = shell("explore", recorded.scenario, "--save", str(tmp_path))
    assert done.status == 1
    again = read((tmp_path / file.name).read_text(encoding="utf-8"), file.name)
    assert (again.scenario, again.violated) == (recorded.scenario, recorded.violated)
    assert len(again.choices) == len(recorded.choices)
    assert switches(again) == switches(recorded)


def switches(schedule: Schedule) -> int:
    return sum(a != b for a, b in pairwise(schedule.choices))


def test_what_explore_saves_is_what_is_written_here(small: Path, shell: Shell) -> None:
    assert shell("explore", "small.py:lost_update/two", "--save", ".").status == 1
    saved = small.with_name("lost_update.two.schedule").read_text(encoding="utf-8")
    # Both loads before both stores; which store is first does not matter and is a tie.
    assert saved.splitlines()[:4] == RECORDED.splitlines()[:4]
    assert sorted(saved.splitlines()[4:]) == sorted(RECORDED.splitlines()[4:])


def test_the_small_one_replays(small: Path, shell: Shell) -> None:
    small.write_text(RECORDED, encoding="utf-8")
    done = shell("replay", small.name)
    assert (done.status, done.err) == (0, "")
    assert "store x = 1" in done.out
    assert done.out.endswith("confirmed: both_count is violated after 4 choices\n")


# Truncated.


@pytest.mark.parametrize("lines", range(len(RECORDED.splitlines())))
def test_truncated_at_any_line(lines: int, small: Path, shell: Shell) -> None:
    small.write_text("".join(RECORDED.splitlines(keepends=True)[:lines]), encoding="utf-8")
    done = shell("replay", small.name)
    assert (done.status, done.out) == (4, "")
    expected = {
        0: f"error: it.schedule:1: expected {HEADER!r}, found 'an empty line'\n",
        1: "error: it.schedule: no line says 'scenario'; the file is truncated\n",
        2: "error: it.schedule: no line says 'expect'; the file is truncated\n",
        3: "error: it.schedule: there is no step in it; the file is truncated\n",
        4: "error: it.schedule: there is no step in it; the file is truncated\n",
    }
    for taken in (1, 2, 3):
        expected[4 + taken] = (
            "error: it.schedule: expected the run to violate both_count, found cut after "
            f"{taken} choices\n" + AGAIN.format("small.py:lost_update/two")
        )
    assert done.err == expected[lines]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_a_recorded_one_truncated_at_any_line(file: Path, shell: Shell, tmp_path: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    cut = tmp_path / file.name
    for kept in [*range(5), *range(5, len(lines), 7), len(lines) - 1]:
        cut.write_text("".join(lines[:kept]), encoding="utf-8")
        done = shell("replay", str(cut))
        if kept > 4 and done.status == 0 and QUIESCENCE_STAYS_REACHABLE in lines[2]:
            # Nothing is missing: rest is out of reach from here on already.
            continue
        assert (done.status, done.out) == (4, ""), kept
        assert done.err.startswith(f"error: {cut}:")
        assert "truncated" in done.err or "expected" in done.err
        assert "Traceback" not in done.err


@pytest.mark.parametrize("lost", range(1, 26))
def test_truncated_within_a_line(lost: int, small: Path, shell: Shell) -> None:
    """Only the text of the last line may go, as a whole: the choice alone is enough."""
    small.write_text(RECORDED[:-lost], encoding="utf-8")
    done = shell("replay", small.name)
    left = RECORDED[:-lost].splitlines()[-1]
    if left in ("cpu1  store x = 1", "cpu1  ", "cpu1 ", "cpu1"):
        assert done.status == 0
    else:
        assert done.status == 4
        assert "expected" in done.err
        assert "found" in done.err
        assert "python -m smpmmu explore small.py:lost_update/two --save DIR" in done.err


# Edited.


def test_an_edited_choice_is_told_with_what_was_possible(small: Path, shell: Shell) -> None:
    small.write_text(RECORDED.replace("cpu1  store", "cpu0  store"), encoding="utf-8")
    done = shell("replay", small.name)
    assert (done.status, done.out) == (4, "")
    assert done.err == (
        "error: it.schedule:8: expected cpu0 'store x = 1', found that it cannot move\n"
        "  enabled here: cpu1 'store x = 1'\n" + AGAIN.format("small.py:lost_update/two")
    )


def test_an_edited_choice_that_can_move_shows_in_its_text(small: Path, shell: Shell) -> None:
    text = RECORDED.replace("cpu0  store x = 1\ncpu1  store", "cpu1  load x -> 0\ncpu0  store")
    small.write_text(text, encoding="utf-8")
    done = shell("replay", small.name)
    assert done.status == 4
    assert done.err == (
        "error: it.schedule:7: expected cpu1 'load x -> 0', found cpu1 'store x = 1'\n"
        + AGAIN.format("small.py:lost_update/two")
    )


@pytest.mark.parametrize("number", [5, 6, 7, 8])
def test_an_edited_text_is_told_at_its_line(number: int, small: Path, shell: Shell) -> None:
    lines = RECORDED.splitlines()
    choice, told = lines[number - 1].split("  ")
    lines[number - 1] = f"{choice}  {told}0"
    small.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = shell("replay", small.name)
    assert (done.status, done.out) == (4, "")
    assert done.err == (
        f"error: it.schedule:{number}: expected {choice} '{told}0', found {choice} {told!r}\n"
        + AGAIN.format("small.py:lost_update/two")
    )


def test_an_unknown_context_is_told_with_those_there_are(small: Path, shell: Shell) -> None:
    small.write_text(RECORDED.replace("cpu1  load", "cpu9  load"), encoding="utf-8")
    done = shell("replay", small.name)
    assert done.status == 4
    assert done.err == (
        "error: it.schedule:6: expected cpu9 'load x -> 0', found no such context\n"
        "  enabled here: cpu0 'store x = 1', cpu1 'load x'\n"
        + AGAIN.format("small.py:lost_update/two")
    )


def test_a_schedule_that_ends_otherwise_is_told(small: Path, shell: Shell) -> None:
    text = RECORDED.replace("VIOLATED both_count", "VIOLATED something_else")
    small.write_text(text, encoding="utf-8")
    done = shell("replay", small.name)
    assert done.status == 4
    assert done.err == (
        "error: it.schedule: expected the run to violate something_else, found both_count after "
        "4 choices\n" + AGAIN.format("small.py:lost_update/two")
    )


def test_a_schedule_that_goes_on_after_the_violation_is_told(small: Path, shell: Shell) -> None:
    small.write_text(RECORDED + "cpu0  load x -> 1\n", encoding="utf-8")
    done = shell("replay", small.name)
    assert done.status == 4
    assert "it.schedule:9: expected cpu0 'load x -> 1', found that it cannot move" in done.err


def test_the_line_counts_blank_ones_and_comments(small: Path, shell: Shell) -> None:
    head, steps = RECORDED.split("\n\n")
    text = f"{head}\n# why\n\n\n# first both load\n{steps.replace('cpu1  store', 'cpu1  stores')}"
    small.write_text(text, encoding="utf-8")
    done = shell("replay", small.name)
    assert done.status == 4
    assert done.err.startswith("error: it.schedule:11: expected cpu1 'stores x = 1', found ")


# Not a schedule at all.


def broken(old: str, new: str) -> str:
    assert old in RECORDED
    return RECORDED.replace(old, new, 1)


NOT_ONE = {
    "wrong_header": (
        broken("smpmmu schedule 1", "smpmmu schedule 2"),
        f":1: expected {HEADER!r}, found 'smpmmu schedule 2'",
    ),
    "no_header": (
        broken("smpmmu schedule 1\n", ""),
        f":1: expected {HEADER!r}, found 'scenario small.py:lost_update/two'",
    ),
    "unknown_key": (
        broken("expect ", "seed 4\nexpect "),
        ":3: expected expect, found 'seed'",
    ),
    "unknown_first_key": (
        broken("scenario ", "author me\nscenario "),
        ":2: expected scenario or expect, found 'author'",
    ),
    "third_key": (
        broken("VIOLATED both_count\n", "VIOLATED both_count\nseed 4\n"),
        ":4: expected an empty line, found 'seed'",
    ),
    "duplicate_scenario": (
        broken("expect ", "scenario small.py:lost_update/two\nexpect "),
        ":3: expected expect, found 'scenario'",
    ),
    "duplicate_expect": (
        broken("both_count\n", "both_count\nexpect VIOLATED both_count\n"),
        ":4: expected an empty line, found 'expect'",
    ),
    "empty_scenario": (
        broken("scenario small.py:lost_update/two", "scenario"),
        ": no line says 'scenario'; the file is truncated",
    ),
    "expects_holds": (
        broken("VIOLATED both_count", "HOLDS"),
        (
            ": expected 'expect VIOLATED property', 'expect PASSES' or 'expect UNDECIDED', "
            "found 'expect HOLDS'"
        ),
    ),
    "expects_no_property": (
        broken("VIOLATED both_count", "VIOLATED"),
        (
            ": expected 'expect VIOLATED property', 'expect PASSES' or 'expect UNDECIDED', "
            "found 'expect VIOLATED'"
        ),
    ),
    "passes_a_property": (
        broken("VIOLATED both_count", "PASSES both_count"),
        (
            ": expected 'expect VIOLATED property', 'expect PASSES' or 'expect UNDECIDED', "
            "found 'expect PASSES both_count'"
        ),
    ),
    "empty": ("", f":1: expected {HEADER!r}, found 'an empty line'"),
    "blank": ("\n \n", f":1: expected {HEADER!r}, found 'an empty line'"),
    "something_else": ("{}\n", f":1: expected {HEADER!r}, found '{{}}'"),
    "unknown_scenario": (
        broken("small.py:lost_update/two", "reliant_flushr/deferred_after_unlock"),
        ": no scenario is called 'reliant_flushr'; did you mean reliant_flusher?",
    ),
    "unknown_variant": (
        broken("small.py:lost_update/two", "reliant_flusher/deferred_after_unloc"),
        (
            ": no variant of reliant_flusher is called 'deferred_after_unloc'; did you mean "
            "deferred_after_unlock?"
        ),
    ),
    "several_variants": (
        broken("small.py:lost_update/two", "reliant_flusher"),
        ": reliant_flusher has several variants; name one: ",
    ),
    "unknown_in_file": (
        broken("lost_update/two", "lost_updates/two"),
        ": no scenario is called 'lost_updates' in small.py; did you mean lost_update?",
    ),
    "no_such_file": (broken("small.py", "smaller.py"), ": there is no file smaller.py"),
}


@pytest.mark.parametrize("case", NOT_ONE)
def test_what_is_no_schedule_is_told(case: str, small: Path, shell: Shell) -> None:
    text, expected = NOT_ONE[case]
    small.write_text(text, encoding="utf-8")
    done = shell("replay", small.name)
    assert (done.status, done.out) == (4, "")
    assert done.err.startswith(f"error: it.schedule{expected}")
    assert "Traceback" not in done.err
    assert small.read_text(encoding="utf-8") == text


def test_a_binary_file_is_told(small: Path, shell: Shell) -> None:
    small.write_bytes(bytes(range(256)))
    done = shell("replay", small.name)
    assert (done.status, done.out) == (4, "")
    assert done.err == "error: cannot read the schedule it.schedule: it is not text\n"


def test_text_in_another_encoding_is_told(small: Path, shell: Shell) -> None:
    small.write_bytes(RECORDED.encode("utf-16"))
    assert shell("replay", small.name).status == 4


def test_a_missing_file_is_wrong_usage(small: Path, shell: Shell) -> None:
    done = shell("replay", small.name)
    assert (done.status, done.out) == (2, "")
    assert done.err == "error: cannot read the schedule it.schedule: No such file or directory\n"


def test_a_directory_is_wrong_usage(small: Path, shell: Shell) -> None:
    small.mkdir()
    done = shell("replay", small.name)
    assert (done.status, done.out) == (2, "")
    assert done.err == "error: cannot read the schedule it.schedule: Is a directory\n"


@pytest.mark.parametrize("ending", ["\r\n", "\n\n", " \n"])
def test_other_ends_of_lines_do_no_harm(ending: str, small: Path, shell: Shell) -> None:
    small.write_bytes("".join(f"{line}{ending}" for line in RECORDED.splitlines()).encode())
    assert shell("replay", small.name).status == 0


# Choices alone.


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_choices_alone_are_enough_and_the_rest_is_filled_in(
    file: Path, shell: Shell, tmp_path: Path
) -> None:
    text = file.read_text(encoding="utf-8")
    head, _, steps = text.partition("\n\n")
    alone = "\n".join(line.split()[0] for line in steps.splitlines())
    bare = tmp_path / "bare.schedule"
    bare.write_text(f"{head}\n\n{alone}\n", encoding="utf-8")
    done = shell("replay", str(bare))
    assert (done.status, done.err) == (0, "")
    assert "filled" not in done.out
    assert bare.read_text(encoding="utf-8") == f"{head}\n\n{alone}\n"
    done = shell("replay", str(bare), "--fill")
    assert done.status == 0
    assert done.out.endswith("was written in full\n")
    assert bare.read_text(encoding="utf-8") == text
    assert [p.name for p in tmp_path.iterdir()] == ["bare.schedule"]


def test_some_texts_may_be_missing(small: Path, shell: Shell) -> None:
    small.write_text(broken("  load x -> 0\n", "\n"), encoding="utf-8")
    assert shell("replay", small.name, "--fill").status == 0
    assert small.read_text(encoding="utf-8") == RECORDED


def test_a_wrong_schedule_is_not_filled_in(small: Path, shell: Shell) -> None:
    for wrong in (broken("cpu1  store", "cpu0  store"), broken("x -> 0", "x -> 1")):
        small.write_text(wrong, encoding="utf-8")
        assert shell("replay", small.name, "--fill").status == 4
        assert small.read_text(encoding="utf-8") == wrong
    assert sorted(p.name for p in small.parent.iterdir() if p.is_file()) == [
        "it.schedule",
        "small.py",
    ]


# Reading.


def test_reading_runs_no_code(users: Users, tmp_path: Path) -> None:
    users("evil.py", "from pathlib import Path\nPath('ran').touch()\n" + SMALL)
    text = RECORDED.replace("small.py", "evil.py")
    schedule = read(text, "it.schedule")
    assert schedule == Schedule(
        "evil.py:lost_update/two",
        "both_count",
        (
            Line("cpu0", "load x -> 0", 5),
            Line("cpu1", "load x -> 0", 6),
            Line("cpu0", "store x = 1", 7),
            Line("cpu1", "store x = 1", 8),
        ),
    )
    assert schedule.write() == text
    assert not (tmp_path / "ran").exists()


def test_a_broken_schedule_runs_no_code(users: Users, tmp_path: Path, shell: Shell) -> None:
    users("evil.py", "from pathlib import Path\nPath('ran').touch()\n" + SMALL)
    text = RECORDED.replace("small.py", "evil.py")
    for number, wrong in enumerate((text[:60], text.replace("expect", "expects"), "x" + text)):
        users(f"{number}.schedule", wrong)
        assert shell("replay", f"{number}.schedule").status == 4
        assert not (tmp_path / "ran").exists()
    users("good.schedule", text)
    assert shell("replay", "good.schedule").status == 0
    assert (tmp_path / "ran").exists()


def test_errors_name_the_file_as_it_was_given() -> None:
    with pytest.raises(ScheduleError, match=r"^some/where\.schedule:1: expected"):
        read("", "some/where.schedule")


def test_the_example_in_the_module_can_be_read() -> None:
    from smpmmu.engine import schedule

    example = re.search(r"    smpmmu schedule 1\n(    .*\n|\n)+", schedule.__doc__ or "")
    assert example is not None
    lines = [line.removeprefix("    ") for line in example.group().splitlines()]
    found = read("\n".join(lines), "the docstring")
    assert found.scenario == DEFECT
    assert found.choices == ("cpu0", "cpu1")


# Names that a line cannot hold.

BLANKS = """\
from smpmmu import Word, Step, Wait, call, load, scenario, store, value

X, PENDING = Word("x", 2), Word("pending", 1)


async def go():
    await store(PENDING, 1)
    await load(X)


async def handle():
    await Step("take", PENDING, wait=Wait(1, 1), and_mask=0)
    await store(X, 1)


@scenario()
def named(setup):
    setup.cpu(0, call(go))
    setup.irq(0, "the timer", call(handle))
    setup.always("x stays 0", value(X) == 0)
"""


def test_contexts_whose_names_have_blanks_replay_or_are_refused(users: Users, shell: Shell) -> None:
    file = users("blanks.py", BLANKS)
    done = shell("explore", file, "--save", "saved")
    if done.status != 4:
        assert shell("replay", "saved/named.default.schedule").status == 0


def test_properties_whose_names_have_blanks_replay(users: Users, shell: Shell) -> None:
    file = users("fine.py", BLANKS.replace("the timer", "timer"))
    assert shell("explore", file, "--save", "saved").status == 1
    done = shell("replay", "saved/named.default.schedule")
    assert done.status == 0
    assert done.out.endswith("confirmed: x stays 0 is violated after 3 choices\n")


def test_filling_in_keeps_comments(small: Path, shell: Shell) -> None:
    text = broken("cpu0  load", "# both read before either writes\ncpu0  load")
    small.write_text(text.replace("  store x = 1", ""), encoding="utf-8")
    assert shell("replay", small.name, "--fill").status == 0
    assert small.read_text(encoding="utf-8") == text
