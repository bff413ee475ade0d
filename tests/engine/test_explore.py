"""Exploring: closed forms, every kind of violation, interrupts, budgets."""

from __future__ import annotations

from math import comb

import pytest

from smpmmu.engine import frontier, successors
from smpmmu.engine.answer import Answer, answer
from smpmmu.engine.batch import Kernel
from smpmmu.engine.errors import ModelError
from smpmmu.engine.explore import Search
from smpmmu.engine.expressions import finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.program import Context, Role
from smpmmu.engine.reading import Block
from smpmmu.engine.routines import AGAIN, Again, bug_on, indivisible, instruction, retry
from smpmmu.engine.steps import (
    Step,
    Wait,
    Word,
    acquire,
    fetch_add,
    fetch_and,
    fetch_or,
    load,
    local_irq_disable,
    local_irq_enable,
    release,
    store,
    wait_until,
)
from smpmmu.engine.system import System, always, at_quiescence, sometimes
from smpmmu.engine.verdict import Budget, Verdict
from tests.engine.programs import (
    BOX,
    LOCK,
    OTHER,
    WHY,
    X,
    Y,
    Z,
    asked,
    counting,
    daemon,
    irq,
    main,
    only_violation,
    steps,
    system,
    take,
)


@pytest.fixture(params=[successors.FEW, -1], ids=["few", "columns"], autouse=True)
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Find successors one machine at a time, and in columns however few they are."""
    monkeypatch.setattr(successors, "FEW", request.param)


# Closed forms.


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (4, 4), (7, 5), (1, 12)])
def test_two_independent_programs_make_a_grid(n: int, m: int, packed: bool) -> None:  # noqa: FBT001
    """(n+1)(m+1) points; n steps to the right in m+1 rows, m steps down in n+1 columns."""
    found = answer(system(main("a", counting("a", n)), main("b", counting("b", m))), packed=packed)
    assert found.verdict is Verdict.HOLDS
    assert found.states == (n + 1) * (m + 1)
    assert found.transitions == n * (m + 1) + m * (n + 1)
    assert found.depth == n + m
    assert found.levels == tuple(
        sum(1 for i in range(n + 1) if 0 <= depth - i <= m) for depth in range(n + m + 1)
    )
    assert found.reached == {"quiescence": True}
    assert found.exact
    assert found.vacuous == ()


@pytest.mark.parametrize("k", [1, 3, 6])
def test_k_programs_of_one_step_make_a_cube(k: int) -> None:
    """Each has moved or not, 2^k; in each state the others may, k 2^(k-1)."""
    found = answer(system(*(main(f"cpu{n}", counting(f"w{n}_", 1)) for n in range(k))))
    assert (found.states, found.transitions) == (2**k, k * 2 ** (k - 1))
    assert found.levels == tuple(comb(k, depth) for depth in range(k + 1))


def schedules(asked_of: System) -> int:
    """Count the complete schedules of a system without cycles: paths to its last states."""
    search = Search(Kernel(asked_of), Budget(), every=True, keep_edges=True)
    for _ in search.depths():
        pass
    assert search.edges is not None
    ids = {1: 0}
    for fps in search.level_fps[1:]:
        for fp in fps.tolist():
            ids[fp] = len(ids)
    paths, leaves = {0: 1}, 0
    moves: dict[int, list[int]] = {}
    for parents, _, children in search.edges:
        for parent, child in zip(parents.tolist(), children.tolist(), strict=True):
            moves.setdefault(parent, []).append(ids[child])
    for state in range(len(ids)):
        for child in moves.get(state, []):
            paths[child] = paths.get(child, 0) + paths[state]
        leaves += 0 if state in moves else paths[state]
    return leaves


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (5, 5), (8, 3)])
def test_two_independent_programs_have_a_binomial_of_schedules(n: int, m: int) -> None:
    """Which n of the n + m steps are the first program's: C(n+m, n)."""
    grid = system(main("a", counting("a", n)), main("b", counting("b", m)))
    assert schedules(grid) == comb(n + m, n)


def test_three_independent_programs_have_a_multinomial_of_schedules() -> None:
    """(2+2+2)! / (2! 2! 2!) = 90."""
    assert schedules(system(*(main(c, counting(c, 2)) for c in "abc"))) == 90


