"""The first pair: the defect and its repairs get their verdicts, with every count frozen."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
from typing import Any

import pytest

from smpmmu.engine.answer import answer
from smpmmu.engine.live import in_trio, replay
from smpmmu.engine.live_search import search_live
from smpmmu.engine.run import Ending
from smpmmu.engine.verdict import Exploration, Verdict
from smpmmu.hypervisor import shadow
from smpmmu.hypervisor.shadow import FAULT_IS_ATOMIC, SYNC_IS_ATOMIC
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE
from smpmmu.targets import catalogue as catalogue_targets
from smpmmu.targets import one
from tests.shell import DEFECT, PAIR, REPAIR, Shell

# What the scenario's own comment and reference/kernel.md expect, written down apart from it.
EXPECTED = {
    f"{PAIR}/native_after_unlock": ("HOLDS", None),
    f"{PAIR}/immediate_after_unlock": ("HOLDS", None),
    REPAIR: ("HOLDS", None),
    DEFECT: ("VIOLATED", NO_WRITE_AFTER_PROMISE),
    f"{PAIR}/immediate_untouched_page": ("HOLDS", None),
    f"{PAIR}/deferred_untouched_page": ("HOLDS", None),
    f"{PAIR}/deferred_torn_fault": ("VIOLATED", NO_WRITE_AFTER_PROMISE),
}
HOLDING = [name for name, (verdict, _) in EXPECTED.items() if verdict == "HOLDS"]

# (states, transitions, depth). A change of the model changes them, and says so in its commit;
# a change of the engine must not.
COUNTS = {
    f"{PAIR}/native_after_unlock": (24_499, 57_654, 75),
    f"{PAIR}/immediate_after_unlock": (44_899, 107_025, 92),
    REPAIR: (7_565, 15_443, 89),
    DEFECT: (16_782, 38_544, 42),
    f"{PAIR}/immediate_untouched_page": (67_840, 163_084, 98),
    f"{PAIR}/deferred_untouched_page": (11_346, 23_320, 95),
    f"{PAIR}/deferred_torn_fault": (13_698, 28_095, 77),
}


def test_the_pair_is_in_the_catalogue(catalogue: dict[str, dict[str, Any]]) -> None:
    assert {n for n in catalogue if n.startswith(f"{PAIR}/")} == set(EXPECTED)
    assert [t.name for t in catalogue_targets() if t.scenario.name == PAIR] == list(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_variant_gets_its_verdict(name: str, catalogue: dict[str, dict[str, Any]]) -> None:
    row = catalogue[name]
    assert (row["verdict"], row["property"]) == EXPECTED[name]
    assert (row["expected_verdict"], row["expected_property"]) == EXPECTED[name]
    assert row["as_expected"] is True
    assert row["source"]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_variant_has_its_counts(name: str, catalogue: dict[str, dict[str, Any]]) -> None:
    row = catalogue[name]
    assert (row["states"], row["transitions"], row["depth"]) == COUNTS[name]
    few = row["states"] <= 1 << 16
    assert row["exact"] is few
    assert row["collision_bound"] == (0.0 if few else row["states"] ** 2 / 2**65)


@pytest.mark.parametrize("name", HOLDING)
def test_what_holds_is_not_vacuous(name: str, catalogue: dict[str, dict[str, Any]]) -> None:
    row = catalogue[name]
    assert row["vacuous"] == []
    assert len(row["reached"]) >= 4
    assert all(row["reached"].values())
    assert row["live_runs"] == 20


def test_the_defect_reaches_everything_too() -> None:
    """Its repair is silent although nothing else differs: all is reached, if one goes on."""
    found = answer(one(DEFECT).system(), every=True)
    assert found.vacuous == ()
    assert [v.name for v in found.violations] == [NO_WRITE_AFTER_PROMISE]
    assert len(found.violations[0].choices) == 42


def test_the_defect_is_told_by_a_shortest_schedule(catalogue: dict[str, dict[str, Any]]) -> None:
    row = catalogue[DEFECT]
    (violation,) = row["violations"]
    assert (violation["choices"], violation["switches"]) == (42, 6)
    assert (violation["shortest"], violation["fewest_switches"]) == (True, True)
    story = violation["story"]
    assert [s["context"] for s in story if s["text"] == "clear_bit RW 0x2[1]"] == ["cpu0"]
    assert story[-1] == {"context": "cpu2", "text": "write page 0x3 -> frozen"}
    steps = [s["text"] for s in story]
    queued, unlocked = (steps.index(t) for t in ("store cpu0.deferred[0] = 0x2004", "unlock ptl"))
    assert queued < unlocked < steps.index("set frozen in page 0x3")
    switches = sum(a["context"] != b["context"] for a, b in itertools.pairwise(story))
    assert switches == 6


# Claims dropped.

DROPPED: dict[str, dict[str, tuple[str, int, int, int]]] = {
    # The moment between the two steps of a synchronisation becomes a state: some more of them,
    # and one more choice. No verdict depends on it: who synchronises only holds back longer.
    SYNC_IS_ATOMIC: {
        f"{PAIR}/native_after_unlock": ("HOLDS", 24_499, 57_654, 75),
        f"{PAIR}/immediate_after_unlock": ("HOLDS", 44_923, 107_071, 93),
        REPAIR: ("HOLDS", 7_589, 15_489, 90),
        DEFECT: ("VIOLATED", 17_651, 40_506, 43),
        f"{PAIR}/immediate_untouched_page": ("HOLDS", 67_914, 163_228, 99),
        f"{PAIR}/deferred_untouched_page": ("HOLDS", 11_420, 23_464, 96),
        f"{PAIR}/deferred_torn_fault": ("VIOLATED", 13_776, 28_247, 78),
    },
    # Where the entry is accessed and dirty from the start, a hidden fault finds it read-only and
    # gives up at its first step: there is nothing between its steps. Where it is not, the fault
    # fills the shadow from what it read, and a shadow from an older entry outlives the change:
    # both untouched variants are violated, whatever the hook.
    FAULT_IS_ATOMIC: {
        f"{PAIR}/native_after_unlock": ("HOLDS", 24_499, 57_654, 75),
        f"{PAIR}/immediate_after_unlock": ("HOLDS", 44_899, 107_025, 92),
        REPAIR: ("HOLDS", 7_565, 15_443, 89),
        DEFECT: ("VIOLATED", 16_782, 38_544, 42),
        f"{PAIR}/immediate_untouched_page": ("VIOLATED", 44_537, 106_401, 47),
        f"{PAIR}/deferred_untouched_page": ("VIOLATED", 13_698, 28_095, 77),
        f"{PAIR}/deferred_torn_fault": ("VIOLATED", 13_698, 28_095, 77),
    },
}
BOTH_DROPPED = DROPPED[SYNC_IS_ATOMIC] | {
    f"{PAIR}/immediate_untouched_page": ("VIOLATED", 44_615, 106_553, 48),
    f"{PAIR}/deferred_untouched_page": ("VIOLATED", 13_776, 28_247, 78),
}


def test_every_claim_of_the_shadow_is_dropped_here() -> None:
    claims = [
        ast.unparse(decorator.args[0])
        for node in ast.walk(ast.parse(inspect.getsource(shadow)))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "indivisible"
    ]
    assert {getattr(shadow, claim) for claim in claims} == set(DROPPED)


def summary(found: Exploration) -> tuple[str, int, int, int]:
    return found.verdict.value, found.states, found.transitions, found.depth


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("why", DROPPED, ids=["sync_entry", "fill"])
def test_verdicts_with_a_claim_dropped(why: str, name: str) -> None:
    found = answer(one(name).system(), dropped=frozenset({why}))
    assert summary(found) == DROPPED[why][name]
    if found.verdict is Verdict.VIOLATED:
        assert [v.name for v in found.violations] == [NO_WRITE_AFTER_PROMISE]
    else:
        assert found.vacuous == ()


@pytest.mark.parametrize("name", EXPECTED)
def test_verdicts_with_every_claim_dropped(name: str) -> None:
    found = answer(one(name).system(), dropped=frozenset(DROPPED))
    assert summary(found) == BOTH_DROPPED[name]


def test_a_torn_fault_is_the_untouched_page_without_the_claim() -> None:
    torn = answer(one(f"{PAIR}/deferred_torn_fault").system())
    system = one(f"{PAIR}/deferred_untouched_page").system()
    dropped = answer(system, dropped=frozenset({FAULT_IS_ATOMIC}))
    assert torn == dropped


def test_a_schedule_with_a_claim_dropped_runs_live_with_it_dropped() -> None:
    dropped = frozenset({SYNC_IS_ATOMIC})
    system = one(DEFECT).system()
    (violation,) = answer(system, dropped=dropped).violations
    run = in_trio(lambda: replay(system, violation.choices, dropped=dropped))
    assert (run.ending, run.violated) == (Ending.VIOLATION, NO_WRITE_AFTER_PROMISE)
    assert all(len(action.steps) == 1 for action in run.actions)


# The live engine: every schedule that leads to a new state is run on trio tasks (slow).


def test_the_repair_holds_on_live_vcpus_with_the_same_counts() -> None:
    found, seen = in_trio(search_live, one(REPAIR).system())
    assert found.verdict is Verdict.HOLDS
    assert (found.states, found.transitions) == COUNTS[REPAIR][:2]
    assert found.vacuous == ()
    assert seen.violations == {}
    assert seen.runs > 1_000
    assert seen.quiescent


def test_the_defect_is_violated_on_live_vcpus() -> None:
    system = one(DEFECT).system()
    found, seen = in_trio(search_live, system)
    assert found.verdict is Verdict.VIOLATED
    assert set(seen.violations) == {NO_WRITE_AFTER_PROMISE}
    (violation,) = found.violations
    assert len(violation.choices) >= 42
    run = in_trio(lambda: replay(system, violation.choices))
    assert (run.ending, run.violated) == (Ending.VIOLATION, NO_WRITE_AFTER_PROMISE)


# Stress.

SEED = 4_013
"""The first of the seeds 0 to 5,000 that violates; one in five thousand does."""


def test_stress_finds_the_defect_and_the_seed_reproduces_it(shell: Shell) -> None:
    done = shell("stress", DEFECT, "--seeds", "0:5000", "--format", "json")
    assert done.status == 1
    found = json.loads(done.out)
    assert found["violated"] == {NO_WRITE_AFTER_PROMISE: 1}
    assert (found["first_failing_seed"], found["choices"], found["cut"]) == (SEED, 60, 0)
    told = shell("replay", DEFECT, "--seed", str(SEED))
    assert told.status == 1
    assert told.out.endswith(f"seed {SEED}: VIOLATED {NO_WRITE_AFTER_PROMISE} after 60 choices\n")


@pytest.mark.parametrize("name", HOLDING)
def test_stress_finds_nothing_in_what_holds(name: str, shell: Shell) -> None:
    done = shell("stress", name, "--seeds", "0:5000", "--format", "json")
    assert done.status == 0
    found = json.loads(done.out)
    assert (found["failing"], found["cut"], found["first_failing_seed"]) == (0, 0, None)
