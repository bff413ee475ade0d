"""What workers run, in processes that have this package and nothing else of ours.

Each is a pure function of what it is given, so that it does not matter where and how often it is
run. This module must not know how tasks are split or put together.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpmmu.cluster.files import OURS, Shipped, at_home, unpacked
from smpmmu.engine.errors import ClusterError
from smpmmu.engine.growth import Numbering, numbering
from smpmmu.engine.live import in_trio
from smpmmu.stressing import Campaign, Part
from smpmmu.work import Job, do_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from smpmmu.report.rows import Row


@functools.cache
def code() -> str:
    """Return a digest of this package's source: who has another one may number otherwise."""
    total = hashlib.sha256()
    for path in sorted(OURS.rglob("*.py")):
        total.update(f"{path.relative_to(OURS).as_posix()}\n".encode() + path.read_bytes())
    return total.hexdigest()


@dataclass(frozen=True, slots=True)
class Order:
    """What every task is given: whose code asks, about which variant."""

    code: str
    what: Shipped


def begin(order: Order) -> Callable[[], None]:
    """Begin a task; return what raises once nobody waits for it any longer.

    Raises:
        ClusterError: this worker is not one that can do it.
    """
    from distributed import get_worker

    worker: Any = get_worker()
    where = f"the worker at {worker.address}"
    if order.code != code():
        msg = f"{where} has another version of smpmmu; install the same one there"
        raise ClusterError(msg)
    if worker.state.nthreads > 1:
        msg = f"{where} runs {worker.state.nthreads} tasks at once; start it with --nthreads 1"
        raise ClusterError(msg)
    key = worker.get_current_task()

    def check() -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            msg = "cancelled"
            raise ClusterError(msg)

    return check


def explore_one(order: Order, job: Job) -> Row:
    """Explore one variant."""
    check = begin(order)
    with at_home(order.what):
        target = unpacked(order.what)
        row = in_trio(functools.partial(do_target, target, job, lambda *_: check()))
    return _named(row, order.what)


def _named(row: Row, what: Shipped) -> Row:
    """Return a row whose lines of code are called as they are where the user is."""
    if not what.file or not row.defined:
        return row
    folder = Path(what.file).parent
    names = {Path(name).name: (folder / Path(name).name).as_posix() for name, _ in what.texts}

    def here(place: Any) -> Any:  # noqa: ANN401  a Place
        return replace(place, file=names.get(place.file, place.file))

    broken = tuple(
        replace(
            each,
            story=tuple(
                replace(step, where=tuple(here(place) for place in step.where))
                for step in each.story
            ),
        )
        for each in row.broken
    )
    return replace(row, broken=broken, defined=here(row.defined))


@functools.lru_cache(maxsize=4)
def _campaign(what: Shipped, strategy: str) -> Campaign:
    return Campaign(unpacked(what), range(1), strategy)


def run_seeds(order: Order, strategy: str, seeds: range) -> tuple[Part, Numbering]:
    """Run some seeds; their last states are by the numbers that this worker has given."""
    begin(order)
    with at_home(order.what):
        campaign = _campaign(order.what, strategy)
        part = campaign.part(seeds, placed=True)
        return part, numbering(campaign.kernel)
