"""The catalogue: verdicts against an earlier check, frozen counts, claims dropped, live, seeds."""

from __future__ import annotations

import ast
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from smpmmu.engine import schedule
from smpmmu.engine.answer import answer
from smpmmu.engine.live import in_trio, replay
from smpmmu.engine.live_search import search_live
from smpmmu.engine.local import call
from smpmmu.engine.run import Ending
from smpmmu.engine.verdict import Budget, Verdict
from smpmmu.hypervisor.shadow import FAULT_IS_ATOMIC, SYNC_IS_ATOMIC
from smpmmu.machine.speculation import evict, speculate
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, NO_WRITE_AFTER_PROMISE
from smpmmu.scenarios import FAMILIES, common
from smpmmu.scenarios.theorem import CELLS, PAE_CELLS
from smpmmu.targets import catalogue as catalogue_targets
from smpmmu.targets import one
from tests import claims
from tests.shell import DEFECT, REPAIR, ROOT, Shell

if TYPE_CHECKING:
    from pathlib import Path

    from smpmmu.machine.cpu import Cpu
    from smpmmu.scenario import Setup

NAMES = [target.name for target in catalogue_targets()]
VIOLATED = [t.name for t in catalogue_targets() if t.variant.expected.verdict is Verdict.VIOLATED]
HOLDING = [name for name in NAMES if name not in VIOLATED]
COUNTS: dict[str, list[int]] = json.loads((ROOT / "tests/counts.json").read_text(encoding="utf-8"))
"""States, transitions, depth, and states with the evictor (0 for none), by scenario/variant.

A change of the model changes them, and says so in its commit; a change of the engine must not.
Written anew by `python -m tests.counts`.
"""


# Against the exhaustive check of a small model that came before this one (docs/theorem.md).

EARLIER = {
    # row: what its columns say; "" is ok.
    "immediate_after_unlock": {"F1": "", "F1skip": "W", "F2": "L", "F3young": "", "F3wp": "",
                               "F4": "", "F5": "", "F6": ""},
    "deferred_under_ptl": {"F1": "", "F1skip": "", "F2": "", "F3young": "", "F3wp": "", "F4": "",
                           "F5": "W", "F6": ""},
    "deferred_after_unlock": {"F1": "W", "F1skip": "W", "F2": "L", "F3young": "", "F3wp": "",
                              "F4": "W", "F5": "W", "F6": "W"},
    "deferred_value_after_unlock": {"F1": "W", "F1skip": "W", "F2": "L", "F3young": "",
                                    "F3wp": "F", "F4": "W", "F5": "W", "F6": "W"},
}  # fmt: skip
EARLIER["native_after_unlock"] = EARLIER["immediate_after_unlock"]
EARLIER["deferred_torn_under_ptl"] = EARLIER["deferred_under_ptl"]
EARLIER["deferred_value_under_ptl"] = EARLIER["deferred_under_ptl"]
EARLIER["deferred_torn_after_unlock"] = EARLIER["deferred_value_after_unlock"]
COLUMNS = {
    "F1": "reliant_flusher/{}", "F1skip": "reliant_skipper/{}", "F2": "dirty_writeback/{}",
    "F3young": "young_clear/{}", "F3wp": "unmap_free/{}", "F4": "mask_omits_deferrer/{}_cr3_keeps",
    "F5": "remote_first/{}", "F6": "two_cpus_speculation/{}",
}  # fmt: skip
LETTERS = {
    None: "",
    NO_WRITE_AFTER_PROMISE: "W",
    NO_ACCESS_TO_FREED_FRAME: "F",
    "no_write_lost_at_rest": "L",
}
DIFFERENT = {
    # DECISIONS.md, "Where the table differs from the earlier check".
    ("deferred_torn_after_unlock", "F3young"): "F",
    ("deferred_value_after_unlock", "F3young"): "F",
}


@pytest.mark.parametrize("row", EARLIER)
@pytest.mark.parametrize("column", COLUMNS)
def test_a_cell_is_what_the_earlier_check_says(
    row: str, column: str, catalogue: dict[str, dict[str, Any]]
) -> None:
    found = catalogue[COLUMNS[column].format(row)]
    earlier = EARLIER[row][column]
    assert LETTERS[found["property"]] == DIFFERENT.get((row, column), earlier)


def test_what_differs_from_the_earlier_check_does_differ() -> None:
    assert all(EARLIER[row][column] != now for (row, column), now in DIFFERENT.items())


