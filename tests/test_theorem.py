"""The grid and the sentence under it say what the cells say, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from smpmmu.report.rows import Broken, Row
from smpmmu.report.text import Page
from smpmmu.report.theorem import MARKS, backing, grid, theorem
from smpmmu.scenarios.common import Flush, Hook
from smpmmu.scenarios.theorem import CELLS, COLUMNS, PAE_CELLS
from smpmmu.targets import one

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.shell import Shell

SENTENCE = (
    "A deferred update that is flushed late breaks what native Linux keeps in reliant_flusher, "
    "young_clear (torn, value), unmap_free (torn, value), mask_omits_deferrer_cr3_keeps and "
    "two_cpus_speculation; flushed under the same lock it breaks nothing but in remote_first; late "
    "is wrong with any hook, natively too, in reliant_skipper and dirty_writeback; late and "
    "harmless are the controls mask_omits_deferrer, two_cpus_speculation_no_walker and "
    "permission_increase; the lock rule is broken by exactly the 9 rows that are deferred and "
    "late, and kept by the other 11."
)


def broken(name: str) -> tuple[Broken, ...]:
    facts = {"shortest": True, "fewest_switches": True}
    return (Broken(name, 5, 1, story=(), schedule="", values=(), **facts),) if name else ()


def answered(name: str, verdict: str, violated: str) -> Row:
    scenario, variant = name.split("/")
    return Row(
        scenario, variant, name, verdict, broken(violated), verdict, violated, "a source",
        states=10, transitions=20, depth=3, levels=(1,), reached=(("quiescence", True),),
        reason="", exact=True, collision_bound=0.0, bytes_per_state=1.0, live_runs=5,
        evictor_states=12, evictor_transitions=24, engine="batch", columns=(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return as_expected(CELLS)


def as_expected(cells: tuple[str, ...]) -> list[Row]:
    found = []
    for name in cells:
        wanted = one(name).variant.expected
        assert wanted is not None
        found.append(answered(name, wanted.verdict.value, wanted.name))
    return found


def changed(rows: list[Row], name: str, verdict: str, violated: str) -> list[Row]:
    return [answered(name, verdict, violated) if r.name == name else r for r in rows]


def test_the_sentence(rows: list[Row]) -> None:
    assert theorem(rows) == SENTENCE


WRITE = "no_write_after_promise"


@pytest.mark.parametrize(
    ("name", "verdict", "violated", "gone"),
    [
        ("reliant_flusher/deferred_under_ptl", "VIOLATED", WRITE, "but in remote_first;"),
        ("reliant_flusher/native_after_unlock", "VIOLATED", WRITE, "in reliant_flusher,"),
        ("two_cpus_speculation/deferred_ptl_retaken", "HOLDS", "", " and two_cpus_speculation;"),
        ("lock_rule/native_under_ptl", "VIOLATED", "shadow", "exactly the 9"),
        ("lock_rule/deferred_after_unlock", "HOLDS", "", "exactly the 9"),
        ("permission_increase/deferred_after_unlock", "VIOLATED", WRITE, "permission_increase;"),
        ("unmap_free/deferred_after_unlock", "VIOLATED", WRITE, "unmap_free (torn, value)"),
        ("dirty_writeback/native_ptl_retaken", "HOLDS", "", "dirty_writeback;"),
    ],
)
def test_one_other_verdict_changes_the_sentence(
    name: str, verdict: str, violated: str, gone: str, rows: list[Row]
) -> None:
    said = theorem(changed(rows, name, verdict, violated))
    assert gone in SENTENCE
    assert gone not in said


def test_nothing_is_said_of_cells_that_are_open(rows: list[Row]) -> None:
    some = changed(rows, CELLS[7], "UNDECIDED", "")
    assert theorem(some) == "Nothing is shown while a cell is undecided."


def printed(rows: list[Row], width: int, compose: Callable[..., Any] = grid) -> str:
    page = Page(width)
    compose(rows, page)
    return page.text


def test_the_grid_has_a_mark_for_every_cell(rows: list[Row]) -> None:
    lines = printed(rows, 100).splitlines()
    body = [
        line.split()[-len(COLUMNS) :] for line in lines[3:] if "ptl" in line or "unlock" in line
    ]
    body = body[: len(Hook) * len(Flush)]
    assert [len(marks) for marks in body] == [len(COLUMNS)] * 20
    by_name = {row.name: row for row in rows}
    for (hook, flush), marks in zip(((h, f) for h in Hook for f in Flush), body, strict=True):
        for column, mark in zip(COLUMNS, marks, strict=True):
            row = by_name[column.cell(hook, flush)]
            assert mark == (MARKS[row.violated] if row.violated else "-")


def test_a_cell_that_is_not_as_expected_is_marked(rows: list[Row]) -> None:
    odd = [replace(r, expected="VIOLATED") if r.name == CELLS[0] else r for r in rows]
    assert "-!" in printed(odd, 100)
    assert "-!" not in printed(rows, 100)


def test_a_narrow_grid_keeps_every_mark(rows: list[Row]) -> None:
    wide, narrow = printed(rows, 100), printed(rows, 40)
    assert max(len(line) for line in narrow.splitlines()) <= 40
    assert narrow.count(" W\n") == wide.split("1 reliant_flusher")[0].count("W")


def test_what_is_behind_the_verdicts(rows: list[Row]) -> None:
    text = " ".join(printed(rows, 100, backing).split())
    held = sum(row.verdict == "HOLDS" for row in rows)
    assert f"{held} cells hold over {held * 10:,} states, and reach every `sometimes`" in text
    assert f"5 random live runs of each agree; {held} of them hold with TLB evictions" in text
    assert f"({held * 12:,} states)" in text
    assert f"{len(rows) - held} cells are violated by schedules of 5 to 5 choices" in text


def test_what_is_vacuous_is_not_said_to_reach_everything(rows: list[Row]) -> None:
    some = [replace(r, reached=(("never", False),)) if r.name == CELLS[0] else r for r in rows]
    assert "sometimes" not in printed(some, 100, backing)


def test_with_pae_the_same_grid_says_the_same(rows: list[Row]) -> None:
    with_pae = as_expected(PAE_CELLS)
    for compose in (grid, backing):
        assert printed(with_pae, 100, compose) == printed(rows, 100, compose)
    assert theorem(with_pae) == SENTENCE


def test_each_mode_asks_for_its_own_cells(shell: Shell) -> None:
    for option, cells in (((), CELLS), (("--pae",), PAE_CELLS)):
        limits = ("--max-states", "1", "--live-runs", "0", "--jobs", "1")
        done = shell("explore", *option, *limits, "--format", "json")
        assert done.status == 3
        found = json.loads(done.out)["results"]
        assert [f"{row['scenario']}/{row['variant']}" for row in found] == list(cells)


@pytest.mark.parametrize("option", ["--cells", "--pae"])
def test_an_option_of_the_table_is_for_the_table_alone(option: str, shell: Shell) -> None:
    done = shell("explore", "lock_rule", option)
    assert done.status == 2
    assert f"{option} is for the main table" in done.err


def test_a_variant_with_its_evictor_can_be_asked_for(shell: Shell) -> None:
    name = "lock_rule/deferred_under_ptl"
    done = shell("explore", f"{name}+evictor", "--format", "json")
    again = shell("explore", name)
    assert done.status == again.status == 0
    assert "holds with TLB evictions at any moment too: " in again.out
    assert f'"variant": "{name.split("/")[1]}"' in done.out
    assert '"with_evictor": null' in done.out
