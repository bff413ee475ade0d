"""Answers as SARIF 2.1.0, which code scanning reads: rules are properties, results violations.

A result lies at the scenario's function. Its code flow is the schedule: a thread flow for every
context, with the order of execution across them, every step at its line of modelled code. Source:
OASIS, Static Analysis Results Interchange Format 2.1.0. It must not print.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smpmmu.report.account import Place
    from smpmmu.report.rows import Broken, Row, Step

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
AS_EXPECTED = "verdict_as_expected"
"""The rule that a variant breaks which holds although a violation is expected."""

Object = dict[str, Any]


def sarif(rows: Sequence[Row], version: str, *, expected: bool, status: int) -> str:
    """Return the document; `expected` as in `Row.bad`, `status` of the command."""
    rules: dict[str, int] = {}
    results = []
    for row in (row for row in rows if row.bad(expected=expected)):
        if not row.broken:
            rule = rules.setdefault(AS_EXPECTED, len(rules))
            results.append(_result(row, AS_EXPECTED, rule, None))
        for broken in row.broken:
            rule = rules.setdefault(broken.name, len(rules))
            results.append(_result(row, broken.name, rule, broken))
    driver = {"name": "smpmmu", "version": version, "rules": [_rule(name) for name in rules]}
    invocation: Object = {"executionSuccessful": True, "exitCode": status}
    if notes := [note for row in rows if (note := _notification(row)) is not None]:
        invocation["toolExecutionNotifications"] = notes
    run = {
        "tool": {"driver": driver},
        "invocations": [invocation],
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


LINK = re.compile(r"\[(?=[^\]]*\]\()")


def _text(text: str) -> Object:
    """Return a message: what would be a placeholder or a link in it is escaped (3.11.5, 3.11.6)."""
    return {"text": LINK.sub(r"\\[", text.replace("{", "{{").replace("}", "}}"))}


def _rule(name: str) -> Object:
    sentence = name.replace("_", " ")
    return {
        "id": name,
        "shortDescription": _text(sentence[:1].upper() + sentence[1:] + "."),
        "defaultConfiguration": {"level": "error"},
    }


def _result(row: Row, rule: str, index: int, broken: Broken | None) -> Object:
    result: Object = {
        "ruleId": rule,
        "ruleIndex": index,
        "kind": "fail",
        "level": "error",
        "message": _text(_message(row, broken)),
        "locations": [_location(row.defined, row.name)],
        "partialFingerprints": {"variantAndProperty/v1": f"{row.name} {rule}"},
    }
    if broken is not None and broken.story:
        result["codeFlows"] = [_flow(broken)]
    return result


def _message(row: Row, broken: Broken | None) -> str:
    parts = []
    if row.surprising:
        wanted = f"{row.expected} {row.expected_property}".strip()
        parts.append(f"expected {wanted}, found {f'{row.verdict} {row.violated}'.strip()}.")
    if broken is not None:
        kind = "shortest schedule" if broken.shortest else "a schedule"
        parts.append(
            f"{row.name} violates {broken.name}: {kind}, {broken.choices} choices, "
            f"{broken.switches} context switches."
        )
        again = f"replay {broken.file}" if broken.file else f"explore {row.name}"
        parts.append(f"Show it: python -m smpmmu {again}")
    return " ".join(parts)


def _flow(broken: Broken) -> Object:
    """Return the schedule: a thread flow for every context that moves in it.

    Essential are the steps of the critical race, and the last.
    """
    threads: dict[str, list[Object]] = {}
    for number, step in enumerate(broken.story, 1):
        race = (broken.race.first, broken.race.second) if broken.race else ()
        essential = number == len(broken.story) or number in race
        threads.setdefault(step.context, []).append(
            {
                "executionOrder": number,
                "importance": "essential" if essential else "important",
                "nestingLevel": max(len(step.where) - 1, 0),
                **_step(step, f"{number}: {step.context}: {step.text}"),
            }
        )
    return {
        "message": _text(f"{broken.choices} steps that end in the violation"),
        "threadFlows": [
            {"id": context, "message": _text(context), "locations": steps}
            for context, steps in threads.items()
        ],
    }


def _step(step: Step, text: str) -> Object:
    """Return where a step is taken, with its calls."""
    innermost = step.where[0] if step.where else None
    name = innermost.function if innermost else step.context
    found: Object = {"location": {**_location(innermost, name), "message": _text(text)}}
    if step.where:
        calls = [{"location": _location(place, place.function)} for place in step.where]
        found["stack"] = {"frames": calls}
    return found


def _location(place: Place | None, name: str) -> Object:
    found: Object = {"logicalLocations": [{"fullyQualifiedName": name, "kind": "function"}]}
    if place is not None:
        uri = quote(place.file, errors="backslashreplace")
        found["physicalLocation"] = {
            "artifactLocation": {"uri": uri, "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": place.line},
        }
    return found


def _notification(row: Row) -> Object | None:
    """Return what must be known of a row that is neither a failure nor a pass."""
    if not row.decided:
        text = f"{row.name} is UNDECIDED: {row.reason} ended it after {row.states:,} states"
        return {"level": "warning", "message": _text(text)}
    if row.vacuous:
        text = f"{row.name} HOLDS, but never reached: {'; '.join(row.vacuous)}"
        return {"level": "error", "message": _text(text)}
    return None
