"""Programs compiled into automata: what is folded, what must not be, what is refused."""

from __future__ import annotations

import itertools
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from smpmmu.engine import automaton as automaton_module
from smpmmu.engine import local
from smpmmu.engine.answer import answer
from smpmmu.engine.automaton import Automaton, Position
from smpmmu.engine.errors import ModelError
from smpmmu.engine.expressions import value
from smpmmu.engine.local import Call, call
from smpmmu.engine.routines import (
    AGAIN,
    Again,
    bug_on,
    holds,
    indivisible,
    instruction,
    irqs_enabled,
    retry,
    routine,
)
from smpmmu.engine.steps import (
    TAKEN,
    Wait,
    Word,
    acquire,
    cmpxchg,
    load,
    local_irq_disable,
    local_irq_enable,
    release,
    store,
    wait_until,
)
from smpmmu.engine.steps import Step as AnyStep
from smpmmu.engine.system import always
from smpmmu.engine.verdict import Verdict
from tests.engine.programs import (
    BOX,
    LOCK,
    OTHER,
    WHY,
    X,
    Y,
    Z,
    daemon,
    irq,
    main,
    only_violation,
    steps,
    system,
    take,
)

if TYPE_CHECKING:
    from smpmmu.engine.program import Context


def compiled(*calls: Call, dropped: frozenset[str] = frozenset()) -> Automaton:
    return Automaton(main("cpu0", *calls), dropped)


def walk(automaton: Automaton, *results: int) -> Position:
    """Return the position after these results."""
    index = 0
    for result in results:
        index = automaton.follow(index, result)
    return automaton.positions[index]


def label(position: Position) -> str:
    return position.step.label if position.step is not None else "end"


def run_alone(*calls: Call) -> str:
    """Return the violation of a vCPU on its own, or "" if there is none."""
    found = answer(system(main("cpu0", *calls)))
    return found.violations[0].name if found.violations else ""


# What a position is.


async def branches() -> None:
    got = await load(X)
    if got:
        await store(Y, got)
    await store(Z, 1)


def test_each_history_has_a_position_and_leads_to_the_next_step() -> None:
    automaton = compiled(call(branches))
    assert label(walk(automaton)) == "load x"
    assert label(walk(automaton, 0)) == "store z = 1"
    assert label(walk(automaton, 2)) == "store y = 2"
    assert label(walk(automaton, 2, 0)) == "store z = 1"
    assert walk(automaton, 0) is not walk(automaton, 2, 0)
    assert walk(automaton, 0, 0) is walk(automaton, 2, 0, 0)
    assert walk(automaton, 0, 0).ended
    assert not walk(automaton, 0).ended


def test_a_history_is_compiled_once() -> None:
    automaton = compiled(call(branches))
    walk(automaton, 0, 0)
    known = len(automaton.positions)
    walk(automaton, 0, 0)
    assert len(automaton.positions) == known == 3
    assert [p.index for p in automaton.positions] == [0, 1, 2]


def test_the_end_of_a_call_forgets_what_it_read() -> None:
    automaton = compiled(call(branches), call(branches))
    assert walk(automaton, 0, 0) is walk(automaton, 3, 0, 0)
    assert label(walk(automaton, 0, 0)) == "load x"
    assert walk(automaton, 0, 0) is not walk(automaton)
    assert walk(automaton, 0, 0, 0, 0).ended


def test_a_cyclic_program_is_where_it_began() -> None:
    automaton = Automaton(main("cpu0", call(branches), call(steps, store(X, 1)), cyclic=True))
    assert walk(automaton, 0, 0, 0) is walk(automaton)
    assert not automaton.progress(0, automaton.follow(0, 0))


def test_a_call_that_takes_no_step_is_passed_over() -> None:
    async def nothing() -> None:
        return

    automaton = compiled(call(nothing), call(nothing), call(branches), call(nothing))
    assert label(walk(automaton)) == "load x"
    assert walk(automaton, 0, 0).ended


def test_a_program_that_never_steps_has_ended() -> None:
    async def nothing() -> None:
        return

    found = answer(system(main("cpu0", call(nothing)), main("cpu1", call(nothing))))
    assert (found.verdict, found.states, found.transitions) == (Verdict.HOLDS, 1, 0)
    assert found.reached == {"quiescence": True}