def test_indivisible_actions_are_steps_of_the_closed_form() -> None:
    """An action of three steps counts once: two actions against two steps, C(4, 2)."""

    @indivisible(WHY)
    async def action(first: int) -> None:
        for number in range(first, first + 3):
            await store(Word(f"a{number}", 1), 1)

    async def program() -> None:
        await action(0)
        await action(3)

    contexts = (main("a", call(program)), main("b", counting("b", 2)))
    assert schedules(system(*contexts)) == comb(4, 2)
    found = answer(system(*contexts))
    assert (found.states, found.transitions) == (9, 12)
    dropped = answer(system(*contexts), dropped=frozenset({WHY}))
    assert (dropped.states, dropped.transitions) == (7 * 3, 6 * 3 + 2 * 7)


def test_wide_words_and_many_lanes_make_the_same_grid() -> None:
    wide = [Word(f"w{n}", 64, (1 << 64) - 1 - n) for n in range(4)]
    contexts = [main(f"cpu{n}", call(steps, store(w, 1), store(w, 2))) for n, w in enumerate(wide)]
    for packed in (True, False):
        assert answer(system(*contexts), packed=packed).states == 3**4


def test_many_machines_at_one_position_read_many_values() -> None:
    """13 bits set one by one, and a reader of 12 of them before, between or after: 2^13 * 2."""
    word = Word("bits", 13)
    setters = [main(f"cpu{n}", call(steps, fetch_or(word, 1 << n))) for n in range(13)]
    found = answer(system(*setters, main("reader", call(steps, load(word, 0xFFF)))))
    # Each of 2^13 sets can grow in 13 ways half of the time, beside either place of the reader.
    assert (found.states, found.transitions) == (2**14, 2 * 13 * 2**12 + 2**13)


def test_blocks_change_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = system(main("a", counting("a", 9)), main("b", counting("b", 9)))
    whole = answer(grid)
    monkeypatch.setattr(frontier, "ROWS", 3)
    cut = answer(grid)
    assert (cut.states, cut.transitions, cut.levels) == (100, 180, whole.levels)


# Locks.


def section(lock: Word, *inside: Step) -> tuple[Step, ...]:
    return (acquire(lock), *inside, release(lock))


COUNT = Word("count", 2)
ENTER, LEAVE = fetch_add(COUNT, 1), fetch_add(COUNT, -1)


def test_a_lock_excludes() -> None:
    program = call(steps, *section(LOCK, ENTER, LEAVE))
    alone = always("one_at_a_time", value(COUNT) <= 1)
    both = sometimes("two_were_inside", value(COUNT) == 2)
    locked = system(main("a", program), main("b", program), holds=(alone, both))
    found = answer(locked)
    assert found.verdict is Verdict.HOLDS
    assert found.vacuous == ("two_were_inside",)
    assert found.reached == {"two_were_inside": False, "quiescence": True}
    # Before, in one of three places inside, or after: 25 - 9 pairs.
    assert found.states == 16
    bare = call(steps, ENTER, LEAVE)
    violation = only_violation(system(main("a", bare), main("b", bare), holds=(alone, both)))
    assert (violation.name, violation.choices) == ("one_at_a_time", ("a", "b"))


def test_a_lost_update_and_its_repair() -> None:
    async def increment() -> None:
        old = await load(X)
        await store(X, old + 1)

    both_counted = at_quiescence("no_update_is_lost", value(X) == 2)
    racy = system(main("a", call(increment)), main("b", call(increment)), holds=(both_counted,))
    violation = only_violation(racy)
    assert violation.name == "no_update_is_lost"
    assert violation.choices == ("a", "b", "b", "a")
    assert (violation.switches, violation.fewest_switches) == (2, True)
    atomic = call(steps, fetch_add(X, 1))
    repaired = answer(system(main("a", atomic), main("b", atomic), holds=(both_counted,)))
    assert repaired.verdict is Verdict.HOLDS


def test_locks_in_opposite_order_deadlock() -> None:
    ab = call(steps, acquire(LOCK), acquire(OTHER), release(OTHER), release(LOCK))
    ba = call(steps, acquire(OTHER), acquire(LOCK), release(LOCK), release(OTHER))
    violation = only_violation(system(main("a", ab), main("b", ba)))
    assert (violation.name, violation.choices) == ("no_deadlock", ("a", "b"))
    assert answer(system(main("a", ab), main("b", ab))).verdict is Verdict.HOLDS


def test_a_lock_taken_twice_deadlocks() -> None:
    violation = only_violation(system(main("a", call(steps, acquire(LOCK), acquire(LOCK)))))
    assert (violation.name, violation.choices) == ("no_deadlock", ("a",))


def test_waiting_for_what_never_comes_is_a_deadlock_from_the_start() -> None:
    violation = only_violation(system(main("a", call(steps, wait_until(X, 1)))))
    assert (violation.name, violation.choices, violation.switches) == ("no_deadlock", (), 0)


