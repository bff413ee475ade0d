"""The certificate of a small HOLDS: its states, compared whole, are closed under every step.

It must not know how the states were found; that is its worth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.errors import InternalError
from smpmmu.engine.frontier import ROWS
from smpmmu.engine.reading import Block
from smpmmu.engine.successors import gathered

if TYPE_CHECKING:
    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.frontier import Frontier


class Collision(InternalError):
    """Two different states had one fingerprint, and it was noticed."""


def certify(kernel: Kernel, states: list[Frontier]) -> None:
    """Expand all `states` once more and compare every successor, whole, with the state it is.

    Raises:
        Collision: a successor is not among the states although its fingerprint is.
    """
    fps = np.concatenate([part.fps for part in states])
    lanes = np.concatenate([part.lanes for part in states], axis=1)
    order = np.argsort(fps, kind="stable")
    known_fps, known = fps[order], lanes[:, order]
    if (known_fps[1:] == known_fps[:-1]).any():
        msg = "a state was stored twice"
        raise Collision(msg)
    dead = _after_bugs(kernel, Block(lanes, fps))
    lanes, fps = lanes[:, ~dead], fps[~dead]
    for begin in range(0, fps.size, ROWS):
        block = Block(lanes[:, begin : begin + ROWS], fps[begin : begin + ROWS])
        found = gathered(kernel, block)
        successors = found.made(block.lanes)
        at = np.searchsorted(known_fps, found.fps)
        at[at == known_fps.size] = 0
        if (known[:, at] != successors).any():
            msg = "two states that differ share a fingerprint, or a state was lost"
            raise Collision(msg)


def _after_bugs(kernel: Kernel, block: Block) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    dead = np.zeros(len(block), dtype=np.bool_)
    for number in range(len(kernel.automata)):
        dead |= kernel.lookup(block, number, "bug")
    return dead