# Routines are folded to their values.


@routine
async def looks() -> None:
    await load(X)
    await load(Y)


@routine
async def reads_parity() -> int:
    got = await load(X)
    return got & 1


@routine
async def reads_truth() -> int | bool:
    got = await load(X)
    return got == 1 if got < 2 else 1


async def uses_looks() -> None:
    await looks()
    await store(Z, 1)


async def uses_parity() -> None:
    parity = await reads_parity()
    await store(Z, parity)


async def uses_truth() -> None:
    truth = await reads_truth()
    await store(Z, 2 if truth is True else 1)


def test_a_routine_that_returns_nothing_leaves_no_trace() -> None:
    automaton = compiled(call(uses_looks))
    assert walk(automaton, 1) is not walk(automaton, 2)
    assert walk(automaton, 1, 3) is walk(automaton, 2, 0)
    assert label(walk(automaton, 1, 3)) == "store z = 1"


def test_a_routine_leaves_its_value() -> None:
    automaton = compiled(call(uses_parity))
    assert walk(automaton, 1) is walk(automaton, 3)
    assert walk(automaton, 0) is walk(automaton, 2)
    assert label(walk(automaton, 1)) == "store z = 1"
    assert label(walk(automaton, 0)) == "store z = 0"


def test_one_is_not_true() -> None:
    automaton = compiled(call(uses_truth))
    assert label(walk(automaton, 1)) == "store z = 2"
    assert label(walk(automaton, 2)) == "store z = 1"
    assert label(walk(automaton, 3)) == "store z = 1"
    assert walk(automaton, 1) is not walk(automaton, 2)


@routine
async def nests(times: int) -> int:
    total = 0
    for _ in range(times):
        total ^= await reads_parity()
    return total


async def uses_nested() -> None:
    total = await nests(2)
    await store(Z, total)


def test_routines_inside_routines_are_folded_inside_out() -> None:
    automaton = compiled(call(uses_nested))
    assert walk(automaton, 1) is walk(automaton, 3)
    assert walk(automaton, 1) is not walk(automaton, 2)
    assert walk(automaton, 1, 0) is walk(automaton, 2, 3)
    assert walk(automaton, 1, 1) is walk(automaton, 2, 2)


def test_steps_outside_a_routine_are_remembered() -> None:
    async def remembers() -> None:
        first = await load(Y)
        await looks()
        await store(Z, first)

    automaton = compiled(call(remembers))
    assert walk(automaton, 1, 0, 0) is walk(automaton, 1, 3, 3)
    assert walk(automaton, 1, 0, 0) is not walk(automaton, 2, 0, 0)


@routine
async def fails_on_odd() -> int:
    got = await load(X)
    if got & 1:
        raise LookupError
    return 0


async def catches() -> None:
    result = 0
    try:
        result = await fails_on_odd()
    except LookupError as error:
        result = 1 + len(error.args)
    await store(Z, result)


@routine
async def hides_the_exception() -> None:
    try:
        await fails_on_odd()
    except LookupError:
        await load(Y)


async def uses_hidden() -> None:
    await hides_the_exception()
    await store(Z, 1)


def test_a_routine_left_by_an_exception_is_not_folded() -> None:
    automaton = compiled(call(catches))
    assert label(walk(automaton, 1)) == "store z = 1"
    assert label(walk(automaton, 0)) == "store z = 0"
    assert walk(automaton, 0) is walk(automaton, 2)
    assert walk(automaton, 1) is not walk(automaton, 3)
    assert walk(automaton, 1, 0).ended


def test_a_routine_left_by_an_exception_is_folded_with_the_one_around_it() -> None:
    automaton = compiled(call(uses_hidden))
    assert label(walk(automaton, 1)) == "load y"
    assert walk(automaton, 1, 0) is walk(automaton, 3, 2) is walk(automaton, 0)
    assert label(walk(automaton, 0)) == "store z = 1"


@dataclass(frozen=True)
class Labelled:
    """Two of these compare equal although they differ."""

    frame: int = field(compare=False)


@dataclass(frozen=True)
class Lax:
    """And two of these."""

    frame: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lax)

    def __hash__(self) -> int:
        return 0


@dataclass(frozen=True, eq=False)
class ByIdentity:
    """No two of these do, not even what two runs return."""

    frame: int