AB = call(steps, acquire(LOCK), acquire(OTHER), release(OTHER), release(LOCK))
BA = call(steps, acquire(OTHER), acquire(LOCK), release(LOCK), release(OTHER))
TICKS = call(steps, store(X, 1), store(X, 0))


def test_a_daemon_that_keeps_running_does_not_hide_a_deadlock() -> None:
    violation = only_violation(system(main("a", AB), main("b", BA), daemon("walker", TICKS)))
    assert (violation.name, violation.choices) == ("no_deadlock", ("a", "b"))


def test_a_daemon_that_can_still_help_is_no_deadlock() -> None:
    waits = main("a", call(steps, wait_until(X, 1)))
    assert answer(system(waits, daemon("walker", TICKS))).verdict is Verdict.HOLDS
    stuck = main("a", call(steps, wait_until(X, 2)))
    violation = only_violation(system(stuck, daemon("walker", TICKS)))
    assert (violation.name, violation.choices) == ("no_deadlock", ())


def test_a_daemon_may_stop_anywhere() -> None:
    found = answer(
        system(main("a", counting("a", 1)), daemon("walker", call(steps, load(X), load(Y))))
    )
    # The walker never holds up the rest of the machine, wherever it stands.
    assert (found.verdict, found.reached) == (Verdict.HOLDS, {"quiescence": True})
    assert (found.states, found.transitions) == (4, 2 + 4)


def test_a_program_without_end_may_deadlock_too() -> None:
    forever = main("a", AB, cyclic=True), main("b", BA, cyclic=True)
    violation = only_violation(system(*forever))
    assert (violation.name, violation.choices) == ("no_deadlock", ("a", "b"))
    fine = answer(system(main("a", AB, cyclic=True), main("b", AB, cyclic=True)))
    assert fine.verdict is Verdict.HOLDS
    assert fine.reached == {}
    ticking = only_violation(system(*forever, daemon("walker", TICKS)))
    assert (ticking.name, ticking.choices) == ("no_deadlock", ("a", "b"))


def test_a_daemon_that_runs_out_of_steps_does_not_delay_a_deadlock() -> None:
    once = Step("tick once", X, wait=Wait(1, 0), xor_mask=1)
    violation = only_violation(
        system(main("a", call(steps, wait_until(Y, 1))), daemon("walker", call(steps, once)))
    )
    assert (violation.name, violation.choices) == ("no_deadlock", ())


STOP = Step("stop", X, wait=Wait(1, 0), xor_mask=1)
BUSY = tuple(step for n in range(3) for step in (wait_until(X, 0, 1), store(Y, n + 1)))


@pytest.mark.parametrize("every", [False, True])
def test_of_two_daemons_neither_delays_a_deadlock(every: bool) -> None:  # noqa: FBT001
    stuck = main("a", call(steps, wait_until(Z, 2)))
    stops = daemon("d1", call(steps, STOP))
    works = daemon("d2", call(steps, *BUSY, wait_until(Z, 1)))
    found = answer(system(stuck, stops, works), every=every)
    assert [(v.name, v.choices) for v in found.violations] == [("no_deadlock", ())]


def test_a_deadlock_met_before_the_budget_ends_is_reported() -> None:
    stuck = main("a", call(steps, wait_until(Z, 2)))
    works = daemon("d2", call(steps, *BUSY * 20, wait_until(Z, 1)))
    ticking = system(stuck, daemon("d1", call(steps, STOP)), works)
    violation = answer(ticking, Budget(states=20)).violations[0]
    assert (violation.name, violation.choices) == ("no_deadlock", ("d1",))
    assert only_violation(ticking).choices == ()


# Cycles that never come to rest.


async def until_set(word: Word) -> Again | None:
    return None if await load(word, 1) else AGAIN


async def polls(word: Word) -> None:
    await retry(until_set, word)


def test_an_endless_retry_is_reported() -> None:
    violation = only_violation(system(main("a", call(polls, X)), main("b", counting("b", 2))))
    assert violation.name == "quiescence_stays_reachable"
    assert violation.choices.count("b") == 2


def test_a_retry_that_another_vcpu_ends_is_fine() -> None:
    found = answer(system(main("a", call(polls, X)), main("b", call(steps, store(X, 1)))))
    assert (found.verdict, found.states, found.transitions) == (Verdict.HOLDS, 3, 3)


def test_a_retry_that_is_endless_on_some_schedules_is_reported() -> None:
    setter = main("b", call(steps, store(X, 1), store(X, 0)))
    violation = only_violation(system(main("a", call(polls, X)), setter))
    assert (violation.name, violation.choices) == ("quiescence_stays_reachable", ("b", "b"))