def test_with_a_dirty_page_nothing_differs(catalogue: dict[str, dict[str, Any]]) -> None:
    for record in ("torn", "value"):
        row = catalogue[f"young_clear/deferred_{record}_after_unlock_dirty_page"]
        assert row["verdict"] == "HOLDS"


# Every variant.


def test_the_table_is_whole() -> None:
    assert len(CELLS) == len(set(CELLS)) == 20 * 12
    assert set(CELLS) <= set(NAMES)
    assert tuple(f"{name}_pae" for name in CELLS) == PAE_CELLS
    assert set(PAE_CELLS) <= set(NAMES)


@pytest.mark.parametrize("name", CELLS)
def test_with_pae_a_cell_is_the_same(name: str, catalogue: dict[str, dict[str, Any]]) -> None:
    without, with_pae = (catalogue[each] for each in (name, f"{name}_pae"))
    assert with_pae["verdict"] == without["verdict"]
    assert with_pae["property"] == without["property"]


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_is_as_expected(name: str, catalogue: dict[str, dict[str, Any]]) -> None:
    row = catalogue[name]
    assert row["as_expected"] is True
    assert row["source"]
    counts = [row["states"], row["transitions"], row["depth"]]
    again = row["with_evictor"]
    assert [*counts, again["states"] if again else 0] == COUNTS[name]
    few = row["states"] <= 1 << 16
    assert row["exact"] is few
    assert row["collision_bound"] == (0.0 if few else row["states"] ** 2 / 2**65)


def test_counts_are_of_the_catalogue() -> None:
    assert list(COUNTS) == NAMES


@pytest.mark.parametrize("name", HOLDING)
def test_what_holds_is_not_vacuous(name: str, catalogue: dict[str, dict[str, Any]]) -> None:
    row = catalogue[name]
    assert row["vacuous"] == []
    assert len(row["reached"]) >= 2
    assert all(row["reached"].values())
    assert row["live_runs"] == 5
    if name in CELLS + PAE_CELLS:
        assert row["with_evictor"]["states"] >= row["states"]


@pytest.mark.parametrize("name", VIOLATED)
def test_what_is_violated_has_its_schedule(name: str, catalogue: dict[str, dict[str, Any]]) -> None:
    (violation,) = catalogue[name]["violations"]
    assert (violation["shortest"], violation["fewest_switches"]) == (True, True)
    contexts = [step["context"] for step in violation["story"]]
    assert len(contexts) == violation["choices"]
    assert sum(a != b for a, b in itertools.pairwise(contexts)) == violation["switches"]
    saved = schedule.read(_saved(name).read_text(encoding="utf-8"), name)
    assert [line.choice for line in saved.lines] == contexts
    assert saved.scenario == name


def _saved(name: str) -> Path:
    family = "races" if name.partition("/")[0] in FAMILIES["races"] else ""
    return ROOT / "schedules" / family / f"{name.replace('/', '.')}.schedule"


def test_every_schedule_is_of_a_violated_variant() -> None:
    found = {path for path in (ROOT / "schedules").rglob("*") if path.is_file()}
    assert found == {_saved(name) for name in VIOLATED}


def test_the_defect_reaches_everything_too() -> None:
    """Its repair is silent although nothing else differs: all is reached, if one goes on."""
    found = answer(one(DEFECT).system(), every=True)
    assert found.vacuous == ()
    assert [v.name for v in found.violations] == [NO_WRITE_AFTER_PROMISE]


def test_the_defect_is_told_by_a_shortest_schedule(catalogue: dict[str, dict[str, Any]]) -> None:
    (violation,) = catalogue[DEFECT]["violations"]
    assert (violation["choices"], violation["switches"]) == (42, 6)
    story = violation["story"]
    assert [s["context"] for s in story if s["text"] == "clear_bit RW 0x2[1]"] == ["cpu0"]
    assert story[-1] == {"context": "cpu2", "text": "write page 0x3 -> frozen-mm1"}
    steps = [s["text"] for s in story]
    queued, unlocked = (steps.index(t) for t in ("store cpu0.deferred[0] = 0x2004", "unlock ptl"))
    assert queued < unlocked < steps.index("set frozen in page 0x3")


# What `--format json` says.

KEYS = {
    "scenario", "variant", "verdict", "property", "expected_verdict", "expected_property",
    "as_expected", "source", "states", "transitions", "depth", "choices", "context_switches",
    "shortest", "schedule_file", "violations", "levels", "reached", "vacuous",
    "undecided_because", "exact", "collision_bound", "live_runs", "engine",
}  # fmt: skip
VIOLATION_KEYS = {
    "name", "choices", "switches", "shortest", "fewest_switches", "story", "schedule", "file",
}  # fmt: skip


