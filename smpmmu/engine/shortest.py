"""Among all shortest schedules to a violation, one with the fewest context switches.

A second breadth-first pass keeps its edges, unless the first was small enough to; the paths that
lead to a target are pruned from the end, the cost of finishing is worked out backwards per (state,
last agent), and the schedule is read off forwards, ties going to the context that comes first in
the system. This module must not know why a state is a target.
"""

from __future__ import annotations

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


def fewest_switches(
    kernel: Kernel, targets: Column, budget: Budget, known: Search | None = None
) -> list[int] | None:
    """Return the contexts of the best schedule to any state of `targets` (fingerprints).

    A `known` search serves if it went to its end and still has its edges. None where the budget
    does not allow to keep the edges.
    """
    wanted = np.sort(targets)
    cut = known is None or known.edges is None or known.stopped
    if known is None or cut or budget.memory is not None:
        known = Search(kernel, budget, every=True, keep_edges=True)
        looked_at = -1
        for depth in known.depths():
            if depth > looked_at and _hits(known.level_fps[depth], wanted) is not None:
                break
            looked_at = depth
    for depth, fps in enumerate(known.level_fps):
        goal = _hits(fps, wanted)
        if goal is not None:
            return _best(known, depth, goal, len(kernel.automata))
    return None


def _hits(fps: Column, wanted: Column) -> Index | None:
    at = np.flatnonzero(np.isin(fps, wanted))
    return at if at.size else None


def _best(
    search: Search,
    goal_depth: int,
    goal: Index,
    agents: int,
) -> list[int]:
    """Prune and cost the edges backwards from `goal`, states of one depth, then walk forwards."""
    assert search.edges is not None
    bounds = [*search.edges_from, len(search.edges)]
    sizes = [f.size for f in search.level_fps]
    starts = np.cumsum([0, *sizes])
    alive = goal
    to_go = np.zeros((goal.size, agents), dtype=np.uint16)
    plan: list[tuple[Index, Index, Index, NDArray[np.uint16]]] = []
    for depth in range(goal_depth - 1, -1, -1):
        edges = search.edges[bounds[depth] : bounds[depth + 1]]
        parents = np.concatenate([e[0] for e in edges]).astype(np.int64) - starts[depth]
        moved = np.concatenate([e[1] for e in edges]).astype(np.int64)
        fps = np.concatenate([e[2] for e in edges])
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