class Number(int):
    """An integer that could carry more."""


@routine
async def reads_into(kind: type) -> object:
    got = await load(X)
    return kind(got)


async def uses_record(kind: type) -> None:
    await reads_into(kind)
    await store(Z, 1)


@pytest.mark.parametrize("kind", [Labelled, Lax, ByIdentity, Number])
def test_values_whose_equality_is_not_theirs_are_refused(kind: type) -> None:
    with pytest.raises(ModelError, match=rf"return value of reads_into is a {kind.__name__}"):
        walk(compiled(call(uses_record, kind)), 1)


@dataclass(frozen=True)
class Record:
    frame: int


def test_records_are_folded_by_their_fields() -> None:
    automaton = compiled(call(uses_record, Record))
    assert walk(automaton, 1) is not walk(automaton, 2)
    again = compiled(call(uses_record, Record))
    assert walk(again, 2).key == walk(automaton, 2).key


# What outlives a routine is kept beside its value.


@routine
async def maybe_locks() -> None:
    if await load(X):
        await acquire(LOCK)
        await local_irq_disable()


async def uses_maybe_locks() -> None:
    await maybe_locks()
    if await holds(LOCK):
        await release(LOCK)
    if not await irqs_enabled():
        await local_irq_enable()


def test_locks_and_the_interrupt_flag_survive_folding() -> None:
    automaton = compiled(call(uses_maybe_locks))
    locked, skipped = walk(automaton, 1, 0, 0), walk(automaton, 0)
    assert label(locked) == "unlock lock"
    assert (locked.held, locked.irqs) == (frozenset({"lock"}), False)
    assert skipped.ended
    unlocked = walk(automaton, 1, 0, 0, 0)
    assert (label(unlocked), unlocked.held, unlocked.irqs) == ("sti", frozenset(), False)
    assert walk(automaton, 1, 0, 0, 0, 0).ended


def test_locks_and_the_interrupt_flag_survive_the_end_of_a_call() -> None:
    automaton = compiled(
        call(steps, acquire(LOCK), local_irq_disable()),
        call(steps, load(X)),
        call(steps, local_irq_enable(), release(LOCK)),
    )
    second = walk(automaton, 0, 0)
    assert (label(second), second.held, second.irqs) == ("load x", frozenset({"lock"}), False)
    assert walk(automaton, 0, 0, 0, 0, 0).ended


# Retries.


async def lost_race(word: Word) -> int | Again:
    old = await load(word)
    result = await cmpxchg(word, old, old ^ 1)
    return old if result & TAKEN else AGAIN


async def increments() -> None:
    old = await retry(lost_race, X)
    await store(Y, old)


def test_a_failed_round_is_forgotten() -> None:
    automaton = compiled(call(increments))
    start = walk(automaton)
    assert walk(automaton, 2, 0) is start
    assert walk(automaton, 3, 1, 2, 0, 1, 0) is start
    assert label(walk(automaton, 2, 2 | TAKEN)) == "store y = 2"
    assert walk(automaton, 3, 1, 2, 2 | TAKEN) is walk(automaton, 2, 2 | TAKEN)


def test_only_leaving_a_loop_is_progress() -> None:
    automaton = compiled(call(increments))
    inside = automaton.follow(0, 2)
    failed, done = automaton.follow(inside, 0), automaton.follow(inside, 2 | TAKEN)
    assert automaton.positions[0].loop is not None
    assert automaton.positions[inside].loop == automaton.positions[0].loop
    assert automaton.positions[done].loop is None
    assert not automaton.progress(0, inside)
    assert not automaton.progress(inside, failed)
    assert automaton.progress(inside, done)
    assert automaton.progress(done, automaton.follow(done, 0))


def test_the_next_loop_is_another_loop() -> None:
    async def twice() -> None:
        await retry(lost_race, X)
        await retry(lost_race, X)

    automaton = compiled(call(twice))
    inside = automaton.follow(0, 0)
    second = automaton.follow(inside, TAKEN)
    assert automaton.positions[second].loop not in (None, automaton.positions[0].loop)
    assert automaton.progress(inside, second)


