"""A run told in full: what each step changed, who held what, who interrupted whom."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from smpmmu.engine.errors import InternalError
from smpmmu.engine.live import in_trio, random_run, replay
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, store
from smpmmu.replaying import replay_file, replay_seed
from smpmmu.report.account import Account, Arrow, Span
from smpmmu.report.telling import tell
from smpmmu.scenario import Setup
from smpmmu.targets import one
from tests.shell import DEFECT, ROOT

if TYPE_CHECKING:
    from smpmmu.engine.run import Run
    from smpmmu.engine.system import System

SCHEDULES = sorted((ROOT / "schedules").glob("*.schedule"))


def account_of(stem: str) -> Account:
    return replay_file(ROOT / "schedules" / f"{stem}.schedule").account()


def of_run(system: System, run: Run, **more: str) -> Account:
    return tell(system, run, name="x", summary="", conclusion="", command="", **more)


def live(system: System, *choices: str) -> Run:
    return in_trio(replay, system, choices)


@pytest.fixture(scope="module")
def race() -> Account:
    return account_of("reliant_flusher.deferred_after_unlock")


def changes(account: Account, number: int) -> list[tuple[str, str, str, str, str]]:
    """Return what a step changed as (table, row, column, before, after)."""
    words = account.words
    return [
        (words[c.word].table, words[c.word].row, words[c.word].column, c.before, c.after)
        for c in account.steps[number - 1].changes
    ]


def test_words_are_known_by_what_they_are(race: Account) -> None:
    assert changes(race, 2) == [
        ("page tables", "0x2[1]", "primary", "0x3 P-RW-US-A-D", "0x3 P-US-A-D")
    ]
    assert changes(race, 4) == [("deferred updates", "slot 0", "cpu0", "0", "0x2[1]")]
    assert changes(race, 14) == [("shootdowns", "flush_cpumask", "", "0", "cpu0-cpu2")]
    assert changes(race, 27) == [("TLB entries", "address 0x1000", "cpu2", "0", "0x3 P-RW-US-A-D")]
    assert changes(race, 33) == [
        ("page tables", "0x2[1]", "shadow", "0x3 P-RW-US-A-D", "0x3 P-US-A-D")
    ]
    assert changes(race, 42) == [
        ("data pages", "page 0x3", "", "mm1, 0 writes, promised to stay",
         "mm1, 1 write, promised to stay")
    ]  # fmt: skip
    assert changes(race, 3) == []


def test_locks_are_held_by_somebody_for_a_while(race: Account) -> None:
    names = [agent.name for agent in race.agents]
    locks = [(s.text, names[s.agent], s.first, s.last, s.ends) for s in race.spans
             if s.kind == "lock"]  # fmt: skip
    assert locks == [
        ("ptl", "cpu0", 1, 5, True),
        ("ptl", "cpu1", 6, 42, False),
        ("tlbstate_lock", "cpu1", 11, 40, True),
    ]
    assert [w.name for w in race.words if w.lock] == ["ptl", "tlbstate_lock"]
    assert [w.name for n in race.steps[0].takes for w in [race.words[n]]] == ["ptl"]
    assert race.steps[39].releases == (6,)


def test_interrupts_are_sent_by_a_step_and_taken_by_another(race: Account) -> None:
    to = {name: n for n, name in enumerate(a.name for a in race.agents)}
    assert race.arrows == (
        Arrow(to["cpu0.irq.invalidate"], "cpu0.irr[0xfd]", 15, 28),
        Arrow(to["cpu2.irq.invalidate"], "cpu2.irr[0xfd]", 16, 17),
    )
    assert race.steps[14].sends == (to["cpu0.irq.invalidate"],)
    assert race.steps[27].sent_at == 15
    handlers = [(s.text, s.first, s.last) for s in race.spans if s.kind == "handler"]
    assert handlers == [("cpu2.irq.invalidate", 17, 23), ("cpu0.irq.invalidate", 28, 36)]


def test_a_wait_lasts_until_the_step_can_be_taken(race: Account) -> None:
    waits = [(s.agent, s.text, s.first, s.last) for s in race.spans if s.kind == "waits"]
    assert waits == [(1, "lock ptl", 2, 5), (1, "wait until flush_cpumask is 0", 17, 36)]


def test_the_guilty_step_is_the_last(race: Account) -> None:
    assert race.violated == "no_write_after_promise"
    assert race.guilty == len(race.steps) == 42
    assert [a.name for n, a in enumerate(race.agents) if n not in race.lanes] == [
        "cpu1.irq.invalidate"
    ]


@pytest.mark.parametrize("path", SCHEDULES[::23], ids=lambda p: p.stem)
def test_an_account_ends_with_the_values_of_the_run(path) -> None:
    told = replay_file(path)
    account = told.account()  # tell() compares every step and all values with the live run
    words = {w.name: n for n, w in enumerate(account.words)}
    last = account.values(len(account.steps))
    changed = {name for name, n in words.items() if last[n] != account.words[n].initial}
    assert changed == {name for name, _ in told.run.values}
    assert account.values(0) == tuple(w.initial for w in account.words)
    assert [s.text for s in account.steps] == [s.text for s in told.steps]


def test_in_a_deadlock_somebody_waits_to_the_end() -> None:
    account = account_of("shootdown_deadlocks.flushes_irqs_off")
    assert account.violated == "no_deadlock"
    assert account.guilty == 0
    stuck = [s for s in account.spans if s.kind == "waits" and not s.ends]
    assert [(s.agent, s.text, s.first) for s in stuck] == [
        (0, "wait until flush_cpumask is 0", 14),
        (1, "lock tlbstate_lock", len(account.steps) + 1),
    ]
    # The interrupt that nobody takes has a lane.
    assert [(account.agents[a.agent].name, a.last) for a in account.arrows] == [
        ("cpu1.irq.invalidate", 0)
    ]
    assert account.lanes == (0, 1, account.arrows[0].agent)
    masked = {s.agent for s in account.spans if s.kind == "masked" and not s.ends}
    assert masked == {s.agent for s in stuck}


def test_a_seed_is_told_as_well() -> None:
    told = replay_seed(DEFECT, 3)
    account = told.account()
    assert len(account.steps) == len(told.run.actions)
    assert account.command == f"replay {DEFECT} --seed 3"
    assert account.guilty == 0
    assert account.violated == ""


def test_a_users_words_need_say_nothing() -> None:
    """Of a file without parts the locks, interrupts and waits are known all the same."""
    system = one("docs/example.py:move_page/not_waiting").system()
    run = live(system, "cpu1", *["cpu0"] * 4, "cpu1")
    account = of_run(system, run)
    assert {w.table for w in account.words} == {""}
    assert [w.name for w in account.words if w.lock] == ["ptl"]
    assert account.spans == (Span("lock", 0, "ptl", 2, 6, ends=False),)
    # One store sends to both.
    assert account.arrows == (Arrow(3, "ipi", 4, 0), Arrow(4, "ipi", 4, 0))
    assert account.lanes == (0, 1, 3, 4)
    longer = of_run(system, live(system, *["cpu0"] * 3, "cpu2.irq.invalidate", *["cpu0"] * 2,
                                 "cpu1.irq.invalidate", "cpu1.irq.invalidate"))  # fmt: skip
    assert [(a.word, a.first, a.last) for a in longer.arrows] == [("ipi", 3, 7), ("ipi", 3, 4)]
    assert longer.steps[3].sent_at == longer.steps[6].sent_at == 3


def test_lanes_are_in_the_order_of_the_cpus_numbers() -> None:
    x = Word("x")

    async def touch() -> None:
        await store(x, 1)

    setup = Setup()
    for number in reversed(range(12)):
        setup.cpu(number, call(touch))
    system = setup.system()
    account = of_run(system, in_trio(random_run, system, 1))
    assert [account.agents[n].name for n in account.lanes] == [f"cpu{n}" for n in range(12)]


def test_a_run_that_was_not_so_is_refused() -> None:
    system = one(DEFECT).system()
    run = in_trio(random_run, system, 1)
    first = run.actions[0]
    forged = replace(first, steps=(replace(first.steps[0], after=77), *first.steps[1:]))
    with pytest.raises(InternalError, match="step 1 is told as"):
        of_run(system, replace(run, actions=(forged, *run.actions[1:])))
    with pytest.raises(InternalError, match="other values"):
        of_run(system, replace(run, values=()))
