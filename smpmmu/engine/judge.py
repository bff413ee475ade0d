"""Judging states: which properties do new machines of a matrix break, which do they reach.

It must not know how states were found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.system import QUIESCENCE, Scope

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.expressions import Expr
    from smpmmu.engine.reading import Block
    from smpmmu.engine.steps import Column, Mask, Word


class Columns:
    """Lets an expression read a block of machines."""

    def __init__(self, kernel: Kernel, block: Block) -> None:
        """Read `block` as `kernel` lays it out."""
        self._kernel, self._block = kernel, block
        self._numbers = {c.name: n for n, c in enumerate(kernel.system.contexts)}

    def word(self, word: Word) -> int | Column:
        """Return a word's values."""
        return self._kernel.word(self._block, word)

    def finished(self, context: str) -> Mask:
        """Return where a context's program has ended."""
        return self._kernel.finished(self._block, self._numbers[context])

    def truth(self, expression: Expr) -> Mask:
        """Return (states,) bool, also where the expression reads only constants."""
        answer = expression.evaluate(self)
        if isinstance(answer, (bool, np.bool_)):
            return np.full(len(self._block), bool(answer))
        mask: Mask = answer
        return mask


class Judge:
    """Looks at every new state once; remembers what has been reached."""

    def __init__(self, kernel: Kernel, *, sometimes: bool = True) -> None:
        """Judge by the properties of the kernel's system; `sometimes` ones only if asked."""
        self._kernel = kernel
        system = kernel.system
        self._always = system.scoped(Scope.ALWAYS)
        self._at_rest = system.scoped(Scope.QUIESCENCE)
        self._sometimes = list(system.scoped(Scope.SOMETIMES)) if sometimes else []
        self.reached = {p.name: False for p in self._sometimes}
        if sometimes and system.terminates:
            self.reached[QUIESCENCE] = False

    def go_on(self, reached: dict[str, bool]) -> None:
        """Remember what another judge of the same has seen reached."""
        self.reached.update(reached)
        self._sometimes = [p for p in self._sometimes if not self.reached[p.name]]

    def look(self, block: Block) -> list[tuple[str, NDArray[np.intp]]]:
        """Return the violated properties and the rows that violate each."""
        columns = Columns(self._kernel, block)
        broken = []
        for prop in self._always:
            rows = np.flatnonzero(~columns.truth(prop.truth))
            if rows.size:
                broken.append((prop.name, rows))
        for prop in [p for p in self._sometimes if columns.truth(p.truth).any()]:
            self._sometimes.remove(prop)
            self.reached[prop.name] = True
        if self._at_rest or not self.reached.get(QUIESCENCE, True):
            rest = self._kernel.quiescent(block)
            if rest.any():
                self.reached[QUIESCENCE] = True
                for prop in self._at_rest:
                    rows = np.flatnonzero(rest & ~columns.truth(prop.truth))
                    if rows.size:
                        broken.append((prop.name, rows))
        return broken
