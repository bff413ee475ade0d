"""Families on the command line: a name that stands for several scenarios."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from smpmmu.scenarios import FAMILIES, NAMES
from smpmmu.targets import find

if TYPE_CHECKING:
    from tests.shell import Shell

SMALL = ("boot_page_tables/vmi", "boot_page_tables/native")


def test_a_family_is_of_scenarios_and_named_unlike_any() -> None:
    for family, members in FAMILIES.items():
        assert family not in NAMES
        assert len(members) > 1
        assert set(members) <= set(NAMES)


@pytest.mark.parametrize("family", ["page_tables"])
def test_a_family_is_all_its_variants(family: str, shell: Shell) -> None:
    done = shell("explore", family, "--max-states", "1", "--live-runs", "0", "--format", "json")
    assert done.status == 3  # one state decides nothing
    rows = json.loads(done.out)["results"]
    found = [f"{row['scenario']}/{row['variant']}" for row in rows]
    assert found == [target.name for target in find(family)]
    assert {row["scenario"] for row in rows} == set(FAMILIES[family])
    assert {row["verdict"] for row in rows} == {"UNDECIDED"}


def test_a_member_of_a_family_is_judged_as_itself(shell: Shell) -> None:
    assert set(SMALL) <= {target.name for target in find("page_tables")}
    done = shell("explore", *SMALL, "--expected", "--live-runs", "0", "--format", "json")
    assert done.status == 0
    assert [r["as_expected"] for r in json.loads(done.out)["results"]] == [True, True]


def test_list_tells_families(shell: Shell) -> None:
    told = shell("list").out
    for family in FAMILIES:
        assert family in told


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("page_tabels", "did you mean page_tables?"),
        ("page_tables/vmi", "page_tables is a family, whose scenarios have the variants: pte_al"),
    ],
)
def test_what_is_no_family_is_told(typed: str, hint: str, shell: Shell) -> None:
    done = shell("explore", typed)
    assert (done.status, done.out) == (2, "")
    assert typed.split("/", maxsplit=1)[0] in done.err
    assert hint in done.err
