"""Random small systems: the engine and the reference explorer tell the same story."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from smpmmu.engine.answer import answer
from smpmmu.engine.batch import Kernel
from smpmmu.engine.errors import ModelError
from smpmmu.engine.explore import Search
from smpmmu.engine.expressions import Expr, finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.reading import Block
from smpmmu.engine.steps import (
    Step,
    acquire,
    cmpxchg,
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
    xchg,
)
from smpmmu.engine.system import Property, System, always, at_quiescence, sometimes
from smpmmu.engine.verdict import Budget, Verdict
from tests.engine.programs import (
    BOX,
    LOCK,
    OTHER,
    WHY,
    Op,
    X,
    Y,
    Z,
    daemon,
    hypothetically,
    irq,
    main,
    play,
    take,
)
from tests.reference import (
    NO_DEADLOCK,
    QUIESCENCE_STAYS_REACHABLE,
    Graph,
    Overflow,
    Place,
    Reference,
    State,
)

if TYPE_CHECKING:
    from smpmmu.engine.automaton import Position
    from smpmmu.engine.program import Context

MOST_STATES = 400
WORDS = (X, Y, Z, BOX, LOCK, OTHER)

words = st.sampled_from((X, Y, Z))
bits = st.integers(1, 3)
Body = tuple[Step | Op, ...]

plain = st.one_of(
    st.builds(load, words, st.sampled_from((1, 3))),
    st.builds(store, words, st.integers(0, 2)),
    st.builds(xchg, words, st.integers(0, 2)),
    st.builds(cmpxchg, words, st.integers(0, 1), st.integers(0, 3)),
    st.builds(fetch_or, words, bits, st.sampled_from((0, 1, 3))),
    st.builds(fetch_and, words, bits, st.sampled_from((0, 1, 3))),
    st.builds(fetch_xor, words, bits, st.sampled_from((0, 2))),
    st.builds(fetch_add, st.just(Z), st.sampled_from((1, -1)), st.sampled_from((0, 3))),
    st.just(fetch_or(BOX, 1)),
    st.just(fetch_or(BOX, 2)),
)
waiting = st.builds(
    lambda word, wanted, equal: wait_until(word, wanted, equal=equal),
    words,
    st.integers(0, 1),
    st.booleans(),
)
simple = st.lists(plain, min_size=1, max_size=3).map(tuple)
free = st.lists(st.one_of(plain, plain, waiting), min_size=1, max_size=3).map(tuple)


def _one(op: Op) -> Body:
    return (op,)


def _between(before: Step, body: Body, after: Step) -> Body:
    return (before, *body, after)


statements = st.one_of(
    plain.map(lambda s: (s,)),
    plain.map(lambda s: (s,)),
    waiting.map(lambda s: (s,)),
    st.builds(_between, st.just(acquire(LOCK)), free, st.just(release(LOCK))),
    st.builds(_between, st.just(acquire(OTHER)), free, st.just(release(OTHER))),
    st.builds(_between, st.just(local_irq_disable()), free, st.just(local_irq_enable())),
    st.builds(Op, st.just("if"), free).map(_one),
    st.builds(Op, st.just("routine"), free).map(_one),
    st.builds(Op, st.just("instruction"), free).map(_one),
    st.builds(Op, st.just("indivisible"), simple).map(_one),
    st.builds(Op, st.just("retry"), free, st.integers(0, 2), words).map(_one),
    st.builds(Op, st.just("retry_indivisible"), simple, st.integers(0, 2), words).map(_one),
    st.builds(Op, st.just("raise"), free).map(_one),
    st.just((Op("ask", word=LOCK),)),
    st.sampled_from(
        [(acquire(LOCK),), (release(LOCK),), (local_irq_disable(),), (local_irq_enable(),)]
    ),
)
nested = st.one_of(
    statements,
    statements,
    statements,
    st.builds(
        lambda name, bodies: _one(Op(name, sum(bodies, ()))),
        st.sampled_from(("routine", "if", "raise")),
        st.lists(statements, min_size=1, max_size=2),
    ),
)
bodies = st.lists(nested, min_size=1, max_size=3).map(lambda parts: sum(parts, ()))
bugs = st.builds(Op, st.just("bug_on"), number=st.integers(1, 5))
bodies_with_bugs = st.builds(lambda body, bug: (*body, bug), bodies, bugs)


@st.composite
def contexts(draw: st.DrawFn, *, bugs: bool) -> tuple[Context, ...]:
    """Return two or three vCPUs, up to two interrupts of the first, perhaps hardware."""
    body = st.one_of(bodies, bodies_with_bugs) if bugs else bodies
    result = []
    for cpu in range(draw(st.integers(2, 3))):
        programs = draw(st.lists(body, min_size=1, max_size=2 if cpu == 0 else 1))
        repeats = draw(st.integers(0, 9)) == 9
        if repeats:  # must never go round without a step
            programs[0] = (load(X, 1), *programs[0])
        result.append(main(f"cpu{cpu}", *(call(play, b) for b in programs), cyclic=repeats))
    for number in range(draw(st.integers(0, 2))):
        handler = (take(BOX, 1 + number), *draw(simple))
        if draw(st.booleans()):
            handler = (handler[0], local_irq_enable(), *handler[1:])
        cpu = draw(st.sampled_from(("cpu0", "cpu0", "cpu0", "idle")))
        priority = draw(st.integers(0, 1))
        result.append(irq(f"{cpu}.irq{number}", cpu, call(play, handler), priority=priority))
    hardware = [draw(free) for _ in range(max(0, draw(st.integers(-3, 2))))]
    result.extend(daemon(f"hardware{n}", call(play, body)) for n, body in enumerate(hardware))
    return tuple(result)


truths = st.one_of(
    st.builds(lambda word, number: value(word) != number, words, st.integers(1, 3)),
    st.builds(lambda a, b: implies(value(a) == 1, value(b) != 1), words, words),
    st.builds(lambda a, b: (value(a) & 1) + value(b) <= 2, words, words),
    st.builds(lambda a: implies(finished("cpu0"), (value(a) ^ 1) >> 1 == 0), words),
)


@st.composite
def systems(draw: st.DrawFn, *, bugs: bool = False) -> System:
    """Return a small system with a few properties of every scope."""
    kinds = {"always": always, "at_rest": at_quiescence, "some": sometimes}
    holds: list[Property] = []
    for name, of in kinds.items():
        drawn: list[Expr] = draw(st.lists(truths, max_size=2))
        holds += [of(f"{name}_{number}", truth) for number, truth in enumerate(drawn)]
    return System(draw(contexts(bugs=bugs)), tuple(draw(st.permutations(holds))))


def searched(
    system: System, *, packed: bool = True, dropped: frozenset[str] = frozenset()
) -> Search:
    """Return a complete search, or give this example up."""
    kernel = Kernel(system, packed=packed, dropped=dropped)
    search = Search(kernel, Budget(states=MOST_STATES), every=True, keep_edges=True)
    for _ in search.depths():
        pass
    assume(not search.stopped)
    return search


def explored(reference: Reference) -> Graph:
    """Return the reference's graph, or give this example up."""
    try:
        return reference.explore(8 * MOST_STATES)
    except OverflowError:
        assume(False)  # noqa: FBT003
        raise


