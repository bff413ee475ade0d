"""Finding a cheap schedule that violates one property: proven to be the least, or led by a run.

It must not know what is done with it, nor leave anything out of the system.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from smpmmu.engine.batch import Kernel
from smpmmu.engine.cheapest import Cheapest, Goal, states_along
from smpmmu.engine.explore import Search
from smpmmu.engine.run import Ending
from smpmmu.engine.system import NO_DEADLOCK, QUIESCENCE_STAYS_REACHABLE
from smpmmu.engine.verdict import Budget
from smpmmu.engine.walk import Cost, Walk, cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smpmmu.engine.reading import Block
    from smpmmu.engine.system import System

MOST_NODES_OF_AN_END = 20_000
"""Pairs of a state and a last context that a search from within the run looks at."""

MOST_ATTEMPTS = 2_000
"""Orders that are tried where the least cannot be proven."""


class Task:
    """Finding cheap schedules that violate one property of one system.

    Attributes:
        system: what is run.
        nodes: looked at by the search from the start.
        goal_of_states: that it is violated is not seen in a state.
    """

    def __init__(self, system: System, name: str, given: Sequence[int], most: int) -> None:
        """Work on `system`; what no state shows is known of the end of the `given` run."""
        self.system, self._most = system, most
        self._name = name
        self._kernel = Kernel(system)
        self._attempts = 0
        self.nodes = 0
        self.goal_of_states = name in (NO_DEADLOCK, QUIESCENCE_STAYS_REACHABLE)
        self._goal = Goal(name)
        self._known = True
        self._end: object = None
        if self.goal_of_states:
            self._find_states(given)

    def _find_states(self, given: Sequence[int]) -> None:
        """Find the states after which rest is out of reach: all of them, or that of the run."""
        search = Search(self._kernel, Budget(states=self._most), every=True)
        for _ in search.depths():
            pass
        if not search.stopped:
            self._goal = Goal(self._name, search.hopeless(self._name))
            return
        self._known = False
        if given:
            self._goal = Goal(self._name, states_along(self._kernel, given)[-1].fps)
            with Walk(self.system) as walk:
                for number in given:
                    walk.take(number)
                self._end = walk.machine.key()

    def proven(self) -> tuple[int, ...] | None:
        """Return the cheapest schedule of all, or None if the budget does not allow to find it."""
        if not self._known:
            return None
        search = Cheapest(self._kernel, self._goal)
        found = search.run(self._most)
        self.nodes = found.nodes
        return found.choices

    def none_below(self, price: Cost) -> bool:
        """Whether it is known that nothing has fewer switches, or as many and fewer preemptions."""
        bound = Cost(price.switches, price.preemptions, 0)
        found = Cheapest(self._kernel, self._goal).run(self._most, bound)
        return found.choices is None and found.complete

    def guided(self, given: Sequence[int]) -> tuple[int, ...]:
        """Return the cheapest schedule that the given one leads to."""
        best = tuple(given)
        while True:
            before = self._cost(best)
            best = self._rearranged(best)
            best = self._better_end(best)
            if self._cost(best) >= before:
                return best

    def _rearranged(self, best: tuple[int, ...]) -> tuple[int, ...]:
        """Leave out blocks, half of all at first, then bring blocks of one agent together."""
        size = len(_blocks(best)) // 2
        while size:
            at = 0
            while at < len(blocks := _blocks(best)):
                cheaper = self._cheaper(best, [blocks[:at] + blocks[at + size :]])
                at += size if cheaper is None else 0
                best = cheaper or best
            size //= 2
        at = 0
        while at < len(blocks := _blocks(best)):
            cheaper = self._cheaper(best, _brought_together(blocks, at))
            at += cheaper is None
            best = cheaper or best
        return best

    def _cheaper(
        self, best: tuple[int, ...], orders: list[list[list[int]]]
    ) -> tuple[int, ...] | None:
        """Return what the first of some orders of blocks leads to that is cheaper, or None."""
        price = self._cost(best)
        for order in orders:
            if self._attempts >= MOST_ATTEMPTS:
                return None
            tried = self.attempt([choice for block in order for choice in block])
            if tried is not None and self._cost(tried) < price:
                return tried
        return None

    def attempt(self, order: Sequence[int]) -> tuple[int, ...] | None:
        """Make the choices in order, one that cannot move as soon as it can; up to the violation.

        None if that is not met, or something else is first.
        """
        self._attempts += 1
        left = list(order)
        made: list[int] = []
        with Walk(self.system) as walk:
            while True:
                if self.goal_of_states:
                    if walk.machine.key() == self._end or self._dead(walk):
                        return tuple(made)
                else:
                    broken = walk.machine.violated()
                    if broken:
                        return tuple(made) if self._name in broken else None
                at = next((i for i, n in enumerate(left) if n in walk.able), None)
                if at is None:
                    return None
                made.append(left.pop(at))
                walk.take(made[-1])

    def _dead(self, walk: Walk) -> bool:
        """Whether this is a deadlock as any state shows it: nobody at all can move."""
        ending = walk.ending() if self._name == NO_DEADLOCK and not walk.able else None
        return ending is not None and ending[0] is Ending.STUCK

    def _better_end(self, best: tuple[int, ...]) -> tuple[int, ...]:
        """Search ends of the schedule, shorter ones first, for cheaper ones."""
        for begin in reversed(_begins(best)):
            price = self._cost(best)
            so_far = self._cost(best[:begin])
            rest = Cost(
                price.switches - so_far.switches,
                price.preemptions - so_far.preemptions,
                price.choices - so_far.choices,
            )
            state: Block = states_along(self._kernel, best[:begin])[-1]
            last = best[begin - 1] if begin else None
            search = Cheapest(self._kernel, self._goal, state, last)
            found = search.run(MOST_NODES_OF_AN_END, rest)
            if found.choices is not None:
                best = best[:begin] + found.choices
        return best

    def _cost(self, choices: Sequence[int]) -> Cost:
        return cost(self.system, (self.system.contexts[n].name for n in choices))


def _blocks(choices: Sequence[int]) -> list[list[int]]:
    return [list(block) for _, block in groupby(choices)]


def _begins(choices: Sequence[int]) -> list[int]:
    """Return where the blocks begin."""
    begins, at = [], 0
    for block in _blocks(choices):
        begins.append(at)
        at += len(block)
    return begins


def _brought_together(blocks: list[list[int]], at: int) -> list[list[list[int]]]:
    """Return the orders in which a block follows the one before of its agent at once."""
    earlier = [n for n in range(at) if blocks[n][0] == blocks[at][0]]
    if not earlier:
        return []
    to = earlier[-1]
    before, between, after = blocks[:to], blocks[to + 1 : at], blocks[at + 1 :]
    both = [blocks[to], blocks[at]]
    return [[*before, *both, *between, *after], [*before, *between, *both, *after]]
