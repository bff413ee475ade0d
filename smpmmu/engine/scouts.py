"""A few machines sent ahead, so that most of the automata are compiled before a reduced search.

What a reduction may do rests on all that is compiled: what turns up late takes back what was
decided early. Of every depth, those machines go on in which somebody stands where few do, or came
there by a way that few took; and some others. This module must not know what is made of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.layout import Grown
from smpmmu.engine.reading import Block
from smpmmu.engine.successors import Expander
from smpmmu.engine.visited import Fingerprints, first_of_each

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.moves import Successors
    from smpmmu.engine.reading import Rows

ALIKE = 2
"""Machines that go on for each position of each context, and for each of its ways there."""
OTHERS = 64
"""Machines that go on whatever they are: those of the lowest fingerprints."""
FRUITLESS = 64
"""Depths in a row at which nothing new was compiled, after which no more will be."""


def scout(kernel: Kernel) -> None:
    """Compile much of what `kernel` can reach; its layout may grow.

    Raises:
        ModelError: modelled code broke a rule.
    """
    expander, seen = Expander(kernel), Fingerprints()
    block, fruitless = kernel.initial(), 0
    while len(block) and fruitless < FRUITLESS:
        known = sum(len(automaton.grown) for automaton in kernel.automata)
        try:
            found = expander.successors(block)
        except Grown:
            before = kernel.layout.grow()
            block = Block(kernel.layout.repack(before, block.lanes), block.fps)
            continue
        order, fps = first_of_each(found.fps)
        new = np.flatnonzero(seen.add(fps))
        block = _picked(kernel, block, found, order[new])
        grown = known < sum(len(automaton.grown) for automaton in kernel.automata)
        fruitless = 0 if grown else fruitless + 1


def _picked(kernel: Kernel, parents: Block, found: Successors, rows: Rows) -> Block:
    """Return the machines that go on, out of some successors, in order of their fingerprints."""
    risen = np.argsort(rows)
    lanes = np.empty((parents.lanes.shape[0], rows.size), dtype=np.uint64)
    lanes[:, risen] = found.made(parents.lanes, rows[risen])
    block = Block(lanes, found.fps[rows])
    movers = found.contexts[rows]
    alive = np.ones(len(block), dtype=np.bool_)
    picked = [np.arange(min(OTHERS, len(block)))]
    for context in range(len(kernel.automata)):
        alive &= ~kernel.lookup(block, context, "bug")
        rests = kernel.rests(block, context)
        if rests is None:
            continue
        picked.append(_some_of_each(rests))
        moved = np.flatnonzero(movers == context)
        came = kernel.rests(parents, context)
        assert came is not None
        ways = came[found.rows[rows[moved]]] << np.uint64(32) | rests[moved]
        picked.append(moved[_some_of_each(ways)])
    rows = np.unique(np.concatenate(picked))
    rows = rows[alive[rows]]
    return Block(block.lanes[:, rows], block.fps[rows])


def _some_of_each(values: NDArray[np.uint64]) -> Rows:
    """Return where each distinct value comes first, for the first few times."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    begins = np.ones(values.size, dtype=np.bool_)
    begins[1:] = ordered[1:] != ordered[:-1]
    numbers = np.arange(values.size)
    since = numbers - np.maximum.accumulate(np.where(begins, numbers, 0))
    rows: Rows = order[since < ALIKE]
    return rows
