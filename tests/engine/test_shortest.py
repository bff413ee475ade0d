"""Fewest context switches among the shortest schedules, against trying them all."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from smpmmu.engine.answer import answer
from smpmmu.engine.batch import Kernel
from smpmmu.engine.explore import Search
from smpmmu.engine.expressions import any_of, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import bug_on
from smpmmu.engine.shortest import fewest_switches
from smpmmu.engine.steps import (
    Step,
    Word,
    acquire,
    fetch_add,
    fetch_or,
    fetch_xor,
    load,
    release,
    store,
)
from smpmmu.engine.system import System, always
from smpmmu.engine.verdict import Budget, Counterexample
from tests.engine.programs import (
    LOCK,
    X,
    Y,
    Z,
    counting,
    hypothetically,
    main,
    only_violation,
    steps,
    system,
)

Program = tuple[Step, ...]


def switches(choices: tuple[int, ...]) -> int:
    return sum(a != b for a, b in pairwise(choices))


def run(programs: tuple[Program, ...], choices: tuple[int, ...]) -> dict[str, int] | None:
    """Take the chosen programs' steps in turn, in plain Python; None where one cannot run."""
    words: dict[str, int] = {}
    done = [0] * len(programs)
    for choice in choices:
        if done[choice] == len(programs[choice]):
            return None
        step = programs[choice][done[choice]]
        assert step.word is not None
        old = words.get(step.word.name, 0)
        if step.lock > 0 and old:
            return None
        words[step.word.name] = (old & step.and_mask) ^ step.xor_mask
        done[choice] += 1
    return words


def by_trying_all(programs: tuple[Program, ...], bad: dict[str, int], most: int) -> tuple[int, ...]:
    """Return the first schedule, by length, switches and order, that ends with the words `bad`."""
    for length in range(most + 1):
        reaching = [
            choices
            for choices in product(range(len(programs)), repeat=length)
            if (words := run(programs, choices)) is not None
            and all(words.get(name, 0) == wanted for name, wanted in bad.items())
        ]
        if reaching:
            return min(reaching, key=lambda choices: (switches(choices), choices))
    raise AssertionError


words = st.sampled_from((X, Y, Z))
writes = st.one_of(
    st.builds(store, words, st.integers(0, 2)),
    st.builds(fetch_xor, words, st.integers(1, 3)),
    st.builds(fetch_or, words, st.integers(1, 2)),
)
bodies = st.one_of(
    st.lists(writes, min_size=2, max_size=3).map(tuple),
    st.lists(writes, min_size=2, max_size=3).map(tuple),
    st.lists(writes, min_size=1, max_size=1).map(lambda w: (acquire(LOCK), *w, release(LOCK))),
)


@st.composite
def races(draw: st.DrawFn) -> tuple[tuple[Program, ...], dict[str, int]]:
    """Return programs, and the words that some schedule of nearly all their steps ends with."""
    programs = tuple(draw(st.lists(bodies, min_size=2, max_size=3)))
    total = sum(map(len, programs))
    assume(total <= 7)
    order = draw(st.permutations([n for n, body in enumerate(programs) for _ in body]))
    words = run(programs, tuple(order[: draw(st.integers(total - 2, total))]))
    assume(words is not None)
    assert words is not None
    return programs, {word.name: words.get(word.name, 0) for word in (X, Y, Z)}


@hypothetically(120)
@given(races())
def test_no_schedule_is_shorter_or_has_fewer_switches(
    race: tuple[tuple[Program, ...], dict[str, int]],
) -> None:
    programs, bad = race
    never = always("never", any_of(*(value(word) != bad[word.name] for word in (X, Y, Z))))
    contexts = [main(f"cpu{n}", call(steps, *body)) for n, body in enumerate(programs)]
    best = by_trying_all(programs, bad, sum(map(len, programs)))
    violation = only_violation(system(*contexts, holds=(never,)))
    assert violation.choices == tuple(f"cpu{n}" for n in best)
    assert violation.switches == switches(best)
    assert violation.fewest_switches


def sum_is(total: int, *words: Word) -> System:
    """Return two vCPUs of which every word needs one, and the property that never all are set."""
    contexts = [main(f"cpu{n}", call(steps, store(w, 1))) for n, w in enumerate(words)]
    added = value(words[0])
    for word in words[1:]:
        added = added + value(word)
    return system(*contexts, holds=(always("never", added != total),))


def test_ties_go_to_the_context_that_comes_first() -> None:
    assert only_violation(sum_is(3, X, Y, Z)).choices == ("cpu0", "cpu1", "cpu2")
    assert only_violation(sum_is(1, X, Y, Z)).choices == ("cpu0",)


def grid(n: int, m: int, a: int, b: int) -> Counterexample:
    """Two programs of n and m steps; the violation needs a steps of one and b of the other."""
    late = always(
        "never", ~((value(Word(f"a{a - 1}", 1)) == 1) & (value(Word(f"b{b - 1}", 1)) == 1))
    )
    return only_violation(
        system(main("a", counting("a", n)), main("b", counting("b", m)), holds=(late,))
    )


