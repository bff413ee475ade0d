"""From a system to a verdict on the batch kernel: search, choose the violation, certify.

It must not know about live runs; `engine/live.py` puts both together.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

from smpmmu.engine.batch import Kernel
from smpmmu.engine.closure import certify
from smpmmu.engine.errors import ModelError
from smpmmu.engine.explore import Search
from smpmmu.engine.growth import Differs, grow, growth, identity
from smpmmu.engine.passes import Passes
from smpmmu.engine.shortest import fewest_switches
from smpmmu.engine.system import NO_DEADLOCK, QUIESCENCE_STAYS_REACHABLE
from smpmmu.engine.verdict import Budget, Counterexample, Exploration, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator

    from smpmmu.engine.cores import Helper
    from smpmmu.engine.explore import Found
    from smpmmu.engine.system import System


REDUCE_FROM = 1 << 16
"""States up to which a space is explored plainly, though it could be reduced."""


class Answer:
    """One question being answered; `work` yields often, so that whoever drives it can look up."""

    def __init__(
        self,
        system: System,
        budget: Budget | None = None,
        *,
        every: bool = False,
        packed: bool = True,
        dropped: frozenset[str] = frozenset(),
        after: Kernel | None = None,
        reductions: Collection[str] = (),
        reduce_from: int = REDUCE_FROM,
        helped: Callable[[Search], Helper] | None = None,
    ) -> None:
        """Ask whether `system` holds; with `every` for all its violated properties.

        What a kernel `after` which this question comes has compiled of the same contexts is used.
        A space of more than `reduce_from` states is searched anew with `reductions`; if that finds
        a violation, the plain search goes on, so that what is reported is a shortest schedule. That
        can be `helped` from elsewhere.
        """
        self.system = system
        self.budget = budget or Budget()
        self.every = every
        self.kernel = Kernel(system, packed=packed, dropped=dropped, after=after)
        self._how = {"every": every, "packed": packed, "dropped": sorted(dropped)}
        self._how |= {"reductions": sorted(reductions), "reduce_from": reduce_from}
        self._reductions = reductions
        self._reduce_from = reduce_from
        self._passes: Passes | None = None
        self._started = time.monotonic()
        self._plain = Search(
            self.kernel, self.budget, every=every, started=self._started, helped=helped
        )
        self.search = self._plain
        self.result: Exploration | None = None

    def work(self) -> Iterator[int]:
        """Answer the question, yielding the depth reached after every block."""
        plain = self._plain.depths()
        if self._passes is None:
            for depth in plain:
                yield depth
                if self._reductions and not self.search.found and self._large():
                    self._passes = self._reduce()
                    break
        if self._passes is not None:
            raised = yield from self._search_reduced(self._passes)
            self.kernel.meet_all()  # what another kernel has compiled, also for live runs to come
            if raised is not None or self.search.found:
                self.search = self._plain
                yield from plain
                if raised is not None and self._plain.stopped and not self._plain.found:
                    raise raised
        self.result = self._conclude()

    def _search_reduced(self, passes: Passes) -> Generator[int, None, ModelError | None]:
        """Search what is left, up to a violation, and return the error that was met, if any."""
        try:
            for depth in passes.depths():
                self.search = passes.search
                yield depth
                if self.search.found:
                    break
        except ModelError as error:  # the plain search may meet a violation before it
            return error
        self.search = passes.search
        return None

    def _large(self) -> bool:
        return self.search.states > self._reduce_from and not self.search.stopped

    def _reduce(self, **how: bool) -> Passes:
        kinds, seen = self._reductions, self._plain.reached
        return Passes(
            self.kernel, self.budget, kinds, seen, every=self.every, started=self._started, **how
        )

    def kept(self) -> dict[str, Any]:
        """Return all that another question needs to go on from here, between two blocks."""
        return {
            "system": identity(self.system),
            "how": self._how,
            "growth": growth(self.kernel),
            "search": self._plain.kept(),
            "passes": None if self._passes is None else self._passes.kept(),
        }

    def go_on(self, kept: dict[str, Any]) -> None:
        """Go on, before any work, from what another question of the same kept.

        Raises:
            Differs: it was not the same.
        """
        if kept["how"] != self._how:
            msg = f"it was asked with {kept['how']}, now with {self._how}"
            raise Differs(msg)
        if kept["system"] != identity(self.system):
            msg = "it has other contexts, words or properties"
            raise Differs(msg)
        grow(self.kernel, kept["growth"])
        self._plain.go_on(kept["search"])
        if kept["passes"] is not None:
            self._passes = self._reduce(scouts=False)
            self._passes.go_on(kept["passes"])
            self.search = self._passes.search

    def so_far(self) -> Exploration:
        """Return what is covered up to now, as UNDECIDED: by whichever search knows more states."""
        most = max((self.search, self._plain), key=lambda search: search.states)
        return self._summary(Verdict.UNDECIDED, (), self.search.stopped or "interrupted", most)

    def _conclude(self) -> Exploration:
        search = self.search
        chosen = self._chosen(search.found)
        if chosen:
            examples = tuple(self._example(found) for found in chosen)
            return self._summary(Verdict.VIOLATED, examples, search.stopped)
        if search.stopped and self._passes is not None and self._passes.search.found:
            found = self._chosen(self._passes.search.found)
            examples = tuple(self._some_example(each) for each in found)
            return self._summary(Verdict.VIOLATED, examples, search.stopped)
        if search.stopped:
            return self._summary(Verdict.UNDECIDED, (), search.stopped)
        if search.exact:
            certify(self.kernel, search.whole)
        return self._summary(Verdict.HOLDS)

    def _chosen(self, found: list[Found]) -> list[Found]:
        """Return the violations to report: at the smallest depth, the most important property."""
        ranks = {p.name: n for n, p in enumerate(self.system.properties)}
        ranked = sorted(found, key=lambda f: (f.depth, ranks.get(f.name, len(ranks)), f.name))
        return ranked if self.every else ranked[:1]

    def _example(self, found: Found) -> Counterexample:
        choices = fewest_switches(self.kernel, found.fps, self.budget, self.search)
        fewest = choices is not None
        if choices is None:
            choices = self.search.choices_to(int(found.ids[0]))
        names = tuple(self.system.contexts[c].name for c in choices)
        switches = sum(a != b for a, b in itertools.pairwise(names))
        # What can never happen again is known of all states only at the end of a search.
        cut = bool(self.search.stopped) and found.name in (NO_DEADLOCK, QUIESCENCE_STAYS_REACHABLE)
        return Counterexample(found.name, names, switches, fewest, shortest=not cut)

    def _some_example(self, found: Found) -> Counterexample:
        """Return the way to what the reduced search found, where no shortest could be."""
        assert self._passes is not None
        choices = self._passes.search.choices_to(int(found.ids[0]))
        names = tuple(self.system.contexts[c].name for c in choices)
        switches = sum(a != b for a, b in itertools.pairwise(names))
        return Counterexample(found.name, names, switches, fewest_switches=False, shortest=False)

    def _summary(
        self,
        verdict: Verdict,
        violations: tuple[Counterexample, ...] = (),
        reason: str = "",
        search: Search | None = None,
    ) -> Exploration:
        search, passes = search or self.search, self._passes
        return Exploration(
            verdict,
            violations,
            search.states,
            search.transitions,
            len(search.levels) - 1,
            tuple(search.levels),
            search.reached,
            reason,
            search.exact,
            search.nbytes,
            search.peak_nbytes,
            search.expanded,
            () if search is self._plain or passes is None else passes.reductions,
            "" if passes is None else passes.refused,
            search.expander.worked_out,
        )


def answer(system: System, budget: Budget | None = None, *, every: bool = False,
           packed: bool = True, dropped: frozenset[str] = frozenset(),
           reductions: Collection[str] = (), reduce_from: int = REDUCE_FROM,
) -> Exploration:  # fmt: skip
    """Explore on the batch kernel alone and return the result."""
    question = Answer(system, budget, every=every, packed=packed, dropped=dropped,
                      reductions=reductions, reduce_from=reduce_from)  # fmt: skip
    for _ in question.work():
        pass
    assert question.result is not None
    return question.result