def test_two_retries_that_wait_for_each_other_are_endless() -> None:
    async def crosses(mine: Word, other: Word) -> None:
        await polls(other)
        await store(mine, 1)

    violation = only_violation(
        system(main("a", call(crosses, X, Y)), main("b", call(crosses, Y, X)))
    )
    assert (violation.name, violation.choices) == ("quiescence_stays_reachable", ())


def test_a_daemon_may_end_a_retry() -> None:
    found = answer(system(main("a", call(polls, X)), daemon("walker", TICKS)))
    assert found.verdict is Verdict.HOLDS


# Properties.


def test_a_property_is_judged_in_the_first_state() -> None:
    violation = only_violation(
        system(main("a", counting("a", 3)), holds=(always("x_is_set", value(X) == 1),))
    )
    assert (violation.name, violation.choices, violation.switches) == ("x_is_set", (), 0)


def test_a_property_at_rest_is_judged_only_there() -> None:
    program = main("a", call(steps, store(X, 1), store(X, 0)))
    fine = at_quiescence("x_is_clear", value(X) == 0)
    assert answer(system(program, holds=(fine,))).verdict is Verdict.HOLDS
    broken = at_quiescence("x_is_set", value(X) == 1)
    violation = only_violation(system(program, holds=(broken,)))
    assert (violation.name, violation.choices) == ("x_is_set", ("a", "a"))


def test_a_pending_interrupt_is_no_rest() -> None:
    handler = irq("a.irq", "a", call(steps, take(BOX), store(X, 1)))
    own, sends = main("a", counting("a", 1)), main("b", call(steps, store(BOX, 1)))
    both_ended = finished("a") & finished("b")
    found = answer(
        system(
            own,
            handler,
            sends,
            holds=(
                at_quiescence("the_handler_has_run", value(X) == 1),
                sometimes("pending_after_the_end", both_ended & (value(BOX) == 1)),
                sometimes("running_after_the_end", both_ended & (value(BOX) + value(X) == 0)),
            ),
        )
    )
    assert found.verdict is Verdict.HOLDS
    assert found.vacuous == ()


def test_sometimes_is_reached_or_vacuous() -> None:
    program = main("a", call(steps, store(X, 1), store(X, 2)))
    found = answer(
        system(
            program,
            holds=(
                sometimes("x_was_1", value(X) == 1),
                sometimes("x_was_3", value(X) == 3),
                sometimes("a_ended", finished("a")),
                sometimes("x_was_0", value(X) == 0),
            ),
        )
    )
    assert found.verdict is Verdict.HOLDS
    assert found.reached == {
        "x_was_1": True,
        "x_was_3": False,
        "a_ended": True,
        "x_was_0": True,
        "quiescence": True,
    }
    assert found.vacuous == ("x_was_3",)


def test_finished_is_the_end_of_a_program() -> None:
    program = main("a", call(steps, store(X, 1), store(X, 2)))
    fine = always("x_is_2_at_the_end", implies(finished("a"), value(X) == 2))
    assert answer(system(program, holds=(fine,))).verdict is Verdict.HOLDS
    violation = only_violation(system(program, holds=(always("a_runs", ~finished("a")),)))
    assert violation.choices == ("a", "a")


async def sees(word: Word) -> None:
    got = await load(word)
    bug_on(got == 1, "never_sees_1")
    await store(Z, 1)


def test_bug_on_ends_the_run() -> None:
    found = answer(system(main("a", call(sees, X)), main("b", call(steps, store(X, 1)))))
    (violation,) = found.violations
    assert (violation.name, violation.choices) == ("never_sees_1", ("b", "a"))
    fine = answer(system(main("a", call(sees, X)), main("b", call(steps, store(X, 2)))))
    assert fine.verdict is Verdict.HOLDS


def test_nothing_happens_after_a_bug() -> None:
    setter = main("b", call(steps, store(X, 1), store(Y, 1), store(Y, 2)))
    search = asked_search(system(main("a", call(sees, X)), setter))
    columns = search.kernel
    for part in search.whole:
        block = Block(part.lanes, part.fps)
        bugs = columns.lookup(block, 0, "bug")
        assert not (bugs & columns.finished(block, 0)).any()
    # a: before, after reading 0, at the end, at the bug; b: 0 to 3 steps taken. From 1 on a may
    # meet the bug, and then b stands still: 3 + 3 times 4 states, and 3 with the bug.
    assert search.states == 3 * 4 + 3


