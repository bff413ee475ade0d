"""A connection to a Dask scheduler: pure tasks go out, results come back as they finish.

A task whose worker dies is given to another worker by the scheduler; when the scheduler itself is
gone, or nobody works for it, that is an error and no endless waiting. This module must not know
what tasks do.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import queue
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from smpmmu.engine.errors import ClusterError, SmpmmuError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CONNECTING = 10.0
"""Seconds until a scheduler must have answered."""
LOOK = 1.0
"""Seconds between two looks at whether the scheduler is still there."""
PATIENCE = 60
"""Looks without any worker before that is an error."""
QUIET = 100
"""A level of logging that nothing reaches: what Dask has to say is told as an error, or not."""


class Cluster:
    """The workers of a scheduler, as long as the `with` block lasts; leaving it cancels all.

    Attributes:
        workers: how many tasks could run at once when that was last looked at.
    """

    def __init__(self, address: str) -> None:
        """Connect.

        Raises:
            ClusterError: Dask is not installed, or no scheduler answers there.
        """
        try:
            import distributed
        except ImportError as error:
            msg = "--cluster needs dask.distributed: pip install 'smpmmu[cluster]'"
            raise ClusterError(msg) from error
        self.address = address
        self._logger = logging.getLogger("distributed")
        self._loud = self._logger.level
        self._logger.setLevel(QUIET)
        why = ""
        try:
            self._client: Any = distributed.Client(
                address, timeout=CONNECTING, set_as_default=False, name="smpmmu"
            )
        except (OSError, ValueError, TypeError) as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
        if why:
            gc.collect()  # a client that is collected while another one is made stops that one
            self._logger.setLevel(self._loud)
            msg = f"no scheduler answers at {address}: {why}"
            raise ClusterError(msg)
        self._out: dict[Any, int] = {}
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._idle = 0
        self.workers = self.threads()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel what is out there, and disconnect."""
        with contextlib.suppress(Exception):
            self._client.cancel(list(self._out), force=True)
        with contextlib.suppress(Exception):
            self._client.close(timeout=LOOK)
        self._logger.setLevel(self._loud)

    def threads(self) -> int:
        """Return how many tasks can run at once."""
        return sum(self._asked(self._client.nthreads).values())

    def cancel(self) -> None:
        """Cancel what is out there."""
        out, self._out = list(self._out), {}
        if out:
            self._asked(self._client.cancel, out, force=True)

    def submit(self, number: int, function: Callable[..., object], *arguments: object) -> None:
        """Send a task out, under a number."""
        future = self._asked(self._client.submit, function, *arguments, pure=False)
        self._out[future] = number
        future.add_done_callback(self._done.put)

    def next(self) -> tuple[int, Any]:
        """Wait for a task to finish; return its number and result, or what error of ours it met.

        Raises:
            ClusterError: the scheduler is gone, nobody works, or workers cannot do the task.
        """
        while True:
            try:
                future = self._done.get(timeout=LOOK)
            except queue.Empty:
                self._look()
                continue
            if future in self._out:
                return self._out.pop(future), self._result(future)

    def each(
        self, function: Callable[..., object], tasks: Sequence[tuple[object, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Do all tasks, yielding number and result of each as it finishes; raises as `next`."""
        for number, arguments in enumerate(tasks):
            self.submit(number, function, *arguments)
        while self._out:
            yield self.next()

    def _result(self, future: Any) -> Any:  # noqa: ANN401  a future, and whatever it has
        if future.status == "finished":
            return self._asked(future.result)
        self._alive()
        if future.status == "cancelled":
            raise self._lost()
        error = future.exception()
        if isinstance(error, SmpmmuError) and not isinstance(error, ClusterError):
            return error
        if type(error).__name__ == "KilledWorker":
            msg = f"workers died of one task, again and again; have they memory enough? ({error})"
            raise ClusterError(msg) from None
        if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("smpmmu"):
            msg = f"a worker at {self.address} has no smpmmu, or another one: {error}"
            raise ClusterError(msg) from None
        if error is None:  # its worker had died, and another one has done it since
            return self._asked(future.result)
        raise error

    def _look(self) -> None:
        """See whether the scheduler is there, and somebody who works for it."""
        self._alive()
        self.workers = self.threads()
        self._idle = 0 if self.workers else self._idle + 1
        if self._idle > PATIENCE:
            msg = f"no worker is connected to {self.address}; start one: dask worker {self.address}"
            raise ClusterError(msg)

    def _alive(self) -> None:
        if self._client.status != "running":
            raise self._lost()

    def _asked(self, what: Callable[..., Any], *arguments: object, **options: object) -> Any:  # noqa: ANN401
        """Ask the scheduler; that it does not answer is one error, whatever Dask calls it."""
        try:
            return what(*arguments, **options)
        except (OSError, RuntimeError, TimeoutError, CancelledError) as error:
            raise self._lost() from error

    def _lost(self) -> ClusterError:
        return ClusterError(f"the scheduler at {self.address} is gone")
