"""Tables of figures: put together, compared, and written for a terminal or as Markdown.

It must not know what was asked, nor how tools are run.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from measuring import Figures, Skipped
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

HEADS = ("tool", "states", "transitions", "depth", "verdict", "wall s", "search s", "cpu s",
         "peak MB", "states/s", "bytes/state", "wall / smpmmu")  # fmt: skip
WORDS = ("", "tool", "program", "verdict", "by")
"""Heads of columns that are not numbers."""


@dataclass(slots=True)
class Page:
    """Rows under heads, lines between groups, and what is said below.

    Attributes:
        heads: of the columns.
        groups: (title, rows), each row a tuple of texts.
        notes: sentences below the table, each once.
    """

    heads: tuple[str, ...]
    groups: list[tuple[str, list[tuple[str, ...]]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Say something below the table, unless it is said already."""
        if text not in self.notes:
            self.notes.append(text)


class DisagreementError(Exception):
    """Two tools have counted differently, or come to different verdicts."""


def compare(found: list[Figures]) -> None:
    """Check that all tools say the same of one question.

    Raises:
        DisagreementError: they do not.
    """
    verdicts = {f.verdict for f in found if f.exhaustive and f.verdict != "unknown"}
    if len(verdicts) > 1:
        msg = "verdicts: " + "; ".join(f"{f.tool} {f.verdict}" for f in found)
        raise DisagreementError(msg)
    if verdicts == {"holds"}:
        counted = [f for f in found if f.same_counts and f.verdict == "holds"]
        if len({(f.states, f.transitions) for f in counted}) > 1:
            msg = "counts: " + "; ".join(f"{f.tool} {f.states} {f.transitions}" for f in counted)
            raise DisagreementError(msg)


def rows(found: list[Figures]) -> list[tuple[str, ...]]:
    """Return a row for each tool's figures, the first one's being what others are compared with."""
    first = found[0].seconds_total
    result = [_row(figures, first) for figures in found]
    best = best_of_spin(found)
    if best is not None:
        cells = dict.fromkeys(HEADS, "")
        cells["tool"] = f"SPIN's best exhaustive: {best.tool.removeprefix('SPIN ')}"
        cells["wall s"] = f"{best.seconds_total:.2f}"
        cells["search s"] = f"{best.seconds_search:.2f}"
        cells["wall / smpmmu"] = f"{best.seconds_total / first:.2f}"
        result.append(tuple(cells.values()))
    return result


def best_of_spin(found: list[Figures]) -> Figures | None:
    """Return SPIN's fastest configuration with a verdict, everything included."""
    able = [f for f in found if f.tool.startswith("SPIN") and f.exhaustive]
    able = [f for f in able if f.verdict != "unknown"]
    return min(able, key=lambda f: f.seconds_total, default=None)


def _row(figures: Figures, first: float) -> tuple[str, ...]:
    seconds = figures.seconds_total
    verdict = figures.verdict
    if figures.trace_length is not None:
        verdict += f" in {figures.trace_length}"
    return (
        figures.tool,
        f"{figures.states or 0:,}",
        f"{figures.transitions or 0:,}",
        str(figures.depth or ""),
        verdict,
        f"{seconds:.2f}",
        f"{figures.seconds_search:.2f}",
        f"{figures.cpu_seconds:.2f}",
        f"{figures.peak_bytes / 1e6:.0f}",
        f"{(figures.states or 0) / seconds:,.0f}",
        "" if figures.per_state is None else f"{figures.per_state:.0f}",
        f"{seconds / first:.2f}",
    )


def add(page: Page, title: str, found: list[Figures | Skipped]) -> None:
    """Add one question's answers to a page.

    Raises:
        DisagreementError: the tools disagree.
    """
    for each in found:
        if isinstance(each, Skipped):
            general = each.reason.startswith(("not installed", "spin is", "no C", "takes"))
            where = "" if general else f" {title}:"
            page.note(f"{each.tool}:{where} {each}")
    told = [each for each in found if isinstance(each, Figures)]
    try:
        compare(told)
    except DisagreementError as error:
        msg = f"the tools disagree on {title}: {error}"
        raise DisagreementError(msg) from error
    page.groups.append((title, rows(told)))


def caption(command: str) -> str:
    """Return what a table is measured with: machine, what else it does, versions, date, command.

    To be asked before anything is measured: the load average is that of what else there is.
    """
    versions = [f"CPython {platform.python_version()}"]
    versions.append(f"numpy {importlib.metadata.version('numpy')}")
    if shutil.which("spin"):
        said = subprocess.run(["spin", "-V"], capture_output=True, text=True, check=False).stdout
        versions += [f"SPIN {number}" for number in re.findall(r"Version (\S+)", said)[:1]]
    if compiler := shutil.which("cc"):
        run = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True,
                             check=False)  # fmt: skip
        versions.append(f"cc {run.stdout.strip()}")
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    beside = f"load average {os.getloadavg()[0]:.1f} before"
    return f"{machine()}, {beside}; {', '.join(versions)}; {today}; `{command}`"


def machine() -> str:
    """Return the processor's name and how many there are."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        name = found[1].strip() if found else name
    return f"{name}, {os.cpu_count()} processors"


def print_page(page: Page, *, title: str, below: str) -> None:
    """Print a page for a terminal."""
    table = Table(box=SIMPLE_HEAD, title=title, caption=below, caption_justify="left")
    for head in page.heads:
        table.add_column(head, justify="left" if head in WORDS else "right", no_wrap=True)
    for name, group in page.groups:
        if name:
            table.add_row(f"[b]{name}[/b]")
        for row in group:
            table.add_row(*row)
        table.add_section()
    console = Console(width=200)
    console.print(table)
    for note in page.notes:
        console.print(note, highlight=False)


def markdown(page: Page, *, title: str, below: str) -> str:
    """Return a page as a table in Markdown."""
    lines = [f"{title}.", ""]
    lines.append("| " + " | ".join(page.heads) + " |")
    lines.append("|" + "|".join("---" if h in WORDS else "--:" for h in page.heads) + "|")
    for name, group in page.groups:
        if name:
            lines.append(f"| **{name}** |" + " |" * (len(page.heads) - 1))
        lines += ["| " + " | ".join(row) + " |" for row in group]
    lines += ["", below, *(f"- {note}" for note in page.notes)]
    return "\n".join(lines) + "\n"