def asked_search(of: System) -> Search:
    search = Search(Kernel(of), Budget(), every=True)
    for _ in search.depths():
        pass
    return search


def test_a_bug_before_the_first_step_is_a_violation() -> None:
    async def is_wrong() -> None:
        bug_on(1, "always_wrong")
        await store(X, 1)

    wrong = system(main("a", call(is_wrong)), main("b", counting("b", 1)))
    violation = only_violation(wrong)
    assert (violation.name, violation.choices) == ("always_wrong", ())
    everything = answer(wrong, every=True)
    assert [v.name for v in everything.violations] == ["always_wrong"]
    assert (everything.states, everything.transitions) == (1, 0)


# Which violation is reported.


def test_the_first_violation_is_a_shortest() -> None:
    program = main("a", call(steps, store(X, 1), store(X, 2), store(X, 3)))
    deep = always("x_is_not_3", value(X) != 3)
    shallow = always("x_is_not_1", value(X) != 1)
    assert only_violation(system(program, holds=(deep, shallow))).name == "x_is_not_1"
    assert only_violation(system(program, holds=(deep,))).choices == ("a",) * 3


def test_the_most_important_of_equally_short_violations_is_reported() -> None:
    program = main("a", call(steps, store(X, 1)))
    first, second = (always(name, value(X) == 0) for name in ("z", "c"))
    assert only_violation(system(program, holds=(first, second))).name == "z"
    assert only_violation(system(program, holds=(second, first))).name == "c"


def test_every_violation_is_reported_if_asked() -> None:
    program = main("a", call(steps, store(X, 1), store(X, 2)))
    other = main("b", call(steps, wait_until(X, 1), wait_until(X, 3)))
    holds = (
        always("x_is_not_2", value(X) != 2),
        always("x_is_not_1", value(X) != 1),
        always("x_is_not_3", value(X) != 3),
    )
    found = answer(system(program, other, holds=holds), every=True)
    assert [(v.name, v.choices) for v in found.violations] == [
        ("x_is_not_1", ("a",)),
        ("x_is_not_2", ("a", "a")),
        ("no_deadlock", ("a", "a")),
    ]
    assert len(answer(system(program, other, holds=holds)).violations) == 1


def test_every_bug_is_reported_if_asked() -> None:
    async def reads_twice() -> None:
        got = await load(X)
        bug_on(got == 1, "first_is_not_1")
        got = await load(X)
        bug_on(got == 2, "second_is_not_2")

    setter = main("b", call(steps, store(X, 1), store(X, 2)))
    search = asked_search(system(main("a", call(reads_twice)), setter))
    assert {f.name: f.depth for f in search.found} == {"first_is_not_1": 2, "second_is_not_2": 4}


def test_a_violation_deeper_than_a_bug_is_reported_if_asked() -> None:
    setter = main("b", call(steps, store(X, 1), store(X, 2), store(X, 3)))
    late = always("x_is_not_3", value(X) != 3)
    found = answer(system(main("a", call(sees, X)), setter, holds=(late,)), every=True)
    assert [(v.name, v.choices) for v in found.violations] == [
        ("never_sees_1", ("b", "a")),
        ("x_is_not_3", ("b", "b", "b")),
    ]


def test_an_endless_retry_is_among_every_violation() -> None:
    never_two = always("y_is_not_2", value(Y) != 2)
    contexts = (main("a", call(polls, X)), main("b", call(steps, store(Y, 2))))
    found = answer(system(*contexts, holds=(never_two,)), every=True)
    assert {v.name for v in found.violations} == {"y_is_not_2", "quiescence_stays_reachable"}


# Interrupts.


HANDLER = call(steps, take(BOX), store(Z, 1), store(Z, 0))
INSIDE = always("no_handler_runs_here", implies(value(Z) == 1, value(X) == 0))
"""x is set exactly where main would not be interrupted; z while the handler is half way."""


def interrupted(*taken: Step) -> System:
    """Return main taking these steps, an interrupt pending from the start or at any time."""
    sender = main("b", call(steps, store(BOX, 1)))
    return system(
        main("a", call(steps, *taken)), irq("a.irq", "a", HANDLER), sender, holds=(INSIDE,)
    )


def test_an_interrupt_lands_between_any_two_steps() -> None:
    violation = only_violation(interrupted(store(X, 1), store(X, 0)))
    assert violation.name == "no_handler_runs_here"
    # The handler's steps are taken one at a time, and x was set before.
    assert sorted(violation.choices) == ["a", "a.irq", "a.irq", "b"]