def both(system: System) -> tuple[Search, Reference, Graph]:
    """Explore both ways; where a sum does not fit, insist that both notice, and give up."""
    reference = Reference(system)
    try:
        search = searched(system)
    except ModelError as error:
        insist_that_it_overflows(reference, str(error))
        assume(False)  # noqa: FBT003
        raise
    return search, reference, explored(reference)


def insist_that_it_overflows(reference: Reference, error: str) -> None:
    """Let the test fail unless the reference, too, meets a sum that does not fit."""
    if "which does not fit" not in error:
        raise AssertionError(error)
    with pytest.raises(Overflow):
        explored(reference)


Look = tuple[tuple[int, ...], tuple[tuple[object, ...], ...]]
"""The words, and of every context the pending step and what is private, histories apart."""


@dataclass
class Seen:
    """What one of the two explorers saw."""

    states: set[Look] = field(default_factory=set)
    moves: set[tuple[Look, int, Look]] = field(default_factory=set)
    quiescent: set[Look] = field(default_factory=set)


def seen_by_engine(search: Search) -> Seen:
    """Look at every state of a complete search."""
    kernel, looks, seen = search.kernel, [], Seen()
    numbers: dict[int, int] = {}
    for part in search.whole:
        block = Block(part.lanes, part.fps)
        columns = [kernel.word(block, w) for w in WORDS]
        rests = [kernel.rests(block, n) for n in range(len(kernel.automata))]
        quiescent = kernel.quiescent(block)
        for row in range(len(block)):
            values = tuple(c if isinstance(c, int) else int(c[row]) for c in columns)
            places = []
            for number, automaton in enumerate(kernel.automata):
                rest = rests[number]
                at = automaton.resting[0 if rest is None else int(rest[row])]
                places.append(_look(automaton.positions[at]))
            numbers[int(part.fps[row])] = len(looks)
            looks.append((values, tuple(places)))
            if quiescent[row]:
                seen.quiescent.add(looks[-1])
    seen.states = set(looks)
    assert search.edges is not None
    for parents, agents, children in search.edges:
        for parent, agent, child in zip(parents, agents, children, strict=True):
            seen.moves.add((looks[parent], int(agent), looks[numbers[int(child)]]))
    return seen


