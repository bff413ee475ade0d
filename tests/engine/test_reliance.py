"""What a reduced search relied on: whatever takes that back makes it begin again."""

from __future__ import annotations

import copy

import pytest

from smpmmu.engine import batch, recall, reduction, successors
from smpmmu.engine.answer import answer
from smpmmu.engine.batch import Kernel
from smpmmu.engine.expressions import value
from smpmmu.engine.footprints import holding
from smpmmu.engine.local import call
from smpmmu.engine.passes import Passes
from smpmmu.engine.reduction import DEAD_WORDS, PARTIAL_ORDER, Reduction
from smpmmu.engine.routines import bug_on
from smpmmu.engine.steps import Step, Wait, Word, acquire, load, release, store, wait_until
from smpmmu.engine.successors import gathered
from smpmmu.engine.system import System, always
from smpmmu.engine.verdict import Budget
from tests.engine.programs import BOX, LOCK, Never, Op, X, Y, Z, irq, main, play, take
from tests.engine.test_reduction import MINE, WRITES, knows, names, of, reduced

SEEN, TOLD = Word("seen", 1), Word("told", 2)


async def sees(times: int) -> None:
    """Let a property see some stores, so that nobody takes them alone."""
    for number in range(times):
        await store(SEEN, number & 1)


async def writes() -> None:
    """Take the second store at once where nobody who may read X is left."""
    await Step("take", Y, wait=Wait(Y.mask, 2), and_mask=0, xor_mask=1)
    await store(X, 2)


async def reads() -> None:
    """Let the other write at once; or read X in the end, which long nobody knows."""
    if await load(X) == 0:
        await load(MINE)
        await load(MINE)
        await store(TOLD, 2)
        await store(Y, 2)
        return
    await store(TOLD, 1)
    await sees(6)
    if await load(Y, 1):
        bug_on(await load(X) == 1, "read_between")


async def lets_write() -> None:
    """Let the writer go when it has long been known that the reader only reads Y."""
    await wait_until(TOLD, 0, equal=False)
    if await load(TOLD) == 1:
        await sees(20)
        await store(Y, 2)
    await load(Y)