def test_no_interrupt_lands_while_they_are_off() -> None:
    off = interrupted(local_irq_disable(), store(X, 1), store(X, 0), local_irq_enable())
    found = answer(off)
    assert found.verdict is Verdict.HOLDS
    assert found.reached == {"quiescence": True}


def test_no_interrupt_lands_inside_an_instruction() -> None:
    @instruction
    async def one_instruction() -> None:
        await store(X, 1)
        await store(X, 0)

    async def two_instructions() -> None:
        await store(X, 1)
        await store(X, 0)

    async def program(inside: object) -> None:
        await inside()
        await load(Y)

    verdicts = []
    for inside in (one_instruction, two_instructions):
        contexts = (main("a", call(program, inside)), irq("a.irq", "a", HANDLER))
        sender = main("b", call(steps, store(BOX, 1)))
        verdicts.append(answer(system(*contexts, sender, holds=(INSIDE,))).verdict)
    assert verdicts == [Verdict.HOLDS, Verdict.VIOLATED]


def test_main_waits_while_its_handler_runs() -> None:
    sees_half = always("main_never_sees_half", value(Y) != 1)

    async def main_looks() -> None:
        got = await load(Z)
        await store(Y, got)

    half = (main("a", call(main_looks)), irq("a.irq", "a", HANDLER))
    sender = main("b", call(steps, store(BOX, 1)))
    assert answer(system(*half, sender, holds=(sees_half,))).verdict is Verdict.HOLDS
    elsewhere = (main("a", counting("a", 1)), main("c", call(main_looks)))
    other = system(*elsewhere, irq("a.irq", "a", HANDLER), sender, holds=(sees_half,))
    assert only_violation(other).name == "main_never_sees_half"


def test_a_waiting_or_finished_vcpu_answers_interrupts() -> None:
    answers = irq("a.irq", "a", call(steps, take(BOX), store(X, 1)))
    sender = main("b", call(steps, store(BOX, 1), wait_until(BOX, 0)))
    waiting = main("a", call(steps, wait_until(X, 1)))
    assert answer(system(waiting, answers, sender)).verdict is Verdict.HOLDS
    finished_at_once = main("a", counting("a", 0))
    assert answer(system(finished_at_once, answers, sender)).verdict is Verdict.HOLDS


def test_a_vcpu_that_waits_with_interrupts_off_does_not_answer() -> None:
    answers = irq("a.irq", "a", call(steps, take(BOX)))
    sender = call(steps, acquire(LOCK), store(BOX, 1), wait_until(BOX, 0), release(LOCK))
    deaf = main(
        "a", call(steps, local_irq_disable(), acquire(LOCK), release(LOCK), local_irq_enable())
    )
    violation = only_violation(system(deaf, answers, main("b", sender)))
    assert violation.name == "no_deadlock"
    assert sorted(violation.choices) == ["a", "b", "b"]
    polite = main("a", call(steps, acquire(LOCK), release(LOCK)))
    assert answer(system(polite, answers, main("b", sender))).verdict is Verdict.HOLDS


def test_a_lock_taken_in_a_handler_needs_interrupts_off() -> None:
    handler = irq("a.irq", "a", call(steps, take(BOX), acquire(LOCK), release(LOCK)))
    sender = main("b", call(steps, store(BOX, 1)))
    plain = main("a", call(steps, acquire(LOCK), load(X), release(LOCK)))
    violation = only_violation(system(plain, handler, sender))
    assert violation.name == "no_deadlock"
    assert sorted(violation.choices) == ["a", "a.irq", "b"]
    masked = main(
        "a",
        call(steps, local_irq_disable(), acquire(LOCK), load(X), release(LOCK), local_irq_enable()),
    )
    assert answer(system(masked, handler, sender)).verdict is Verdict.HOLDS


INSIDE_FIRST = Word("inside_first", 1)


@indivisible(WHY)
async def notes_whom_it_interrupts() -> None:
    await take(BOX, 2)
    inside = await load(INSIDE_FIRST)
    if inside:
        await store(Y, 1)


def nesting(first: int, second: int, *, unmasked: bool) -> bool:
    """Say whether the handler of priority `second` can land inside that of priority `first`."""
    inside = (local_irq_enable(),) if unmasked else ()
    body = (take(BOX, 1), *inside, store(INSIDE_FIRST, 1), store(INSIDE_FIRST, 0))
    one = irq("a.first", "a", call(steps, *body), priority=first)
    two = irq("a.second", "a", call(notes_whom_it_interrupts), priority=second)
    sender = main("b", call(steps, store(BOX, 3)))
    nested = sometimes("nested", value(Y) == 1)
    found = answer(system(main("a", counting("a", 1)), one, two, sender, holds=(nested,)))
    assert found.verdict is Verdict.HOLDS
    assert found.reached["quiescence"]
    return found.reached["nested"]


