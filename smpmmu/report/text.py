"""Answers as text: a line a variant, and for a violation the story in columns.

The same question gives the same bytes: no times, no ids. It must not print; `cli/` does.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from smpmmu.engine.race import LONGEST_JUDGED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smpmmu.engine.race import Race
    from smpmmu.report.rows import Broken, Row, Step

STYLES = {"HOLDS": "green", "VIOLATED": "bold red", "UNDECIDED": "yellow"}
NARROWEST_TABLE = 110
NARROWEST_COLUMN = 26
"""Characters of a column of the story, below which it is told in one column."""


class Page:
    """Text being composed for a width, in colour or not, in Unicode or ASCII."""

    def __init__(self, width: int, *, colour: bool = False, ascii_only: bool = False) -> None:
        """Begin empty."""
        self._file = io.StringIO()
        self.ascii_only = ascii_only
        self.width = width
        self._console = Console(
            file=self._file,
            width=width,
            force_terminal=colour,
            no_color=not colour,
            color_system="standard" if colour else None,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )

    @property
    def text(self) -> str:
        """What was composed, without blanks at the ends of lines."""
        lines = self._file.getvalue().split("\n")
        return "\n".join(line.rstrip() for line in lines)

    def line(self, *parts: str | tuple[str, str], indent: int = 0) -> None:
        """Add a paragraph of plain or (text, style) parts."""
        text = Text.assemble(" " * indent, *parts, overflow="fold")
        self._console.print(text, soft_wrap=False)

    def table(self, table: Table) -> None:
        """Add a table."""
        self._console.print(table)

    def box(self) -> box.Box:
        """Return the frame for tables."""
        return box.ASCII if self.ascii_only else box.SIMPLE_HEAD


def overview(rows: Sequence[Row], page: Page) -> None:
    """Add a table of variants: verdict, property, counts; a paragraph each if it is narrow."""
    if page.width < NARROWEST_TABLE:
        for row in rows:
            page.line(row.name)
            page.line(
                (row.verdict, STYLES[row.verdict]), f" {row.violated or row.reason}", indent=2
            )
            page.line(counts(row), indent=2)
        return
    table = Table(box=page.box(), pad_edge=False, header_style="", collapse_padding=True)
    table.add_column("scenario/variant", overflow="fold", min_width=_longest(rows, page))
    table.add_column("verdict", overflow="fold")
    table.add_column("what breaks", overflow="fold")
    for name in ("states", "transitions", "depth"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("with evictor", justify="right", overflow="fold")
    table.add_column("live", overflow="fold")
    for row in rows:
        backing = f"{row.live_runs} runs" if row.live_runs else ""
        if row.broken:
            first = row.broken[0]
            backing = f"{first.choices} choices"
        table.add_row(
            row.name,
            Text(row.verdict, STYLES[row.verdict]),
            row.violated or row.reason,
            f"{row.states:,}",
            f"{row.transitions:,}",
            str(row.depth),
            f"{row.evictor_states:,}" if row.evictor_states else "",
            backing,
        )
    page.table(table)


def _longest(rows: Sequence[Row], page: Page) -> int:
    return min(max((len(row.name) for row in rows), default=0), page.width // 3)


def conclusion(rows: Sequence[Row], page: Page) -> None:
    """Add how the answers compare with what was expected."""
    judged = [row for row in rows if row.expected]
    odd = [row for row in judged if row.surprising]
    for row in odd:
        wanted = f"{row.expected} {row.expected_property}".strip()
        found = f"{row.verdict} {row.violated}".strip()
        page.line((f"{row.name}: expected {wanted}, found {found}", "bold red"))
        page.line(f"the expectation is from: {row.source}", indent=2)
    undecided = sum(row.verdict == "UNDECIDED" for row in judged)
    plain = len(judged) - len(odd) - undecided
    page.line(
        f"{plain} of {len(judged)} as expected"
        + (f", {undecided} undecided" if undecided else "")
        + "."
    )


def answer(row: Row, page: Page) -> None:
    """Add everything about one variant: verdict, stories, counts, what to type next."""
    page.line(
        f"{row.name}  ", (row.verdict, STYLES[row.verdict]), f"  {row.violated or row.reason}"
    )
    for broken in row.broken:
        _violation(row, broken, page)
    page.line(counts(row), indent=2)
    if row.refused:
        page.line(f"not reduced by symmetry: {row.refused}", indent=2)
    if row.verdict == "HOLDS":
        backing = (
            f"backed by {row.live_runs} random runs on live vCPUs that agree step by step"
            if row.engine == "batch"
            else "explored on the live vCPUs themselves"
        )
        page.line(backing, indent=2)
        if row.evictor_states:
            page.line(
                f"holds with TLB evictions at any moment too: {row.evictor_states:,} states, "
                f"{row.evictor_transitions:,} transitions" + _less(row.evictor_reductions),
                indent=2,
            )
        how = (
            "states compared whole"
            if row.exact
            else f"probability that a state was missed by a collision: below "
            f"{row.collision_bound:.1e}"
        )
        page.line(how, indent=2)
    seen = [name for name, reached in row.reached if reached]
    if seen and row.verdict == "HOLDS":
        page.line(f"reached: {'; '.join(seen)}", indent=2)
    for name in row.vacuous:
        page.line((f"never reached: {name} - this HOLDS says less than it seems", "yellow"),
                  indent=2)  # fmt: skip
    if row.verdict == "UNDECIDED":
        page.line(f"not everything was looked at: {row.reason} ended it", indent=2)
        levels = " ".join(str(n) for n in row.levels[-8:])
        page.line(f"states at the last depths: {levels}", indent=2)
    if row.expected:
        wanted = f"{row.expected} {row.expected_property}".strip()
        agree = "not as expected" if row.surprising else "as expected"
        if row.verdict == "UNDECIDED":
            agree = "expected"
        page.line(f"{agree}: {wanted}, from: {row.source}", indent=2)
    for broken in row.broken:
        again = f"explore {row.name} --save DIR"
        todo = f"replay {broken.file}" if broken.file else again
        page.line(f"{'replay' if broken.file else 'record'}: python -m smpmmu {todo}", indent=2)
    page.line("")


def counts(row: Row) -> str:
    """Return what was covered, in words."""
    text = f"{row.states:,} states, {row.transitions:,} transitions, depth {row.depth}"
    return text + _less(row.reductions)


def _less(reductions: tuple[str, ...]) -> str:
    return f", reduced by {' and '.join(reductions)}" if reductions else ""


def _violation(row: Row, broken: Broken, page: Page) -> None:
    kind = "shortest schedule" if broken.shortest else "a schedule (not necessarily the shortest)"
    least = " (the fewest)" if broken.fewest_switches else ""
    page.line(
        ("VIOLATED", STYLES["VIOLATED"]),
        f" {broken.name}: {kind}, {broken.choices} choice{'' if broken.choices == 1 else 's'}, "
        f"{broken.switches} context switch{'' if broken.switches == 1 else 'es'}{least}",
    )
    story(broken.story, row.columns, page, broken.race, broken.name)
    values = ", ".join(f"{name} = {text}" for name, text in broken.values if text != "0")
    page.line(f"in the end: {values or 'every word as at first'}", indent=2)


def story(
    steps: Sequence[Step], columns: Sequence[tuple[str, str]], page: Page,
    race: Race | None = None, violated: str = "", marked: int = 0
) -> None:  # fmt: skip
    """Add a run as a table, a column per vCPU; interrupts and hardware are marked in theirs.

    Where something is violated, `>` marks the step that does it, `*` both of the critical race.
    Else `*` marks the step numbered `marked`, if it is not 0.
    """
    starred = (marked,) if race is None else (race.first, race.second)
    _table(steps, columns, page, starred, last=len(steps) if violated else 0)
    if violated:
        page.line(critical(race, len(steps)), indent=2)


def critical(race: Race | None, steps: int) -> str:
    """Return the critical race of a run of so many steps, in words."""
    if race is None:
        if steps > LONGEST_JUDGED:
            return "critical race: not looked for in so long a run; shrink it first"
        return "critical race: none; with no two conflicting steps reversed does it go away"
    return f"critical race: {pair(race, steps)}; the other way round nothing is violated"


def pair(race: Race, steps: int) -> str:
    """Return both steps of a race in a run of so many steps."""
    one, other = (f"{c} {t!r}" for c, t in zip(race.contexts, race.texts, strict=True))
    if race.second > steps:
        return f"*{race.first} {one} before {other}, which waits for ever"
    return f"*{race.first} {one} before *{race.second} {other}"


def _table(
    steps: Sequence[Step], columns: Sequence[tuple[str, str]], page: Page,
    starred: tuple[int, ...], last: int
) -> None:  # fmt: skip
    cpus = list(dict.fromkeys(cpu for _, cpu in columns))
    home = dict(columns)
    marks = [
        f"{'>' if n == last else ''}{'*' if n in starred else ''}{n}"
        for n in range(1, len(steps) + 1)
    ]
    if page.width < 8 + NARROWEST_COLUMN * len(cpus):
        table = Table(box=page.box(), pad_edge=False, header_style="")
        table.add_column("", justify="right", overflow="fold")
        table.add_column("who", overflow="fold")
        table.add_column("what", overflow="fold", ratio=1)
        for mark, step in zip(marks, steps, strict=True):
            table.add_row(mark, step.context, step.text)
        page.table(table)
        return
    table = Table(box=page.box(), pad_edge=False, header_style="", expand=False)
    table.add_column("", justify="right", overflow="fold")
    for cpu in cpus:
        table.add_column(cpu, overflow="fold", max_width=(page.width - 8) // len(cpus) - 3)
    for mark, step in zip(marks, steps, strict=True):
        cpu = home.get(step.context, step.context)
        inner = step.context.removeprefix(cpu + ".").removeprefix("irq.")
        text = step.text if inner == cpu else f"{inner}: {step.text}"
        table.add_row(mark, *(text if cpu == c else "" for c in cpus))
    page.table(table)