@pytest.mark.parametrize(("a", "b"), [(1, 1), (4, 2), (5, 6), (7, 7)])
def test_independent_programs_are_run_one_after_the_other(a: int, b: int) -> None:
    violation = grid(7, 7, a, b)
    assert violation.choices == ("a",) * a + ("b",) * b
    assert (violation.switches, violation.fewest_switches) == (1, True)


def test_a_shorter_schedule_is_better_than_one_with_fewer_switches() -> None:
    """Alone, `a` needs five steps; with a switch three are enough."""
    program = main("a", call(steps, store(Y, 1), load(Y), load(Y), load(Y), store(X, 1)))
    other = main("b", call(steps, load(Y), store(X, 1)))
    never = always("never", ~((value(X) == 1) & (value(Y) == 1)))
    violation = only_violation(system(program, other, holds=(never,)))
    assert (violation.choices, violation.switches) == (("a", "b", "b"), 1)


def test_blocks_change_no_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = grid(7, 7, 5, 6)
    monkeypatch.setattr("smpmmu.engine.frontier.ROWS", 2)
    assert grid(7, 7, 5, 6) == whole


def test_all_states_that_break_a_property_at_one_depth_are_targets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Any three of five increments do; only three of the same vCPU need no switch."""
    monkeypatch.setattr("smpmmu.engine.frontier.ROWS", 1)
    more = fetch_add(Word("count", 3), 1)
    contexts = (main("a", call(steps, more, more)), main("b", call(steps, more, more, more)))
    never = always("never", value(Word("count", 3)) != 3)
    violation = only_violation(system(*contexts, holds=(never,)))
    assert (violation.choices, violation.switches) == (("b", "b", "b"), 0)


def test_all_states_that_meet_a_bug_at_one_depth_are_targets() -> None:
    """Whoever reads a 2 has met the bug; that can be one vCPU alone, but only the second."""

    async def counts(loads_before: int) -> None:
        for _ in range(loads_before):
            await load(Y)
        await fetch_add(X, 1)
        await fetch_add(X, 1)
        got = await load(X)
        bug_on(got == 2, "never_sees_2")

    programs = (main("a", call(counts, 1)), main("b", call(counts, 0)))
    violation = only_violation(system(*programs))
    assert (violation.name, violation.choices) == ("never_sees_2", ("b", "b", "b"))


def test_the_nearest_of_several_targets_is_reached() -> None:
    contexts = (main("a", counting("a", 4)), main("b", counting("b", 4)))
    kernel = Kernel(system(*contexts))
    search = Search(kernel, Budget(), every=True, keep_edges=True)
    for _ in search.depths():
        pass
    corner, start = search.level_fps[8], search.level_fps[0]
    assert fewest_switches(kernel, corner, Budget()) == [0] * 4 + [1] * 4
    assert fewest_switches(kernel, search.level_fps[3], Budget()) == [0, 0, 0]
    assert fewest_switches(kernel, start, Budget()) == []


def test_a_budget_too_small_for_the_edges_gives_none() -> None:
    contexts = (main("a", counting("a", 9)), main("b", counting("b", 9)))
    kernel = Kernel(system(*contexts))
    search = Search(kernel, Budget(), every=True, keep_edges=True)
    for _ in search.depths():
        pass
    assert fewest_switches(kernel, search.level_fps[18], Budget(states=30)) is None


def test_the_way_back_without_edges_is_as_short() -> None:
    contexts = (main("a", counting("a", 4)), main("b", counting("b", 4)))
    search = Search(Kernel(system(*contexts)), Budget())
    for _ in search.depths():
        pass
    assert search.choices_to(0) == []
    for state in range(search.states):
        depth = next(d for d in range(9) if state < sum(search.levels[: d + 1]))
        assert len(search.choices_to(state)) == depth
    assert sorted(search.choices_to(search.states - 1)) == [0] * 4 + [1] * 4


def test_a_bug_is_reached_with_fewest_switches_too() -> None:
    async def sums() -> None:
        await load(Z)
        await load(Z)
        got = await load(X)
        bug_on(got == 1, "never_sees_1")

    violation = only_violation(
        system(main("a", call(sums)), main("b", call(steps, store(Y, 1), store(X, 1))))
    )
    assert violation.choices == ("b", "b", "a", "a", "a")
    assert (violation.switches, violation.fewest_switches) == (1, True)


def test_the_edges_of_the_first_search_serve_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = (main("a", counting("a", 9)), main("b", counting("b", 9)))
    last = always("never_both_at_5", (value(Word("a5", 1)) & value(Word("b5", 1))) == 0)
    asked_of = system(*contexts, holds=(last,))
    whole = answer(asked_of)
    assert whole.violations[0].fewest_switches
    passes = []
    depths = Search.depths
    monkeypatch.setattr(Search, "depths", lambda self: passes.append(self) or depths(self))
    assert answer(asked_of) == whole
    assert len(passes) == 1
    monkeypatch.setattr("smpmmu.engine.explore.FEW_EDGES", 20)
    assert answer(asked_of) == whole
    assert len(passes) == 3
