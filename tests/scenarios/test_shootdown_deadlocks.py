"""The shootdown deadlocks: every defect is found, every repair is silent and not vacuous."""

from __future__ import annotations

import pytest

import smpmmu
from smpmmu.checking import confirms
from smpmmu.engine.answer import answer
from smpmmu.engine.live import in_trio, replay
from smpmmu.engine.system import NO_DEADLOCK, System
from smpmmu.scenarios.shootdown_deadlocks import shootdown_deadlocks

# What each is, written down apart from the scenario: does somebody who cannot answer wait for
# whoever waits for the answer?
HOLDING = [
    "flushes_irqs_on",
    "flush_all_irqs_off_meets_flush_page",
    "ptl_irqs_on",
    "ptl_irqsave",
    "pgd_lock_irqsave_nobody_flushes",
    "pgd_lock_plain",
    "bottom_half_flushes_elsewhere",
    "bottom_half_leaves_flush_to_process",
    "vmlist_lock_reader_irqs_on",
    "vmlist_lock_flush_after_unlock",
]
# With the length of the shortest schedule into each; a change of the modelled code changes it.
DEADLOCKED = {
    "flushes_irqs_off": 21,
    "flush_irqs_off_meets_flush": 20,
    "flush_page_and_all_irqs_off": 23,
    "ptl_irqs_off": 11,
    "ptl_spin_lock_irq": 11,
    "ptl_irqsave_irqs_off": 12,
    "ptl_irqsave_lockdep": 11,
    "pgd_lock_irqsave": 12,
    "pgd_lock_plain_taken_in_interrupt": 9,
    "bottom_half_flushes": 7,
    "vmlist_lock_reader_irqs_off": 8,
}


def system(name: str, *, evictor: bool = False) -> System:
    return shootdown_deadlocks.system(shootdown_deadlocks.variant(name), evictor=evictor)


def test_these_are_all_variants() -> None:
    assert {v.name for v in shootdown_deadlocks.variants} == {*HOLDING, *DEADLOCKED}


@pytest.mark.parametrize("name", [*HOLDING, *DEADLOCKED])
def test_what_is_expected_says_why(name: str) -> None:
    expected = shootdown_deadlocks.variant(name).expected
    assert expected is not None
    assert expected.source
    assert expected.name == ("" if name in HOLDING else NO_DEADLOCK)


@pytest.mark.parametrize("evictor", [False, True])
@pytest.mark.parametrize("name", HOLDING)
def test_a_repair_holds_and_is_not_vacuous(name: str, *, evictor: bool) -> None:
    answered = smpmmu.explore(system(name, evictor=evictor), live_runs=5)
    found = answered.exploration
    assert found.verdict is smpmmu.Verdict.HOLDS
    assert found.exact
    assert found.vacuous == ()
    assert len(found.reached) >= 2


@pytest.mark.parametrize("name", DEADLOCKED)
def test_a_defect_is_a_deadlock_that_happens_live(name: str) -> None:
    asked = system(name)
    found = answer(asked)
    (violation,) = found.violations
    assert (violation.name, len(violation.choices)) == (NO_DEADLOCK, DEADLOCKED[name])
    assert violation.shortest
    run = in_trio(lambda: replay(asked, violation.choices))
    assert run.choices == violation.choices
    assert confirms(run, NO_DEADLOCK)


@pytest.mark.parametrize("name", DEADLOCKED)
def test_a_deadlock_is_not_the_only_end(name: str) -> None:
    """Other schedules get through, and reach what the repairs reach: it is a race."""
    found = answer(system(name), every=True)
    assert [v.name for v in found.violations] == [NO_DEADLOCK]
    assert found.vacuous == ()


SLOW_LIVE = "pgd_lock_plain_taken_in_interrupt"
"""Many states lie before the deadlock that a depth-first search meets first."""


@pytest.mark.parametrize("name", [*HOLDING, *(n for n in DEADLOCKED if n != SLOW_LIVE)])
def test_the_live_engine_agrees(name: str) -> None:
    found = smpmmu.explore(system(name), engine="live").exploration
    assert found.verdict is answer(system(name)).verdict
    assert [v.name for v in found.violations] == ([] if name in HOLDING else [NO_DEADLOCK])


@pytest.mark.parametrize(
    ("name", "lock"),
    [
        ("flushes_irqs_off", "tlbstate_lock"),
        ("ptl_spin_lock_irq", "ptl"),
        ("pgd_lock_irqsave", "pgd_lock"),
        ("bottom_half_flushes", "call_lock"),
        ("vmlist_lock_reader_irqs_off", "vmlist_lock"),
    ],
)
def test_the_lock_is_kept_and_an_answer_is_owed(name: str, lock: str) -> None:
    """In the end the lock is held; a deadlock with IPIs has one pending for ever."""
    asked = system(name)
    (violation,) = answer(asked).violations
    run = in_trio(lambda: replay(asked, violation.choices))
    values = dict(run.values)
    assert values[lock] == 1
    owed = {word for word, held in values.items() if ".irr[" in word and held}
    # On one CPU nobody is asked: the bottom half stands on top of the holder.
    assert bool(owed) == (name != "bottom_half_flushes")