def test_a_loop_inside_a_loop_counts_as_the_outer_one() -> None:
    async def outer_round() -> int | Again:
        old = await retry(lost_race, X)
        return AGAIN if old else 0

    async def program() -> None:
        await retry(outer_round)

    automaton = compiled(call(program))
    inside = automaton.follow(0, 1)
    around = automaton.follow(inside, 1 | TAKEN)
    assert around == 0
    assert automaton.positions[inside].loop == automaton.positions[0].loop
    assert not automaton.progress(inside, around)


# Actions and instructions.


@indivisible(WHY)
async def copies() -> None:
    got = await load(X)
    await store(Y, got)
    await store(Z, got)


@instruction
async def walks() -> None:
    await load(X)
    await load(Y)


async def uses_copies() -> None:
    await copies()
    await store(X, 1)


async def uses_walks() -> None:
    await walks()
    await store(X, 1)


def test_the_inside_of_an_indivisible_action_is_no_state() -> None:
    automaton = compiled(call(uses_copies))
    middle = [walk(automaton, 1), walk(automaton, 1, 0)]
    assert [p.mid for p in middle] == [True, True]
    assert [p.open for p in middle] == [False, False]
    assert [p.rest for p in middle] == [-1, -1]
    for position, rest in ((walk(automaton), 0), (walk(automaton, 1, 0, 0), 1)):
        assert (position.mid, position.open, position.rest) == (False, True, rest)
    walk(automaton, 2, 0, 0, 0)
    assert [automaton.positions[i].rest for i in automaton.resting] == [0, 1, 2]


def test_a_dropped_claim_is_an_ordinary_routine() -> None:
    automaton = compiled(call(uses_copies), dropped=frozenset({WHY}))
    middle = walk(automaton, 1)
    assert (middle.mid, middle.open) == (False, True)
    assert walk(automaton, 1, 0, 0) is walk(automaton, 2, 0, 0)
    kept = compiled(call(uses_copies), dropped=frozenset({"another claim"}))
    assert walk(kept, 1).mid


def test_no_interrupt_lands_inside_an_instruction() -> None:
    automaton = compiled(call(uses_walks))
    assert walk(automaton).open
    assert not walk(automaton, 0).open
    assert walk(automaton, 0, 0).open


def test_no_interrupt_lands_while_they_are_off() -> None:
    automaton = compiled(call(steps, local_irq_disable(), load(X), local_irq_enable(), load(X)))
    opened = [walk(automaton, *[0] * n).open for n in range(5)]
    assert opened == [True, False, False, True, True]


def test_a_handler_begins_with_interrupts_off() -> None:
    automaton = Automaton(
        irq("cpu0.irq", "cpu0", call(steps, take(BOX), local_irq_enable(), load(X)))
    )
    assert not automaton.positions[0].open
    assert not walk(automaton, 1).open
    assert walk(automaton, 1, 0).open
    assert walk(automaton, 1, 0, 0) is walk(automaton)


# What ends a program badly is a violation, with a name.


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ((acquire(LOCK), load(X)), "no_lock_held_at_end"),
        ((local_irq_disable(), load(X)), "interrupts_on_at_end"),
        ((local_irq_disable(), acquire(LOCK)), "no_lock_held_at_end"),
        ((load(X), release(LOCK)), "lock_unlocked_only_by_its_holder"),
        ((acquire(LOCK), release(LOCK), release(LOCK)), "lock_unlocked_only_by_its_holder"),
        ((acquire(OTHER), release(LOCK)), "lock_unlocked_only_by_its_holder"),
        ((acquire(LOCK), local_irq_disable(), release(LOCK), local_irq_enable()), ""),
    ],
)
def test_a_program_leaves_nothing_behind(program: tuple[AnyStep, ...], name: str) -> None:
    assert run_alone(call(steps, *program)) == name


def test_the_lock_of_another_context_is_not_ours_to_release() -> None:
    holder = main("cpu0", call(steps, acquire(LOCK), wait_until(X, 1), release(LOCK)))
    thief = main("cpu1", call(steps, release(LOCK), store(X, 1)))
    violation = only_violation(system(holder, thief))
    assert violation.name == "lock_unlocked_only_by_its_holder"
    assert violation.choices == ("cpu1",)


