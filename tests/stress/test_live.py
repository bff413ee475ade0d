"""Random stress on live vCPUs: run after run on trio tasks, held against automata and herd.

Small by default; SMPMMU_STRESS=50 makes it fifty times as long.
"""

from __future__ import annotations

import os

import pytest

from smpmmu.checking import live_again
from smpmmu.engine.batch import Kernel
from smpmmu.engine.live import in_trio
from smpmmu.engine.profiling import planned
from smpmmu.engine.run import Ending
from smpmmu.engine.strategies import named
from smpmmu.engine.stress import stress
from smpmmu.engine.verdict import Verdict
from smpmmu.targets import one

TIMES = int(os.environ.get("SMPMMU_STRESS", "1"))

CASES = {
    # how many seeds of each; together they have all kinds of hardware
    "two_cpus_speculation/deferred_after_unlock": 3,
    "two_cpus_speculation/deferred_under_ptl": 3,
    "shootdown_storm/deferred_after_unlock+7cpus": 1,
    "reliant_flusher/deferred_range": 3,
    "shootdown_deadlocks/pgd_lock_irqsave": 4,
    "pae_words/set_pte_low_first": 4,
}


@pytest.mark.parametrize("strategy", ["uniform", "pct:3", "pos", "surw"])
@pytest.mark.parametrize("name", CASES)
def test_live_vcpus_agree_run_after_run(name: str, strategy: str) -> None:
    target = one(name)
    system = target.system()
    kernel = Kernel(system)
    (plan,) = planned(kernel, named(strategy))
    expected = target.variant.expected
    assert expected is not None
    for part in stress(kernel, range(CASES[name] * TIMES), plan=plan):
        for run in part:
            live = in_trio(live_again, system, run, kernel, frozenset(), plan)
            assert live.ending is not Ending.CUT
            if live.ending in (Ending.VIOLATION, Ending.STUCK):
                assert expected.verdict is Verdict.VIOLATED
                assert live.violated in (expected.name, "")


def test_64_live_vcpus_storm() -> None:
    """The first six hundred choices: nearly everybody has moved by then."""
    system = one("shootdown_storm/deferred_under_ptl+64cpus").system()
    kernel = Kernel(system)
    for part in stress(kernel, range(TIMES), longest=600):
        for run in part:
            live = in_trio(live_again, system, run, kernel)
            assert live.ending is Ending.CUT
            assert len({choice.partition(".")[0] for choice in live.choices}) >= 60
