"""Symmetry changes no verdict, is refused with a reason, and leaves what multisets leave."""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import comb
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpmmu.engine.answer import Answer, answer
from smpmmu.engine.batch import Kernel
from smpmmu.engine.errors import ModelError
from smpmmu.engine.expressions import Expr, all_of, any_of, finished, value
from smpmmu.engine.local import call
from smpmmu.engine.reduction import DEAD_WORDS, PARTIAL_ORDER, REDUCTIONS, SYMMETRY
from smpmmu.engine.steps import (
    Step,
    Word,
    acquire,
    cmpxchg,
    fetch_and,
    fetch_or,
    load,
    release,
    store,
    wait_until,
)
from smpmmu.engine.symmetry import Symmetry
from smpmmu.engine.system import (
    Interchangeable,
    Property,
    System,
    always,
    at_quiescence,
    sometimes,
)
from smpmmu.engine.verdict import Verdict
from tests.engine.programs import LOCK, Op, X, hypothetically, irq, main, play, take
from tests.engine.test_reduction import answered_alike, every_violation, names, reduced

if TYPE_CHECKING:
    from collections.abc import Callable

    from smpmmu.engine.program import Context

    Template = Callable[[int], Step | Op]  # what vCPU n does

COMBINATIONS = [
    (SYMMETRY, *others)
    for size in range(3)
    for others in itertools.combinations((PARTIAL_ORDER, DEAD_WORDS), size)
]
MASK, OWNER = Word("mask", 5), Word("owner", 3)


def mine(cpu: int) -> Word:
    """Return a word of each vCPU."""
    return Word(f"mine{cpu}", 2, owner=f"c{cpu}")


def alike(
    count: int, body: tuple[Template, ...], *others: Context, holds: tuple[Property, ...] = ()
) -> System:
    """Return a system of vCPUs that all run `body`, and say so."""
    cpus = [main(f"c{n}", call(play, tuple(each(n) for each in body))) for n in range(count)]
    return System((*cpus, *others), holds, interchangeable=(declared(count),))


def declared(count: int) -> Interchangeable:
    numbers = range(count)
    return Interchangeable(
        tuple((f"c{n}",) for n in numbers),
        bits=((MASK, tuple((n,) for n in numbers)),),
        values=((OWNER, tuple((n + 1,) for n in numbers)),),
    )


def symmetric(system: System) -> int:
    """Return how many states symmetry alone leaves, all of which hold as they do plainly."""
    plain, found = answer(system), answer(system, reductions=(SYMMETRY,), reduce_from=0)
    assert found.refused == ""
    assert found.reductions == (SYMMETRY,)
    assert found.verdict is plain.verdict is Verdict.HOLDS
    assert found.reached == plain.reached
    return found.states


def why_not(system: System) -> str:
    """Return why symmetry is refused, and insist that the search then does without."""
    plain, found = answer(system), answer(system, reductions=REDUCTIONS, reduce_from=0)
    assert found.verdict is plain.verdict
    assert SYMMETRY not in found.reductions
    assert found.refused
    return found.refused


# Random systems.

shared = st.sampled_from((
    lambda _: load(X, 1), lambda _: store(X, 1), lambda _: store(X, 2), lambda _: wait_until(X, 1),
    lambda _: cmpxchg(X, 0, 3),
))  # fmt: skip
private = st.sampled_from((
    lambda n: load(mine(n), 3), lambda n: store(mine(n), 1), lambda n: store(mine(n), 2),
))  # fmt: skip
masks = st.sampled_from((
    lambda n: fetch_or(MASK, 1 << n), lambda n: fetch_and(MASK, ~(1 << n), returns=1 << n),
    lambda n: wait_until(MASK, 0, ~(1 << n)), lambda _: store(MASK, 0),
    lambda n: load(MASK, 1 << n), lambda _: load(MASK),
))  # fmt: skip
owners = st.sampled_from((
    lambda n: cmpxchg(OWNER, 0, n + 1), lambda _: store(OWNER, 0), lambda n: store(OWNER, n + 1),
    lambda _: load(OWNER), lambda _: wait_until(OWNER, 0),
))  # fmt: skip
one_step = st.one_of(shared, private, masks, owners)


def inside(name: str, body: list[Template], number: int) -> Template:
    return lambda n: Op(name, tuple(each(n) for each in body), number)


templates = st.one_of(
    one_step,
    one_step,
    st.builds(
        inside,
        st.sampled_from(("if", "routine", "instruction", "indivisible")),
        st.lists(st.one_of(private, owners), min_size=1, max_size=2),
        st.just(0),
    ),
    st.builds(inside, st.just("bug_on"), st.just([]), st.integers(1, 5)),
)


