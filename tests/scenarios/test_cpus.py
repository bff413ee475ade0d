"""Scenarios that take other numbers of vCPUs: names, masks, and 64 of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.answer import answer
from smpmmu.engine.batch import Kernel
from smpmmu.engine.errors import UsageError
from smpmmu.engine.live import in_trio, random_run
from smpmmu.engine.run import Ending
from smpmmu.engine.strategies import UNIFORM
from smpmmu.engine.strategies.plan import Plan
from smpmmu.engine.stress import stress
from smpmmu.engine.verdict import Verdict
from smpmmu.kernel.mm import NR_CPUS, MmStruct
from smpmmu.kernel.smp import cpumask_of, flush_cpumask
from smpmmu.targets import catalogue, find, one

if TYPE_CHECKING:
    from tests.shell import Shell

SCALING = sorted({t.scenario.name for t in catalogue() if t.scenario.cpus})
STORM = "shootdown_storm/deferred_after_unlock"


def test_two_scenarios_take_up_to_64_vcpus() -> None:
    assert SCALING == ["reliant_flusher", "shootdown_storm"]
    for name in SCALING:
        assert find(name)[0].scenario.cpus == range(3, 65)


@pytest.mark.parametrize("name", SCALING)
@pytest.mark.parametrize("cpus", [3, 7, 8, 9, 64])
def test_there_are_as_many_vcpus_as_asked_for(name: str, cpus: int) -> None:
    target = one(f"{name}/deferred_after_unlock+{cpus}cpus")
    assert target.name == f"{name}/deferred_after_unlock+{cpus}cpus"
    system = target.system()
    assert {c.cpu for c in system.contexts} == {f"cpu{n}" for n in range(cpus)}


def test_three_vcpus_are_what_the_scenario_has_anyway() -> None:
    for name in SCALING:
        whole = f"{name}/deferred_under_ptl"
        plain, sized = answer(one(whole).system()), answer(one(f"{whole}+3cpus").system())
        assert (plain.verdict, plain.states, plain.transitions) == (
            Verdict.HOLDS, sized.states, sized.transitions
        )  # fmt: skip


def test_the_storm_of_three_is_the_pair() -> None:
    storm = answer(one("shootdown_storm/deferred_under_ptl").system())
    pair = answer(one("reliant_flusher/deferred_under_ptl").system())
    assert (storm.states, storm.transitions) == (pair.states, pair.transitions)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reliant_flusher/deferred_range+2cpus", "takes 3 to 64 vCPUs, not 2"),
        ("reliant_flusher/deferred_range+65cpus", "takes 3 to 64 vCPUs, not 65"),
        ("reliant_skipper/native_under_ptl+4cpus", "has a fixed number of vCPUs"),
        ("reliant_flusher/deferred_range+cpus", "no variant of reliant_flusher"),
        ("reliant_flusher/deferred_range+4cpu", "no variant of reliant_flusher"),
        ("reliant_flusher/deferred_range+4cpus+5cpus", "no variant of reliant_flusher"),
    ],
)
def test_what_no_scenario_takes_is_wrong_usage(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("+", r"\+")):
        one(text)


def test_masks_are_as_wide_as_they_must_be() -> None:
    assert cpumask_of(MmStruct(1, 1, cpus=(0, 7))) is flush_cpumask
    assert MmStruct(1, 1, cpus=(0, 7)).cpu_vm_mask.width == NR_CPUS == 8
    wide = MmStruct(1, 1, cpus=tuple(range(64)))
    assert (wide.cpu_vm_mask.width, wide.cpu_vm_mask.initial) == (64, (1 << 64) - 1)
    assert cpumask_of(wide).width == 64
    assert cpumask_of(MmStruct(1, 1, cpus=(8,))).width == 9


def test_64_vcpus_live_do_what_they_do_side_by_side() -> None:
    system = one("reliant_flusher/deferred_after_unlock+64cpus").system()
    kernel = Kernel(system)
    plan = Plan(UNIFORM)
    ((run,),) = stress(kernel, range(3, 4), plan=plan)
    live = in_trio(lambda: random_run(system, 3, automata=kernel.automata, plan=plan))
    assert (live.ending, live.violated) == (run.ending, run.violated)
    assert live.choices == tuple(system.contexts[c].name for c in run.choices)
    assert run.ending is Ending.QUIESCENT
    assert len(run.choices) > 500


def test_stress_finds_the_defect_of_more_vcpus_and_replay_tells_it(shell: Shell) -> None:
    command = ("--cpus", "4", "--strategy", "surw")
    done = shell("stress", STORM, "--seeds", "0:2000", *command)
    assert done.status == 1, done.out
    (command_again,) = [line for line in done.out.splitlines() if " smpmmu replay " in line]
    told = shell(*command_again.split()[3:])
    assert told.status == 1
    assert "VIOLATED no_write_after_promise" in told.out


def test_explore_takes_a_number_of_vcpus(shell: Shell) -> None:
    done = shell("explore", "reliant_flusher/native_under_ptl", "--cpus", "4", "--live-runs", "0")
    assert done.out.startswith("reliant_flusher/native_under_ptl+4cpus  HOLDS\n")
    done = shell("explore", "reliant_skipper", "--cpus", "4")
    assert (done.status, done.out) == (2, "")
    assert "scenario reliant_skipper has a fixed number of vCPUs" in done.err
