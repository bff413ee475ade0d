"""Growth: another kernel of the same system, or in another process, gets the same numbers."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from smpmmu.engine.answer import Answer
from smpmmu.engine.batch import Kernel
from smpmmu.engine.growth import (
    Differs,
    Growth,
    digest,
    grow,
    growth,
    identity,
    numbering,
    renumbered,
)
from smpmmu.engine.local import call
from smpmmu.engine.reading import Block
from smpmmu.engine.stress import Herd
from smpmmu.engine.successors import Expander
from smpmmu.engine.system import always
from smpmmu.targets import one
from tests.engine.programs import X, Y, main, steps, system
from tests.shell import python

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smpmmu.engine.system import System

from smpmmu.engine.expressions import value
from smpmmu.engine.steps import fetch_add, load, store

SAMPLE = (
    "reliant_flusher/deferred_after_unlock",  # a violation
    "reliant_flusher/deferred_torn_under_ptl",  # interrupts, a walker, retries
    "pae_words/replace_set_pte_vmi",  # 64-bit words
)


def searched(asked: System, depths: int | None = None) -> Kernel:
    question = Answer(asked, every=True)
    for depth in question.work():
        if depth == depths:
            break
    return question.kernel


def again(asked: System, grown: Growth) -> Kernel:
    kernel = Kernel(asked)
    grow(kernel, grown)
    return kernel


def as_numbered(kernel: Kernel) -> list[list[tuple[object, ...]]]:
    """Return everything that fingerprints and moves depend on."""
    return [
        [
            (p.index, p.key, p.step, p.bug, p.irqs, p.held, p.mid, p.open, p.loop, p.rest)
            for p in automaton.positions
        ]
        + [
            tuple(automaton.resting),
            tuple(sorted(p.following.items()) for p in automaton.positions),
        ]
        for automaton in kernel.automata
    ]


@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize("depths", [0, 5, None])
def test_a_new_kernel_grows_alike(name: str, depths: int | None) -> None:
    asked = one(name).system()
    first = searched(asked, depths)
    grown = growth(first)
    assert any(grown.edges) == (depths != 0)
    second = again(one(name).system(), grown)
    assert as_numbered(second) == as_numbered(first)
    assert (second.layout.fields, second.layout.lanes) == (first.layout.fields, first.layout.lanes)
    assert growth(second) == grown


def test_a_kernel_that_has_grown_alike_moves_machines_alike() -> None:
    name = SAMPLE[1]
    question = Answer(one(name).system())
    for _ in itertools.islice(question.work(), 40):
        pass
    first = question.kernel
    frontier = question.search.whole[-1]
    second = again(one(name).system(), growth(first))
    block = Block(frontier.lanes, frontier.fps)
    one_way, other = Expander(first).successors(block), Expander(second).successors(block)
    assert len(one_way) > 0
    assert one_way.fps.tolist() == other.fps.tolist()
    assert one_way.rows.tolist() == other.rows.tolist()
    assert (one_way.made(block.lanes) == other.made(block.lanes)).all()


async def polite(*, rude: bool) -> None:
    await store(X, 1)
    if await load(Y) and rude:
        await store(X, 2)
    await store(Y, 1)


def variants() -> Iterator[tuple[str, System]]:
    """Yield the same two programs, and what differs ever later."""
    yield "same", system(main("a", call(polite, rude=False)), main("b", call(steps, store(Y, 1))))
    yield "rude", system(main("a", call(polite, rude=True)), main("b", call(steps, store(Y, 1))))
    yield "adds", system(main("a", call(steps, fetch_add(X, 1))), main("b", call(steps)))


def test_other_code_is_refused() -> None:
    asked = dict(variants())
    grown = growth(searched(asked["same"]))
    again(asked["same"], grown)
    with pytest.raises(Differs, match="a runs other code"):
        again(asked["rude"], grown)
    with pytest.raises(Differs):
        again(asked["adds"], grown)
    with pytest.raises(Differs, match="1 contexts, expected 2"):
        again(system(main("a", call(polite, rude=False))), grown)


def test_code_that_was_not_reached_may_differ() -> None:
    """What was explored is then a part of either."""
    asked = dict(variants())
    grown = growth(searched(asked["same"], 1))
    rude = again(asked["rude"], grown)
    assert as_numbered(rude) == as_numbered(again(asked["same"], grown))


def test_positions_that_are_not_there_are_refused() -> None:
    asked = dict(variants())["same"]
    grown = growth(searched(asked))
    for edge in ((99, 0), (-1, 0)):
        wrong = Growth(((*grown.edges[0], edge), grown.edges[1]), grown.wanted, grown.digests)
        with pytest.raises(Differs, match="no step at position"):
            again(asked, wrong)


def test_who_a_system_is() -> None:
    def made(**how: object) -> System:
        return system(
            main(str(how.get("name", "a")), call(steps, store(X, 1))),
            holds=(always("low", value(X) <= how.get("most", 1)),),
        )

    same = identity(made())
    assert same == identity(made())
    assert len({same, identity(made(name="b")), identity(made(most=2))}) == 3


def test_no_digest_depends_on_the_process() -> None:
    code = (
        "import sys; from tests.engine.test_growth import *\n"
        "asked = one(SAMPLE[1]).system()\n"
        "print(identity(asked), [digest(a) for a in searched(asked, 30).automata])"
    )
    ours = one(SAMPLE[1]).system()
    expected = f"{identity(ours)} {[digest(a) for a in searched(ours, 30).automata]}"
    for seed in ("1", "2"):
        done = python(code, PYTHONHASHSEED=seed)
        assert done.out.strip() == expected, done.err


@pytest.mark.parametrize("name", [SAMPLE[0], "young_clear/deferred_after_unlock"])
def test_states_of_two_kernels_can_be_compared(name: str) -> None:
    """Seeds run in another order number positions otherwise; renumbered, all is the same."""

    def herd(seeds: range) -> Herd:
        made = Herd(Kernel(one(name).system()), seeds, keep=False, placed=True)
        for _ in made.gallop():
            pass
        return made

    one_way, other = herd(range(100)), herd(range(60, 160))
    ours, theirs = one_way.finals[60:], other.finals[:40].copy()
    differ = (ours != theirs).any()
    places = other.places[:, :40]
    assert differ == (one_way.places[:, 60:] != places).any()
    keys = one_way.kernel.keys
    tables = renumbered(one_way.kernel, numbering(other.kernel))
    for context, table in enumerate(tables):
        theirs ^= np.array([keys.move(context, n, int(m)) for n, m in enumerate(table)], np.uint64)[
            places[context]
        ]
        assert table[places[context]].tolist() == one_way.places[context, 60:].tolist()
    assert theirs.tolist() == ours.tolist()
    assert differ == (name != SAMPLE[0])