def handler(cpu: int) -> Context:
    """Return a handler that takes its vCPU's bit of the mask."""
    steps = (take(MASK, 1 << cpu), store(mine(cpu), 3))
    return irq(f"c{cpu}.irq", f"c{cpu}", call(play, steps))


@st.composite
def symmetric_systems(draw: st.DrawFn) -> System:
    """Return two or three vCPUs with one program, perhaps handlers, and perhaps another vCPU.

    Of one in four that is not true: one of them has a program of its own.
    """
    count = draw(st.integers(2, 3))
    body = draw(st.lists(templates, min_size=1, max_size=6 - count))
    others = [handler(n) for n in range(count)] if draw(st.booleans()) else []
    if draw(st.booleans()):
        steps = draw(st.lists(st.one_of(shared, masks), min_size=1, max_size=2))
        others.append(main("other", call(play, tuple(each(3) for each in steps))))
    cpus = range(count)
    wanted = [
        always("never", ~all_of(*(value(mine(n)) == 2 for n in cpus))),
        at_quiescence("rest", any_of(*(value(mine(n)) != 1 for n in cpus), value(X) == 2)),
        at_quiescence("empty", (value(MASK) & ((1 << count) - 1)) == 0),
        *(sometimes(f"owner {n}", value(OWNER) == n + 1) for n in cpus),
        *(sometimes(f"end {n}", finished(f"c{n}") & (value(MASK) & (1 << n) != 0)) for n in cpus),
    ]
    holds = tuple(p for p in wanted if draw(st.booleans()) or p.name[-1].isdigit())
    system = alike(count, tuple(body), *others, holds=holds)
    if draw(st.integers(0, 3)):
        return system
    odd = tuple(each(1) for each in draw(st.lists(templates, min_size=1, max_size=2)))
    cpus = [c if c.name != "c1" else main("c1", call(play, odd)) for c in system.contexts]
    return replace(system, contexts=tuple(cpus))


@hypothetically(120)
@given(symmetric_systems())
def test_nothing_is_violated_or_reached_otherwise(system: System) -> None:
    plain = every_violation(system)
    for kinds in COMBINATIONS:
        found = reduced(system, kinds)
        assert names(found) == names(plain), kinds
        assert bool(found.found) is bool(plain.found), kinds
        assert found.reached == plain.reached, kinds
        assert kinds != (SYMMETRY,) or found.states <= plain.states


@hypothetically(40)
@given(symmetric_systems())
def test_the_answer_is_the_plain_one_where_something_is_violated(system: System) -> None:
    found = answered_alike(system)
    assert found.verdict is not Verdict.HOLDS or PARTIAL_ORDER in found.reductions


# Closed forms.


async def increments(times: int) -> None:
    """Read the counter and write one more."""
    for _ in range(times):
        counted = await load(COUNTER)
        await store(COUNTER, counted + 1)


COUNTER = Word("counter", 4)


def counting(count: int) -> System:
    cpus = tuple(main(f"c{n}", call(increments, 1)) for n in range(count))
    return System(cpus, interchangeable=(declared(count),))


def multisets(count: int) -> int:
    """Return how many states `counting` has where only the number of vCPUs in each place counts."""
    start = (0, ("begins",) * count)
    seen, stack = {start}, [start]
    while stack:
        counter, places = stack.pop()
        for place in set(places):
            rest = list(places)
            rest.remove(place)
            if place == "begins":
                after = (counter, (*rest, f"has read {counter}"))
            elif place != "done":
                after = (int(place[-1]) + 1, (*rest, "done"))
            else:
                continue
            state = (after[0], tuple(sorted(after[1])))
            if state not in seen:
                seen.add(state)
                stack.append(state)
    return len(seen)


@pytest.mark.parametrize(("count", "states"), [(2, 8), (3, 20), (4, 48)])
def test_increments_without_a_lock_are_counted_as_multisets(count: int, states: int) -> None:
    assert symmetric(counting(count)) == multisets(count) == states


@pytest.mark.parametrize("count", [2, 3, 4])
def test_under_a_lock_only_how_many_are_done_counts(count: int) -> None:
    body = (lambda _: acquire(LOCK), lambda n: store(mine(n), 1), lambda _: release(LOCK))
    # With k done the lock is free, or held at one of two places.
    assert symmetric(alike(count, body)) == 3 * count + 1


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("length", [1, 3])
def test_programs_that_share_nothing_are_counted_as_multisets(count: int, length: int) -> None:
    body = tuple(lambda n, v=v: store(mine(n), v) for v in range(1, length + 1))
    system = alike(count, body)
    assert answer(system).states == (length + 1) ** count
    assert symmetric(system) == comb(length + count, count), "how many are at each place"


