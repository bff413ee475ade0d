"""Where batch is sabotaged, the live runs behind its answer must notice: the check can fail."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from smpmmu.checking import explore
from smpmmu.engine import answer, changes, few, judge, successors
from smpmmu.engine.automaton import Automaton
from smpmmu.engine.batch import Kernel
from smpmmu.engine.errors import InternalError
from smpmmu.engine.judge import Judge
from smpmmu.engine.steps import updated
from smpmmu.engine.strategies import chooser
from smpmmu.engine.verdict import Verdict
from tests.live.systems import SYSTEMS

if TYPE_CHECKING:
    from smpmmu.engine.reading import Block
    from tests.shell import Shell

Sabotage = Callable[[pytest.MonkeyPatch], None]
checking = importlib.import_module("smpmmu.checking")


@pytest.fixture(autouse=True)
def in_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let columns find all successors, however few: it is them that are sabotaged."""
    monkeypatch.setattr(successors, "FEW", -1)


def blind_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """See no violation."""
    monkeypatch.setattr(Judge, "look", lambda *_: [])


def blind_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge nothing at quiescence."""
    look = Judge.look

    def partly(self: Judge, block: Block) -> Any:
        self._at_rest = ()
        return look(self, block)

    monkeypatch.setattr(Judge, "look", partly)


def first_come_first_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a context move only while those before it cannot."""
    fire = Kernel.fire

    def sequential(self: Kernel, block: Block, context: int, eligible: Any, **rest: Any) -> Any:
        mask = np.ones(len(block), dtype=np.bool_) if eligible is None else eligible.copy()
        for earlier in range(context):
            mask &= self.finished(block, earlier)
        return fire(self, block, context, mask, **rest)

    monkeypatch.setattr(Kernel, "fire", sequential)


def handlers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an interrupt land only where its vCPU has finished."""
    eligible = Kernel.eligible

    def late(self: Kernel, block: Block) -> Any:
        result = eligible(self, block)
        busy = self.rests(block, 1)
        idle = np.ones(len(block), dtype=np.bool_) if busy is None else busy == 0
        if result[1] is not None:
            result[1] = result[1] & (self.finished(block, 0) | ~idle)
        return result

    monkeypatch.setattr(Kernel, "eligible", late)


def wrong_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store 0 wherever 2 should be stored."""

    def wrong(step: Any, value: Any) -> Any:
        new = updated(step, value)
        if isinstance(new, int):
            return 1 if new == 2 else new
        return np.where(new == 2, np.uint64(1), new)

    for module in (changes, few):
        monkeypatch.setattr(module, "updated", wrong)


def wrong_way_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Follow the automaton as if 0 had been read."""
    follow = Automaton.follow
    monkeypatch.setattr(Automaton, "follow", lambda self, index, result: follow(self, index, 0))


def biased_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Always choose the first that can move."""
    monkeypatch.setattr(
        chooser, "pick_column", lambda _s, _i, among: np.zeros(among.shape, dtype=np.uint64)
    )


def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take everything for at rest as soon as the first program has ended."""
    monkeypatch.setattr(Kernel, "quiescent", lambda self, block: self.finished(block, 0))


HOLDS_WRONGLY: list[tuple[str, Sabotage]] = [
    ("lost_update", blind_judge),
    ("interrupt", blind_judge),
    ("lost_update", blind_to_rest),
    ("lost_update", first_come_first_served),
    ("interrupt", handlers_wait),
    ("lost_update", wrong_way_on),
    ("locked", biased_choice),
    ("independent", restless),
]


@pytest.mark.parametrize(("name", "sabotage"), HOLDS_WRONGLY)
def test_a_sabotaged_holds_is_an_internal_error(
    name: str, sabotage: Sabotage, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch)
    with pytest.raises(InternalError):
        explore(SYSTEMS[name])


@pytest.mark.parametrize(
    ("name", "sabotage"),
    [case for case in HOLDS_WRONGLY if case[1] not in (biased_choice, wrong_way_on)],
)
def test_without_live_runs_nobody_notices(
    name: str, sabotage: Sabotage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sabotage is of the batch engine alone, and is what the live runs are there for."""
    sabotage(monkeypatch)
    assert explore(SYSTEMS[name], live_runs=0).exploration.verdict is Verdict.HOLDS


