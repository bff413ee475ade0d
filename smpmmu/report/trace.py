"""A run as a trace in the Trace Event Format, which Perfetto and chrome://tracing open.

A step takes a millisecond, so that the ruler counts steps. A process is a vCPU, with a track for
each of its programs and handlers; further ones show who holds which lock and what the words are.
It must not know how a run was found. Source: the document "Trace Event Format" of the Chromium
project, its phases X, M, i, s and f.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smpmmu.report.account import Account

STEP = 1000
"""Microseconds of a step."""

Event = dict[str, Any]
Track = tuple[str, str, str]
"""What a group is of (a vCPU, locks, words), its name, and the name of the track."""


def trace(account: Account, version: str) -> str:
    """Return the text of the trace, an event a line."""
    events = Tracks(account)
    events.steps()
    events.lasting()
    events.values()
    events.interrupts()
    events.marks()
    head = {
        "displayTimeUnit": "ms",
        "otherData": {
            "scenario": account.name,
            "conclusion": account.conclusion,
            "writer": f"smpmmu {version}",
        },
    }
    lines = ",\n".join(json.dumps(event) for event in events.sorted())
    return json.dumps(head)[:-1] + ', "traceEvents": [\n' + lines + "\n]}\n"


class Tracks:
    """Collects events on tracks: a process is a group of tracks, a thread is a track."""

    def __init__(self, account: Account) -> None:
        """Begin with no event."""
        self._account = account
        self._groups: dict[tuple[str, str], int] = {}
        self._tracks: dict[Track, int] = {}
        self._events: list[Event] = []
        self._end = len(account.steps) + 1
        # In this order they are shown.
        for number in account.lanes:
            self._numbers(self._agent(number))

    def sorted(self) -> list[Event]:
        """Return names of groups and tracks first, then all by time, the longest first."""
        names: list[Event] = []
        for (_, group), pid in self._groups.items():
            names.append(_meta("process_name", pid, 0, {"name": group}))
            names.append(_meta("process_sort_index", pid, 0, {"sort_index": pid}))
        for (kind, group, track), tid in self._tracks.items():
            pid = self._groups[kind, group]
            names.append(_meta("thread_name", pid, tid, {"name": track}))
            names.append(_meta("thread_sort_index", pid, tid, {"sort_index": tid}))
        return names + sorted(self._events, key=lambda e: (e["ts"], -e.get("dur", 0)))

    def steps(self) -> None:
        """Add a slice for every step, with what it changed."""
        for number, step in enumerate(self._account.steps, 1):
            changes = {
                self._account.words[change.word].name: f"{change.before} -> {change.after}"
                for change in step.changes
            }
            args = {"step": number, "changes": changes}
            self._slice(self._agent(step.agent), step.text, number, number, args)

    def lasting(self) -> None:
        """Add what lasts: handlers and waits with their agents, locks and masks on their own."""
        for span in self._account.spans:
            track, text = self._agent(span.agent), span.text
            kind, group, who = track
            if span.kind == "lock":
                track, text = ("locks", "locks", span.text), f"held by {who}"
            elif span.kind == "masked":
                track = (kind, group, f"{who}: {span.text}")
            elif span.kind == "waits":
                text = f"waits: {span.text}"
            last = span.last if span.ends else max(span.first, self._end - 1)
            self._slice(track, text, span.first, last)

    def values(self) -> None:
        """Add the words that mean something and change, a slice for each value that they have."""
        account = self._account
        values: dict[int, list[tuple[int, str]]] = {}
        for number, step in enumerate(account.steps, 1):
            for change in step.changes:
                first = (0, account.words[change.word].initial)
                values.setdefault(change.word, [first]).append((number, change.after))
        for word, had in sorted(values.items()):
            shown = account.words[word]
            if shown.lock:
                continue
            track = ("words", shown.table or "other words", shown.name)
            for (since, value), (until, _) in pairwise([*had, (self._end, "")]):
                self._slice(track, value, since, until - 1)

    def interrupts(self) -> None:
        """Add an arrow for every interrupt that is taken, a mark for one that is not."""
        for number, arrow in enumerate(self._account.arrows, 1):
            if not arrow.last:
                taker = self._agent(arrow.agent)
                self._mark("t", f"{arrow.word} is pending and never taken", arrow.first, taker)
                continue
            sender = self._account.steps[arrow.first - 1].agent
            common = {"name": "interrupt", "cat": "interrupt", "id": number}
            # In the middle of the steps, which they bind to.
            middle = STEP // 2
            self._add(self._agent(sender), {"ph": "s", **common}, arrow.first * STEP + middle)
            ends: Event = {"ph": "f", "bp": "e", **common}
            self._add(self._agent(arrow.agent), ends, arrow.last * STEP + middle)

    def marks(self) -> None:
        """Add the violation and the critical race."""
        account = self._account
        for number in account.critical or ():
            if number == self._end:
                continue  # a step that waits for ever is taken at no time
            self._mark("g", "critical race", number, self._agent(account.steps[number - 1].agent))
        if account.violated and account.steps:
            last = self._agent(account.steps[-1].agent)
            self._mark("g", f"violated: {account.violated}", len(account.steps), last)

    def _agent(self, number: int) -> Track:
        agent = self._account.agents[number]
        return "cpus", agent.cpu, agent.name

    def _numbers(self, track: Track) -> tuple[int, int]:
        """Return the numbers of a track's group and of the track."""
        pid = self._groups.setdefault(track[:2], len(self._groups) + 1)
        return pid, self._tracks.setdefault(track, len(self._tracks) + 1)

    def _add(self, track: Track, event: Event, ts: int) -> None:
        pid, tid = self._numbers(track)
        self._events.append({**event, "ts": ts, "pid": pid, "tid": tid})

    def _slice(
        self, track: Track, text: str, first: int, last: int, args: Event | None = None
    ) -> None:
        """Add a slice from the beginning of step `first` to the end of step `last`."""
        if last < first:
            return
        event: Event = {"ph": "X", "name": text, "cat": track[0], "dur": (last + 1 - first) * STEP}
        if args is not None:
            event["args"] = args
        self._add(track, event, first * STEP)

    def _mark(self, scope: str, text: str, number: int, track: Track) -> None:
        """Add an instant at the end of a step: `t` on its track, `g` through all."""
        event: Event = {"ph": "i", "s": scope, "name": text, "cat": "mark"}
        self._add(track, event, (number + 1) * STEP)


def _meta(name: str, pid: int, tid: int, args: Event) -> Event:
    return {"ph": "M", "name": name, "pid": pid, "tid": tid, "ts": 0, "args": args}