def test_bits_of_a_mask_change_places_with_those_whom_they_name() -> None:
    body = (lambda n: fetch_or(MASK, 1 << n), lambda n: fetch_and(MASK, ~(1 << n)))
    assert symmetric(alike(3, body)) == comb(2 + 3, 3)


def test_owners_change_places_with_those_whom_they_name() -> None:
    body = (lambda n: cmpxchg(OWNER, 0, n + 1), lambda n: wait_until(OWNER, n + 1))
    owned = any_of(*(value(OWNER) == n + 1 for n in range(3)))
    system = alike(3, body[:1], holds=(sometimes("owned", owned),))
    # Nobody has asked; or somebody has got it, and so many others have asked in vain.
    assert answer(system).states == 1 + 3 * 4
    assert symmetric(system) == 1 + 3


def test_handlers_and_their_mailboxes_go_with_their_vcpu() -> None:
    everybody = main("sender", call(play, (store(MASK, 7), wait_until(MASK, 0))))
    system = alike(3, (lambda n: load(mine(n)),), *map(handler, range(3)), everybody)
    assert symmetric(system) < answer(system).states / 3


def test_groups_change_places_as_they_are() -> None:
    """Two pairs, of which one writes and the other waits for it."""
    pairs = [(Word(f"page{n}", 1), f"writer{n}", f"reader{n}") for n in range(2)]
    cpus = []
    for page, writer, reader in pairs:
        cpus.append(main(writer, call(play, (store(page, 1),))))
        cpus.append(main(reader, call(play, (wait_until(page, 1),))))
    groups = tuple((writer, reader) for _, writer, reader in pairs)
    system = System(tuple(cpus), interchangeable=(Interchangeable(groups),))
    assert answer(system).states == 3 * 3
    assert symmetric(system) == comb(3 + 1, 2)


def test_pages_change_places_where_values_choose_among_them() -> None:
    """Whoever writes first says which page is used; the pages are alike."""
    which, pages = Word("which", 2), (Word("page1", 1), Word("page2", 1))

    system = System(
        (
            main("one", call(play, (cmpxchg(which, 0, 1),))),
            main("two", call(play, (cmpxchg(which, 0, 2),))),
            main("user", call(use, which, pages)),
        ),
        (always("one_page", ~((value(pages[0]) == 1) & (value(pages[1]) == 1))),),
        interchangeable=(Interchangeable((("one",), ("two",)), values=((which, ((1,), (2,))),)),),
    )
    assert symmetric(system) < answer(system).states


async def use(which: Word, pages: tuple[Word, Word]) -> None:
    """Write to the page that was chosen."""
    await wait_until(which, 0, equal=False)
    chosen = await load(which)
    await store(pages[chosen - 1], 1)


# Properties.


def test_a_property_may_name_one_vcpu_if_another_one_names_each_other() -> None:
    body = (lambda n: store(mine(n), 1), lambda _: store(X, 1))
    each = [sometimes(f"{n} is first", (value(mine(n)) == 1) & ~finished(f"c{1 - n}")
                      & (value(X) == 1) & (value(mine(1 - n)) == 0)) for n in range(2)]  # fmt: skip
    assert symmetric(alike(2, body, holds=tuple(each))) == comb(2 + 2, 2)
    assert "'0 is first'" in why_not(alike(2, body, holds=tuple(each[:1])))


def test_the_order_in_which_a_property_says_things_does_not_matter() -> None:
    terms: list[Expr] = [(value(mine(0)) == 1) | (value(X) < 2)]
    turned = [(value(X) < 2) | (value(mine(n)) == 1) for n in (2, 1)]
    body = (lambda n: store(mine(n), 1),)
    holds = (always("all", all_of(*terms, *turned)),)
    assert symmetric(alike(3, body, holds=holds)) == 4


def test_a_violation_is_told_as_by_the_plain_search() -> None:
    holds = (at_quiescence("counted", value(COUNTER) == 3),)
    system = replace(counting(3), properties=holds)
    found = answer(system, reductions=REDUCTIONS, reduce_from=0)
    assert found.verdict is Verdict.VIOLATED
    assert found.violations == answer(system).violations


def test_deadlocks_stay() -> None:
    body = (lambda n: cmpxchg(OWNER, 0, n + 1), lambda n: wait_until(OWNER, n + 1))
    system = alike(3, body)
    assert names(reduced(system, (SYMMETRY,))) == {"no_deadlock"}


def test_a_search_goes_on_from_where_it_was_left() -> None:
    how = {"reductions": (SYMMETRY,), "reduce_from": 0}
    left = Answer(counting(4), **how)
    for number, _ in enumerate(left.work()):
        if number == 6:
            break
    again = Answer(counting(4), **how)
    again.go_on(left.kept())
    for _ in again.work():
        pass
    assert again.result is not None
    assert (again.result.verdict, again.result.states) == (Verdict.HOLDS, 48)