def test_more_live_runs_notice_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong sums show only in runs in which both additions count."""
    wrong_sum(monkeypatch)
    with pytest.raises(InternalError, match="live"):
        explore(SYSTEMS["no_update_lost"], live_runs=1)


# A violation that is none.


def broken_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find the first invariant broken in every state."""
    look = Judge.look

    def seeing(self: Judge, block: Block) -> Any:
        broken = look(self, block)
        return broken + [(p.name, np.arange(len(block))) for p in self._always[:1]]

    monkeypatch.setattr(judge.Judge, "look", seeing)


def test_a_violation_that_live_runs_do_not_show_is_an_internal_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken_everywhere(monkeypatch)
    with pytest.raises(InternalError, match="exploring found one_at_a_time violated after 0"):
        explore(SYSTEMS["locked"])


def test_a_schedule_to_another_state_is_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    best = answer.fewest_switches
    monkeypatch.setattr(answer, "fewest_switches", lambda *a: sorted(best(*a) or ()))
    with pytest.raises(InternalError, match="exploring found both_increments_count violated"):
        explore(SYSTEMS["lost_update"])


def test_a_schedule_that_cannot_run_is_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "fewest_switches", lambda *_: [0] * 4)
    with pytest.raises(InternalError):
        explore(SYSTEMS["lost_update"])


def test_an_endless_cycle_that_is_none_is_an_internal_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong_way_on(monkeypatch)  # no compare-and-exchange is ever seen to succeed
    with pytest.raises(InternalError):
        explore(SYSTEMS["retried_update"])


def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never let the second context move."""
    fire = Kernel.fire

    def first_only(self: Kernel, block: Block, context: int, eligible: Any, **rest: Any) -> Any:
        return iter(()) if context == 1 else fire(self, block, context, eligible, **rest)

    monkeypatch.setattr(Kernel, "fire", first_only)


@pytest.mark.parametrize("name", ["independent", "locked", "retried_update"])
def test_a_deadlock_that_is_none_is_an_internal_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody_else(monkeypatch)
    with pytest.raises(InternalError):
        explore(SYSTEMS[name])


# As the command line says it.

USERS = """\
from smpmmu import Word, call, load, scenario, store, value

X = Word("x", 2)


async def increment():
    seen = await load(X)
    await store(X, seen + 1)


@scenario()
def lost_update(setup):
    setup.cpu(0, call(increment))
    setup.cpu(1, call(increment))
    setup.at_quiescence("both_count", value(X) == 2)
"""


@pytest.mark.parametrize("arguments", [(), ("--all",), ("--format", "json")])
def test_the_command_line_exits_with_70(
    arguments: tuple[str, ...],
    shell: Shell,
    users: Callable[[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = users("lost.py", USERS)
    assert shell("explore", file, *arguments).status == 1
    blind_to_rest(monkeypatch)
    done = shell("explore", file, *arguments)
    assert (done.status, done.out) == (70, "")
    assert done.err.startswith("error: seed ")
    assert "Traceback" not in done.err
    without = shell("explore", file, "--live-runs", "0", *arguments)
    assert without.status == 0


def test_stress_holds_its_first_failing_seed_against_a_live_run(
    shell: Shell, users: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = users("lost.py", USERS)
    done = shell("stress", file, "--seeds", "0:50")
    assert done.status == 1
    blind_judge(monkeypatch)
    assert shell("stress", file, "--seeds", "0:50").status == 0
    monkeypatch.setattr(Judge, "look", lambda _self, block: [("both_count", np.arange(len(block)))])
    done = shell("stress", file, "--seeds", "0:50")
    assert done.status == 70
    assert "on live vCPUs" in done.err
