"""All successors of a block of machines: from columns, or one machine at a time.

Both ways give the same successors in the same order; a reduced search looks most of them up. This
module must not know about frontiers, seeds or verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.batch import Unknown, settled
from smpmmu.engine.errors import ModelError
from smpmmu.engine.few import Few
from smpmmu.engine.layout import Grown
from smpmmu.engine.moves import Successors
from smpmmu.engine.recall import Found, Later, Recall

if TYPE_CHECKING:
    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.reading import Block
    from smpmmu.engine.reduction import Reduction
    from smpmmu.engine.steps import Column

FEW = 512
"""Machines of a block up to which they are taken one at a time."""


class Expander:
    """Finds the successors of blocks, large and small."""

    def __init__(self, kernel: Kernel, reduction: Reduction | None = None) -> None:
        """Move the machines of `kernel`; not all of them, with a `reduction`."""
        self._kernel = kernel
        self._few = Few(kernel)
        self._reduction = reduction
        self._recall = None if reduction is None else Recall(kernel, reduction)
        self._settled = settled(kernel)

    def successors(self, block: Block) -> Successors:
        """Return every successor of every machine.

        Raises:
            Grown: something was written for the first time; repack and call again.
            ModelError: modelled code broke a rule.
        """
        if self._reduction is None:
            few = len(block) <= FEW
            return self._few.successors(block) if few else gathered(self._kernel, block)
        if self._recall is None or self._recall.slow:
            found = gathered(self._kernel, block, self._reduction)
        else:
            may = self._reduction.restrict(block, self._kernel.eligible(block))
            found = recalled(self._kernel, block, self._recall.found(block, may))
        found.images = self._reduction.images(block, found)
        return found

    @property
    def worked_out(self) -> int:
        """How many values are known by a hash of theirs alone."""
        return 0 if self._recall is None else self._recall.worked_out

    def ahead(self) -> Peek | None:
        """Return what finds successors before their turn; None where looking them up is quicker."""
        if self._recall is not None and not self._recall.slow:
            return None
        view = None if self._reduction is None else self._reduction.view()
        return Peek(self._settled, view)

    def peek(self, block: Block) -> Successors | None:
        """Return the successors without changing anything, or None where something must grow."""
        return None if (peek := self.ahead()) is None else peek.successors(block)

    def accepts(self, peek: Peek, states: int) -> bool:
        """Whether what was found ahead, of so many machines, would be found now; it counts then."""
        if self._reduction is None or peek.reduction is None:
            return True
        return self._reduction.accepts(peek.reduction, states)


@dataclass(frozen=True, slots=True)
class Peek:
    """Finds the successors of a block without changing anything.

    Any thread may do this while another one does something else, but for growing the layout.
    """

    kernel: Kernel
    reduction: Reduction | None

    def successors(self, block: Block) -> Successors | None:
        """Return them as `Expander` does, or None where something must grow or is wrong."""
        try:
            return gathered(self.kernel, block, self.reduction)
        except (Unknown, Grown, ModelError):  # an error is raised when its turn comes
            return None


def gathered(kernel: Kernel, block: Block, reduction: Reduction | None = None) -> Successors:
    """Return all that the kernel emits, or a reduction leaves; raises as `Expander.successors`."""
    masks = kernel.eligible(block)
    if reduction is not None:
        masks = reduction.restrict(block, masks)
    emissions = [
        emission
        for number, mask in enumerate(masks)
        for emission in kernel.fire(block, number, mask, goes_on=reduction)
    ]
    if reduction is not None:
        emissions = [reduction.forget(block, emission) for emission in emissions]
    sizes = [e.rows.shape[0] for e in emissions]
    bounds = np.cumsum([0, *sizes]).tolist()
    actions = None
    if reduction is not None:
        actions = np.repeat(np.array([1 + len(e.via) for e in emissions], np.uint16), sizes)
    changes: list[tuple[int, list[Column | int | Later]]] = []
    bugs = []
    for number, emission in enumerate(emissions):
        low, high = bounds[number : number + 2]
        changes.append((low, [*emission.deltas]))
        bug = kernel.automata[emission.context].positions[emission.after].bug
        if bug:
            bugs.append((bug, low, high))
    return Successors(
        np.concatenate([e.rows for e in emissions] or [np.zeros(0, dtype=np.intp)]),
        np.repeat(np.array([e.context for e in emissions], dtype=np.uint8), sizes),
        np.repeat(np.array([e.progress for e in emissions], dtype=np.bool_), sizes),
        np.concatenate([e.fps for e in emissions] or [np.zeros(0, dtype=np.uint64)]),
        changes,
        bugs,
        actions,
    )


def recalled(kernel: Kernel, block: Block, found: list[Found]) -> Successors:
    """Return what was found by each context, side by side; bugs behind the rest."""
    parts: list[tuple[int, Found]] = []
    bugs: list[tuple[str, int]] = []
    for context, each in enumerate(found):
        buggy = kernel.bugs(context).take(each.after)
        if not buggy.any():
            parts.append((context, each))
            continue
        parts.append((context, each.part(np.flatnonzero(~buggy))))
        positions = kernel.automata[context].positions
        for after in np.unique(each.after[buggy]).tolist():
            bugs.append((positions[after].bug, len(parts)))
            parts.append((context, each.part(np.flatnonzero(each.after == after))))
    sizes = [each.rows.size for _, each in parts]
    bounds = np.cumsum([0, *sizes]).tolist()
    rows = np.concatenate([each.rows for _, each in parts])
    fps = block.fps.take(rows)
    fps ^= np.concatenate([each.keys for _, each in parts])
    return Successors(
        rows,
        np.repeat(np.array([context for context, _ in parts], dtype=np.uint8), sizes),
        np.concatenate([each.progress for _, each in parts]),
        fps,
        [(bounds[n], list(each.deltas)) for n, (_, each) in enumerate(parts)],
        [(bug, bounds[n], bounds[n + 1]) for bug, n in bugs],
        np.concatenate([each.actions for _, each in parts]),
    )
