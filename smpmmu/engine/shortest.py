"""Among all shortest schedules to a violation, one with the fewest context switches.

A second breadth-first pass keeps its edges; the paths that lead to a target are pruned from the
end, the cost of finishing is worked out backwards per (state, last agent), and the schedule is
read off forwards, ties going to the context that comes first in the system. This module must not
know why a state is a target.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.explore import Search

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.steps import Column
    from smpmmu.engine.verdict import Budget

    Index = NDArray[np.int64]

FAR = np.uint16(0xFFFF)


def fewest_switches(kernel: Kernel, targets: Column, budget: Budget) -> list[int] | None:
    """Return the contexts of the best schedule to any state of `targets` (fingerprints).

    None where the budget does not allow to keep the edges.
    """
    search = Search(kernel, budget, every=True, keep_edges=True)
    assert search.edges is not None
    starts: list[int] = []  # where the edges of each depth begin
    wanted = np.sort(targets)
    goal: Index | None = None
    for depth in search.depths():
        if depth == len(starts):  # all of the depth before is known now
            starts.append(len(search.edges))
            goal = _hits(search.level_fps[depth], wanted)
            if goal is not None:
                break
    if goal is None and not search.stopped:
        starts.append(len(search.edges))
        goal = _hits(search.level_fps[-1], wanted)
    if goal is None:
        return None
    levels = [search.edges[low:high] for low, high in itertools.pairwise(starts)]
    return _best(search, levels, goal, len(kernel.automata))


def _hits(fps: Column, wanted: Column) -> Index | None:
    at = np.flatnonzero(np.isin(fps, wanted))
    return at if at.size else None


def _best(
    search: Search,
    levels: list[list[tuple[Index, NDArray[np.uint8], Column]]],
    goal: Index,
    agents: int,
) -> list[int]:
    """Prune and cost the edges backwards from `goal`, then walk forwards."""
    sizes = [f.size for f in search.level_fps]
    starts = np.cumsum([0, *sizes])
    alive = goal
    to_go = np.zeros((goal.size, agents), dtype=np.uint16)
    plan: list[tuple[Index, Index, Index, NDArray[np.uint16]]] = []
    for depth in range(len(levels) - 1, -1, -1):
        parents = np.concatenate([e[0] for e in levels[depth]]).astype(np.int64) - starts[depth]
        moved = np.concatenate([e[1] for e in levels[depth]]).astype(np.int64)
        fps = np.concatenate([e[2] for e in levels[depth]])
        children = _find(search.level_fps[depth + 1][alive], fps)
        kept = children >= 0
        parents, moved, children = parents[kept], moved[kept], children[kept]
        cost = to_go[children, moved]
        alive, parents = np.unique(parents, return_inverse=True)
        best = np.full(alive.size, FAR)
        np.minimum.at(best, parents, cost)
        to_go = np.repeat(best[:, None] + np.uint16(1), agents, axis=1)
        np.minimum.at(to_go, (parents, moved), cost)
        plan.append((parents, moved, children, cost))
    plan.reverse()
    state, last, choices = 0, -1, []
    for parents, moved, children, cost in plan:
        here = np.flatnonzero(parents == state)
        total = cost[here] + ((moved[here] != last) & (last >= 0))
        chosen = here[np.lexsort((moved[here], total))[0]]
        state, last = int(children[chosen]), int(moved[chosen])
        choices.append(last)
    return choices


def _find(among: Column, fps: Column) -> Index:
    """Return the index in `among` of every fingerprint, or -1."""
    order = np.argsort(among, kind="stable")
    at = np.searchsorted(among, fps, sorter=order)
    at[at == among.size] = 0
    found = order[at]
    found[among[found] != fps] = -1
    return found
