"""A run as one HTML file that needs nothing else: lanes, locks, interrupts, values to step through.

All of it is there without a script; the script only steps. Every string that comes from a scenario
is escaped by the template engine, and a policy in the page lets no other script run. The same
account gives the same bytes. It must not know how a run was found.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smpmmu.report.account import Account, Change, Span

LANE_REM, NUMBER_REM, STATE_REM = 9.5, 6, 27
"""Widths from which on lanes are columns, and the state stands beside them."""
FREE = "free"


def page(account: Account, version: str) -> str:
    """Return the whole page."""
    script = _file("page.js")
    lanes = Lanes(account)
    cells = Cells(account)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    wide = NUMBER_REM + len(account.lanes) * LANE_REM
    css = _file("page.css").replace("LANES_WIDTH", f"{wide:g}rem")
    css = css.replace("SIDE_WIDTH", f"{wide + STATE_REM:g}rem")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    tracked = _tracked(account)
    text: str = environment.from_string(_file("page.html")).render(
        account=account,
        version=version,
        css=Markup(css),
        script=Markup(script),
        script_hash=digest,
        cpus=len({agent.cpu for agent in account.agents}),
        lanes=lanes.heads(),
        bars=lanes.bars(),
        arrows=lanes.arrows(),
        steps=lanes.steps(),
        last_waits=lanes.last_waits(),
        stuck=[
            {"who": account.agents[s.agent].name, "text": s.text}
            for s in account.spans
            if s.kind == "waits" and not s.ends and account.ending in ("stuck", "cut")
        ],
        tables=cells.tables(),
        history_names=[account.words[n].name for n in tracked],
        history=_history(account, tracked),
        idle=[a.name for n, a in enumerate(account.agents) if n not in account.lanes],
        data=cells.data(),
    )
    # Half of a character, which a Python string may hold, is in no encoding.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _file(name: str) -> str:
    return (files("smpmmu.report") / "templates" / name).read_text(encoding="utf-8")


def _tracked(account: Account) -> list[int]:
    """Return the words that the history shows: those that change and that mean something.

    Where no word says what it is, all that change but the locks.
    """
    changing = {change.word for step in account.steps for change in step.changes}
    telling = [n for n in sorted(changing) if account.words[n].telling]
    chosen = telling or [n for n in sorted(changing) if not account.words[n].lock]
    tables = list(dict.fromkeys(word.table for word in account.words))
    return sorted(chosen, key=lambda n: tables.index(account.words[n].table))


def _history(account: Account, tracked: list[int]) -> list[dict[str, Any]]:
    """Return a line for the first state, and one for each step that changes a tracked word."""
    values = [account.words[n].initial for n in tracked]
    lines = [{"number": 0, "who": "", "cells": [{"text": v, "changed": False} for v in values]}]
    for number, step in enumerate(account.steps, 1):
        changed = {change.word: change.after for change in step.changes}
        if not changed.keys() & set(tracked):
            continue
        values = [changed.get(n, v) for n, v in zip(tracked, values, strict=True)]
        cells = [{"text": v, "changed": n in changed} for n, v in zip(tracked, values, strict=True)]
        who = account.agents[step.agent].name
        lines.append({"number": number, "who": who, "cells": cells})
    return lines if len(lines) > 1 else []


class Lanes:
    """The timeline: a lane for each agent who moves, with what lasts beside it."""

    def __init__(self, account: Account) -> None:
        """Find the lanes, and a track beside its lane for each lock."""
        self._account = account
        self._lane = {agent: lane for lane, agent in enumerate(account.lanes, 1)}
        self._tracks: dict[int, list[str]] = {agent: [] for agent in account.lanes}
        for span in self._spans():
            tracks = self._tracks[span.agent]
            if span.kind in ("lock", "masked") and span.text not in tracks:
                tracks.append(span.text)

    def _spans(self) -> Iterable[Span]:
        return (span for span in self._account.spans if span.agent in self._lane)

    def heads(self) -> list[dict[str, str]]:
        """Return the lanes: vCPU, and which part of it."""
        agents = [self._account.agents[number] for number in self._account.lanes]
        return [{"cpu": a.cpu, "inner": _inner(a.name, a.cpu), "role": a.role} for a in agents]

    def bars(self) -> list[dict[str, Any]]:
        """Return what lasts."""
        last = len(self._account.steps)
        bars = []
        for span in self._spans():
            tracks = self._tracks[span.agent]
            beside = span.text in tracks and span.kind in ("lock", "masked")
            who = self._account.agents[span.agent].name
            verb = {"lock": "holds", "waits": "waits:", "handler": "runs", "masked": "has"}
            until = f"to {span.last}" if span.ends else "to the end"
            bars.append(
                {
                    "kind": span.kind,
                    "ends": span.ends,
                    "lane": self._lane[span.agent],
                    "track": tracks.index(span.text) if beside else 0,
                    "first": span.first,
                    "last": max(span.last, min(span.first, last + 1)),
                    "text": span.text if beside else "",
                    "title": f"{who} {verb[span.kind]} {span.text}, step {span.first} {until}",
                }
            )
        return bars

    def arrows(self) -> list[dict[str, Any]]:
        """Return the interrupts, from the lane of who sends to the lane of who takes."""
        arrows = []
        for arrow in self._account.arrows:
            sender = self._account.steps[arrow.first - 1].agent
            ends = self._lane[sender], self._lane[arrow.agent]
            last = arrow.last or len(self._account.steps) + 1
            taken = f"taken in step {arrow.last}" if arrow.last else "never taken"
            to = self._account.agents[arrow.agent].name
            arrows.append(
                {
                    "left": min(ends),
                    "right": max(ends),
                    "side": "right" if ends[1] > ends[0] else "left",
                    "first": arrow.first,
                    "last": last,
                    "near": last == arrow.first + 1,
                    "never": not arrow.last,
                    "title": f"{to} is interrupted: pending since step {arrow.first}, {taken}",
                }
            )
        return arrows

    def steps(self) -> list[dict[str, Any]]:
        """Return the steps."""
        account = self._account
        race = account.critical or (0, 0)
        steps = []
        for number, step in enumerate(account.steps, 1):
            critical = ""
            if number in race:
                other = race[1] if number == race[0] else race[0]
                waits = other > len(account.steps)
                critical = "with what waits for ever" if waits else f"with step {other}"
            steps.append(
                {
                    "number": number,
                    "lane": self._lane[step.agent],
                    "tracks": len(self._tracks[step.agent]),
                    "who": account.agents[step.agent].name,
                    "text": step.text.split(),
                    "changes": [
                        {"name": account.words[c.word].name, "before": c.before,
                         "after": c.after}
                        for c in step.changes
                        if account.words[c.word].telling
                    ],
                    "sends": ", ".join(account.agents[n].name for n in step.sends),
                    "sent_at": step.sent_at,
                    "critical": critical,
                    "guilty": number == account.guilty,
                }
            )  # fmt: skip
        return steps

    def last_waits(self) -> list[dict[str, Any]]:
        """Return who waits when nobody can move any more."""
        if self._account.ending != "stuck":
            return []
        return [
            {
                "lane": self._lane[span.agent],
                "tracks": len(self._tracks[span.agent]),
                "who": self._account.agents[span.agent].name,
                "text": span.text,
            }
            for span in self._spans()
            if span.kind == "waits" and not span.ends
        ]


def _inner(name: str, cpu: str) -> str:
    """Return which part of a vCPU an agent is; "" for its program."""
    inner = name.removeprefix(cpu)
    return inner.removeprefix(".").replace(".", " ")


@dataclass(frozen=True, slots=True)
class Cell:
    """A place whose text depends on the step."""

    number: int
    text: str


class Cells:
    """The state: a cell for every word, and one for what each agent is about."""

    def __init__(self, account: Account) -> None:
        """Work out every cell's text after every step."""
        self._account = account
        count = len(account.words)
        self._agents = {agent: count + n for n, agent in enumerate(account.lanes)}
        self._first = [FREE if word.lock else word.initial for word in account.words]
        self._abouts = {agent: self._about(agent) for agent in account.lanes}
        self._first += [texts[0] for texts in self._abouts.values()]
        self._steps = [self._changes(number) for number in range(1, len(account.steps) + 1)]

    def _about(self, agent: int) -> list[str]:
        """Return what an agent holds and waits for, at first and after every step."""
        verbs = {"lock": "holds ", "waits": "waits: ", "masked": ""}
        mine = [span for span in self._account.spans if span.agent == agent]
        begins: dict[int, list[Span]] = {}
        for span in mine:
            # A wait is there as soon as the step before it has been taken.
            begins.setdefault(span.first - (span.kind == "waits"), []).append(span)
        there: list[Span] = []
        texts = []
        for number in range(len(self._account.steps) + 1):
            there += begins.get(number, [])
            there = [span for span in there if number < span.last or not span.ends]
            parts = [
                "in its handler" if span.kind == "handler" else verbs[span.kind] + span.text
                for span in there
            ]
            texts.append("; ".join(parts) or "-")
        return texts

    def _changes(self, number: int) -> list[tuple[int, str]]:
        step = self._account.steps[number - 1]
        changes = [(change.word, self._text(change, number)) for change in step.changes]
        for agent, cell in self._agents.items():
            before, text = self._abouts[agent][number - 1 : number + 1]
            if text != before:
                changes.append((cell, text))
        return changes

    def _text(self, change: Change, number: int) -> str:
        """Return a word's value; of a lock, who holds it."""
        if not self._account.words[change.word].lock:
            return change.after
        step = self._account.steps[number - 1]
        if change.word in step.releases:
            return FREE
        return f"held by {self._account.agents[step.agent].name}"

    def data(self) -> dict[str, Any]:
        """Return what the script needs."""
        agents, words = self._account.agents, self._account.words
        telling = {n for n, word in enumerate(words) if word.telling}
        plain = {n for n, word in enumerate(words) if not word.lock}
        return {
            "first": self._first,
            "steps": [
                {
                    "text": f"{agents[step.agent].name}: {step.text}",
                    "changes": changes,
                    "where": [(w.function, f"{w.file}:{w.line}") for w in step.where],
                    "entries": bool({c.word for c in step.changes} & (telling or plain)),
                }
                for step, changes in zip(self._account.steps, self._steps, strict=True)
            ],
        }

    def tables(self) -> list[dict[str, Any]]:
        """Return the tables, with every cell as it is in the end."""
        texts = list(self._first)
        for changes in self._steps:
            for number, text in changes:
                texts[number] = text
        words = list(enumerate(self._account.words))
        tables = []
        for name in dict.fromkeys(word.table for _, word in words if word.table):
            mine = [(n, word) for n, word in words if word.table == name]
            columns = sorted({word.column for _, word in mine})
            rows = sorted({word.row for _, word in mine})
            tables.append(
                {
                    "name": name,
                    "columns": columns if columns != [""] else [],
                    "rows": [
                        {
                            "name": row,
                            "cells": [
                                [
                                    Cell(n, texts[n])
                                    for n, word in mine
                                    if (word.row, word.column) == (row, column)
                                ]
                                for column in columns
                            ],
                        }
                        for row in rows
                    ],
                }
            )
        locks = [(n, word.name) for n, word in words if word.lock and not word.table]
        others = [(n, word.name) for n, word in words if not word.lock and not word.table]
        agents = [(cell, self._account.agents[a].name) for a, cell in self._agents.items()]
        for name, plain in (("locks", locks), ("other words", others), ("who is at what", agents)):
            if plain:
                rows_of = [{"name": row, "cells": [[Cell(n, texts[n])]]} for n, row in plain]
                tables.append({"name": name, "columns": [], "rows": rows_of})
        return tables