def seen_by_reference(reference: Reference, graph: Graph) -> Seen:
    """Look at every state of the reference's graph."""
    looks = [(_values(reference, s), tuple(map(_look, s.places))) for s in graph.states]
    return Seen(
        set(looks),
        {
            (looks[here], agent, looks[there])
            for here, edges in enumerate(graph.edges)
            for agent, there in edges
        },
        {look for look, s in zip(looks, graph.states, strict=True) if reference.quiescent(s)},
    )


def _values(reference: Reference, state: State) -> tuple[int, ...]:
    return tuple(reference.value(state.words, w) for w in WORDS)


def _look(at: Position | Place) -> tuple[object, ...]:
    return (at.step, at.irqs, at.held, at.open) if at.step is not None else (None, at.bug)


def everything_broken(reference: Reference, graph: Graph) -> dict[str, set[int]]:
    """Return the states that break each property, deadlocks too, endless cycles apart."""
    broken = reference.broken(graph)
    if dead := reference.deadlocked(graph):
        broken[NO_DEADLOCK] = dead
    return broken


def depth(graph: Graph, states: set[int]) -> int:
    return min(graph.depths[n] for n in states)


@hypothetically(160)
@given(systems(bugs=True))
def test_every_state_and_violation_is_found_at_its_depth(system: System) -> None:
    search, reference, graph = both(system)
    assert search.exact
    assert seen_by_engine(search) == seen_by_reference(reference, graph)
    assert search.reached == reference.sometimes(graph)
    broken = everything_broken(reference, graph)
    found = {f.name: f.depth for f in search.found}
    endless_at = found.pop(QUIESCENCE_STAYS_REACHABLE, None)
    assert found == {name: depth(graph, states) for name, states in broken.items()}
    must, can = reference.endless(graph) if reference.ends else (set(), set())
    if must:
        assert endless_at is not None
    if endless_at is not None:
        assert endless_at in {graph.depths[n] for n in can}


@hypothetically(100)
@given(systems(bugs=True))
def test_the_first_violation_is_a_shortest_with_fewest_switches(system: System) -> None:
    _, reference, graph = both(system)
    broken = everything_broken(reference, graph)
    must, can = reference.endless(graph) if reference.ends else (set(), set())
    found = answer(system)
    if not broken and not must:
        assert found.verdict is (Verdict.VIOLATED if found.violations else Verdict.HOLDS)
        assert can or not found.violations
        return
    assert found.verdict is Verdict.VIOLATED
    (violation,) = found.violations
    assert violation.fewest_switches
    # Where programs or hardware run for ever, a deadlock is certain only when all is explored.
    late = reference.has_daemons or not reference.ends
    if late and len(broken) > 1:
        broken.pop(NO_DEADLOCK, None)
    if violation.name == QUIESCENCE_STAYS_REACHABLE:
        assert not broken or (late and broken.keys() == {NO_DEADLOCK})
        last = reference.replay(violation.choices).key
        assert last in {graph.states[n].key for n in can}
        return
    ranks = {p.name: n for n, p in enumerate(system.properties)}

    def importance(name: str) -> tuple[object, ...]:
        # That a state is a deadlock shows only when it is expanded, after all else about it.
        last = name == NO_DEADLOCK
        return depth(graph, broken[name]), last, ranks.get(name, len(ranks)), name

    first = min(broken, key=importance)
    assert violation.name == first
    assert violation.choices == reference.best(graph, broken[first])


@hypothetically(100)
@given(systems(bugs=True))
def test_asking_for_every_violation_finds_each_at_its_best(system: System) -> None:
    _, reference, graph = both(system)
    broken = everything_broken(reference, graph)
    found = {v.name: v for v in answer(system, every=True).violations}
    endless = found.pop(QUIESCENCE_STAYS_REACHABLE, None)
    if endless is not None:
        last = reference.replay(endless.choices).key
        assert last in {graph.states[n].key for n in reference.endless(graph)[1]}
    assert {name: v.choices for name, v in found.items()} == {
        name: reference.best(graph, states) for name, states in broken.items()
    }


@hypothetically(80)
@given(systems(bugs=True))
def test_packing_changes_no_count(system: System) -> None:
    packed, unpacked = (
        searched_or_error(system, packed=True),
        searched_or_error(system, packed=False),
    )
    assert packed == unpacked


def searched_or_error(system: System, *, packed: bool) -> object:
    try:
        search = searched(system, packed=packed)
    except ModelError as error:
        return str(error)
    found = [(f.name, f.depth, sorted(f.fps.tolist())) for f in search.found]
    return search.states, search.transitions, search.levels, found


@hypothetically(100)
@given(systems())
def test_a_dropped_claim_lets_others_in_between(system: System) -> None:
    reference = Reference(system, frozenset({WHY}))
    try:
        search = searched(system, dropped=frozenset({WHY}))
    except ModelError:
        assume(False)  # noqa: FBT003
        raise
    assert seen_by_engine(search) == seen_by_reference(reference, explored(reference))
