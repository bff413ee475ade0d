"""The trace: it obeys the Trace Event Format, and says what the run's account says."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from smpmmu.replaying import replay_file, replay_seed
from smpmmu.report.trace import STEP, trace
from smpmmu.showing import told
from tests.report.test_page import HOSTILE, SCHEDULE
from tests.shell import DEFECT, ROOT, Shell, spawn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from smpmmu.report.account import Account

Event = dict[str, Any]
METADATA = {"process_name": "name", "process_sort_index": "sort_index",
            "thread_name": "name", "thread_sort_index": "sort_index"}  # fmt: skip


def check(text: str) -> list[Event]:
    """Hold a trace against the rules of the format, and return its events.

    The rules: an object with `traceEvents`; every event has a phase, numbers of process and thread
    and a time; complete events (X) have a duration, and those of a thread nest; metadata (M) have
    known names; instants (i) have a scope; the ends of a flow (s, f) have the same category, name
    and id, go forward in time, and each lies in a slice of its thread.
    """
    read = json.loads(text)
    assert set(read) == {"displayTimeUnit", "otherData", "traceEvents"}
    assert read["displayTimeUnit"] in ("ms", "ns")
    events: list[Event] = read["traceEvents"]
    for event in events:
        assert all(type(event[key]) is int for key in ("pid", "tid", "ts")), event
        assert event["ts"] >= 0
        assert type(event["name"]) is str
        allowed = {
            "M": {"args"}, "X": {"cat", "dur", "args"}, "i": {"cat", "s"},
            "s": {"cat", "id"}, "f": {"cat", "id", "bp"},
        }[event["ph"]]  # fmt: skip
        assert event.keys() - {"ph", "pid", "tid", "ts", "name"} <= allowed
    timed = [e for e in events if e["ph"] != "M"]
    assert [e["ts"] for e in timed] == sorted(e["ts"] for e in timed)
    assert events[: len(events) - len(timed)] == [e for e in events if e["ph"] == "M"]
    _check_metadata([e for e in events if e["ph"] == "M"], timed)
    assert all(e["s"] in ("g", "p", "t") for e in events if e["ph"] == "i")
    slices = _check_slices([e for e in events if e["ph"] == "X"])
    _check_flows([e for e in events if e["ph"] in "sf"], slices)
    return events


def _check_metadata(metadata: list[Event], timed: list[Event]) -> None:
    named = {(e["name"], e["pid"], e["tid"]) for e in metadata}
    assert len(named) == len(metadata)
    for event in metadata:
        assert set(event["args"]) == {METADATA[event["name"]]}
    for event in timed:
        assert ("process_name", event["pid"], 0) in named
        assert ("thread_name", event["pid"], event["tid"]) in named


def _check_slices(slices: list[Event]) -> dict[tuple[int, int], list[Event]]:
    threads: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in slices:
        assert type(event["dur"]) is int
        assert event["dur"] > 0
        stack = threads[event["pid"], event["tid"]]
        stack.append(event)
    for mine in threads.values():
        open_until: list[int] = []
        for event in mine:
            while open_until and open_until[-1] <= event["ts"]:
                open_until.pop()
            end = event["ts"] + event["dur"]
            assert not open_until or end <= open_until[-1], f"{event} does not nest"
            open_until.append(end)
    return threads


def _check_flows(ends: list[Event], slices: dict[tuple[int, int], list[Event]]) -> None:
    flows: dict[tuple[str, str, int], list[Event]] = defaultdict(list)
    for event in ends:
        flows[event["cat"], event["name"], event["id"]].append(event)
        around = [
            s for s in slices[event["pid"], event["tid"]]
            if s["ts"] <= event["ts"] < s["ts"] + s["dur"]
        ]  # fmt: skip
        assert around, f"{event} is in no slice"
    for start, end in flows.values():
        assert (start["ph"], end["ph"], end["bp"]) == ("s", "f", "e")
        assert start["ts"] < end["ts"]


def tracks(events: list[Event]) -> dict[str, list[tuple[int, int, str]]]:
    """Return the slices of every track as (first step, last step, text)."""
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    found: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for e in events:
        if e["ph"] == "X":
            last = (e["ts"] + e["dur"]) // STEP - 1
            found[names[e["pid"], e["tid"]]].append((e["ts"] // STEP, last, e["name"]))
    return found


@pytest.fixture(scope="module")
def account() -> Account:
    return replay_file(SCHEDULE).account()


@pytest.fixture(scope="module")
def events(account: Account) -> list[Event]:
    return check(trace(account, "1"))


def test_every_step_is_a_slice_at_its_time(account: Account, events: list[Event]) -> None:
    steps = [e for e in events if e["ph"] == "X" and "step" in e.get("args", {})]
    assert [(e["ts"] // STEP, e["name"]) for e in steps] == [
        (number, step.text) for number, step in enumerate(account.steps, 1)
    ]
    assert steps[26]["args"]["changes"] == {"cpu2.tlb[0x1]": "0 -> 0x3 P-RW-US-A-D"}


def test_locks_values_and_waits_have_tracks(events: list[Event]) -> None:
    found = tracks(events)
    assert found["ptl"] == [(1, 5, "held by cpu0"), (6, 42, "held by cpu1")]
    assert found["shadow 0x2[1]"] == [(0, 32, "0x3 P-RW-US-A-D"), (33, 42, "0x3 P-US-A-D")]
    assert found["cpu0.deferred[0]"] == [(0, 3, "0"), (4, 31, "0x2[1]"), (32, 42, "0")]
    assert (17, 36, "waits: wait until flush_cpumask is 0") in found["cpu1"]
    assert found["cpu2.irq.invalidate"][0] == (17, 23, "cpu2.irq.invalidate")


def test_interrupts_are_arrows(events: list[Event]) -> None:
    ends = [(e["ph"], e["id"], e["ts"] // STEP) for e in events if e["ph"] in "sf"]
    assert ends == [("s", 1, 15), ("s", 2, 16), ("f", 2, 17), ("f", 1, 28)]


def test_what_went_wrong_is_marked(account: Account, events: list[Event]) -> None:
    marks = [(e["s"], e["name"], e["ts"] // STEP) for e in events if e["ph"] == "i"]
    assert account.critical == (26, 33)
    assert marks == [
        ("g", "critical race", 27),
        ("g", "critical race", 34),
        ("g", "violated: no_write_after_promise", 43),
    ]
    alone = check(trace(replace(account, critical=None), "1"))
    assert [e["name"] for e in alone if e["ph"] == "i"] == ["violated: no_write_after_promise"]


@pytest.mark.parametrize("path", sorted((ROOT / "schedules").glob("*.schedule"))[5::29],
                         ids=lambda p: p.stem)  # fmt: skip
def test_any_run_obeys_the_format(path: Path) -> None:
    account = replay_file(path).account()
    found = check(trace(account, "1"))
    assert sum("step" in e.get("args", {}) for e in found) == len(account.steps)


def test_a_deadlock_and_a_seed_obey_it_too() -> None:
    stuck = replay_file(ROOT / "schedules" / "shootdown_deadlocks.flushes_irqs_off.schedule")
    found = check(trace(stuck.account(), "1"))
    assert tracks(found)["cpu0: interrupts off"] == [(6, 21, "interrupts off")]
    assert "cpu1.irr[0xfd] is pending and never taken" in [e["name"] for e in found]
    assert (22, 22, "waits: lock tlbstate_lock") in tracks(found)["cpu1"]
    assert check(trace(replay_seed(DEFECT, 5).account(), "1"))


def test_a_step_that_is_never_taken_has_no_mark() -> None:
    path = ROOT / "schedules" / "shootdown_deadlocks.ptl_irqs_off.schedule"
    found = check(trace(replay_file(path).account(), "1"))
    assert [e["ts"] // STEP for e in found if e["name"] == "critical race"] == [2]


def test_hostile_names_are_only_text(users: Callable[[str, str], str]) -> None:
    file = users("hostile.py", HOSTILE)
    text = trace(told(f"{file}:hostile/default").account(), "1")
    assert text.isascii()
    names = [e["name"] for e in check(text)]
    assert any("</script>" in name for name in names)


def test_what_the_check_refuses(account: Account) -> None:
    text = trace(account, "1")
    read = json.loads(text)
    for spoil in (
        lambda e: e[-1].update(ts=0),
        lambda e: next(x for x in e if x["ph"] == "f").update(id=99),
        lambda e: next(x for x in e if x["ph"] == "X").pop("dur"),
        lambda e: next(x for x in e if x["name"] == "cpu2.irq.invalidate").update(dur=1500),
        lambda e: e.remove(next(x for x in e if x["name"] == "thread_name")),
    ):
        spoilt = json.loads(json.dumps(read))
        spoil(spoilt["traceEvents"])
        with pytest.raises((AssertionError, KeyError, ValueError)):
            check(json.dumps(spoilt))


def test_the_command_writes_it_with_the_same_bytes(shell: Shell, tmp_path: Path) -> None:
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    page = tmp_path / "page.html"
    done = shell("show", str(SCHEDULE), "--perfetto", str(here), "--html", str(page))
    assert done.status == 0
    assert done.out.startswith(f"{page}, {here}: confirmed")
    assert spawn("show", str(SCHEDULE), "--perfetto", str(there), PYTHONHASHSEED="7").status == 0
    assert here.read_bytes() == there.read_bytes()
    check(here.read_text(encoding="utf-8"))
