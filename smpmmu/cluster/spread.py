"""Variants and seeds on a cluster: in tasks, the answers in the order in which they were asked for.

Last states of stress are told apart by fingerprints, which depend on how a worker has numbered
positions; they are renumbered here, so that states of two workers can be compared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from smpmmu.cluster.files import shipped
from smpmmu.cluster.tasks import Order, code, explore_one, run_seeds
from smpmmu.engine.errors import SmpmmuError
from smpmmu.engine.growth import renumbered
from smpmmu.targets import one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from smpmmu.cluster.connection import Cluster
    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.growth import Numbering
    from smpmmu.engine.steps import Column
    from smpmmu.report.rows import Row
    from smpmmu.stressing import Campaign, Part
    from smpmmu.targets import Target
    from smpmmu.work import Job

SHARES, FEWEST = 4, 256
"""Parts for each worker, so that none waits long for the last; seeds that a part has at least."""


def spread(cluster: Cluster, jobs: list[Job], arrived: Callable[[int], None]) -> Iterator[Row]:
    """Explore variants, yielding in the order of `jobs`; `arrived` is told how many are done.

    Raises:
        ClusterError: the scheduler is gone, or workers cannot do it.
        SmpmmuError: a worker raised it.
    """
    orders = [(Order(code(), shipped(one(job.target))), _alone(job)) for job in jobs]
    yield from _in_turn(cluster.each(explore_one, orders), arrived)


def _alone(job: Job) -> Job:
    """Return a job for a worker, which has one core to itself."""
    return replace(job, budget=replace(job.budget, cores=job.budget.cores or 1))


def spread_seeds(
    cluster: Cluster, campaign: Campaign, target: Target, arrived: Callable[[int], None]
) -> Iterator[Part]:
    """Run the seeds of a campaign, yielding its parts in order; raises as `spread`."""
    order, strategy = Order(code(), shipped(target)), campaign.found.strategy
    each = -(-len(campaign.found.seeds) // (SHARES * max(1, cluster.workers)))
    tasks = [(order, strategy, seeds) for seeds in campaign.split(max(each, FEWEST))]
    for part, theirs in _in_turn(cluster.each(run_seeds, tasks), arrived):
        yield replace(part, finals=_renumbered(campaign.kernel, part, theirs))


def _renumbered(kernel: Kernel, part: Part, theirs: Numbering) -> Column:
    """Return the fingerprints of last states by the numbers of `kernel`."""
    finals = part.finals.copy()
    for context, ours in enumerate(renumbered(kernel, theirs)):
        move = kernel.keys.move
        keys = [move(context, rest, now) for rest, now in enumerate(ours.tolist())]
        finals ^= np.array(keys, dtype=np.uint64)[part.places[context]]
    return finals


def _in_turn(answers: Iterator[tuple[int, Any]], arrived: Callable[[int], None]) -> Iterator[Any]:
    """Yield the answers in the order of their numbers; an error is raised when its turn is."""
    waiting: dict[int, Any] = {}
    turn = 0
    for done, (number, arrival) in enumerate(answers, 1):
        waiting[number] = arrival
        while turn in waiting:
            answer = waiting.pop(turn)
            if isinstance(answer, SmpmmuError):
                raise answer
            yield answer
            turn += 1
        arrived(done)