def test_handlers_nest_by_priority_where_interrupts_are_on() -> None:
    assert nesting(1, 2, unmasked=True)
    assert not nesting(1, 2, unmasked=False)
    assert not nesting(2, 1, unmasked=True)


def test_handlers_of_one_priority_do_not_nest() -> None:
    assert not nesting(1, 1, unmasked=True)


def test_a_vcpu_without_a_main_program_answers() -> None:
    one, two = (irq(f"c.irq{n}", "c", call(steps, take(BOX, n))) for n in (1, 2))
    found = answer(system(main("a", call(steps, store(BOX, 3))), one, two))
    assert (found.verdict, found.states, found.transitions) == (Verdict.HOLDS, 5, 5)


@instruction
async def waits_inside() -> None:
    await polls(Y)


@instruction
async def looks_then_waits_inside() -> None:
    await load(Z)
    await polls(Y)


@instruction
async def one_look() -> Again | None:
    return None if await load(Y, 1) else AGAIN


async def waits(inside: object) -> None:
    await inside()


async def restarts() -> None:
    await retry(one_look)


def woken_by_interrupt(*program: object) -> System:
    """Return a vCPU that waits for what only the handler of its own interrupt does."""
    handler = irq("a.irq", "a", call(steps, take(BOX), store(Y, 1)))
    return system(main("a", call(*program)), handler, main("b", call(steps, store(BOX, 1))))


def test_no_interrupt_lands_inside_an_instruction_that_retries() -> None:
    violation = only_violation(woken_by_interrupt(waits, looks_then_waits_inside))
    assert violation.name == "quiescence_stays_reachable"
    # One that could forget that it has begun is refused; restarting as a whole is fine.
    with pytest.raises(ModelError, match="an instruction begins with a retry"):
        answer(woken_by_interrupt(waits, waits_inside))
    assert answer(woken_by_interrupt(restarts)).verdict is Verdict.HOLDS


# Budgets.


GRID = system(main("a", counting("a", 20)), main("b", counting("b", 20)))
"""21 * 21 states."""


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(states=50), "states (50)"),
        (Budget(memory=10_000), "memory (10,000 bytes)"),
        (Budget(seconds=1e-9), "seconds (1e-09)"),
    ],
)
def test_a_budget_leaves_it_undecided_and_says_what_was_covered(
    budget: Budget, reason: str
) -> None:
    found = answer(GRID, budget)
    assert (found.verdict, found.reason, found.violations) == (Verdict.UNDECIDED, reason, ())
    assert 1 <= found.states < 441
    assert sum(found.levels) == found.states
    assert found.depth == len(found.levels) - 1
    assert found.reached == {"quiescence": False}


def test_a_budget_of_states_is_overrun_by_less_than_a_block() -> None:
    found = answer(GRID, Budget(states=50))
    # Depths have 1, 2, 3, ... states: the first sum above 50 is 55.
    assert (found.states, found.depth) == (55, 9)


def test_enough_budget_is_no_limit() -> None:
    found = answer(GRID, Budget(states=441, seconds=1e6, memory=1 << 30))
    assert (found.verdict, found.states, found.reason) == (Verdict.HOLDS, 441, "")
    assert found.nbytes <= found.peak_nbytes


def test_a_violation_within_the_budget_is_found() -> None:
    early = always("a3_is_clear", value(Word("a3", 1)) == 0)
    found = answer(System(GRID.contexts, (early,)), Budget(states=50))
    assert found.verdict is Verdict.VIOLATED
    assert found.violations[0].choices == ("a",) * 4
    late = always("a19_is_clear", value(Word("a19", 1)) == 0)
    assert answer(System(GRID.contexts, (late,)), Budget(states=50)).verdict is Verdict.UNDECIDED


def test_a_question_can_be_looked_at_while_it_is_answered() -> None:
    question = Answer(GRID)
    depths: list[int] = []
    for depth in question.work():
        if depth == 5:
            break
        depths.append(depth)
    assert sorted(set(depths)) == depths[::2] == [0, 1, 2, 3, 4]  # as it begins, after its block
    so_far = question.so_far()
    # Depths 0 to 5 of the grid: 1 + 2 + 3 + 4 + 5 + 6 states.
    assert (so_far.verdict, so_far.reason, so_far.states) == (Verdict.UNDECIDED, "interrupted", 21)
    assert so_far.levels == (1, 2, 3, 4, 5, 6)
    assert question.result is None


