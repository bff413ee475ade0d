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

import numpy as np

from smpmmu.cluster.files import OURS, Shipped, at_home, unpacked
from smpmmu.engine.batch import Kernel
from smpmmu.engine.errors import ClusterError
from smpmmu.engine.growth import Growth, Numbering, grow, numbering
from smpmmu.engine.live import in_trio
from smpmmu.engine.program import Role
from smpmmu.engine.reading import Block
from smpmmu.engine.successors import Expander
from smpmmu.engine.visited import first_of_each
from smpmmu.stressing import Campaign, Part
from smpmmu.work import Job, do_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from smpmmu.engine.layout import Lanes
    from smpmmu.engine.moves import Successors
    from smpmmu.engine.steps import Column, Mask
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


@dataclass(frozen=True, slots=True)
class Thinned:
    """The successors of a block that change something, in order; see `Successors`.

    All of those that are the first with their fingerprint; for a machine in which something makes
    progress one that does, and one by somebody obligatory; for the others all.

    Attributes:
        order: which of them is the first with each fingerprint, by fingerprint.
        transitions: how many there were.
    """

    rows: NDArray[np.uint32]
    contexts: NDArray[np.uint8]
    progress: Mask
    fps: Column
    changes: Lanes
    bugs: list[tuple[str, int, int]]
    order: NDArray[np.uint32]
    transitions: int


@functools.lru_cache(maxsize=2)
def _grown(what: Shipped, to: Growth) -> tuple[Expander, Mask]:
    kernel = Kernel(unpacked(what).system())
    grow(kernel, to)
    obligatory = np.array([c.role is not Role.DAEMON for c in kernel.system.contexts])
    return Expander(kernel), obligatory


def expand_block(order: Order, to: Growth, lanes: Lanes, fps: Column) -> Thinned | None:
    """Expand machines as far as automata have grown; None where they would have to grow on."""
    begin(order)
    with at_home(order.what):
        expander, obligatory = _grown(order.what, to)
        found = expander.peek(Block(lanes, fps))
        return None if found is None else thinned(lanes, found, obligatory)


def thinned(lanes: Lanes, found: Successors, obligatory: Mask) -> Thinned:
    """Leave out of the successors of the machines `lanes` those that change nothing."""
    order, _ = first_of_each(found.fps)
    keep = np.zeros(len(found), dtype=np.bool_)
    keep[order] = True
    for marked in (found.progress, obligatory[found.contexts]):
        which = np.flatnonzero(marked)[::-1]
        first = np.full(lanes.shape[1], -1, dtype=np.int64)
        first[found.rows[which]] = which
        keep |= first[found.rows] < 0
        keep[first[first >= 0]] = True
    kept = np.flatnonzero(keep)
    rows = found.rows.take(kept)
    return Thinned(
        rows.astype(np.uint32),
        found.contexts.take(kept),
        found.progress.take(kept),
        found.fps.take(kept),
        found.made(lanes, kept) ^ lanes.take(rows, axis=1),
        [(bug, *np.searchsorted(kept, ends).tolist()) for bug, *ends in found.bugs],
        np.searchsorted(kept, order).astype(np.uint32),
        len(found),
    )