def test_json_has_the_keys_of_its_schema(catalogue: dict[str, dict[str, Any]]) -> None:
    for row in catalogue.values():
        assert row.keys() >= KEYS
        assert row["as_expected"] is True
        assert sum(row["levels"]) == row["states"]
        assert len(row["levels"]) == row["depth"] + 1
        assert (row["verdict"] == "VIOLATED") == bool(row["violations"])
        for violation in row["violations"]:
            assert violation.keys() >= VIOLATION_KEYS
            assert violation["name"] == row["property"]
            assert len(violation["story"]) == violation["choices"] == row["choices"]


# Claims dropped: each in turn, over the whole catalogue. Why verdicts change is in DECISIONS.md.

SMALL = 400
"""States up to which a variant is explored again here; `python -m tests.claims` does them all."""
RESTS_ON: dict[str, list[str]] = json.loads(claims.FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def without_claims() -> dict[str, list[str]]:
    return claims.changed(name for name in NAMES if COUNTS[name][0] <= SMALL)


@pytest.mark.parametrize("claim", claims.CLAIMS)
def test_the_verdicts_that_rest_on_a_claim(
    claim: str, without_claims: dict[str, list[str]]
) -> None:
    assert without_claims[claim] == [n for n in RESTS_ON[claim] if COUNTS[n][0] <= SMALL]


def test_what_rests_on_a_claim_holds_with_it() -> None:
    assert list(RESTS_ON) == list(claims.CLAIMS)
    assert {name for names in RESTS_ON.values() for name in names} <= set(HOLDING)
    assert len(RESTS_ON["SYNC_IS_ATOMIC"]) > 5
    assert len(RESTS_ON["FAULT_IS_ATOMIC"]) > 5
    for claim in ("FLUSH_IS_ONE", "WALK_STOPS_AT_ONCE"):
        assert RESTS_ON[claim] == ["lazy_tlb_freed_table/repair"]
    assert len(RESTS_ON["TSO_TRANSITION"]) >= 5


def test_every_claim_is_dropped_here() -> None:
    """No `indivisible` in the model makes a claim that the tests above do not drop."""
    found = set()
    for path in (ROOT / "smpmmu").rglob("*.py"):
        if "engine" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "indivisible":
                found.add(ast.unparse(node.args[0]))
    assert found == set(claims.CLAIMS)


def test_a_torn_fault_is_the_untouched_page_without_the_claim() -> None:
    torn = answer(one("reliant_flusher/deferred_torn_fault").system())
    system = one("reliant_flusher/deferred_untouched_page").system()
    dropped = answer(system, dropped=frozenset({FAULT_IS_ATOMIC}))
    assert torn == dropped


def test_a_torn_record_is_the_address_without_the_claim() -> None:
    torn = answer(one("unmap_free/deferred_torn_after_unlock").system())
    system = one("unmap_free/deferred_after_unlock").system()
    dropped = answer(system, dropped=frozenset({SYNC_IS_ATOMIC}))
    assert torn.verdict is dropped.verdict is Verdict.VIOLATED


def test_a_schedule_with_a_claim_dropped_runs_live_with_it_dropped() -> None:
    dropped = frozenset({SYNC_IS_ATOMIC})
    system = one(DEFECT).system()
    (violation,) = answer(system, dropped=dropped).violations
    run = in_trio(lambda: replay(system, violation.choices, dropped=dropped))
    assert (run.ending, run.violated) == (Ending.VIOLATION, NO_WRITE_AFTER_PROMISE)
    assert all(len(action.steps) == 1 for action in run.actions)


# The live engine: every schedule that leads to a new state is run on trio tasks (slow).

LIVE = (
    "reliant_skipper/deferred_under_ptl",
    "reliant_skipper/native_after_unlock", "reliant_skipper/deferred_value_ptl_retaken",
    "mask_omits_deferrer/deferred_after_unlock",
    "mask_omits_deferrer/deferred_after_unlock_cr3_keeps", "remote_first/native_after_unlock",
    "remote_first/deferred_under_ptl", "remote_first/deferred_torn_after_unlock",
    "lock_rule/deferred_torn_under_ptl",
    "lock_rule/immediate_ptl_retaken", "lock_rule/deferred_after_unlock",
    "reliant_skipper/deferred_under_ptl_pae", "reliant_skipper/native_after_unlock_pae",
    "mask_omits_deferrer/deferred_after_unlock_cr3_keeps_pae",
    "remote_first/deferred_torn_after_unlock_pae",
    "lock_rule/deferred_torn_under_ptl_pae",
)  # fmt: skip
# Not pud_populate with two CPUs: who faults in vain goes on reading, and nothing forgets it live.
LIVE_WORDS = (
    "pae_words/set_pte", "pae_words/replace_set_pte_present", "pae_words/replace_set_pte_vmi",
    "pae_words/replace_set_pte_vmi_untouched_page", "pae_words/get_and_clear",
    "pae_words/get_and_clear_without_xchg", "pae_words/pte_clear_high_first_speculation",
    "pae_words/pud_populate_here_only_one_cpu", "pae_words/kernel_exec_two_cpus",
)  # fmt: skip


def test_enough_cells_are_explored_live() -> None:
    assert set(LIVE) <= set(CELLS + PAE_CELLS)
    assert len(set(LIVE) & set(PAE_CELLS)) >= 5
    assert len(set(LIVE) & set(VIOLATED)) >= 5
    assert len(set(LIVE) & set(HOLDING)) >= 5


@pytest.mark.parametrize("name", LIVE + LIVE_WORDS)
def test_the_live_engine_agrees(name: str, catalogue: dict[str, dict[str, Any]]) -> None:
    system = one(name).system()
    found, seen = in_trio(search_live, system)
    row = catalogue[name]
    assert found.verdict.value == row["verdict"]
    if found.verdict is Verdict.HOLDS:
        # Live states are told apart by all that was read, so there can only be more of them.
        assert found.states >= row["states"]
        assert found.vacuous == ()
        assert seen.violations == {}
        assert seen.quiescent
        return
    violation = found.violations[0]
    assert len(violation.choices) >= row["choices"]
    run = in_trio(lambda: replay(system, violation.choices))
    assert run.ending is Ending.VIOLATION
    assert row["property"] in run.broken


# Stress.

RANGE = "reliant_flusher/deferred_range"
SEEDS = range(5_000)


def test_stress_finds_the_defect_and_the_seed_reproduces_it(shell: Shell) -> None:
    done = shell("stress", RANGE, "--seeds", f"0:{len(SEEDS)}", "--format", "json")
    assert done.status == 1
    found = json.loads(done.out)
    assert set(found["violated"]) == {NO_WRITE_AFTER_PROMISE}
    assert found["cut"] == 0
    seed, choices = found["first_failing_seed"], found["choices"]
    assert seed in SEEDS
    told = shell("replay", RANGE, "--seed", str(seed))
    assert told.status == 1
    ending = f"seed {seed}: VIOLATED {NO_WRITE_AFTER_PROMISE} after {choices} choices\n"
    assert told.out.endswith(ending)


@pytest.mark.parametrize("name", [REPAIR, "reliant_flusher/native_after_unlock"])
def test_stress_finds_nothing_in_what_holds(name: str, shell: Shell) -> None:
    done = shell("stress", name, "--seeds", f"0:{len(SEEDS)}", "--format", "json")
    assert done.status == 0
    found = json.loads(done.out)
    assert (found["failing"], found["cut"], found["first_failing_seed"]) == (0, 0, None)


# The rule also holds where every CPU that runs the address space speculates.

ON_TIME = [
    name
    for name in CELLS
    # two_cpus_speculation has a walker of its own.
    if "_under_ptl" in name and name in HOLDING and not name.startswith("two_cpus_speculation")
]


@pytest.mark.parametrize("name", ON_TIME)
def test_flushed_under_the_lock_it_holds_with_walkers_too(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    walking = 0

    def with_a_walker(setup: Setup, cpu: Cpu) -> None:
        nonlocal walking
        walking += 1
        for each in (speculate, evict):
            setup.evictor(cpu.number, each.__name__, call(each, cpu, cpu.pages[0]))

    monkeypatch.setattr(common, "install_evictor", with_a_walker)
    target = one(name)
    without, walked = target.systems()
    assert walked is not None
    assert len(walked.contexts) == len(without.contexts) + 2 * walking > len(without.contexts)
    found = answer(walked, Budget(states=150_000))
    assert found.verdict is not Verdict.VIOLATED
    if COUNTS[name][0] <= 1_000:
        assert found.verdict is Verdict.HOLDS
