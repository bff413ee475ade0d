"""Races from the record: each defect is found, each repair holds, and both for the right reason."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.answer import answer
from smpmmu.engine.live import in_trio, replay
from smpmmu.engine.live_search import search_live
from smpmmu.engine.run import Ending
from smpmmu.engine.verdict import Verdict
from smpmmu.scenarios import FAMILIES, scenario
from smpmmu.scenarios.races import BEYOND, DEFECT, RACES, REPAIR
from smpmmu.targets import find, one
from tests import races

if TYPE_CHECKING:
    from tests.shell import Shell

CHEAPEST = json.loads(races.LEAST.read_text(encoding="utf-8"))
EVERY = (*RACES, *BEYOND)
TARGETS = {target.name: target for target in find("races")}


def test_the_family_is_the_list() -> None:
    assert FAMILIES["races"] == tuple(race.name for race in EVERY)
    assert len(set(FAMILIES["races"])) == len(EVERY)
    assert len(RACES) == len(races.ON_RECORD) == 18


@pytest.mark.parametrize("race", EVERY, ids=lambda race: race.name)
def test_a_race_has_its_defect_and_its_repair(race) -> None:
    variants = {v.name: v.expected for v in scenario(race.name).variants}
    assert variants[DEFECT].verdict is Verdict.VIOLATED
    assert variants[REPAIR].verdict is Verdict.HOLDS
    assert race.reference in variants[DEFECT].source
    assert race.breaks.endswith(".")


@pytest.mark.parametrize("stated", races.STATED, ids=lambda stated: stated.variant)
def test_what_the_record_states_comes_out(stated: races.Stated) -> None:
    found = answer(one(stated.variant).system())
    assert found.verdict is (Verdict.HOLDS if stated.switches is None else Verdict.VIOLATED)
    if stated.switches is not None:
        least = races.least(stated.variant)
        assert least == CHEAPEST[stated.variant]
        assert (least[0] == stated.switches) == (not stated.why)


# On live vCPUs, where all that was read tells states apart.

LIVE = (
    "migrate_vma_flush_after_ptl/defect", "migrate_vma_flush_after_ptl/repair",
    "pae_pmd_torn_read/defect", "pae_pmd_torn_read/repair", "pdpte_cached_pmd_freed/defect",
    "ad_nonatomic_rmw/defect", "xsa401_typeref_early_flush/defect",
    "xsa401_typeref_early_flush/repair", "kvm_dirtylog_skip_flush/two_agents_defect",
    "ad_nonatomic_rmw/seed_read_fault",
    "pae_pte_clear_order/defect",
)  # fmt: skip


@pytest.mark.parametrize("name", LIVE)
def test_live_vcpus_agree(name: str) -> None:
    target = TARGETS[name]
    system = target.system()
    found, _ = in_trio(search_live, system)
    assert found.verdict is target.variant.expected.verdict
    if found.violations:
        run = in_trio(lambda: replay(system, found.violations[0].choices))
        assert run.ending is Ending.VIOLATION
        assert target.variant.expected.name in run.broken


def test_the_table_has_every_race(shell: Shell) -> None:
    """Here with a budget that ends some searches, which the table says."""
    done = shell("explore", "races", "--live-runs", "0", "--jobs", "1", "--max-states", "500")
    assert done.status == 3
    for race in EVERY:
        (line,) = [line for line in done.out.splitlines() if line.startswith(f" {race.name} ")]
        assert race.reference in line
    (line,) = [line for line in done.out.splitlines() if "ksm_stale" in line]
    assert line.count("UNDECIDED") == 2
    (tally,) = re.findall(r"^(\d+) of 18 defects are found, (\d+) of 18 repairs", done.out, re.M)
    assert all(0 < int(number) < 18 for number in tally)
    assert re.search(rf"^beyond these: \d of {len(BEYOND)} defects", done.out, re.M)
    assert f" of {len(TARGETS)} as expected, " in done.out


# docs/races.md.

BIG = {"uffd_wp_cow", "ksm_stale_writable"}
"""Looked through by `python -m tests.races` alone, which takes a minute."""


def test_the_document_is_what_was_found() -> None:
    told = "python -m tests.races NAME"
    assert races.FILE.read_text(encoding="utf-8") == races.document(), told
    assert list(CHEAPEST) == races.asked(), told


@pytest.mark.parametrize("race", RACES, ids=lambda race: race.name)
def test_a_number_that_is_not_as_on_record_has_a_reason(race) -> None:
    switches, preemptions = CHEAPEST[f"{race.name}/{DEFECT}"]
    record = races.ON_RECORD[race.name]
    same = switches == record.switches and record.preemptions in (None, preemptions)
    assert same == (not record.why)


@pytest.mark.parametrize("race", [r for r in EVERY if r.name not in BIG], ids=lambda r: r.name)
def test_the_fewest_switches_are_proven_again(race) -> None:
    name = f"{race.name}/{DEFECT}"
    assert races.least(name) == CHEAPEST[name]
