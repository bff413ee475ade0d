"""The exact probability that one random run finds a violation, without running any.

`python benchmarks/stress_exact.py NAME/VARIANT...`, for strategies that choose by weights which
depend on nothing but the state: the uniform walk, and `paced` without and with prompt interrupts.
The whole state graph is explored, and the probability of being in each state is moved forward
along it, an action at a time, until the rest is too little to matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import numpy as np

from smpmmu.engine.batch import Kernel
from smpmmu.engine.explore import Found, Search
from smpmmu.engine.profiling import profile
from smpmmu.engine.verdict import Budget
from smpmmu.targets import one

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Weights = NDArray[np.float64]

AT_ONCE = 1e12
"""The weight of a prompt interrupt."""
LONGEST = 5_000


class _Every(Search):
    """A search that remembers all violating states, not the first ones only."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, Budget(), every=True, keep_edges=True)
        self.bad: list[NDArray[np.int64]] = []

    def _add(self, new: Found) -> None:
        self.bad.append(new.ids)
        super()._add(new)


class Graph:
    """All states of a system, and where each context leads from each of them.

    Attributes:
        bad: (states,) bool, something is violated.
        able: (contexts, states) bool, the context can move.
        after: (contexts, states), the state that follows; without meaning where not able.
    """

    def __init__(self, kernel: Kernel) -> None:
        """Explore it."""
        search = _Every(kernel)
        for _ in search.depths():
            pass
        assert search.edges is not None
        self.bad = np.zeros(search.states, dtype=np.bool_)
        self.bad[np.concatenate(search.bad)] = True
        fps = np.concatenate(search.level_fps)
        order = np.argsort(fps)
        shape = (len(kernel.automata), search.states)
        self.able, self.after = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.int64)
        for parents, contexts, children in search.edges:
            self.able[contexts, parents] = True
            self.after[contexts, parents] = order[np.searchsorted(fps, children, sorter=order)]
        self.able[:, self.bad] = False

    def probability(self, weights: Weights) -> float:
        """Return the probability that a run violates something; weights are (contexts,)."""
        each = self.able * weights[:, None]
        each /= np.maximum(each.sum(axis=0), 1e-300)
        here = np.zeros(self.bad.size)
        here[0], found = 1.0, 0.0
        for _ in range(LONGEST):
            found += float(here[self.bad].sum())
            here[self.bad] = 0
            if here.sum() <= found * 1e-6:
                break
            there = np.zeros(here.size)
            for share, able, after in zip(each, self.able, self.after, strict=True):
                rows = np.flatnonzero(able & (here > 0))
                there += np.bincount(after[rows], here[rows] * share[rows], here.size)
            here = there
        return found


def probabilities(name: str) -> tuple[float, float, float]:
    """Return those of the uniform walk, of `paced`, and of `paced` with prompt interrupts."""
    system = one(name).system()
    graph, known = Graph(Kernel(system)), profile(Kernel(system))
    weights = np.array(known.actions, dtype=np.float64)
    prompt = np.where(known.handlers, AT_ONCE, 1.0)
    uniform = graph.probability(np.ones(weights.size))
    return uniform, graph.probability(weights), graph.probability(weights * prompt)


@click.command()
@click.argument("names", nargs=-1, required=True)
def main(names: tuple[str, ...]) -> None:
    """Print a table."""
    click.echo("| variant | uniform | by pace | and prompt | paced: half of each |")
    click.echo("|---|---:|---:|---:|---:|")
    for name in names:
        uniform, paced, prompt = probabilities(name)
        cells = (uniform, paced, prompt, (paced + prompt) / 2)
        click.echo(f"| `{name}` | {' | '.join(f'{cell:.1e}' for cell in cells)} |")


if __name__ == "__main__":
    main()
