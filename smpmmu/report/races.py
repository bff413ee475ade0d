"""The races of the record as a table: what each defect breaks and how soon, what its repair covers.

It must not print.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from smpmmu.scenarios.races import BEYOND, DEFECT, RACES, REPAIR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smpmmu.report.rows import Row
    from smpmmu.report.text import Page
    from smpmmu.scenarios.races import Race

NARROWEST_TABLE = 110


def races(rows: Sequence[Row], page: Page) -> None:
    """Add the table, a race a line; a paragraph each if the page is narrow."""
    by_name = {f"{row.scenario}/{row.variant}": row for row in rows}
    told, beyond = (
        [(race, *_cells(race, by_name)) for race in part if f"{race.name}/{DEFECT}" in by_name]
        for part in (RACES, BEYOND)
    )
    if page.width < NARROWEST_TABLE:
        for race, broken, found, holds in (*told, *beyond):
            page.line(race.name)
            page.line(f"{race.system} {race.year}, {race.reference}", indent=2)
            steps, switches = found
            page.line(f"{broken}, after {steps} steps with {switches} switches", indent=2)
            page.line(f"repair: holds over {holds} states", indent=2)
    else:
        table = Table(box=page.box(), pad_edge=False, header_style="", collapse_padding=True)
        table.add_column("race", no_wrap=True)
        table.add_column("system, year", overflow="fold", max_width=16)
        table.add_column("reference", no_wrap=True)
        table.add_column("the defect breaks", overflow="fold")
        for name in ("steps", "switches", "repair"):
            table.add_column(name, justify="right", overflow="fold")
        for race, broken, found, holds in (*told, *beyond):
            if beyond and race is beyond[0][0]:
                table.add_section()
            system = f"{race.system}, {race.year}"
            table.add_row(race.name, system, race.reference, broken, *found, holds)
        page.table(table)
    page.line(
        "steps, switches: of the shortest schedule that shows the defect; repair: states over "
        "which it holds, with TLB evictions."
    )
    page.line("")
    if told:
        page.line(_tally([race for race, *_ in told], by_name))
    if beyond:
        page.line(f"beyond these: {_tally([race for race, *_ in beyond], by_name)}")
    others = [row for row in rows if row.variant not in (DEFECT, REPAIR)]
    page.line(
        f"{len(others)} more variants: "
        f"{sum(row.verdict == 'HOLDS' for row in others)} hold, "
        f"{sum(row.verdict == 'VIOLATED' for row in others)} are violated."
    )


def _tally(told: Sequence[Race], rows: dict[str, Row]) -> str:
    """Return how many defects were found and repairs hold, of how many races."""
    found = sum(rows[f"{race.name}/{DEFECT}"].verdict == "VIOLATED" for race in told)
    hold = sum(rows[f"{race.name}/{REPAIR}"].verdict == "HOLDS" for race in told)
    return f"{found} of {len(told)} defects are found, {hold} of {len(told)} repairs hold."


def _cells(race: Race, rows: dict[str, Row]) -> tuple[str, tuple[str, str], str]:
    """Return (property, (steps, switches) of the defect's schedule, what the repair covers)."""
    defect, repair = rows[f"{race.name}/{DEFECT}"], rows[f"{race.name}/{REPAIR}"]
    first = defect.broken[0] if defect.broken else None
    found = (str(first.choices), str(first.switches)) if first else ("", "")
    covered = repair.evictor_states or repair.states
    holds = f"{covered:,}" if repair.verdict == "HOLDS" else repair.verdict
    return defect.violated or defect.verdict, found, holds
