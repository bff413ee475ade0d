"""Work on a real Dask cluster on this machine: the same answers as without, whatever dies."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from smpmmu import work
from smpmmu.cluster import blocks, connection, tasks
from smpmmu.cluster.connection import Cluster
from smpmmu.cluster.files import shipped
from smpmmu.cluster.spread import spread, spread_seeds
from smpmmu.cluster.tasks import Order
from smpmmu.engine import explore, frontier
from smpmmu.engine.errors import ClusterError, ModelError
from smpmmu.engine.keeper import Keeper
from smpmmu.engine.live import in_trio
from smpmmu.engine.verdict import Budget
from smpmmu.stressing import stress_seeds
from smpmmu.targets import find, one
from smpmmu.work import do_target
from tests.cluster import Machines, machines, until
from tests.shell import DEFECT, REPAIR, ROOT, SMPMMU, Shell, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from subprocess import Popen

    from smpmmu.engine.explore import Search
    from smpmmu.engine.verdict import Exploration

    Users = Callable[[str, str], str]


@pytest.fixture(scope="module", name="dask")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with machines(tmp_path_factory.mktemp("dask")) as made:
        yield made


def jobs(*targets: str) -> list[work.Job]:
    names = [t.name for text in targets for t in find(text)]
    return [work.Job(name, Budget(), live_runs=1, races=False) for name in names]


# Variants.


def test_rows_are_those_of_one_machine_in_the_same_order(dask: Machines, shell: Shell) -> None:
    asked = ("explore", DEFECT, "litmus", "--format", "json", "--live-runs", "1")
    there = shell(*asked, "--cluster", dask.address)
    here = shell(*asked)
    assert there == here
    assert len(json.loads(here.out)["results"]) > 10


def test_results_are_counted_as_they_arrive(dask: Machines) -> None:
    asked, arrived = jobs("litmus"), list[int]()
    with Cluster(dask.address) as cluster:
        rows = list(spread(cluster, asked, arrived.append))
    assert [row.name for row in rows] == [job.target for job in asked]
    assert arrived == list(range(1, len(asked) + 1))


HELPER = "STEPS = 2\n"
COUNTER = """\
from helper import STEPS
from smpmmu import Word, call, load, scenario, store, value, variant

X = Word("x", 4)


async def increment():
    seen = await load(X)
    await store(X, seen + 1)


@scenario(variant("few", cpus=STEPS), variant("more", cpus=3))
def counter(setup, *, cpus):
    for cpu in range(cpus):
        setup.cpu(cpu, call(increment))
    setup.at_quiescence("all_count", value(X) == cpus)
"""


def test_a_users_file_goes_there_with_what_it_imports(
    dask: Machines, shell: Shell, users: Users, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    users("deep/helper.py", HELPER)
    users("deep/counter.py", COUNTER)
    for form in ("text", "sarif"):
        asked = ("explore", "deep/counter.py", "--format", form)
        here = shell(*asked)
        assert here.status == 1
        assert shell(*asked, "--cluster", dask.address) == here
    # Other workers' files of these names, and earlier texts, do not get in the way.
    monkeypatch.delitem(sys.modules, "helper")
    (tmp_path / "other").mkdir()
    users("other/helper.py", HELPER.replace("2", "4"))
    users("other/counter.py", COUNTER)
    monkeypatch.syspath_prepend(tmp_path / "other")
    asked = ("explore", "other/counter.py:counter/few", "--format", "json")
    there = json.loads(shell(*asked, "--cluster", dask.address).out)["results"][0]
    assert there["states"] == json.loads(shell(*asked).out)["results"][0]["states"]
    assert there["violations"][0]["schedule"].count("other/counter.py:counter/few") == 1


BROKEN = """\
from smpmmu import Word, call, scenario, store, variant

X = Word("x", 4)


async def once(late):
    await store(X, 1)
    if late:
        raise RuntimeError("not in a model")


@scenario(variant("good", late=False), variant("bad", late=True), variant("after", late=False))
def broken(setup, *, late):
    setup.cpu(0, call(once, late))
