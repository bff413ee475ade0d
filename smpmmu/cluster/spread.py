"""Variants on a cluster: a task each, the rows in the order in which they were asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.cluster.files import shipped
from smpmmu.cluster.tasks import Order, code, explore_one
from smpmmu.engine.errors import SmpmmuError
from smpmmu.targets import one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from smpmmu.cluster.connection import Cluster
    from smpmmu.report.rows import Row
    from smpmmu.work import Job


def spread(cluster: Cluster, jobs: list[Job], arrived: Callable[[int], None]) -> Iterator[Row]:
    """Explore variants, yielding in the order of `jobs`; `arrived` is told how many are done.

    Raises:
        ClusterError: the scheduler is gone, or workers cannot do it.
        SmpmmuError: a worker raised it.
    """
    orders = [(Order(code(), shipped(one(job.target))), job) for job in jobs]
    waiting: dict[int, Row | SmpmmuError] = {}
    turn = 0
    for done, (number, row) in enumerate(cluster.each(explore_one, orders), 1):
        waiting[number] = row
        while turn in waiting:
            answer = waiting.pop(turn)
            if isinstance(answer, SmpmmuError):
                raise answer
            yield answer
            turn += 1
        arrived(done)
