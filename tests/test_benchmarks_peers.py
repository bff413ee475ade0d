"""The benchmark's peers: on small models all say the same; who is missing is skipped clearly."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from smpmmu.engine.answer import answer
from smpmmu.engine.verdict import Verdict
from smpmmu.targets import one
from tests.shell import ROOT

SMALL = [
    "reliant_flusher.deferred_untouched_page",
    "reliant_flusher.deferred_after_unlock",
    "two_cpus_speculation.immediate_after_unlock",
    "two_cpus_speculation.deferred_after_unlock",
    "unmap_free.deferred_under_ptl",
    "dirty_writeback.deferred_after_unlock",
]

needs_spin = pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("cc") is None, reason="SPIN is not installed"
)


@pytest.fixture(scope="module")
def bench():
    """The benchmark's modules by name; its folder is on the path as when it is run."""
    before = dict(sys.modules)
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    names = (
        "measuring",
        "spin",
        "kernel_models",
        "peers",
        "questions",
        "tables",
        "plot",
        "classics",
        "contributions",
    )
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(folder)
    for name in set(sys.modules) - set(before):
        if name in names:
            del sys.modules[name]


@needs_spin
@pytest.mark.parametrize("name", SMALL)
def test_a_twin_in_promela_has_equal_counts(bench, name: str) -> None:
    twin = next(each for each in bench["kernel_models"].TWINS if each.name == name)
    scenario = bench["kernel_models"].twin
    ours = answer(scenario.system(scenario.variant(name)))
    spin = bench["spin"]
    theirs = spin.run_spin(twin.scenario.name, twin.defines, spin.BFS, optimise="-O0")
    assert theirs.verdict == ours.verdict.value.lower()
    if ours.verdict is Verdict.HOLDS:
        assert (theirs.states, theirs.transitions) == (ours.states, ours.transitions)
        assert theirs.depth == ours.depth
    else:
        assert theirs.trace_length == len(ours.violations[0].choices)


def test_a_twin_is_the_scenario_of_the_catalogue(bench) -> None:
    counts = json.loads((ROOT / "tests/counts.json").read_text())
    scenario = bench["kernel_models"].twin
    for each in bench["kernel_models"].TWINS:
        chosen = scenario.variant(each.name)
        assert chosen.expected == each.scenario.variant(each.variant).expected
        if each.name in SMALL[:3]:
            found = answer(scenario.system(chosen))
            expected = counts[f"{each.scenario.name}/{each.variant}"][:3]
            assert [found.states, found.transitions, found.depth] == expected


@needs_spin
@pytest.mark.parametrize("way", ["BFS", "DFS_SAFETY"])
def test_spin_counts_the_benchmark_model(bench, way: str) -> None:
    spin = bench["spin"]
    found = spin.run_spin("defer", ("N=3", "P=1", "K=1"), getattr(spin, way), optimise="-O0")
    assert (found.states, found.transitions, found.verdict) == (219, 370, "holds")
    assert found.same_counts
    assert found.exhaustive


@needs_spin
def test_what_spin_reduces_or_samples_is_not_compared(bench) -> None:
    spin = bench["spin"]
    reduced = spin.run_spin("unmap_free", ("DEFERRED",), spin.DFS_REDUCED, optimise="-O0")
    assert not reduced.same_counts
    assert reduced.states < 4_267
    sampled = spin.run_spin("defer", ("N=3", "P=1", "K=1"), spin.ALL[-1], optimise="-O0")
    assert not sampled.exhaustive
    assert sampled.verdict == "unknown"


@pytest.mark.parametrize("tool", ["plain", "minicheck", "musil"])
def test_checkers_in_python_count_the_benchmark_model(bench, tool: str) -> None:
    peers = bench["peers"]
    if tool != "plain" and peers.python_with(tool) is None:
        # Peers are the extra `bench`, and some need a newer Python: no test of ours needs them.
        pytest.skip(f"{tool} is not installed")
    found = peers.run_python(tool, 3, 1, 2, "locked")
    assert (found.states, found.transitions, found.verdict) == (1_795, 3_274, "holds")
    assert peers.run_python(tool, 3, 1, 1, "late").trace_length == 6
    assert peers.run_python(tool, 3, 1, 1, "noack").trace_length == 19


@needs_spin
def test_the_c_search_counts_the_benchmark_model(bench) -> None:
    found = bench["peers"].run_c(3, 1, 2, "locked")
    assert (found.states, found.transitions, found.verdict) == (1_795, 3_274, "holds")
    assert bench["peers"].run_c(3, 1, 1, "noack").trace_length == 19