"""


def test_an_error_comes_when_its_turn_is(dask: Machines, users: Users, shell: Shell) -> None:
    users("broken.py", BROKEN)
    here = shell("explore", "broken.py")
    there = shell("explore", "broken.py", "--cluster", dask.address)
    assert here.status == 4
    assert "broken.py:broken/good  HOLDS" in here.out
    assert there == here


# Seeds.


@pytest.mark.parametrize(
    ("target", "strategy", "most"),
    [
        ("reliant_skipper/native_after_unlock", "portfolio", 12),
        ("young_clear/deferred_after_unlock", "uniform", 2),  # workers number its ends otherwise
    ],
)
def test_seeds_come_to_what_one_machine_makes_of_them(
    dask: Machines, shell: Shell, target: str, strategy: str, most: int
) -> None:
    asked = ("stress", target, "--seeds", "100:1400", "--strategy", strategy, "--format", "json")
    here, there = shell(*asked), shell(*asked, "--cluster", dask.address)
    assert (there.status, there.out) == (here.status, here.out)
    found = json.loads(here.out)
    assert 1 < found["last_states"] <= most
    assert found["happens_before_classes"] > 10


def test_seeds_of_a_users_file(dask: Machines, shell: Shell, users: Users) -> None:
    users("counter.py", COUNTER.replace("from helper import STEPS", HELPER))
    asked = ("stress", "counter.py:counter/few", "--seeds", "0:1000")
    here, there = shell(*asked), shell(*asked, "--cluster", dask.address)
    assert there.out == here.out
    assert "of 1,000 fail" in here.out


def test_a_worker_dies_with_seeds_in_its_hands(tmp_path: Path) -> None:
    target = one("reliant_flusher/deferred_range")
    here = stress_seeds(target, range(2_048), lambda _: None)
    with machines(tmp_path) as dask, Cluster(dask.address) as cluster:

        def arrived(done: int) -> None:
            if done == 2:
                dask.kill(dask.workers[1])

        there = stress_seeds(
            target,
            range(2_048),
            lambda _: None,
            elsewhere=lambda campaign: spread_seeds(cluster, campaign, target, arrived),
        )
    assert there == here


# Blocks of one exploration.


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let blocks be small, so that many go out."""
    monkeypatch.setattr(blocks, "LEAST", 256)
    monkeypatch.setattr(frontier, "ROWS", 1_024)
    monkeypatch.setattr(explore, "FEW_EDGES", 0)


BENCHMARK = f"{ROOT / 'benchmarks' / 'defer_model.py'}:benchmark/locked.4.2.1"


@pytest.mark.usefixtures("small")
def test_one_exploration_in_blocks(dask: Machines, shell: Shell) -> None:
    asked = ("explore", REPAIR, "--no-reduction", "--format", "json")
    here = shell(*asked, "--cores", "1")
    assert shell(*asked, "--cluster", dask.address) == here


@pytest.mark.usefixtures("small")
def test_machines_die_of_blocks(tmp_path: Path) -> None:
    """A worker dies, nothing is lost or counted twice; then the scheduler, and it goes on here."""
    target = one(BENCHMARK)
    job = work.Job(target.name, Budget(cores=1), live_runs=1, races=False, reductions=())
    helpers: list[blocks.Elsewhere] = []

    def helped(search: Search) -> blocks.Elsewhere:
        helpers.append(blocks.helper(cluster, target)(search))
        return helpers[-1]

    def watch(who: Popen[bytes] | None, after: int) -> Callable[[str, Exploration], None]:
        def look(_name: str, _found: Exploration) -> None:
            if helpers[-1].used >= after and who is not None and who.poll() is None:
                dask.kill(who)

        return look

    with machines(tmp_path / "dask") as dask, Cluster(dask.address) as cluster:
        killer = watch(dask.workers[0], 10)
        row = in_trio(do_target, target, job, killer, None, helped)
        assert dask.workers[0].poll() is not None
        assert (row.verdict, row.states, row.transitions) == ("HOLDS", 45_182, 110_339)
        assert helpers[0].used > 20
        keeper = Keeper(tmp_path / "kept", "1", lambda _: None)
        killer = watch(dask.scheduler, 10)
        with pytest.raises(ClusterError, match=r"the scheduler at tcp://.* is gone"):
            in_trio(do_target, target, job, killer, keeper, helped)
    told: list[str] = []
    again = in_trio(do_target, target, job, None, Keeper(tmp_path / "kept", "1", told.append))
    assert told[0].startswith("going on from")
    assert again == replace(row, bytes_per_state=again.bytes_per_state)


def test_checkpoints_are_of_what_is_searched_here(dask: Machines, shell: Shell) -> None:
    done = shell("explore", DEFECT, "--cluster", dask.address, "--checkpoint", "kept")
    assert (done.status, done.out) == (2, "")
    assert "with --no-reduction" in done.err


# What can go wrong.


