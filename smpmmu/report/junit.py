"""Answers as JUnit XML, which continuous integration reads: a test case for every variant.

The elements and attributes are those that the schemas of Maven Surefire and of Jenkins's xUnit
plugin (junit-10.xsd) both allow. Times are not measured, so that the same question gives the same
bytes. It must not print.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from smpmmu.report.text import Page, answer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from xml.etree.ElementTree import Element

    from smpmmu.report.rows import Row

WIDTH = 120
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML 1.0 document may contain, not even as a reference."""


def junit(rows: Sequence[Row], *, expected: bool) -> str:
    """Return the document, in ASCII; `expected` as in `Row.bad`."""
    suites = ET.Element("testsuites", name="smpmmu")
    total = dict.fromkeys(("tests", "failures", "errors"), 0)  # it may not count the skipped
    for name in dict.fromkeys(_suite(row) for row in rows):
        mine = [row for row in rows if _suite(row) == name]
        suite = ET.SubElement(suites, "testsuite", name=_clean(name))
        for row in mine:
            _case(suite, name, row, expected=expected)
        counts = {
            "tests": len(mine),
            "failures": len(suite.findall("testcase/failure")),
            "errors": len(suite.findall("testcase/error")),
        }
        _count(suite, counts | {"skipped": 0})
        total = {key: total[key] + counts[key] for key in total}
    _count(suites, total)
    ET.indent(suites)
    document: bytes = ET.tostring(suites, encoding="us-ascii", xml_declaration=True)
    return document.decode("ascii") + "\n"


def _suite(row: Row) -> str:
    """Return the name of a row without its variant: the scenario, with a user's file."""
    return row.name.removesuffix(f"/{row.name.rpartition('/')[2]}")


def _case(suite: Element, name: str, row: Row, *, expected: bool) -> None:
    variant = row.name.rpartition("/")[2]
    case = ET.SubElement(suite, "testcase", classname=_clean(name), name=_clean(variant), time="0")
    page = Page(WIDTH)
    answer(row, page)
    story = _clean(page.text.strip("\n") + "\n")
    if row.bad(expected=expected):
        failure = ET.SubElement(
            case, "failure", message=_clean(_message(row)), type=_clean(_kind(row))
        )
        failure.text = story
        return
    reason = ""
    if not row.decided:
        reason = f"UNDECIDED: {row.reason} ended it"
    elif row.vacuous:
        reason = f"vacuous: never reached: {'; '.join(row.vacuous)}"
    if reason:
        kind = reason.partition(":")[0].lower()
        error = ET.SubElement(case, "error", message=_clean(reason), type=kind)
        error.text = story
        return
    ET.SubElement(case, "system-out").text = story


def _message(row: Row) -> str:
    found = f"{row.verdict} {row.violated}".strip()
    if not row.surprising:
        return found
    return f"expected {row.expected} {row.expected_property}".strip() + f", found {found}"


def _kind(row: Row) -> str:
    return row.violated or "not_as_expected"


def _count(element: Element, counts: dict[str, int]) -> None:
    for key, count in counts.items():
        element.set(key, str(count))
    element.set("time", "0")


def _clean(text: str) -> str:
    """Return `text` with what XML forbids written as an escape."""
    return FORBIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)
