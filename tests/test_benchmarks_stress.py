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


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


@pytest.fixture(scope="module")
def table():
    yield from script("stress_table")


@pytest.fixture(scope="module")
def exact():
    yield from script("stress_exact")


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


@pytest.mark.parametrize("name", ["docs/example.py:move_page/not_waiting",
                                  "unmap_free/deferred_torn_after_unlock"])  # fmt: skip
def test_as_many_runs_fail_as_must_by_the_exact_probability(exact, name: str) -> None:
    name = f"{ROOT}/{name}" if ".py" in name else name
    uniform, paced, prompt = exact.probabilities(name)
    assert len({uniform, paced, prompt}) > 1
    kernel, many = Kernel(one(name).system()), 6_000
    for strategy, expected in (("uniform", uniform), ("paced", (paced + prompt) / 2)):
        (plan,) = planned(kernel, named(strategy))
        (runs,) = stress(kernel, range(many), plan=plan)
        failing = sum(bool(run.violated) for run in runs)
        spread = (many * expected * (1 - expected)) ** 0.5
        assert abs(failing - many * expected) < 4 * spread + 1


def test_the_rarest_violation_is_found_within_a_million_runs(exact) -> None:
    """None of a million fails with a probability below e^-3 only."""
    uniform, paced, prompt = exact.probabilities(
        "macros_as_written/wrprotect_deferred_torn_reclaim"
    )
    assert 0 < uniform < 1e-11
    assert (paced + prompt) / 2 > 3e-6