def test_no_scheduler_is_an_error(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECTING", 0.5)
    done = shell("explore", DEFECT, "--cluster", "tcp://127.0.0.1:1")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: no scheduler answers at tcp://127.0.0.1:1")
    assert done.err.count("\n") == 1
    done = shell("explore", DEFECT, "--cluster", "nonsense://x")
    assert (done.status, done.err.count("\n")) == (2, 1)


def test_without_dask_it_is_said_what_to_install(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    done = shell("explore", DEFECT, "--cluster", "tcp://127.0.0.1:1")
    assert done.status == 2
    assert done.err == ("error: --cluster needs dask.distributed: pip install 'smpmmu[cluster]'\n")


def test_without_the_option_dask_is_not_imported() -> None:
    code = "import sys; import smpmmu.cli; sys.exit('distributed' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment(), check=False).returncode == 0
    )


def test_jobs_are_for_this_machine(shell: Shell) -> None:
    done = shell("explore", DEFECT, "--cluster", "tcp://127.0.0.1:1", "--jobs", "2")
    assert (done.status, "--jobs is for this machine" in done.err) == (2, True)


def test_a_worker_with_other_code_is_refused(
    dask: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smpmmu.cluster.spread.code", lambda: "another")
    with (
        Cluster(dask.address) as cluster,
        pytest.raises(ClusterError, match="has another version of smpmmu"),
    ):
        list(spread(cluster, jobs(DEFECT), lambda _: None))


def test_a_cluster_without_workers_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 1)
    monkeypatch.setattr(connection, "LOOK", 0.1)
    with (
        machines(tmp_path, 0) as empty,
        Cluster(empty.address) as cluster,
        pytest.raises(ClusterError, match="no worker is connected to tcp://127"),
    ):
        list(spread(cluster, jobs(DEFECT), lambda _: None))


def test_workers_and_the_scheduler_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two workers dies with work in its hands, then the scheduler."""
    monkeypatch.setattr(connection, "LOOK", 0.1)
    asked = jobs("litmus")
    with machines(tmp_path) as dask, Cluster(dask.address) as cluster:

        def first(done: int) -> None:
            if done == 3:
                dask.kill(dask.workers[0])

        rows = list(spread(cluster, asked, first))
        here = list(work.spread(asked, 2))
        assert [row.json() for row in rows] == [row.json() for row in here]

        def second(done: int) -> None:
            if done == 2:
                dask.kill(dask.scheduler)

        began = time.monotonic()
        with pytest.raises(ClusterError, match=r"the scheduler at tcp://.* is gone"):
            list(spread(cluster, asked, second))
        assert time.monotonic() - began < 20


SLOW = """\
from smpmmu import Word, call, scenario, store

X = [Word(f"x{n}", 8) for n in range(10)]


async def count(word):
    for number in range(9):
        await store(word, number)


@scenario()
def slow(setup):
    for cpu in range(10):
        setup.cpu(cpu, call(count, X[cpu]))
"""


def busy(dask: Machines) -> int:
    from distributed import Client

    with Client(dask.address, set_as_default=False) as client:
        return sum(len(keys) for keys in client.processing().values())


def test_ctrl_c_cancels_what_is_out_there(dask: Machines, users: Users) -> None:
    users("slow.py", SLOW + SLOW[SLOW.index("@scenario") :].replace("slow", "again"))
    running = subprocess.Popen(
        [*SMPMMU, "explore", "slow.py", "--cluster", dask.address],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: busy(dask) == 2)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert err == "interrupted: 0 of 2 variants were answered\n"
    until(lambda: busy(dask) == 0)
    with Cluster(dask.address) as cluster:  # the workers have let go of it
        assert len(list(spread(cluster, jobs(DEFECT), lambda _: None))) == 1


def test_who_waits_for_nothing_is_told(dask: Machines) -> None:
    """A task that was cancelled ends, though a thread cannot be stopped from outside."""
    order = Order(tasks.code(), shipped(one(DEFECT)))
    with Cluster(dask.address) as cluster:
        cluster.submit(0, looping, order)
        until(lambda: busy(dask) == 1)
    with Cluster(dask.address) as cluster:
        # Both workers are free again, or these would wait for ever.
        assert len(list(cluster.each(asked, [(order,)] * 4))) == 4


def looping(order: Order) -> None:
    check = tasks.begin(order)
    while True:
        time.sleep(0.01)
        check()


def asked(order: Order) -> str:
    tasks.begin(order)
    return order.what.name


def test_errors_of_ours_survive_the_way(dask: Machines) -> None:
    with Cluster(dask.address) as cluster:
        ((_, error),) = cluster.each(failing, [()])
    assert isinstance(error, ModelError)
    assert str(error) == "two\nlines"


def failing() -> Any:
    msg = "two\nlines"
    raise ModelError(msg)
