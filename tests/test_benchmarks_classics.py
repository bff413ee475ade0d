"""The classic programs of the benchmark: counts are closed forms, or those of another search."""

from __future__ import annotations

import importlib.util
import itertools
from math import comb, factorial

import pytest

from smpmmu.engine.answer import answer
from smpmmu.engine.verdict import Verdict
from tests.shell import ROOT


@pytest.fixture(scope="module")
def programs():
    path = ROOT / "benchmarks/classic_programs.py"
    spec = importlib.util.spec_from_file_location("classic_programs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(scenario, variant: str):
    return answer(scenario.system(scenario.variant(variant)))


@pytest.mark.parametrize("n", [2, 4, 8])
def test_readers(programs, n: int) -> None:
    """Before the write every reader has read 0 or not read; after it 0, 1 or not read."""
    result = found(programs.readers, f"{n}")
    assert result.states == 2**n + 3**n
    assert result.transitions == 2**n + n * 2 ** (n - 1) + n * 3 ** (n - 1)
    assert result.verdict is Verdict.HOLDS


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_lockinc(programs, n: int) -> None:
    """With k done: nobody inside, or one of the others at one of three places inside."""
    result = found(programs.lockinc, f"{n}")
    assert result.states == sum(comb(n, k) * (1 + 3 * (n - k)) for k in range(n + 1))
    assert result.transitions == sum(comb(n, k) * 4 * (n - k) for k in range(n + 1))
    assert result.verdict is Verdict.HOLDS


def search(first, successors) -> tuple[int, int, int]:
    """States, transitions and depth of a plain breadth-first search."""
    seen, level, transitions, depth = {first}, [first], 0, 0
    while level:
        after = [new for state in level for new in successors(state)]
        transitions += len(after)
        level = list(dict.fromkeys(state for state in after if state not in seen))
        seen.update(level)
        depth += bool(level)
    return len(seen), transitions, depth


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_inc(programs, n: int) -> None:
    """A state is the counter, and for each thread nothing yet, what it has read, or done."""

    def successors(state):
        counter, threads = state[0], state[1:]
        for i, thread in enumerate(threads):
            if thread != "done":
                reads = thread == ""
                new = counter if reads else thread + 1
                yield (new, *threads[:i], counter if reads else "done", *threads[i + 1 :])

    result = found(programs.inc, f"{n}.all")
    first = (0, *[""] * n)
    assert (result.states, result.transitions, result.depth) == search(first, successors)
    assert result.verdict is Verdict.HOLDS


@pytest.mark.parametrize("n", [2, 3, 6])
def test_two_increments_lose_one_when_all_are_done(programs, n: int) -> None:
    (violation,) = found(programs.inc, f"{n}").violations
    assert len(violation.choices) == 2 * n


def dining(n: int, *, ordered: bool):
    """Successors of a tuple of how far each has come; who holds a fork follows from that."""
    hands = [(i, (i + 1) % n) for i in range(n)]
    if ordered:
        hands = [tuple(sorted(pair)) for pair in hands]

    def held(state) -> set[int]:
        result = set()
        for (first, second), place in zip(hands, state, strict=True):
            result |= {first} if place in (1, 2, 3) else set()
            result |= {second} if place == 2 else set()
        return result

    def successors(state):
        taken = held(state)
        for i, place in enumerate(state):
            waits = place < 2 and hands[i][place] in taken
            if place < 4 and not waits:
                yield (*state[:i], place + 1, *state[i + 1 :])

    return successors


@pytest.mark.parametrize("n", [2, 3, 5])
def test_ordered_philosophers_dine(programs, n: int) -> None:
    result = found(programs.dining, f"ordered.{n}")
    expected = search((0,) * n, dining(n, ordered=True))
    assert (result.states, result.transitions, result.depth) == expected
    assert result.verdict is Verdict.HOLDS


@pytest.mark.parametrize("n", [2, 3, 8])
def test_philosophers_deadlock_when_each_has_taken_one_fork(programs, n: int) -> None:
    result = found(programs.dining, f"left_first.{n}")
    (violation,) = result.violations
    assert violation.name == "no_deadlock"
    assert sorted(violation.choices) == [f"cpu{i}" for i in range(n)]


def classes(lengths: list[int], conflicts) -> int:
    """Classes of the interleavings of threads: those that order conflicting events alike."""
    events = [(i, place) for i, length in enumerate(lengths) for place in range(length)]
    pairs = [
        (a, b) for a, b in itertools.combinations(events, 2) if a[0] != b[0] and conflicts(a, b)
    ]
    seen = set()
    for order in set(itertools.permutations([i for i, n in enumerate(lengths) for _ in range(n)])):
        places: dict[tuple[int, int], int] = {}
        for when, thread in enumerate(order):
            places[thread, sum(t == thread for t in order[:when])] = when
        seen.add(tuple(places[a] < places[b] for a, b in pairs))
    return len(seen)


def test_classes_of_executions_are_as_the_table_says() -> None:
    """inc(N): the stores' order, and how many stores each load has before it; N! of either."""
    for n in (2, 3):
        found_classes = classes([2] * n, lambda a, b: a[1] == 1 or b[1] == 1)
        assert found_classes == factorial(n) ** 2
    for n in (2, 4):
        assert classes([1] * (n + 1), lambda a, b: 0 in (a[0], b[0])) == 2**n
    assert classes([1] * 4, lambda *_: True) == factorial(4)  # a critical section, as lockinc's