# What is refused, and why.


def two(one: tuple[Step | Op, ...], other: tuple[Step | Op, ...], *more: Context) -> System:
    cpus = (main("c0", call(play, one)), main("c1", call(play, other)), *more)
    return System(cpus, interchangeable=(declared(2),))


@pytest.mark.parametrize(
    ("system", "why"),
    [
        (two((store(X, 1),), (store(X, 2),)),
         "c0 at 'store x = 1' and c1 at 'store x = 2': other steps"),
        (two((store(X, 1), load(X)), (store(X, 1),)),
         "c0 at 'load x' and c1 at its end: one has ended"),
        (two((store(mine(0), 1), store(X, 1)), (store(mine(1), 1), load(mine(1)))),
         "for x stands mine1 and also mine0"),
        (two((store(Word("a", 1), 1),), (store(Word("b", 2), 1),)),
         "a and b differ in width, owner or first value"),
        (two((store(Word("a", 1), 1),), (store(Word("b", 1, 1), 1),)),
         "a and b differ in width, owner or first value"),
        (two((fetch_or(MASK, 1),), (fetch_or(MASK, 1),)),
         "c0 at 'set 1 in mask' and c1 at 'set 1 in mask': other steps"),
        (two((fetch_or(MASK, 1),), (fetch_or(MASK, 2),),
             main("x", call(play, (wait_until(MASK, 1),)))),
         "x at 'wait until mask is 1' and x at 'wait until mask is 1': other steps"),
        (two((cmpxchg(OWNER, 0, 1),), (cmpxchg(OWNER, 0, 1),)),
         "c0 at 'cmpxchg owner 0 -> 1' and c1 at 'cmpxchg owner 0 -> 1': other steps"),
        (two((store(X, 1),), (store(X, 1),), handler(0)),
         "c0.irq has no partner: there is no c1.irq"),
        (replace(two((store(X, 1),), (store(X, 1),)),
                 properties=(sometimes("c1 waits", ~finished("c1") & (value(X) == 1)),)),
         "no property is to 'c1 waits' what the members are to each other"),
        (replace(two((store(OWNER, 1),), (store(OWNER, 2),)),
                 properties=(always("small", value(OWNER) < 3),)),
         "a property orders values of owner, which the exchange changes"),
        (two((load(OWNER, 1),), (load(OWNER, 1),)),
         "what 'load owner' reads does not say which value owner has"),
        (alike(5, (lambda n: store(mine(n), 1),)),
         "there are more than 24 ways to exchange what is declared"),
    ],
)  # fmt: skip
def test_what_is_not_alike_is_refused(system: System, why: str) -> None:
    assert why_not(system) == why


def test_a_word_names_members_by_bits_or_by_values() -> None:
    claim = replace(declared(2), values=((MASK, ((1,), (2,))),))
    with pytest.raises(ModelError, match="names members by bits and by values"):
        replace(counting(2), interchangeable=(claim,))


def test_what_shows_late_is_refused_late() -> None:
    """The programs differ only after a value that random runs have not met."""
    late = Op("if", (store(X, 2),))
    system = two((load(X), late), (load(X),), main("x", call(play, (store(X, 1),))))
    symmetry = Symmetry(Kernel(system))  # nothing is compiled yet
    for automaton in symmetry.kernel.automata:
        for index, result in ((0, 0), (0, 1)):
            if automaton.context.name != "x":
                symmetry.kernel.follow(automaton, index, result)
    assert symmetry.on
    symmetry.extend()
    assert not symmetry.on
    assert "one has ended" in symmetry.refused
    assert reduced(system, (SYMMETRY,)).states == answer(system).states
    assert "one has ended" in why_not(system)


@pytest.mark.parametrize(
    ("members", "bits", "why"),
    [
        ((("c0",),), (), "two or more members alike"),
        ((("c0",), ("c1", "x")), (), "two or more members alike"),
        ((("c0",), ("c0",)), (), "nothing in common"),
        ((("c0",), ("c7",)), (), "c7 is to be interchangeable, and there is no such vCPU"),
        ((("c0",), ("c1",)), ((MASK, ((0,),)),), "two or more members alike"),
        ((("c0",), ("c1",)), ((MASK, ((0,), (5,))),), "not all bits of"),
    ],
)
def test_a_claim_that_makes_no_sense_is_an_error(members: object, bits: object, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        replace(counting(2), interchangeable=(Interchangeable(members, bits),))  # type: ignore[arg-type]
