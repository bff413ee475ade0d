"""A real Dask scheduler and real worker processes on this machine, for tests of the cluster."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.shell import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIGURATION = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "10s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "5s",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
}


@dataclass
class Machines:
    """A scheduler, and workers in processes of their own, without anybody who restarts them."""

    folder: Path
    address: str = ""
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def _dask(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{what}{len(self.workers)}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{what}", *arguments],
                cwd=self.folder,  # not where the tests, or a user's files, are
                env=environment(**CONFIGURATION),
                stdout=log,
                stderr=log,
            )

    def start(self, workers: int) -> None:
        """Start all of them, on ports that are free."""
        file = self.folder / "scheduler.json"
        here = ("--host", "127.0.0.1", "--no-dashboard", "--port", "0")
        self.scheduler = self._dask("scheduler", *here, "--scheduler-file", str(file))
        for _ in range(workers):
            self.work(file)
        until(file.exists)
        until(lambda: file.read_text().strip().endswith("}"))
        self.address = json.loads(file.read_text())["address"]
        if not workers:
            return
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)

    def work(self, file: Path, threads: int = 1) -> None:
        """Start one more worker."""
        where = ("--host", "127.0.0.1", "--no-dashboard", "--no-nanny")
        how = ("--nthreads", str(threads), "--scheduler-file", str(file))
        self.workers.append(
            self._dask("worker", *where, *how, "--local-directory", str(self.folder))
        )

    def kill(self, which: subprocess.Popen[bytes] | None) -> None:
        """Kill a process as the kernel would for want of memory."""
        assert which is not None
        which.send_signal(signal.SIGKILL)
        which.wait()

    def stop(self) -> None:
        """Kill what is still there."""
        for each in (*self.workers, self.scheduler):
            if each is not None and each.poll() is None:
                self.kill(each)


def until(true: object, seconds: float = 60) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "this never came about"
        time.sleep(0.01)


@contextlib.contextmanager
def machines(folder: Path, workers: int = 2) -> Iterator[Machines]:
    """Run a scheduler and workers for as long as the `with` block lasts."""
    os.makedirs(folder, exist_ok=True)
    made = Machines(folder)
    try:
        made.start(workers)
        yield made
    finally:
        made.stop()
