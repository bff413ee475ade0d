"""One exploration with the help of a cluster: blocks of its frontier are expanded elsewhere.

What has been visited stays here, and so does everything that decides. Workers know the automata as
far as they had grown when a block was sent, and no further; where that is not enough they say so,
and the block is sent once more, or expanded here, where it may grow. So everything is found in the
order in which this machine alone would find it, whoever does it and whoever dies of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from smpmmu.cluster.files import shipped
from smpmmu.cluster.tasks import Order, code, expand_block
from smpmmu.engine.cores import LEAST, Expanded
from smpmmu.engine.errors import SmpmmuError
from smpmmu.engine.growth import growth, identity
from smpmmu.engine.moves import Successors

if TYPE_CHECKING:
    from collections.abc import Callable

    from smpmmu.cluster.connection import Cluster
    from smpmmu.cluster.tasks import Thinned
    from smpmmu.engine.explore import Search
    from smpmmu.engine.frontier import Frontier, Level
    from smpmmu.engine.growth import Growth
    from smpmmu.targets import Target

EACH = 2
"""Blocks out there for each worker, so that none has nothing to do while this machine is busy."""


@dataclass(slots=True)
class _Sent:
    level: Level
    number: int
    part: Frontier
    ticket: int
    grown: int


class Elsewhere:
    """Has blocks of a search expanded by the workers of a cluster.

    Attributes:
        sent: blocks that went out, the same one again counted again.
        used: blocks that came back with everything.
    """

    def __init__(self, cluster: Cluster, order: Order, search: Search) -> None:
        """Help `search`, which is of the variant that `order` names."""
        self._cluster = cluster
        self._order = order
        self._search = search
        self._kernel = search.kernel
        self._sent: list[_Sent] = []
        self._arrived: dict[int, Any] = {}
        self._growth: Growth | None = None
        self._grown = -1
        self.sent = self.used = 0

    @property
    def cores(self) -> int:
        """How many blocks are worked with at once, the caller's included."""
        return 1 + EACH * self._cluster.workers

    def look(self, level: Level, number: int) -> None:
        """Send a block out, unless that has been done, or enough others are out."""
        if self._search.edges is not None or len(self._sent) >= EACH * self._cluster.workers:
            return
        if any(s.level is level and s.number == number for s in self._sent):
            return
        part = level.block(number)
        if len(part) >= LEAST:
            ticket, grown = self._send(part)
            self._sent.append(_Sent(level, number, part, ticket, grown))

    def _send(self, part: Frontier) -> tuple[int, int]:
        """Send a block with what is known today; return its ticket and how much that is."""
        grown = sum(len(automaton.grown) for automaton in self._kernel.automata)
        if grown != self._grown or self._growth is None:
            self._growth, self._grown = growth(self._kernel), grown
        ticket, self.sent = self.sent, self.sent + 1
        self._cluster.submit(ticket, expand_block, self._order, self._growth, part.lanes, part.fps)
        return ticket, grown

    def take(self, level: Level, number: int) -> Expanded | None:
        """Return what was found of a block, if it is out and nothing more had to grow for it."""
        sent = next((s for s in self._sent if s.level is level and s.number == number), None)
        if sent is None:
            return None
        while True:
            found = self._wait(sent.ticket)
            if found is not None:
                break
            if sent.grown == sum(len(automaton.grown) for automaton in self._kernel.automata):
                self._sent.remove(sent)
                return None
            sent.ticket, sent.grown = self._send(sent.part)
        self._sent.remove(sent)
        self.used += 1
        return _whole(sent.part, found)

    def _wait(self, ticket: int) -> Thinned | None:
        while ticket not in self._arrived:
            number, answer = self._cluster.next()
            self._arrived[number] = answer
        answer = self._arrived.pop(ticket)
        if isinstance(answer, SmpmmuError):
            raise answer
        found: Thinned | None = answer
        return found

    def forget(self) -> None:
        """Forget what is out there; the layout is about to grow."""
        self._cluster.cancel()
        self._sent = []
        self._arrived = {}
        self._growth = None

    def close(self) -> None:
        """Stop."""
        self.forget()


def _whole(part: Frontier, found: Thinned) -> Expanded:
    """Return what a worker found as the search wants it."""
    successors = Successors(
        found.rows.astype("int64"),
        found.contexts,
        found.progress,
        found.fps,
        found.changes,
        found.bugs,
    )
    order = found.order.astype("int64")
    return Expanded(part, successors, order, found.fps.take(order), found.transitions)


def helper(cluster: Cluster, target: Target) -> Callable[[Search], Elsewhere]:
    """Return what helps searches of a variant, with its evictors or without."""

    def helped(search: Search) -> Elsewhere:
        same = identity(search.kernel.system) == identity(target.system())
        which = target if same else replace(target, evictor=True)
        return Elsewhere(cluster, Order(code(), shipped(which)), search)

    return helped