def test_who_is_missing_is_skipped_and_says_what_to_install(bench, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    spin = bench["spin"]
    skipped = spin.run_spin("defer", (), spin.DFS)
    assert str(skipped) == "skipped: spin is not installed (Debian package `spin`)"
    assert "no C compiler" in str(bench["peers"].run_c(2, 1, 1, "locked"))
    monkeypatch.setattr(bench["peers"], "python_with", lambda _: None)
    assert "pip install musil" in str(bench["peers"].run_python("musil", 2, 1, 1, "locked"))
    page = bench["tables"].Page(bench["tables"].HEADS)
    figures = example(bench)
    bench["tables"].add(page, "a question", [figures, skipped])
    assert page.notes == [f"SPIN dfs: {skipped}"]


def example(bench, tool: str = "smpmmu", **changes):
    made = bench["measuring"].Figures(tool, 10, 20, 3, "holds", None, 2.0, 2.0, 2.0, 1_000_000)
    return replace(made, **changes)


def test_tools_that_disagree_are_told(bench) -> None:
    tables = bench["tables"]
    ours = example(bench)
    for other in (
        example(bench, "C", states=11),
        example(bench, "C", verdict="violated", trace_length=3),
    ):
        with pytest.raises(tables.DisagreementError, match="C"):
            tables.compare([ours, other])
    tables.compare([ours, example(bench, "SPIN dfs, reduced", states=7, same_counts=False)])


def test_the_best_of_spin_has_everything_included_and_a_verdict(bench) -> None:
    tables = bench["tables"]
    found = [
        example(bench),
        example(bench, "SPIN dfs", seconds_total=5.0, seconds_search=1.0),
        example(bench, "SPIN bfs", seconds_total=4.0, seconds_search=2.0),
        example(bench, "SPIN bitstate", seconds_total=1.0, exhaustive=False, verdict="unknown"),
    ]
    assert tables.best_of_spin(found).tool == "SPIN bfs"
    last = dict(zip(tables.HEADS, tables.rows(found)[-1], strict=True))
    assert last["tool"] == "SPIN's best exhaustive: bfs"
    assert (last["wall s"], last["wall / smpmmu"]) == ("4.00", "2.00")
    page = tables.Page(tables.HEADS, [("a question", tables.rows(found))])
    written = tables.markdown(page, title="A title", below="A machine").splitlines()
    assert written[2].count("|") == written[5].count("|") == len(tables.HEADS) + 1
    assert written[-1] == "A machine"


def test_a_command_is_stopped_at_its_limit(bench) -> None:
    measuring = bench["measuring"]
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(measuring.TooLongError, match=r"0\.2 s"):
        measuring.measure(sleeps, ROOT, 0.2)
    with pytest.raises(measuring.PeerError, match="no such"):
        measuring.measure([sys.executable, "-c", "raise SystemExit('no such')"], ROOT)
    done = measuring.measure([sys.executable, "-c", "print('said')"], ROOT)
    assert done.output == "said\n"
    assert done.peak_bytes > 1_000_000


def test_all_questions_name_what_there_is(bench) -> None:
    questions = bench["questions"]
    asked = [questions.defer(size) for size in questions.SIZES]
    asked += [questions.defer(questions.VARIANT_SIZE, each) for each in questions.VARIANTS]
    assert set(questions.FEW_OF_THE_KERNEL) < set(questions.KERNEL)
    for question in (*asked, *questions.KERNEL.values()):
        assert one(question.target).system().contexts
        assert (bench["spin"].MODELS / f"{question.model}.pml").exists()


def test_the_exponent_of_a_power_is_found(bench, tmp_path) -> None:
    plot = bench["plot"]
    points = [plot.Point("a", "defer", n, 3e-6 * n**1.25, 0.5) for n in (10**3, 10**5, 10**7)]
    assert plot.exponent(points) == pytest.approx(1.25)
    assert plot.exponent(points[:1]) is None
    assert plot.label("a", points) == "a, 1.25, 1.25 from 10^5 states"
    others = [plot.Point("b", "kernel", 10**n, 10.0 ** (n - 6), 0.1) for n in (6, 3)]
    assert [p.states for p in plot.series(points + others)["b (kernel)"]] == [1_000, 1_000_000]
    pytest.importorskip("matplotlib")
    picture = tmp_path / "cost.svg"
    plot.draw(points + others, "measured here", picture)
    drawn = picture.read_text()
    for text in ("b (kernel), 1.00", "measured here", "states"):
        assert text in drawn


def test_a_search_is_measured_in_its_own_process(bench) -> None:
    plot = bench["plot"]
    point = plot._ours("defer", "defer.3.1.2", 60)
    assert (point.states, point.tool) == (1_795, "smpmmu")
    assert point.seconds > 0
    assert point.before > 0.05  # Python does not start in less


def run(*options: str):
    command = [sys.executable, str(ROOT / "benchmarks/run.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_one_command_asks_and_compares() -> None:
    done = run("--part", "defer", "--size", "2,1,1", "--spin", "none", "--markdown")
    assert done.returncode == 0, done.stderr
    lines = [line.split(" | ") for line in done.stdout.splitlines() if " | 36 | 41 | " in line]
    asked = [line[0].removeprefix("| ") for line in lines]
    assert asked[0] == "smpmmu"
    assert "Python breadth-first" in asked
    assert lines[0][-1] == "1.00 |"
    assert "processors, load average" in done.stdout
    assert "`python benchmarks/run.py --part defer --size 2,1,1" in done.stdout


def test_parts_left_out_change_the_work_and_not_what_is_found(bench) -> None:
    contributions = bench["contributions"]
    states: dict[str, object] = {}
    for name, way in contributions.WAYS.items():
        found = contributions.explore("4.2.1", replace(way, reduce_from=1_000))
        assert found["verdict"] == "HOLDS"
        states[name] = found["states"]
    assert {states[name] for name in states if name.startswith("no reduction")} == {45_182}
    same = ("everything", "one core", "no look-ups of actions", "no look-ups, one core")
    assert len({states[name] for name in same}) == 1
    assert len(set(states.values())) >= 4


def test_a_wrong_size_is_refused() -> None:
    done = run("--size", "2,1")
    assert done.returncode == 2
    assert "expected N,P,K, found '2,1'" in done.stderr


def test_a_classic_program_is_a_row(bench, monkeypatch) -> None:
    classics = bench["classics"]
    monkeypatch.setattr(classics, "python_with", lambda _: None)
    page = bench["tables"].Page(classics.HEADS)
    row = classics._row(page, "inc", "", 2, 60)
    assert row[:5] == ("inc(2)", "12", "14", "4", "violated in 4")
    assert row[6:] == ("4", "", "", "", "")
    assert [note.split(":")[0] for note in page.notes] == ["frontrun", "ploom"]
