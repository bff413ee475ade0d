"""Can a run that goes on and on still come to rest? Looked up by exploring on from where it is.

A run cannot show that something will never happen, but all that may follow one of its states can
be explored, if that is little. The answer is `explore`'s own (`engine/liveness.py`), from another
first state: a deadlock if nothing obligatory can ever move again, an endless fault or the like if
obligatory contexts can move for ever and rest is out of reach. It must not know how runs choose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.cheapest import states_along
from smpmmu.engine.explore import Search
from smpmmu.engine.layout import Grown
from smpmmu.engine.successors import Expander
from smpmmu.engine.system import NO_DEADLOCK, QUIESCENCE_STAYS_REACHABLE
from smpmmu.engine.verdict import Budget

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.reading import Block

MOST_STATES = 2_000
"""States explored from one state of a run; where more can follow, it is not known."""

LONG = 128
"""Actions for each context after which a run is looked at first; then whenever it has doubled."""


def looks(contexts: int, longest: int) -> Iterator[int]:
    """Yield after how many actions, below `longest`, a run is looked at."""
    at = LONG * contexts
    while at < longest:
        yield at
        at *= 2


def out_of_reach(kernel: Kernel, start: Block) -> str:
    """Return what is violated after `start`, one machine: no deadlock, or rest in reach; or "".

    The kernel's layout may grow.
    """
    if any(kernel.lookup(start, number, "bug").any() for number in range(len(kernel.automata))):
        return ""  # it has ended
    if kernel.system.terminates and _progresses(kernel, start):
        return ""  # such a state is never one of those (`engine/liveness.py`), and seldom near one
    search = Search(kernel, Budget(states=MOST_STATES), every=True, start=start)
    for _ in search.depths():
        pass
    if search.stopped:
        return ""
    names = [NO_DEADLOCK, QUIESCENCE_STAYS_REACHABLE][: 1 + kernel.system.terminates]
    return next((name for name in names if (search.hopeless(name) == start.fps[0]).any()), "")


def _progresses(kernel: Kernel, start: Block) -> bool:
    """Whether somebody can make a move that is never undone; False if that is not known yet."""
    try:
        return bool(Expander(kernel).successors(start).progress.any())
    except Grown:
        return False


def out_of_reach_after(kernel: Kernel, choices: Sequence[str]) -> str:
    """Return the same of the state that choices, which violate nothing, lead to."""
    numbers = {context.name: number for number, context in enumerate(kernel.system.contexts)}
    return out_of_reach(kernel, states_along(kernel, [numbers[c] for c in choices])[-1])
