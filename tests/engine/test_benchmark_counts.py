"""The benchmark model: its counts are those on which other checkers agree.

The counts are those of SPIN, TLC, rumur and a hand-written C search of the same model.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.answer import answer
from smpmmu.engine.verdict import Verdict
from tests.reference import Reference

if TYPE_CHECKING:
    from types import ModuleType

MODEL = Path(__file__).parents[2] / "benchmarks" / "defer_model.py"

COUNTS = {
    (2, 1, 1): (36, 41),
    (3, 1, 1): (219, 370),
    (3, 1, 2): (1_795, 3_274),
    (3, 2, 1): (2_741, 5_066),
    (4, 2, 1): (45_182, 110_339),
}


@pytest.fixture(scope="module", name="model")
def load_model() -> ModuleType:
    spec = importlib.util.spec_from_file_location("defer_model", MODEL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their own module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", COUNTS, ids=str)
def test_states_and_transitions_are_those_of_other_checkers(
    model: ModuleType, size: tuple[int, int, int]
) -> None:
    found = answer(model.defer(*size))
    assert found.verdict is Verdict.HOLDS
    assert (found.states, found.transitions) == COUNTS[size]
    assert found.reached == {"quiescence": True}
    assert found.exact
    assert sum(found.levels) == found.states


@pytest.mark.parametrize("size", [s for s in COUNTS if s != (4, 2, 1)], ids=str)
def test_packing_changes_no_count(model: ModuleType, size: tuple[int, int, int]) -> None:
    found = answer(model.defer(*size), packed=False)
    assert (found.states, found.transitions) == COUNTS[size]
    assert found.levels == answer(model.defer(*size)).levels


@pytest.mark.parametrize("size", [(2, 1, 1), (3, 2, 1), (4, 2, 1)], ids=str)
def test_a_late_update_is_caught_by_the_sixth_action(
    model: ModuleType, size: tuple[int, int, int]
) -> None:
    found = answer(model.defer(*size, "late"))
    assert found.verdict is Verdict.VIOLATED
    (violation,) = found.violations
    assert violation.name == "shadow_equals_primary_under_lock"
    assert len(violation.choices) == 6
    # A cleaner locks, reads, clears, queues and unlocks too early; then another vCPU locks.
    *early, last = violation.choices
    assert len(set(early)) == 1
    roles = model.Defer(*size).roles
    assert roles[int(early[0].removeprefix("cpu"))] == "C"
    assert last != early[0]
    assert roles[int(last.removeprefix("cpu"))] in "CR"


@pytest.mark.parametrize("variant", ["locked", "late", "noack"])
@pytest.mark.parametrize("size", [(2, 1, 1), (3, 1, 1)], ids=str)
def test_the_reference_explorer_agrees(
    model: ModuleType, size: tuple[int, int, int], variant: str
) -> None:
    asked = model.defer(*size, variant)
    found = answer(asked)
    reference = Reference(asked)
    graph = reference.explore()
    broken = reference.broken(graph)
    assert not reference.endless(graph)[1]
    if not broken:
        assert found.verdict is Verdict.HOLDS
        assert found.states <= len(graph.states)
        assert found.depth == max(graph.depths)
        return
    (violation,) = found.violations
    assert violation.name in broken
    first = min(graph.depths[n] for states in broken.values() for n in states)
    assert len(violation.choices) == first
    last = reference.replay(violation.choices)
    assert last.key in {graph.states[n].key for n in broken[violation.name]}


def test_a_missing_acknowledgement_loses_a_write(model: ModuleType) -> None:
    found = answer(model.defer(3, 1, 1, "noack"))
    (violation,) = found.violations
    assert violation.name == "no_lost_write_to_page_0"
    assert violation.fewest_switches
