"""The benchmark scripts of stress: what they measure is what they say, on small systems."""

from __future__ import annotations

import importlib.util
import sys
from statistics import median

import pytest

from smpmmu.engine.batch import Kernel
from smpmmu.engine.profiling import planned
from smpmmu.engine.strategies import named
from smpmmu.engine.stress import stress
from smpmmu.targets import one
from tests.shell import ROOT


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("table", ROOT / "benchmarks/stress_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["table"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["table"]


def needs(table, name: str, strategy: str, trials: int, cap: int) -> list[int | None]:
    kernel = Kernel(one(f"{ROOT}/benchmarks/reorder.py:reorder/{name}").system())
    (plan,) = planned(kernel, named(strategy))
    found: list[int | None] = table.needed(kernel, plan, trials, cap)
    return found


def test_a_trial_counts_seeds_to_the_first_that_fails(table) -> None:
    found = needs(table, "few", "pos", 3, 100)
    kernel = Kernel(one(f"{ROOT}/benchmarks/reorder.py:reorder/few").system())
    (plan,) = planned(kernel, named("pos"))
    for trial, count in enumerate(found):
        assert count is not None
        first = trial * table.APART
        (runs,) = stress(kernel, range(first, first + count), plan=plan)
        assert [bool(run.violated) for run in runs] == [False] * (count - 1) + [True]


def test_what_is_not_found_is_not_found(table) -> None:
    assert needs(table, "few_spawned", "uniform", 2, 3) == [None, None]
    assert table.median([None, None, 5], 100) == "> 100"
    assert table.median([3, None, 5], 100) == "5"


def test_surw_finds_who_is_late_ten_times_sooner_than_uniform_choice(table) -> None:
    """One agent races with seven others and is started last: a uniform walk is seldom there."""
    surw = needs(table, "few_spawned", "surw", 11, 2_000)
    uniform = needs(table, "few_spawned", "uniform", 11, 2_000)
    assert median(n or 2_001 for n in uniform) > 10 * median(n or 2_001 for n in surw)
