"""What continuous integration reads: JUnit XML and SARIF, held against the formats' rules."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest

from smpmmu.engine.verdict import Verdict
from smpmmu.report.account import Place
from smpmmu.report.junit import junit
from smpmmu.report.rows import Broken, Row, Step
from smpmmu.report.sarif import sarif
from tests.shell import ROOT, Shell, spawn

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = "docs/example.py"
PROPERTY = "nobody_touches_a_freed_frame"

MIXED = '''
"""One of each: holds, violated, undecided when states are few, vacuous, as expected or not."""
import smpmmu as s

x = s.Word("x", 8)


async def count(to: int) -> None:
    for _ in range(to):
        await s.fetch_add(x, 1)


@s.scenario(
    s.variant("fine", s.holds("arithmetic"), to=1),
    s.variant("broken_as_expected", s.violated("few", "arithmetic"), to=3),
    s.variant("not_as_expected", s.violated("few", "a wrong belief"), to=2),
    s.variant("vacuous", never=True, to=1),
    s.variant("long", to=60),
)
def mixed(setup: s.Setup, *, to: int, never: bool = False) -> None:
    setup.cpu(0, s.call(count, to))
    setup.cpu(1, s.call(count, to))
    if to < 60:
        setup.always("few", s.value(x) < 5)
    if never:
        setup.sometimes("it is nine", s.value(x) == 9)
'''


def check_junit(text: str) -> ET.Element:
    """Hold a document against the schemas of Surefire and Jenkins, as far as it is used here."""
    assert text.isascii()
    root = ET.fromstring(text)
    assert root.tag == "testsuites"
    suites = list(root)
    for suite in suites:
        assert suite.tag == "testsuite"
        assert {"name", "tests", "failures", "errors", "skipped", "time"} == set(suite.keys())
        for case in suite:
            assert case.tag == "testcase"
            assert {"name", "classname", "time"} == set(case.keys())
            assert [each.tag for each in case] in ([], ["failure"], ["error"], ["system-out"])
            for each in case:
                assert set(each.keys()) == (
                    set() if each.tag == "system-out" else {"message", "type"}
                )
        cases = suite.findall("testcase")
        names = [case.get("name") for case in cases]
        assert len(set(names)) == len(names)
        assert int(suite.get("tests", "")) == len(cases)
        assert int(suite.get("failures", "")) == len(suite.findall("testcase/failure"))
        assert int(suite.get("errors", "")) == len(suite.findall("testcase/error"))
    assert set(root.keys()) == {"name", "tests", "failures", "errors", "time"}
    for key in ("tests", "failures", "errors"):
        assert int(root.get(key, "")) == sum(int(s.get(key, "")) for s in suites)
    return root


def check_sarif(text: str) -> dict[str, Any]:
    """Hold a document against SARIF 2.1.0, as far as it is used here, and return its run."""
    assert text.isascii()
    read = json.loads(text)
    assert read.keys() == {"$schema", "version", "runs"}
    assert read["version"] == "2.1.0"
    (run,) = read["runs"]
    assert run.keys() == {"tool", "invocations", "columnKind", "results"}
    driver = run["tool"]["driver"]
    assert driver["name"] == "smpmmu"
    rules = [rule["id"] for rule in driver["rules"]]
    assert len(set(rules)) == len(rules)
    assert all(rule["shortDescription"]["text"].endswith(".") for rule in driver["rules"])
    (invocation,) = run["invocations"]
    assert type(invocation["executionSuccessful"]) is bool
    assert type(invocation["exitCode"]) is int
    for note in invocation.get("toolExecutionNotifications", ()):
        assert note["level"] in ("none", "note", "warning", "error")
        assert note["message"]["text"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert (result["kind"], result["level"]) == ("fail", "error")
        assert result["message"]["text"]
        (location,) = result["locations"]
        _check_location(location)
        for flow in result.get("codeFlows", ()):
            _check_flow(flow)
    return run


def _check_flow(flow: dict[str, Any]) -> None:
    ids = [thread["id"] for thread in flow["threadFlows"]]
    assert ids
    assert len(set(ids)) == len(ids)
    orders = []
    for thread in flow["threadFlows"]:
        mine = [step["executionOrder"] for step in thread["locations"]]
        assert mine == sorted(mine)
        orders += mine
        for step in thread["locations"]:
            assert step["importance"] in ("important", "essential", "unimportant")
            assert step["nestingLevel"] >= 0
            _check_location(step["location"])
            for frame in step["stack"]["frames"]:
                _check_location(frame["location"])
    assert sorted(orders) == list(range(1, len(orders) + 1))


def _check_location(location: dict[str, Any]) -> None:
    assert location.keys() <= {"physicalLocation", "logicalLocations", "message"}
    physical = location["physicalLocation"]
    assert physical["region"]["startLine"] >= 1
    uri = physical["artifactLocation"]["uri"]
    assert physical["artifactLocation"]["uriBaseId"] == "%SRCROOT%"
    assert uri.isascii()
    assert not uri.startswith(("/", "file:", ".."))
    assert " " not in uri


def explore(shell: Shell, form: str, *arguments: str) -> tuple[int, str]:
    done = shell("explore", *arguments, "--format", form, "--live-runs", "1")
    assert done.err == ""
    return done.status, done.out


def cases(root: ET.Element) -> dict[str, str]:
    """Return what became of every test case."""
    return {
        case.get("name", ""): case[0].tag + " " + case[0].get("message", "")
        for case in root.iter("testcase")
    }


def test_junit_of_the_example(shell: Shell) -> None:
    status, out = explore(shell, "junit", EXAMPLE)
    root = check_junit(out)
    assert status == 1
    assert cases(root) == {"waiting": "system-out ", "not_waiting": f"failure VIOLATED {PROPERTY}"}
    failure = root.find("testsuite/testcase/failure")
    assert failure is not None
    assert failure.get("type") == PROPERTY
    assert re.search(r"^ *>\*6\s+load freed -> 1$", failure.text or "", re.MULTILINE)
    assert root[0].get("name") == "docs/example.py:move_page"


def test_sarif_of_the_example(shell: Shell) -> None:
    status, out = explore(shell, "sarif", EXAMPLE)
    run = check_sarif(out)
    assert run["invocations"][0]["exitCode"] == status == 1
    (result,) = run["results"]
    assert result["ruleId"] == PROPERTY
    assert "6 choices, 2 context switches" in result["message"]["text"]
    lines = (ROOT / EXAMPLE).read_text(encoding="utf-8").splitlines()
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == EXAMPLE
    assert lines[place["region"]["startLine"] - 1].startswith("@s.scenario")
    threads = result["codeFlows"][0]["threadFlows"]
    assert [thread["id"] for thread in threads] == ["cpu1", "cpu0"]
    assert [s["executionOrder"] for s in threads[0]["locations"]] == [1, 6]
    steps = [step for thread in threads for step in thread["locations"]]
    essential = {s["executionOrder"] for s in steps if s["importance"] == "essential"}
    assert essential == {5, 6}  # the critical race, and the last
    last = threads[0]["locations"][-1]
    line = last["location"]["physicalLocation"]["region"]["startLine"]
    assert lines[line - 1].strip() == "gone = await s.load(freed)"
    took = threads[1]["locations"][0]
    calls = [frame["location"]["physicalLocation"] for frame in took["stack"]["frames"]]
    files = [call["artifactLocation"]["uri"] for call in calls]
    assert files == ["smpmmu/machine/spinlock.py", EXAMPLE]


@pytest.mark.parametrize("expected", [False, True])
def test_one_of_each(shell: Shell, users: Callable[[str, str], str], *, expected: bool) -> None:
    file = users("mixed.py", MIXED)
    more = ("--max-states", "1000", *(["--expected"] if expected else []))
    status, out = explore(shell, "junit", file, *more)
    assert status == 1
    found = cases(check_junit(out))
    undecided = found.pop("long")
    assert undecided.startswith("error UNDECIDED: states")
    assert found == {
        "fine": "system-out ",
        "broken_as_expected": "system-out " if expected else "failure VIOLATED few",
        "not_as_expected": "failure expected VIOLATED few, found HOLDS"
        if expected
        else "system-out ",
        "vacuous": "error vacuous: never reached: it is nine",
    }
    status, out = explore(shell, "sarif", file, *more)
    run = check_sarif(out)
    rules = [result["ruleId"] for result in run["results"]]
    assert rules == (["verdict_as_expected"] if expected else ["few"])
    notes = [n["message"]["text"] for n in run["invocations"][0]["toolExecutionNotifications"]]
    assert len(notes) == 2
    assert "never reached: it is nine" in notes[0]
    assert "is UNDECIDED" in notes[1]


def test_what_holds_is_a_pass(shell: Shell) -> None:
    status, out = explore(shell, "junit", f"{EXAMPLE}:move_page/waiting")
    assert status == 0
    assert cases(check_junit(out)) == {"waiting": "system-out "}
    status, out = explore(shell, "sarif", f"{EXAMPLE}:move_page/waiting")
    run = check_sarif(out)
    assert (status, run["results"], run["tool"]["driver"]["rules"]) == (0, [], [])


def test_the_same_question_gives_the_same_bytes(shell: Shell) -> None:
    for form in ("junit", "sarif"):
        command = ("explore", EXAMPLE, "--format", form, "--live-runs", "1")
        here, there = shell(*command), spawn(*command, PYTHONHASHSEED="3", PYTHONIOENCODING="ascii")
        assert (here.status, here.out) == (there.status, there.out)


def hostile_row(name: str) -> Row:
    """Return a row in which every string is `name`."""
    step = Step(name, name, (Place(f"{name}.py", 3, name),))
    broken = Broken(name, 1, 0, True, True, (step,), "", ((name, name),))  # noqa: FBT003
    return Row(
        scenario=name, variant=name, name=f"{name}/{name}", verdict=Verdict.VIOLATED.value,
        broken=(broken,), expected="", expected_property="", source="", states=1, transitions=1,
        depth=1, levels=(1,), reached=(), reason="", exact=True, collision_bound=0.0,
        bytes_per_state=1.0, live_runs=0, evictor_states=0, evictor_transitions=0, engine="batch",
        columns=((name, name),), defined=Place(f"{name}.py", 1, name),
    )  # fmt: skip


HOSTILE = (
    "</failure><script>&amp;'\"", "]]>", "a\x00b\x1b[31mc\x0bd\x7f", "\ud800 \ufffe \uffff",
    "caf\u00e9 \u2603 \U0001f512 \u2028\u202e", "{0} {{x}}", "[text](javascript:alert(1))",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_strings_stay_text(name: str) -> None:
    rows = [hostile_row(name)]
    (case,) = check_junit(junit(rows, expected=False)).iter("testcase")
    given = case.get("name") or ""
    plain = name.isprintable() or name.startswith("caf")
    assert (given == name.rpartition("/")[2]) is plain
    assert all(c in "\t\n" or c.isprintable() or ord(c) > 0x7E for c in given)
    run = check_sarif(sarif(rows, "1", expected=False, status=1))
    (result,) = run["results"]
    assert result["ruleId"] == name
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert unquote(uri) == f"{name}.py" or "\ud800" in name
    step = result["codeFlows"][0]["threadFlows"][0]["locations"][0]
    text = step["location"]["message"]["text"]
    assert "[text](" not in text.replace("\\[", "")
    assert text.replace("{{", "{").replace("}}", "}").replace("\\[", "[") == f"1: {name}: {name}"