def test_what_is_taken_from_memory_is_relied_on_by_the_tables_of_that_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That both stores go at once is learnt while only the reader's short way is known.

    It is looked up where the reader is on its long way, once that seems to be harmless.
    """
    monkeypatch.setattr(reduction, "STALE", 0.0)
    programs = (call(writes), call(reads), call(play, (store(X, 1),)), call(lets_write))
    contexts = tuple(main(f"a{n}", body) for n, body in enumerate(programs))
    system = System(contexts, (always("sees", value(SEEN) <= value(Z) + 1),))
    known = Kernel(system)
    ways = ((0, [0, 0]), (1, [0] * 5), (2, [0]), (3, [0, 2, 0]), (3, [0, 1, *[0] * 22]))
    for program, results in ways:
        at = 0
        for result in results:
            at = known.follow(known.automata[program], at, result)
        assert known.automata[program].positions[at].ended
    assert [v.name for v in answer(system).violations] == ["read_between"]
    assert names(reduced(system, (PARTIAL_ORDER,), known=known)) == {"read_between"}


READS_LATE = (load(Y), Op("if", (load(Z), load(X))))
LATE = of(main("a", call(play, (store(X, 1),))), main("b", call(play, READS_LATE)))


def one_more(kernel: Kernel, program: int, position: int, result: int) -> int:
    return kernel.follow(kernel.automata[program], position, result)


def taken_alone(by: Reduction) -> list[bool]:
    """Return, by context, whether it moves in the first machine."""
    block = by.kernel.initial()
    masks = by.restrict(block, by.kernel.eligible(block))
    return [mask is None or bool(mask.all()) for mask in masks]


def test_anything_may_come_after_a_step_that_nobody_took() -> None:
    kernel = knows(LATE, (0, 0), (1, 0))
    one_more(kernel, 1, 0, 1)
    assert not Reduction(kernel, (PARTIAL_ORDER,)).tables.hopeful.clashes[1][0, 0] & 1
    assert taken_alone(Reduction(kernel, (PARTIAL_ORDER,))) == [False, True]


def test_that_nothing_comes_after_it_is_hoped_for_a_while() -> None:
    kernel = knows(LATE, (0, 0), (1, 0))
    by = Reduction(kernel, (PARTIAL_ORDER,))
    assert taken_alone(by) == [True, False]
    one_more(kernel, 1, 0, 1)
    assert by.settle(hopeful=True)
    assert not by.settle()


def test_what_is_met_in_the_end_takes_it_back() -> None:
    kernel = knows(LATE, (0, 0), (1, 0))
    by = Reduction(kernel, (PARTIAL_ORDER,))
    assert taken_alone(by) == [True, False]
    one_more(kernel, 1, one_more(kernel, 1, 0, 1), 0)
    assert not by.settle(hopeful=True)
    by.again()
    assert by.valid
    assert taken_alone(by) == [False, True]


def test_what_is_harmless_in_the_end_does_not() -> None:
    kernel = knows(of(LATE.contexts[0], main("b", call(play, (load(Y), Op("if", (load(Z),)))))),
                   (0, 0), (1, 0))  # fmt: skip
    by = Reduction(kernel, (PARTIAL_ORDER,))
    assert taken_alone(by) == [True, False]
    one_more(kernel, 1, one_more(kernel, 1, 0, 1), 0)
    assert by.settle(hopeful=True)
    assert by.settle()


SLOW = Op("indivisible", (load(Y), Op("if", (load(MINE),))))
TORN = of(main("a", call(play, (SLOW,))), main("b", call(play, (store(Z, 1),))))


def test_an_action_with_a_step_that_nobody_took_is_no_candidate() -> None:
    kernel = knows(TORN, (0, 0), (1, 0))
    by = Reduction(kernel, (PARTIAL_ORDER,))
    assert taken_alone(by) == [True, False]
    at = one_more(kernel, 0, 0, 1)
    assert kernel.automata[0].positions[at].mid
    assert taken_alone(Reduction(kernel, (PARTIAL_ORDER,))) == [True, True]
    assert not by.settle(hopeful=True), "what else it does is not known"


def test_a_handler_in_the_middle_may_hold_others_up_but_hope_says_no() -> None:
    interrupted = main("a", call(play, (store(X, 1),)))
    kernel = Kernel(of(interrupted, irq("a.irq", "a", call(play, (take(BOX, 1), store(Y, 1))))))
    handler = kernel.automata[1]
    at = one_more(kernel, 1, 0, 1)
    assert holding(handler)[0]
    assert not holding(handler, hopeful=True)[0]
    one_more(kernel, 1, at, 0)
    assert not holding(handler)[0]


def turns_out_to_be_read(*, guarded: bool) -> tuple[System, Kernel]:
    """Return a system in which X is written alone, though, as turns out, it may be read before.

    If guarded, another one reads it, too, but waits for the lock.
    """
    tells = wait_until(MINE, 1)
    programs: tuple[tuple[Step | Op, ...], ...] = (
        (acquire(LOCK), store(MINE, 1), store(X, 1), release(LOCK)),
        (load(Y), Op("if", (load(Z), load(X), Op("bug_on", number=0)))),
        (tells, store(Y, 1)),
    )
    if guarded:
        programs += ((tells, acquire(LOCK), load(X), release(LOCK)),)
    system = of(*(main(f"a{n}", call(play, body)) for n, body in enumerate(programs)))
    known = Kernel(system)
    for program, body in enumerate(programs):
        at = 0
        for _ in range(1 if program == 1 else len(body)):
            at = one_more(known, program, at, 0)
        assert known.automata[program].positions[at].ended
    return system, known


@pytest.mark.parametrize("looking_up", [True, False])
@pytest.mark.parametrize("chain", [0, 9])
@pytest.mark.parametrize("guarded", [False, True])
def test_what_was_taken_alone_is_taken_back_however_it_was_taken(
    monkeypatch: pytest.MonkeyPatch, chain: int, *, guarded: bool, looking_up: bool
) -> None:
    if not looking_up:
        monkeypatch.setattr(successors, "Recall", Never)
    for module in (batch, recall):
        monkeypatch.setattr(module, "LONGEST_CHAIN", chain)
    system, known = turns_out_to_be_read(guarded=guarded)
    assert names(reduced(system, (PARTIAL_ORDER,), known=known)) == {"never_sees_0"}


def gone_on_with(system: System, kind: str, known: Kernel) -> list[set[str]]:
    """Return what is violated, for searches left after every block and gone on with."""
    whole = Passes(known, Budget(), (kind,), {}, every=True, started=0.0, scouts=False)
    found = []
    for _ in whole.depths():
        kept = copy.deepcopy(whole.kept())
        other = Passes(Kernel(system), Budget(), (kind,), {}, every=True, started=0.0, scouts=False)
        other.go_on(kept)
        for _ in other.depths():
            pass
        found.append(names(other.search))
    return [*found, names(whole.search)]


@pytest.mark.parametrize("guarded", [False, True])
def test_who_goes_on_takes_back_what_another_took_alone(*, guarded: bool) -> None:
    system, known = turns_out_to_be_read(guarded=guarded)
    found = gone_on_with(system, PARTIAL_ORDER, known)
    assert found == [{"never_sees_0"}] * len(found)
    assert len(found) > 5


def test_who_goes_on_takes_back_what_another_forgot() -> None:
    reads = Op("indivisible", (load(Y), Op("if", (load(X), Op("bug_on", number=0)))))
    system = of(WRITES, main("b", call(play, (reads,))))
    found = gone_on_with(system, DEAD_WORDS, knows(system, (0, 0), (0, 1), (1, 0)))
    assert found == [set()] * len(found)
    assert len(found) > 3


@pytest.mark.parametrize("accepted", [True, False])
def test_what_was_decided_ahead_is_relied_on_once_it_is_accepted(*, accepted: bool) -> None:
    kernel = knows(LATE, (0, 0), (1, 0))
    by = Reduction(kernel, (PARTIAL_ORDER,))
    view = by.view()
    assert taken_alone(view) == [True, False]
    assert not accepted or by.accepts(view, 1)
    one_more(kernel, 1, one_more(kernel, 1, 0, 1), 0)
    assert by.settle() is not accepted
    assert not by.accepts(view, 1), "it decided by other tables"


@pytest.mark.parametrize("accepted", [True, False])
def test_what_was_forgotten_ahead_is_relied_on_once_it_is_accepted(*, accepted: bool) -> None:
    system = of(WRITES, main("b", call(play, (load(Y), Op("if", (load(X),))))))
    kernel = knows(system, (0, 0), (0, 1), (1, 0))
    kernel.grown()
    kernel.layout.grow()
    by = Reduction(kernel, (DEAD_WORDS,))
    view = by.view()
    assert len(gathered(kernel, kernel.initial(), view)) == 2
    assert not accepted or by.accepts(view, 1)
    one_more(kernel, 1, 0, 1)
    assert by.settle() is not accepted