def test_a_handler_may_not_keep_a_lock() -> None:
    handler = irq("cpu0.irq", "cpu0", call(steps, take(BOX), acquire(LOCK)))
    violation = only_violation(system(main("cpu0", call(steps, store(BOX, 1))), handler))
    assert violation.name == "no_lock_held_at_end"
    assert violation.choices == ("cpu0", "cpu0.irq", "cpu0.irq")


def test_a_bug_is_a_position_where_nothing_follows() -> None:
    async def fails() -> None:
        got = await load(X)
        bug_on(got == 2, "x_is_never_2")
        await store(Y, 1)

    automaton = compiled(call(fails))
    bad = walk(automaton, 2)
    assert (bad.bug, bad.step, bad.ended) == ("x_is_never_2", None, False)
    assert label(walk(automaton, 1)) == "store y = 1"


# What is refused.


CLOCK = types.ModuleType("clock")


async def reads_a_clock() -> None:
    await load(Y)
    if CLOCK.now():
        await looks()
    await store(Z, 1)
    await store(Z, 2)


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ((0, 1), r"cpu0 is not deterministic: .* asked for 'store z = 1' once and for 'load x'"),
        ((0, 0, 1), r"reads_a_clock is not deterministic: .* asked for entering looks"),
        ((1, 0), r"reads_a_clock is not deterministic: .* asked for step 'store z = 1'"),
        ((1, 1, 1, 0), r"cpu0 is not deterministic|reads_a_clock is not deterministic"),
    ],
)
def test_a_program_that_is_not_deterministic_is_refused_by_name(
    times: tuple[int, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.chain(times, itertools.repeat(times[-1])).__next__
    monkeypatch.setattr(CLOCK, "now", now, raising=False)
    refused(why, main("cpu0", call(reads_a_clock)))


def test_a_program_that_only_looks_at_what_never_changes_is_fine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CLOCK, "now", lambda: 1, raising=False)
    assert run_alone(call(reads_a_clock)) == ""


def refused(why: str, *contexts: Context) -> None:
    with pytest.raises(ModelError, match=why):
        answer(system(*contexts))


async def awaits_nothing_known() -> None:
    await Pause()


class Pause:
    """What another async library might hand to its own loop."""

    def __await__(self):
        yield "pause"


async def divides() -> None:
    got = await load(X)
    await store(Y, 1 // got)


async def cleans_up() -> None:
    try:
        await load(X)
    finally:
        await store(Y, 1)


def no_coroutine() -> int:
    return 3


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (call(branches, 1), r"branches raised TypeError"),
        (
            call(divides),
            r"divides raised ZeroDivisionError: .*\n.*test_automaton.py:\d+: .*1 // got",
        ),
        (call(awaits_nothing_known), r"awaited 'str'; modelled code may await only steps"),
        (call(cleans_up), r"cleans_up takes a step while it is being closed"),
        (call(no_coroutine), r"no_coroutine is not an async function: it returned 3"),
    ],
    ids=lambda value: value.name if isinstance(value, Call) else "",
)
def test_code_that_is_no_model_is_refused_by_name(entry: Call, why: str) -> None:
    refused(why, main("cpu0", entry))


def test_a_context_without_calls_is_refused() -> None:
    refused("cpu0 has no program", main("cpu0"))


@pytest.mark.parametrize("kind", ["cyclic", "daemon", "irq"])
def test_a_cyclic_program_must_step(kind: str) -> None:
    async def nothing() -> None:
        return

    other = main("cpu1", call(steps, load(X)))
    contexts = {
        "cyclic": main("cpu0", call(nothing), cyclic=True),
        "daemon": daemon("cpu0", call(nothing)),
        "irq": irq("cpu0", "cpu1", call(nothing)),
    }
    refused("cpu0 never takes a step", other, contexts[kind])


def test_an_interrupt_must_begin_by_waiting() -> None:
    handler = irq("cpu0.irq", "cpu0", call(steps, load(BOX), store(X, 1)))
    refused("cpu0.irq must begin", main("cpu0", call(steps, load(X))), handler)


@indivisible(WHY)
async def in_one_action(*taken: AnyStep) -> None:
    for step in taken:
        await step


@pytest.mark.parametrize("second", [wait_until(X, 1), acquire(LOCK)], ids=lambda s: s.label)
def test_waiting_inside_an_indivisible_action_is_refused(second: AnyStep) -> None:
    refused(
        r"cpu0 waits \('.*'\) inside an indivisible action",
        main("cpu0", call(in_one_action, load(X), second)),
    )


