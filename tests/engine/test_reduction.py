"""Reduction changes no verdict: random systems, the benchmark's model, and one rule at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given

from smpmmu.engine import automaton, frontier, recall, reduction, successors
from smpmmu.engine.answer import Answer, answer
from smpmmu.engine.batch import Kernel
from smpmmu.engine.errors import ModelError
from smpmmu.engine.explore import Search
from smpmmu.engine.expressions import finished, value
from smpmmu.engine.footprints import Access, access
from smpmmu.engine.local import call
from smpmmu.engine.passes import Passes
from smpmmu.engine.reduction import DEAD_WORDS, PARTIAL_ORDER, REDUCTIONS
from smpmmu.engine.steps import (
    Step,
    Wait,
    Word,
    acquire,
    fetch_add,
    fetch_and,
    fetch_or,
    fetch_xor,
    load,
    local_irq_disable,
    local_irq_enable,
    release,
    store,
    wait_until,
)
from smpmmu.engine.system import (
    QUIESCENCE_STAYS_REACHABLE,
    System,
    always,
    at_quiescence,
    sometimes,
)
from smpmmu.engine.verdict import Budget, Verdict
from smpmmu.targets import one
from tests.engine.programs import (
    BOX,
    LOCK,
    WHY,
    Never,
    Op,
    X,
    Y,
    Z,
    counting,
    daemon,
    hypothetically,
    irq,
    main,
    play,
    take,
)
from tests.engine.test_random_programs import systems
from tests.reference import Reference
from tests.shell import REPAIR

if TYPE_CHECKING:
    from collections.abc import Collection

    from smpmmu.engine.program import Context
    from smpmmu.engine.system import Property
    from smpmmu.engine.verdict import Exploration

ALL_KINDS = ((PARTIAL_ORDER,), (DEAD_WORDS,), REDUCTIONS)
WITHOUT_SYMMETRY = (DEAD_WORDS, PARTIAL_ORDER)
MOST = 1_500
MINE, YOURS = Word("mine", 2), Word("yours", 2)


def every_violation(system: System) -> Search:
    """Return a complete plain search, or give this example up."""
    search = Search(Kernel(system), Budget(states=MOST), every=True)
    try:
        for _ in search.depths():
            pass
    except ModelError:
        assume(False)  # noqa: FBT003
    assume(not search.stopped)
    return search


def reduced(
    system: System,
    kinds: Collection[str],
    *,
    scouts: bool = False,
    known: Kernel | None = None,
) -> Search:
    """Return the last pass of a reduced search for every violation."""
    known = known or Kernel(system)
    passes = Passes(known, Budget(), kinds, {}, every=True, started=0.0, scouts=scouts)
    for _ in passes.depths():
        pass
    return passes.search


def answered_alike(system: System) -> Exploration:
    """Return the reduced answer, which is the plain one but for its counts."""
    every_violation(system)
    plain = answer(system)
    found = answer(system, reductions=REDUCTIONS, reduce_from=0)
    assert found.verdict is plain.verdict
    assert found.violations == plain.violations
    if plain.verdict is Verdict.HOLDS:
        assert found.reached == plain.reached
    return found


def names(search: Search) -> set[str]:
    """Return what was violated; that something is endless is decided for the whole."""
    return {f.name for f in search.found} - {QUIESCENCE_STAYS_REACHABLE}


@hypothetically(60)
@given(systems(bugs=True))
def test_nothing_is_violated_or_reached_otherwise(system: System) -> None:
    plain = every_violation(system)
    for kinds in ALL_KINDS:
        found = reduced(system, kinds)
        assert names(found) == names(plain), kinds
        assert bool(found.found) is bool(plain.found), kinds
        assert found.reached == plain.reached, kinds


@hypothetically(25)
@given(systems(bugs=True))
def test_the_answer_is_the_plain_one_where_something_is_violated(system: System) -> None:
    found = answered_alike(system)
    if found.verdict is Verdict.HOLDS:
        assert found.reductions == WITHOUT_SYMMETRY
        assert not found.exact


@pytest.mark.parametrize(("stale", "most"), [(0.2, 1 << 18), (0.0, 1 << 18), (0.0, 8)])
@hypothetically(40)
@given(systems(bugs=True))
def test_looking_up_finds_what_working_out_on_columns_does(
    stale: float, most: int, system: System
) -> None:
    """Also where what was learnt is kept though tables are made anew, and forgotten when full."""
    every_violation(system)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduction, "STALE", stale)
        patch.setattr(recall, "MOST", most)
        looked_up = reduced(system, REDUCTIONS, scouts=stale > 0)
        patch.setattr(successors, "Recall", Never)
        worked_out = reduced(system, REDUCTIONS, scouts=stale > 0)
    for name in ("states", "transitions", "levels", "reached"):
        assert getattr(looked_up, name) == getattr(worked_out, name), name
    assert names(looked_up) == names(worked_out)


@hypothetically(60)
@given(systems(bugs=True))
def test_what_was_hoped_for_while_it_went_on_is_looked_at_again(system: System) -> None:
    plain = every_violation(system)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduction, "STALE", 0.0)  # tables are made anew whenever something is new
        patch.setattr(frontier, "ROWS", 8)
        found = reduced(system, REDUCTIONS)
    assert names(found) == names(plain)
    assert found.reached == plain.reached


def test_scouts_change_nothing_but_the_work() -> None:
    held = of(main("a", call(play, (acquire(LOCK), store(X, 1), release(LOCK)))),
              main("b", call(play, (acquire(LOCK), load(X), release(LOCK)))))  # fmt: skip
    known, unknown = (reduced(held, REDUCTIONS, scouts=sent) for sent in (True, False))
    assert known.states < unknown.states
    assert not known.found + unknown.found


def of(*contexts: Context, holds: tuple[Property, ...] = ()) -> System:
    return System(contexts, holds)


BY_ITSELF = (store(MINE, 1), store(MINE, 2), load(MINE))
APART = of(main("a", call(play, BY_ITSELF)), main("b", call(play, (store(YOURS, 1), load(YOURS)))))


def test_programs_that_share_nothing_are_one_run() -> None:
    assert answer(APART).states == 12
    found = reduced(APART, (PARTIAL_ORDER,), scouts=True)
    assert found.states == 3, "each program is taken at once"
    assert found.transitions == 2


def test_a_word_that_is_not_read_again_makes_no_states() -> None:
    writers = [main(f"w{n}", call(play, (store(X, n),))) for n in (1, 2)]
    system = of(main("reader", call(play, (wait_until(X, 1),))), *writers)
    assert reduced(system, (DEAD_WORDS,), scouts=True).states < answer(system).states


def test_a_word_that_a_property_reads_never_dies() -> None:
    program = main("a", call(play, (store(X, 1), load(X), store(Y, 1))))
    holds = (at_quiescence("x_stays", value(X) == 1),)
    assert not reduced(of(program, holds=holds), REDUCTIONS).found
    holds = (at_quiescence("x_goes", value(X) == 0),)
    assert names(reduced(of(program, holds=holds), REDUCTIONS)) == {"x_goes"}


def test_what_properties_see_is_not_taken_alone() -> None:
    both = (always("not_both", (value(X) & value(Y)) == 0),)
    a, b = (call(play, (store(w, 1), store(w, 0))) for w in (X, Y))
    assert names(reduced(of(main("a", a), main("b", b), holds=both), REDUCTIONS)) == {"not_both"}
    seen = (sometimes("both", (value(X) & value(Y)) == 1),)
    assert reduced(of(main("a", a), main("b", b), holds=seen), REDUCTIONS).reached["both"]


def test_the_end_of_a_program_that_a_property_sees_is_not_taken_alone() -> None:
    holds = (always("never", ~(finished("a") & (value(Y) == 1))),)
    a = main("a", call(play, (store(MINE, 1),)))
    b = main("b", call(play, (store(Y, 1), store(Y, 0))))
    assert names(reduced(of(a, b, holds=holds), REDUCTIONS)) == {"never"}


def test_a_handler_lands_before_interrupts_go_off() -> None:
    """The handler reads X before the program that closes them writes it, though the lock is far."""
    handler = irq("a.irq", "a", call(play, (take(BOX, 1), store(Y, 1))))
    closes = (local_irq_disable(), store(X, 1), local_irq_enable(), store(X, 0))
    other = main("b", call(play, (fetch_or(BOX, 1), load(X))))
    holds = (sometimes("landed_late", (value(Y) == 1) & ~finished("a")),
             sometimes("landed_early", (value(Y) == 1) & finished("a")))  # fmt: skip
    system = of(main("a", call(play, closes)), handler, other, holds=holds)
    assert reduced(system, REDUCTIONS).reached == answer(system).reached


def test_deadlocks_stay() -> None:
    a = main("a", call(play, (acquire(LOCK), wait_until(X, 1), release(LOCK))))
    b = main("b", call(play, (acquire(LOCK), store(X, 1), release(LOCK))))
    assert names(reduced(of(a, b), REDUCTIONS)) == {"no_deadlock"}


OFF, ON = local_irq_disable(), local_irq_enable()
RINGS = main("b", call(play, (fetch_or(BOX, 1),)))
STUCK = {
    "a handler takes the lock of whom it interrupted": of(
        main("a", call(play, (acquire(LOCK), store(X, 1), release(LOCK)))),
        irq("a.irq", "a", call(play, (take(BOX, 1), acquire(LOCK), release(LOCK)))),
        RINGS,
    ),
    "a handler waits for one who waits for whom it interrupted": of(
        main("a", call(play, (store(X, 1),))),
        irq("a.irq", "a", call(play, (take(BOX, 1), wait_until(Y, 1)))),
        RINGS,
        main("c", call(play, (wait_until(X, 1), store(Y, 1)))),
    ),
    "a handler interrupts another, and waits so": of(
        irq("a.low", "a", call(play, (take(BOX, 1), ON, store(X, 1)))),
        irq("a.high", "a", call(play, (take(BOX, 2), wait_until(Y, 1))), priority=1),
        main("b", call(play, (fetch_or(BOX, 1), wait_until(BOX, 0), fetch_or(BOX, 2)))),
        main("c", call(play, (wait_until(X, 1), store(Y, 1)))),
    ),
    "interrupts are off where one waits for an answer": of(
        main("a", call(play, (OFF, wait_until(Y, 1), ON))),
        irq("a.irq", "a", call(play, (take(BOX, 1),))),
        main("b", call(play, (fetch_or(BOX, 1), wait_until(BOX, 0), store(Y, 1)))),
    ),
    "one tries for ever with interrupts off": of(
        main("a", call(play, (OFF, Op("retry", number=0, word=Y), ON))),
        irq("a.irq", "a", call(play, (take(BOX, 1),))),
        main("b", call(play, (fetch_or(BOX, 1), wait_until(BOX, 0), store(Y, 1)))),
    ),
}


@pytest.mark.parametrize("system", STUCK.values(), ids=STUCK)
def test_who_cannot_move_because_of_an_interrupt_is_found(system: System) -> None:
    plain = {v.name for v in answer(system, every=True).violations}
    assert plain
    for scouts in (False, True):
        assert {f.name for f in reduced(system, (PARTIAL_ORDER,), scouts=scouts).found} == plain


SEEN = always("y_is_never_1", value(Y) != 1)
TELLS = main("b", call(play, (store(Y, 1),)))
ROUND = call(play, (store(MINE, 1), store(MINE, 0)))


def wakes(box: int, other: int) -> Op:
    return Op("indivisible", (take(BOX, box), fetch_or(BOX, other)))


def takes(what: Word, leaves: int) -> Step:
    """Wait until a word is 1 and make it something else, or 1 again."""
    return Step("take", what, wait=Wait(what.mask, 1), and_mask=0, xor_mask=leaves)


RULES = {
    "an end that a property sees": of(
        main("a", call(play, (store(MINE, 1),))),
        TELLS,
        holds=(sometimes("before", (value(Y) == 1) & ~finished("a")),),
    ),
    "nothing happens after a bug": of(
        *(main(f"a{n}", call(play, (store(own, n), load(own), Op("bug_on", number=n))))
          for n, own in ((1, MINE), (2, YOURS))),
    ),
    "hardware never ends": of(daemon("hardware", ROUND), TELLS, holds=(SEEN,)),
    "a cyclic program never ends": of(main("a", ROUND, cyclic=True), TELLS, holds=(SEEN,)),
    "a retry may never end": of(
        main("a", call(play, (Op("retry", number=0, word=MINE),))), TELLS, holds=(SEEN,)
    ),
    "an interrupt lands before interrupts go off": of(
        main("a", call(play, (OFF, store(X, 1), ON))),
        irq("a.irq", "a", call(play, (take(BOX, 1), load(X, 1), Op("bug_on", number=0)))),
        RINGS,
    ),
    "a handler may leave pending what it waits for": of(
        irq("idle.irq", "idle", call(play, (wait_until(BOX, 1),))),
        main("b", call(play, (store(BOX, 1), store(Y, 1)))),
        holds=(SEEN,),
    ),
    "a handler may leave a part of it pending": of(
        irq("idle.irq", "idle", call(play, (replace(take(BOX), and_mask=~1),))),
        main("b", call(play, (store(BOX, 2), store(Y, 1)))),
        holds=(SEEN,),
    ),
    "a handler may wake itself for ever": of(
        irq("idle.irq", "idle", call(play, (takes(BOX, 1),))),
        main("b", call(play, (store(BOX, 1), store(Y, 1)))),
        holds=(SEEN,),
    ),
    "handlers may wake each other for ever": of(
        irq("idle.0", "idle0", call(play, (wakes(1, 2),))),
        irq("idle.1", "idle1", call(play, (wakes(2, 1),))),
        main("b", call(play, (fetch_or(BOX, 1), store(Y, 1)))),
        holds=(SEEN,),
    ),
    "a wait that is over holds nobody back": of(
        main("a", call(play, (store(MINE, 1), store(X, 1)))),
        main("b", call(play, (wait_until(X, 0), store(YOURS, 1)))),
    ),
    "properties at rest read, too": of(
        *(main(f"a{n}", call(play, (store(X, n),))) for n in (1, 2)),
        holds=tuple(at_quiescence(f"not_{n}", value(X) != n) for n in (1, 2)),
    ),
    "a program reads what it wrote": of(
        main("a", call(play, (store(X, 1), load(X), Op("bug_on", number=0)))), TELLS
    ),
    "a third one brings a wait nearer": of(
        main("a", call(play, (store(X, 1),))),
        main("b", call(play, (wait_until(X, 1), store(X, 2)))),
        main("c", call(play, (store(X, 1), wait_until(X, 2)))),
        holds=(at_quiescence("b_is_the_last", value(X) == 2),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("system", RULES.values(), ids=RULES)
def test_every_rule_is_needed(system: System) -> None:
    plain = Search(Kernel(system), Budget(), every=True)
    for _ in plain.depths():
        pass
    for kinds in ALL_KINDS:
        for known in (plain.kernel, Kernel(system)):
            found = reduced(system, kinds, known=known)
            assert names(found) == names(plain)
            assert found.reached == plain.reached


def test_a_handler_that_surely_ends_holds_nobody_up() -> None:
    a = main("a", call(play, (acquire(LOCK), store(X, 1), store(Y, 1), release(LOCK))))
    handler = irq("a.irq", "a", call(play, (take(BOX, 1), store(MINE, 1), load(MINE))))
    c = main("c", call(play, (acquire(LOCK), load(X), release(LOCK))))
    quick = of(a, handler, RINGS, c)
    slow = of(a, replace(handler, calls=(call(play, (take(BOX, 1), wait_until(MINE, 0))),)), RINGS,
              c)  # fmt: skip
    assert not answer(quick).violations + answer(slow).violations
    states = [reduced(system, (PARTIAL_ORDER,), scouts=True).states for system in (quick, slow)]
    assert states[0] < states[1]


def test_a_sum_that_does_not_fit_is_told_though_it_is_taken_late() -> None:
    a = main("a", call(play, (fetch_add(Z, 3),)))
    b = main("b", call(play, (fetch_add(Z, 3),)))
    with pytest.raises(ModelError, match="does not fit"):
        reduced(of(a, b), REDUCTIONS)


def test_claims_stay_dropped() -> None:
    torn = main("a", call(play, (Op("indivisible", (store(X, 1), store(X, 0))),)))
    system = of(torn, main("b", call(play, BY_ITSELF)), holds=(always("never", value(X) == 0),))
    assert not answer(system, reductions=REDUCTIONS, reduce_from=0).violations
    dropped = answer(system, dropped=frozenset({WHY}), reductions=REDUCTIONS, reduce_from=0)
    assert [v.name for v in dropped.violations] == ["never"]


def test_an_error_beyond_the_shortest_violation_is_not_met() -> None:
    """Alone, the program comes to the error before the search comes to the violation."""
    counts = main("a", call(play, (store(MINE, 3), fetch_add(MINE, 1))))
    slow = main("b", call(play, (store(X, 1),)))
    system = of(counts, slow, holds=(always("never", value(X) == 0),))
    found = answer(system, reductions=REDUCTIONS, reduce_from=0)
    assert found.violations == answer(system).violations
    with pytest.raises(ModelError, match="does not fit"):
        answer(of(counts, slow), reductions=REDUCTIONS, reduce_from=0)


def knows(system: System, *ways: tuple[int, int]) -> Kernel:
    """Return a kernel that knows where 0 leads from some positions of some programs."""
    kernel = Kernel(system)
    for program, position in ways:
        kernel.follow(kernel.automata[program], position, 0)
    return kernel


def one_action(*body: Step | Op) -> Context:
    return main("b", call(play, (Op("indivisible", (load(Y), Op("if", body))),)))


WRITES = main("a", call(play, (store(X, 1), store(Y, 1))))


def test_a_violation_that_is_only_due_to_what_was_forgotten_is_not_told() -> None:
    """That X is read after Y becomes known when X has been forgotten."""
    system = of(WRITES, one_action(load(X), Op("bug_on", number=0)))
    known = knows(system, (0, 0), (0, 1), (1, 0))
    passes = Passes(known, Budget(), (DEAD_WORDS,), {}, every=False, started=0.0, scouts=False)
    assert not [depth for depth in passes.depths() if passes.search.found]


def test_an_error_that_is_only_due_to_what_was_forgotten_is_not_raised() -> None:
    system = of(WRITES, one_action(fetch_add(X, -1)))
    known = knows(system, (0, 0), (0, 1), (1, 0))
    assert not reduced(system, (DEAD_WORDS,), known=known).found


@pytest.mark.parametrize("before", [(), (load(Z),), (load(Z), load(MINE), load(YOURS))])
@pytest.mark.parametrize("stale", [0.0, 0.2, 9.0])
def test_what_was_taken_alone_is_taken_back_when_others_turn_out_to_read_it(
    before: tuple[Step, ...], stale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduction, "STALE", stale)
    reads = (load(Y), Op("if", (*before, load(X), Op("bug_on", number=0))))
    programs = ((store(X, 1),), reads, (store(Y, 1),))
    system = of(*(main(f"a{n}", call(play, body)) for n, body in enumerate(programs)))
    known = knows(system, (0, 0), (1, 0), (2, 0))
    assert names(reduced(system, (PARTIAL_ORDER,), known=known)) == {"never_sees_0"}


def test_what_was_taken_alone_is_taken_back_when_it_turns_out_to_do_more() -> None:
    waits = wait_until(X, 1)
    more = Op("indivisible", (load(X), Op("if", (store(Y, 1),))))
    programs = ((waits, more), (waits, load(Y), Op("bug_on", number=0)), (store(X, 1),))
    system = of(*(main(f"a{n}", call(play, body)) for n, body in enumerate(programs)))
    known = knows(system, (0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
    assert names(reduced(system, (PARTIAL_ORDER,), known=known)) == {"never_sees_0"}


def test_what_was_taken_alone_is_taken_back_when_it_turns_out_to_be_a_bug() -> None:
    waits = wait_until(X, 1)
    programs = ((waits, load(X), Op("bug_on", number=1)),
                (waits, load(YOURS), Op("bug_on", number=0)), (store(X, 1),))  # fmt: skip
    system = of(*(main(f"a{n}", call(play, body)) for n, body in enumerate(programs)))
    known = knows(system, (0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
    both = {"never_sees_0", "never_sees_1"}
    assert names(reduced(system, (PARTIAL_ORDER,), known=known)) == both


def test_actions_that_are_taken_at_once_are_no_longer_action(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(automaton, "LONGEST_ACTION", 5)
    many = of(main("a", counting("w", 12)))
    assert reduced(many, (PARTIAL_ORDER,), scouts=True).states == 2


def test_a_reduced_search_goes_on_from_where_it_was_left() -> None:
    from benchmarks.defer_model import defer

    system = defer(4, 2, 1)
    whole = answer(system, reductions=REDUCTIONS, reduce_from=500)
    left = Answer(system, reductions=REDUCTIONS, reduce_from=500)
    for number, _ in enumerate(left.work()):
        if number == 60:
            break
    again = Answer(system, reductions=REDUCTIONS, reduce_from=500)
    again.go_on(left.kept())
    for _ in again.work():
        pass
    assert again.result is not None
    assert again.result.verdict is whole.verdict is Verdict.HOLDS
    assert again.result.reductions == WITHOUT_SYMMETRY


@pytest.mark.parametrize(("size", "plain"), [((3, 2, 1), 2_741), ((4, 2, 1), 45_182)])
def test_the_benchmarks_model_needs_less_than_half(size: tuple[int, ...], plain: int) -> None:
    from benchmarks.defer_model import defer

    found = answer(defer(*size), reductions=REDUCTIONS, reduce_from=0)
    assert found.verdict is Verdict.HOLDS
    assert found.states < plain / 2


@pytest.mark.parametrize(("kind", "choices"), [("late", 6), ("noack", 44)])
def test_the_benchmarks_violations_keep_their_shortest_schedules(kind: str, choices: int) -> None:
    from benchmarks.defer_model import defer

    size = (4, 2, 1) if kind == "late" else (3, 1, 1)
    plain = answer(defer(*size, kind))
    found = answer(defer(*size, kind), reductions=REDUCTIONS, reduce_from=0)
    assert found.violations == plain.violations
    assert kind == "noack" or len(plain.violations[0].choices) == choices


def test_a_violation_beyond_the_budget_of_the_plain_search_is_told_as_not_the_shortest() -> None:
    from benchmarks.defer_model import defer

    found = answer(defer(4, 2, 1, "noack"), Budget(states=300_000), reductions=REDUCTIONS,
                   reduce_from=1_000)  # fmt: skip
    (violation,) = found.violations
    assert found.verdict is Verdict.VIOLATED
    assert violation.name == "no_lost_write_to_page_0"
    assert not violation.shortest
    reference = Reference(defer(4, 2, 1, "noack"))
    (broken,) = (p for p in reference.system.properties if p.name == violation.name)
    assert not reference.true(reference.replay(violation.choices), broken.truth)


# Accesses.


def test_accesses_that_set_or_clear_alike_commute() -> None:
    sets, clears = access(fetch_or(X, 1)), access(fetch_and(X, ~1))
    assert not sets.conflicts(access(fetch_or(X, 1)))
    assert not clears.conflicts(access(store(X, 0)))
    assert sets.conflicts(clears)
    assert sets.conflicts(access(load(X, 1)))
    assert not sets.conflicts(access(load(X, 2)))
    assert access(fetch_xor(X, 1)).conflicts(access(fetch_xor(X, 1)))


def test_a_guard_is_brought_nearer_only_from_the_other_side() -> None:
    free, taken = Wait(1, 0), Wait(1, 0, equal=False)
    assert access(release(LOCK)).may_reach(free, 1)
    assert not access(store(LOCK, 1)).may_reach(free, 1)
    assert access(store(LOCK, 1)).may_reach(taken, 1)
    assert not access(release(LOCK)).may_reach(taken, 1)
    assert Access(changes=1).may_reach(free, 1)


def test_what_holds_by_a_reduced_search_can_be_run_on_the_plain_kernel() -> None:
    """Runs that back it write words that only the reduced search has come to."""
    question = Answer(one(REPAIR).system(), reductions=REDUCTIONS, reduce_from=5)
    for _ in question.work():
        pass
    assert question.result is not None
    assert question.result.verdict is Verdict.HOLDS
    assert question.result.reductions
    kernel = question.kernel
    kernel.grown()
    written = {
        position.step.word.name
        for automaton in kernel.automata
        for position in automaton.positions
        if position.step is not None and position.step.word is not None and position.step.writes
    }
    assert written <= {name for name, _, _ in kernel.layout.wanted}