def test_a_budget_that_ends_the_second_pass_still_gives_a_schedule() -> None:
    contexts = (main("a", call(polls, X)), main("b", counting("b", 2)), main("c", counting("c", 2)))
    needed = answer(system(*contexts)).peak_nbytes
    for spare in range(0, 2000, 8):
        found = answer(system(*contexts), Budget(memory=needed + spare))
        assert found.violations[0].name == "quiescence_stays_reachable"


def test_a_cheaper_second_pass_still_gives_a_shortest_schedule() -> None:
    late = always("a3_is_clear", value(Word("a3", 1)) == 0)
    judged = System((main("b", counting("b", 9)), *GRID.contexts[:1]), (late,))
    lengths, fewest = set(), set()
    for memory in range(8_000, 40_000, 100):
        found = answer(judged, Budget(memory=memory))
        if found.verdict is Verdict.VIOLATED:
            lengths.add(len(found.violations[0].choices))
            fewest.add(found.violations[0].fewest_switches)
    assert lengths == {4}
    assert fewest == {True, False}


# The kernel.


def test_what_moves_in_a_state_moves_in_one_way() -> None:
    contexts = (
        main(
            "a",
            call(
                steps,
                local_irq_disable(),
                acquire(LOCK),
                store(X, 1),
                release(LOCK),
                local_irq_enable(),
            ),
        ),
        irq("a.irq", "a", HANDLER),
        main("b", call(steps, acquire(LOCK), store(BOX, 1), release(LOCK), wait_until(BOX, 0))),
        daemon("walker", TICKS),
    )
    question = asked(system(*contexts))
    assert question.result is not None
    assert question.result.verdict is Verdict.HOLDS
    kernel, checked = question.kernel, 0
    for part in question.search.whole:
        block = Block(part.lanes, part.fps)
        moved = [
            (emission.context, row)
            for emission in kernel.expand(block)
            for row in emission.rows.tolist()
        ]
        assert len(set(moved)) == len(moved)
        checked += len(moved)
    assert checked == question.result.transitions


def test_values_never_written_are_the_initial_ones() -> None:
    question = asked(system(main("a", counting("a", 1))))
    block = Block(question.search.whole[0].lanes, question.search.whole[0].fps)
    assert question.kernel.word(block, Word("untouched", 8, 77)) == 77


def test_complements_and_all_bits_in_one_lane_keep_their_neighbours() -> None:
    low, high = Word("low", 31, 5), Word("high", 33, 1 << 32)
    program = call(steps, store(low, 0), store(high, 1), fetch_and(low, 0), store(low, low.mask))
    keeps = always("high_is_1_or_start", (value(high) == 1) | (value(high) == 1 << 32))
    found = answer(system(main("a", program), holds=(keeps,)))
    assert (found.verdict, found.states) == (Verdict.HOLDS, 5)


@pytest.mark.parametrize("count", [254, 255])
def test_too_many_contexts_are_refused(count: int) -> None:
    idle = [main(f"cpu{n}", counting("none", 0)) for n in range(count)]
    contexts = (*idle, main("last", counting("one", 1)))
    if count == 254:
        assert answer(system(*contexts)).states == 2
        return
    with pytest.raises(ModelError, match="256 contexts; a system has at most 255"):
        system(*contexts)


# Systems.


@pytest.mark.parametrize(
    ("contexts", "holds", "why"),
    [
        ((main("a", TICKS), daemon("a", TICKS)), (), "two contexts or properties are named 'a'"),
        ((main("a", TICKS),), (always("a", value(X) == 0),), "two contexts or properties"),
        (
            (main("a", TICKS), Context("b", "a", (TICKS,), Role.MAIN)),
            (),
            "vCPU 'a' has two main programs",
        ),
        ((daemon("walker", TICKS),), (), "at least one vCPU"),
        ((main("a", TICKS),), (always("no_deadlock", value(X) == 0),), "'no_deadlock' is taken"),
        ((main("a", TICKS),), (always("ends", finished("b")),), "reads the end of 'b', no context"),
    ],
)
def test_a_system_that_is_none_is_refused(contexts, holds, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        System(contexts, holds)


def test_a_deadlock_found_by_a_search_that_was_cut_is_not_called_shortest() -> None:
    question = Answer(system(main("a", call(steps, wait_until(X, 1)))))
    for _ in question.work():
        pass
    assert question.result is not None
    assert question.result.violations[0].shortest
    question.search.stopped = "states (1)"
    cut = question._conclude()
    assert cut.verdict is Verdict.VIOLATED
    assert cut.reason == "states (1)"
    assert not cut.violations[0].shortest
