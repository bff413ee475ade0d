"""The main table as a grid, and the theorem that it amounts to.

A row of the grid is a hook and where its flush stands, a column a scenario; a cell is a verdict.
The sentence under it is worked out from the cells. It must not print.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from smpmmu.report.text import STYLES, Page
from smpmmu.scenarios.common import PAE_SUFFIX, Flush, Hook
from smpmmu.scenarios.theorem import COLUMNS, Column

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from smpmmu.report.rows import Row

MARKS = {
    "no_write_after_promise": "W",
    "no_access_to_freed_frame": "F",
    "no_write_lost_at_rest": "L",
    "shadow_no_more_permissive_when_lock_free": "S",
    "no_queue_holds_entry_when_lock_free": "Q",
}
"""What a violated cell shows, by the property."""
RECORDS = (Hook.DEFERRED, Hook.DEFERRED_TORN, Hook.DEFERRED_VALUE)
LATE = tuple(flush for flush in Flush if flush.late)


class Cells:
    """The answers by column and row, of one mode; a cell that was not answered is None."""

    def __init__(self, rows: Iterable[Row]) -> None:
        """Collect them by name."""
        self._rows = {row.name.partition("+")[0].removesuffix(PAE_SUFFIX): row for row in rows}

    def at(self, column: Column, hook: Hook, flush: Flush) -> Row | None:
        """Return the answer of one cell."""
        return self._rows.get(column.cell(hook, flush))

    def holds(self, column: Column, hooks: Iterable[Hook], flushes: Iterable[Flush]) -> bool:
        """Whether all of these cells hold."""
        found = [self.at(column, hook, flush) for hook in hooks for flush in flushes]
        return all(row is not None and row.verdict == "HOLDS" for row in found)

    def fails(self, column: Column, hooks: Iterable[Hook], flushes: Iterable[Flush]) -> bool:
        """Whether all of these cells are violated."""
        found = [self.at(column, hook, flush) for hook in hooks for flush in flushes]
        return all(row is not None and row.verdict == "VIOLATED" for row in found)


NARROWEST_GRID = 80
"""Characters below which a row of the grid is a paragraph."""


def grid(rows: Sequence[Row], page: Page) -> None:
    """Add the table, the meaning of its marks and columns, and what is behind it."""
    cells = Cells(rows)
    if page.width < NARROWEST_GRID:
        for hook in Hook:
            for flush in Flush:
                page.line(f"{hook.value}, {flush.value}".replace("_", " "))
                for number, column in enumerate(COLUMNS, 1):
                    mark = _mark(cells.at(column, hook, flush))
                    page.line(f"{number:4} {column.name} ", (str(mark), str(mark.style)))
    else:
        _table(cells, page)
    for number, column in enumerate(COLUMNS, 1):
        page.line(f"{number:2} {column.name}: {column.asks}")
    shown = {MARKS.get(row.violated) for row in rows}
    page.line("")
    page.line("-  holds on every interleaving")
    for name, letter in MARKS.items():
        if letter in shown:
            page.line(f"{letter}  violates {name}")
    if any(row.verdict == "UNDECIDED" for row in rows):
        page.line("?  undecided: a budget ended the search")
    page.line("")


def _table(cells: Cells, page: Page) -> None:
    table = Table(box=page.box(), pad_edge=False, header_style="", collapse_padding=True)
    table.add_column("the change is told", no_wrap=True)
    table.add_column("and flushed", no_wrap=True)
    for number, _ in enumerate(COLUMNS, 1):
        table.add_column(str(number), justify="center", no_wrap=True)
    for hook in Hook:
        for flush in Flush:
            name = hook.value.replace("_", ", ") if flush is Flush.UNDER_PTL else ""
            marks = [_mark(cells.at(column, hook, flush)) for column in COLUMNS]
            table.add_row(name, flush.value.replace("_", " "), *marks)
        table.add_section()
    page.table(table)


def _mark(row: Row | None) -> Text:
    if row is None:
        return Text(" ")
    if row.verdict == "HOLDS":
        mark = "-"
    elif row.verdict == "VIOLATED":
        mark = MARKS.get(row.violated, "X")
    else:
        mark = "?"
    return Text(mark + ("!" if row.surprising else ""), STYLES[row.verdict])


def backing(rows: Sequence[Row], page: Page) -> None:
    """Add what the verdicts rest on."""
    held = [row for row in rows if row.verdict == "HOLDS"]
    broken = [row for row in rows if row.broken]
    if held:
        states = sum(row.states for row in held)
        again = [row for row in held if row.evictor_states]
        with_evictor = sum(row.evictor_states for row in again)
        runs = {row.live_runs for row in held}
        each = f"{min(runs)} to {max(runs)}" if len(runs) > 1 else str(min(runs))
        reached = "" if any(row.vacuous for row in held) else ", and reach every `sometimes`"
        page.line(
            f"{len(held)} cells hold over {states:,} states{reached}; {each} random live runs of "
            f"each agree; {len(again)} of them hold with TLB evictions at any moment too "
            f"({with_evictor:,} states)."
        )
    if broken:
        choices = [row.broken[0].choices for row in broken]
        page.line(
            f"{len(broken)} cells are violated by schedules of {min(choices)} to {max(choices)} "
            "choices, each the shortest there is, and run on live vCPUs."
        )


def theorem(rows: Sequence[Row]) -> str:
    """Return in a sentence what the cells show; only what they do show is said."""
    if any(row.verdict == "UNDECIDED" for row in rows):
        return "Nothing is shown while a cell is undecided."
    cells = Cells(rows)
    promises = [column for column in COLUMNS if not column.rule]
    kept = [c for c in promises if cells.holds(c, RECORDS, (Flush.UNDER_PTL,))]
    natively = [c for c in promises if cells.holds(c, [Hook.NATIVE, Hook.IMMEDIATE], LATE)]
    broken = [
        c.name if cells.fails(c, RECORDS, LATE) else f"{c.name} ({', '.join(_records(cells, c))})"
        for c in natively
        if c in kept and not cells.holds(c, RECORDS, LATE)
    ]
    anyway = [c.name for c in promises if cells.fails(c, [Hook.NATIVE], LATE)]
    harmless = [c.name for c in natively if cells.holds(c, RECORDS, LATE)]
    parts = [
        _said("a deferred update that is flushed late breaks what native Linux keeps in", broken),
        "flushed under the same lock it breaks nothing"
        + _said(" but in", [c.name for c in promises if c not in kept]),
        _said("late is wrong with any hook, natively too, in", anyway),
        _said("late and harmless are the controls", harmless),
        *(_rule(cells, column) for column in COLUMNS if column.rule),
    ]
    text = "; ".join(part for part in parts if part)
    return text[:1].upper() + text[1:] + "."


def _said(words: str, names: Sequence[str]) -> str:
    return f"{words} {_listed(names)}" if names else ""


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _records(cells: Cells, column: Column) -> list[str]:
    """Return the records with which some late cell of a column fails."""
    return [r.record.value for r in RECORDS if not cells.holds(column, [r], LATE)]


def _rule(cells: Cells, column: Column) -> str:
    broken = [
        (hook, flush) for hook in Hook for flush in Flush if cells.fails(column, [hook], [flush])
    ]
    late = [(hook, flush) for hook in RECORDS for flush in LATE]
    if not broken:
        return ""
    if broken == [(h, f) for h in Hook for f in Flush if (h, f) in late]:
        return (
            f"the lock rule is broken by exactly the {len(late)} rows that are deferred and late, "
            f"and kept by the other {len(Hook) * len(Flush) - len(late)}"
        )
    return f"the lock rule is broken by {len(broken)} rows"
