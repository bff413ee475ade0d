"""A reduced search, repeated until nothing that it relied on has been taken back.

Scouts compile most of the automata first, so that one pass mostly is enough. This module must not
know how states are reduced, nor what is made of the answer.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from smpmmu.engine.batch import Kernel
from smpmmu.engine.errors import ModelError
from smpmmu.engine.explore import Search
from smpmmu.engine.growth import grow, growth
from smpmmu.engine.reduction import SYMMETRY, Reduction
from smpmmu.engine.scouts import scout

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from smpmmu.engine.verdict import Budget


class Passes:
    """A search of what a reduction leaves.

    Attributes:
        search: the pass that is going on, or went to its end.
    """

    def __init__(
        self,
        plain: Kernel,
        budget: Budget,
        kinds: Collection[str],
        reached: dict[str, bool],
        *,
        every: bool,
        started: float,
        scouts: bool = True,
    ) -> None:
        """Reduce by `kinds` what `plain` explores; `reached` are the `sometimes` already seen."""
        self._every, self._started = every, started
        self._budget = budget
        self._reached = reached
        self._kinds = sorted(kinds)
        if scouts:
            with contextlib.suppress(ModelError):  # the search will meet it, unless it stops before
                scout(_like(plain))
        self.kernel = _like(plain)
        self._start()

    @property
    def reductions(self) -> tuple[str, ...]:
        """The kinds in use."""
        used = self.reduction.kinds - ({SYMMETRY} if not self.reduction.symmetry.on else set())
        return tuple(sorted(used))

    @property
    def refused(self) -> str:
        """Why not all kinds are that could be, or ""."""
        return self.reduction.symmetry.refused

    def _start(self) -> None:
        seen = [name for name, reached in self._reached.items() if reached]
        self.reduction = Reduction(self.kernel, self._kinds, seen)
        self.search = self._anew()

    def _anew(self) -> Search:
        search = Search(
            self.kernel,
            self._budget,
            every=self._every,
            started=self._started,
            reduction=self.reduction,
        )
        search.saw(self._reached)
        return search

    def depths(self) -> Iterator[int]:
        """Search until a pass went to its end, or was stopped, relying on nothing that is wrong.

        Raises:
            ModelError: modelled code broke a rule.
        """
        while True:
            try:
                for depth in self.search.depths():
                    if self.search.found:  # perhaps only because a word was forgotten too early
                        self.reduction.settle()
                    if not self.reduction.valid:
                        break
                    yield depth
            except ModelError:  # perhaps likewise
                if self.reduction.settle():
                    raise
            if self.reduction.settle():
                return
            if self.search.stopped:
                self.search.found.clear()
                return
            self.reduction.again()
            self.search = self._anew()

    def kept(self) -> dict[str, Any]:
        """Return all that is needed to go on from here, between two blocks."""
        stands = self.reduction.settle(hopeful=True)
        return {
            "growth": growth(self.kernel),
            "search": self.search.kept() if stands else None,
            "reduction": self.reduction.kept(),
            "reached": self._reached,
        }

    def go_on(self, kept: dict[str, Any]) -> None:
        """Go on, before any work, from what another one kept."""
        grow(self.kernel, kept["growth"])
        self._reached = kept["reached"]
        self._start()
        if kept["search"] is not None:
            self.reduction.go_on(kept["reduction"])
            self.search.go_on(kept["search"])


def _like(plain: Kernel) -> Kernel:
    """Return a kernel that has compiled what `plain` has, with a layout of its own."""
    dropped = plain.automata[0].dropped
    return Kernel(plain.system, packed=plain.layout.packed, dropped=dropped, after=plain)
