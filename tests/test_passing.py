"""Runs that pass and came close: the window was entered, they rest, and they replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.errors import UsageError
from smpmmu.engine.run import Ending
from smpmmu.engine.steps import Word
from smpmmu.engine.walk import Walk
from smpmmu.machine.entries import PAGE_DIRTY, PAGE_PRESENT, PAGE_RW, TLB_ENTRY, entry
from smpmmu.passing import passing
from smpmmu.properties.closeness import cached_no_more_permissive
from smpmmu.targets import one
from tests.shell import DEFECT, REPAIR, ROOT, Shell

if TYPE_CHECKING:
    from pathlib import Path

WINDOWS = "cpu2.tlb[0x1] allows more than 0x2[1]; shadow 0x2[1] allows more than 0x2[1]"


def test_the_window_is_entered_and_used() -> None:
    found = passing(REPAIR, 3)
    first, second, last = found.runs
    assert found.all_states
    assert (first.why, first.marked) == (f"closest: {WINDOWS}", 6)
    assert (second.why, second.marked) == ("closest: shadow 0x2[1] allows more than 0x2[1]", 2)
    assert last.why.startswith("46 context switches while a lock is held, number 1 of ")
    for each in found.runs:
        assert each.told.run.ending is Ending.QUIESCENT
    # The entry is read-only, cpu0 holds its lock, and cpu2 writes by what it has cached.
    steps = [step.text for step in first.told.steps]
    assert steps[4:7] == ["lock ptl", "clear_bit RW 0x2[1]", "write page 0x3 -> mm1"]


def test_at_the_marked_step_it_is_as_said() -> None:
    (only,) = passing(REPAIR, 1).runs
    with Walk(one(REPAIR).system()) as walk:
        for choice in only.told.run.choices[: only.marked]:
            walk.take(walk.machine.numbers[choice])
        values = dict(walk.machine.values())
    writable, shadow = values["cpu2.tlb[0x1]"], values.get("shadow 0x2[1]")
    assert values["ptl"]
    assert not values["0x2[1]"] & PAGE_RW
    assert writable & PAGE_RW
    assert shadow is None  # as it was at first, writable


@pytest.mark.parametrize(
    ("cached", "primary", "stricter"),
    [
        (0, 0, True),
        (entry(3, PAGE_PRESENT), entry(3, PAGE_PRESENT), True),
        (entry(3, PAGE_PRESENT), entry(3, PAGE_PRESENT | PAGE_RW), True),
        (entry(3, PAGE_PRESENT | PAGE_RW), entry(3, PAGE_PRESENT), False),
        (entry(3, PAGE_PRESENT), 0, False),
        (entry(3, PAGE_PRESENT), entry(4, PAGE_PRESENT), False),
        (entry(3, PAGE_PRESENT | PAGE_DIRTY), entry(3, PAGE_PRESENT), False),
    ],
)
def test_what_a_tlb_may_have(cached: int, primary: int, *, stricter: bool) -> None:
    tlb, pte = Word("tlb", 32, cached, format=TLB_ENTRY), Word("pte", 32, primary)

    class Reader:
        def word(self, word: Word) -> int:
            return word.initial

        def finished(self, context: str) -> bool:
            raise AssertionError(context)

    assert cached_no_more_permissive(tlb, pte).evaluate(Reader()) is stricter


def test_without_page_tables_there_are_switches(shell: Shell) -> None:
    done = shell("passing", f"{ROOT / 'docs' / 'example.py'}:move_page/waiting", "--count", "2")
    assert done.status == 0
    assert "none is close" in done.out.replace("\n", " ")
    assert done.out.count("comes to rest after 14 choices; nothing is violated") == 2


def test_saved_they_replay(shell: Shell, tmp_path: Path) -> None:
    done = shell("passing", REPAIR, "--save", str(tmp_path))
    assert done.status == 0
    files = sorted(tmp_path.glob("*.schedule"))
    assert [f.name for f in files] == [
        f"reliant_flusher.deferred_under_ptl.passing.{n}.schedule" for n in (1, 2, 3)
    ]
    for file in files:
        assert "\nexpect   PASSES\n" in file.read_text(encoding="utf-8")
        again = shell("replay", str(file))
        assert again.status == 0
        assert "confirmed: the system comes to rest, and nothing was violated" in again.out
    assert shell("passing", REPAIR, "--save", str(tmp_path)).out == done.out


def test_what_is_violated_has_no_place_here(shell: Shell) -> None:
    done = shell("passing", DEFECT)
    assert (done.status, done.out) == (2, "")
    assert f"{DEFECT} is violated: no_write_after_promise" in done.err


@pytest.mark.parametrize("name", ["bottom_half_flushes", "flush_irqs_off_meets_flush"])
def test_a_deadlock_is_a_violation_too(name: str) -> None:
    """Of the second no run that is tried gets stuck."""
    with pytest.raises(UsageError, match="is violated: no_deadlock; this is about what holds"):
        passing(f"shootdown_deadlocks/{name}")


def test_what_only_a_run_shows_is_said_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smpmmu.passing.MOST_NODES", 5)
    with pytest.raises(UsageError, match="is violated: nobody_touches_a_freed_frame"):
        passing(f"{ROOT}/docs/example.py:move_page/not_waiting", 1_000)