def test_an_indivisible_action_may_begin_by_waiting() -> None:
    program = call(in_one_action, acquire(LOCK), load(X), release(LOCK))
    found = answer(system(main("cpu0", program), main("cpu1", program)))
    assert (found.verdict, found.states, found.transitions) == (Verdict.HOLDS, 4, 4)


def test_an_endless_held_sequence_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automaton_module, "LONGEST_ACTION", 50)

    @indivisible(WHY)
    async def polls() -> None:
        while not await load(X):
            pass

    refused("an indivisible action of cpu0 has over 50 steps", main("cpu0", call(polls)))


def test_a_long_held_sequence_is_fine() -> None:
    program = call(in_one_action, *(store(X, n % 4) for n in range(200)))
    assert answer(system(main("cpu0", program))).states == 2


async def polls() -> None:
    while not await load(X):
        pass


def test_polling_without_retry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automaton_module, "MOST_POSITIONS", 40)
    refused(
        "cpu0 has over 40 distinct local histories; a loop that polls", main("cpu0", call(polls))
    )
    monkeypatch.undo()
    monkeypatch.setattr(local, "LONGEST_HISTORY", 30)
    refused(
        "polls has taken 30 steps in one call, the last 'load x'; a loop", main("cpu0", call(polls))
    )


def test_the_private_words_of_another_vcpu_are_refused() -> None:
    mine = Word("mine", 2, owner="cpu0")
    touches = call(steps, load(X), store(mine, 1))
    refused("cpu1 touches mine, which is private to cpu0", main("cpu1", touches))
    handler = irq("cpu0.irq", "cpu0", call(steps, take(BOX), store(mine, 2)))
    own = main("cpu0", touches, call(steps, store(BOX, 1)))
    found = answer(system(own, handler, daemon("walker", call(steps, load(mine)), cpu="cpu0")))
    assert found.verdict is Verdict.HOLDS


def test_two_words_of_one_name_must_agree() -> None:
    twin = Word("x", 3)
    why = "two words are named 'x' but differ"
    refused(why, main("cpu0", call(steps, store(X, 1), store(twin, 1))))
    with pytest.raises(ModelError, match=why):
        answer(
            system(main("cpu0", call(steps, load(X))), holds=(always("small", value(twin) < 3),))
        )


async def round_without_step() -> Again:
    return AGAIN


async def round_that_locks() -> Again | None:
    if await load(X):
        return None
    await acquire(LOCK)
    return AGAIN


async def round_that_masks() -> Again | None:
    if await load(X):
        return None
    await local_irq_disable()
    return AGAIN


@pytest.mark.parametrize(
    ("round_of", "why"),
    [
        (round_without_step, "took no step and would run for ever"),
        (round_that_locks, "leaves the interrupt flag or the locks held"),
        (round_that_masks, "leaves the interrupt flag or the locks held"),
    ],
)
def test_a_round_that_cannot_be_forgotten_is_refused(round_of, why: str) -> None:
    async def program() -> None:
        await load(Y)
        await retry(round_of)

    refused(why, main("cpu0", call(program)))


def test_a_retry_inside_an_indivisible_action_is_refused() -> None:
    @indivisible(WHY)
    async def program() -> None:
        await retry(lost_race, X)

    refused("lost_race is retried inside an indivisible action", main("cpu0", call(program)))


def test_an_indivisible_action_may_be_retried() -> None:
    @indivisible(WHY)
    async def try_lock() -> Again | None:
        if await load(LOCK):
            return AGAIN
        await store(LOCK, 1)
        return None

    async def program() -> None:
        await retry(try_lock)
        await store(LOCK, 0)

    found = answer(system(main("cpu0", call(program)), main("cpu1", call(program))))
    # Each is before, in or after its section, never both in it: 9 - 1 states.
    assert (found.verdict, found.states) == (Verdict.HOLDS, 8)


def test_wait_and_action_may_be_one_step() -> None:
    grab = AnyStep("grab", X, wait=Wait(3, 0), xor_mask=1)
    found = answer(system(main("cpu0", call(steps, grab)), main("cpu1", call(steps, grab))))
    assert [v.name for v in found.violations] == ["no_deadlock"]
