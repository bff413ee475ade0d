"""`stress` from the command line: strategies, what was seen, and files of failing seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from smpmmu import seeds as seed_files
from smpmmu import stressing
from smpmmu.engine.errors import ScheduleError, UsageError
from smpmmu.seeds import HEADER, MOST, Kept, Seed
from tests.shell import spawn

if TYPE_CHECKING:
    from pathlib import Path

    from tests.shell import Shell

FILE = """\
from smpmmu import Word, bug_on, call, load, scenario, store, variant

X, Y = Word("x", 3), Word("y", 1)


async def write(length):
    await store(X, 1)
    for _ in range(length):
        await store(Y, 1)
    await store(X, 2)


async def read():
    seen = await load(X)
    bug_on(seen == 1, "never_seen_in_between")


async def read_twice():
    first = await load(X)
    second = await load(X)
    bug_on(first == 0 and second == 1, "never_seen_in_between")
    bug_on(first == 1 and second == 2, "never_seen_to_change")


@scenario(
    variant("one", reader=read),
    variant("fixed", reader=read, late=True),
    variant("two", reader=read_twice),
)
def between(setup, *, reader, late=False):
    setup.cpu(0, call(write, 3))
    setup.cpu(1, *([] if late else [call(reader)]), *([call(write, 0)] if late else []))
"""
NAME = "between.py:between"
Users = Callable[[str, str], str]


@pytest.fixture
def between(users: Users) -> str:
    users("between.py", FILE)
    return f"{NAME}/one"


@pytest.mark.parametrize(
    "strategy", ["uniform", "pct", "pct:2", "pos", "surw", "paced", "portfolio"]
)
def test_the_seed_that_stress_names_fails_in_replay(
    between: str, strategy: str, shell: Shell
) -> None:
    done = shell("stress", between, "--seeds", "0:200", "--strategy", strategy)
    assert done.status == 1
    *_, command, shrunk, race, shorter = done.out.splitlines()
    # cpu1 loads between the first store of cpu0 and its last.
    assert shrunk.startswith("shrunk: 1 context switch (1 preemption), 2 choices: the least there ")
    assert race == "  critical race: *1 cpu0 'store x = 1' before *2 cpu1 'load x -> 1'"
    assert shorter == command.replace(" replay ", " shrink ")
    found = re.fullmatch(r"  python -m smpmmu (replay \S+ --seed \d+(?: --strategy \S+)?)", command)
    assert found is not None
    told = shell(*found[1].split())
    assert told.status == 1
    assert "VIOLATED never_seen_in_between after " in told.out
    said = json.loads(
        shell("stress", between, "--seeds", "0:200", "--strategy", strategy, "--format", "json").out
    )
    assert f"after {said['choices']} choices" in told.out
    assert (said["strategy"], said["cut"]) == (strategy, 0)
    assert said["repeated_live"] == min(said["failing"], 20) or strategy == "portfolio"


def test_the_bound_of_pct_is_told_and_kept(between: str, shell: Shell) -> None:
    done = shell("stress", between, "--seeds", "0:1000", "--strategy", "pct:2")
    bound = "  pct:2 finds a bug of depth 2 with probability 1/12 or more (2 agents, 6 choices in"
    assert bound in done.out
    found = json.loads(shell("stress", between, "--seeds", "0:1000", "--strategy", "pct:2",
                             "--format", "json").out)  # fmt: skip
    assert found["failing"] > 1000 / 12


def test_a_portfolio_says_what_each_strategy_found(between: str, shell: Shell) -> None:
    done = shell("stress", between, "--seeds", "0:500", "--strategy", "portfolio",
                 "--format", "json")  # fmt: skip
    found = json.loads(done.out)
    by = found["failing_by_strategy"]
    assert list(by) == ["uniform", "pct:2", "pct:3", "pos", "surw", "paced"]
    assert sum(by.values()) == found["failing"]
    # A share of a portfolio is what the strategy does with those seeds alone.
    alone = json.loads(shell("stress", between, "--seeds", "0:500", "--format", "json").out)
    assert 0 < by["uniform"] < alone["failing"]


def test_standard_output_has_the_same_bytes_in_another_process(
    between: str, shell: Shell, tmp_path: Path
) -> None:
    command = ("stress", between, "--seeds", "3:90", "--strategy", "portfolio")
    here = shell(*command)
    there = spawn(*command, PYTHONHASHSEED="7", cwd=tmp_path)
    assert (there.status, there.out) == (here.status, here.out)
    speed = r"[\d,]+ steps in [\d.]+ s, [\d,]+ a second\n"
    assert re.fullmatch(speed, here.err)
    assert re.fullmatch(speed, there.err)


def test_what_was_seen_once_says_how_much_was_not(between: str, shell: Shell) -> None:
    """The load comes first or last, with one last state; or in between, and 0 to 3 stores to Y."""
    found = json.loads(shell("stress", between, "--seeds", "0:400", "--format", "json").out)
    assert (found["happens_before_classes"], found["last_states"]) == (2 + 4, 1 + 4)
    assert found["classes_seen_once"] == 0
    few = json.loads(shell("stress", between, "--seeds", "0:1", "--format", "json").out)
    assert (few["happens_before_classes"], few["classes_seen_once"]) == (1, 1)
    assert few["unseen_share"] == 1


@pytest.mark.parametrize("strategy", ["", "pct:0", "random", "portfolio:2"])
def test_an_unknown_strategy_is_wrong_usage(between: str, strategy: str, shell: Shell) -> None:
    for command in (("stress", between), ("replay", between, "--seed", "1")):
        done = shell(*command, "--strategy", strategy)
        assert (done.status, done.out) == (2, "")
        assert f"no strategy is called {strategy!r}; there are: uniform, pct[:DEPTH]" in done.err


def test_the_first_seed_of_every_property_is_shrunk(users: Users, shell: Shell) -> None:
    users("between.py", FILE)
    command = ("stress", f"{NAME}/two", "--seeds", "0:300")
    found = json.loads(shell(*command, "--format", "json").out)
    firsts = found["first_of_each"]
    assert {each["violated"] for each in firsts} == set(found["violated"])
    assert len(firsts) == 2
    assert firsts[0]["seed"] == found["first_failing_seed"] < firsts[1]["seed"]
    # Both loads round the first store, or round the last one.
    least = {"never_seen_in_between": (2, 2, 3), "never_seen_to_change": (3, 2, 7)}
    for each in firsts:
        assert tuple(each["shrunk"].values()) == least[each["violated"]]
    lines = shell(*command).out.splitlines()
    second = f"first seed that violates {firsts[1]['violated']}: {firsts[1]['seed']}, after "
    assert sum(line.startswith(second) for line in lines) == 1
    assert sum(line.startswith("shrunk: ") for line in lines) == 2
    for each in firsts:  # as `shrink` itself has it
        alone = shell("shrink", f"{NAME}/two", "--seed", str(each["seed"])).out
        (line,) = [line for line in alone.splitlines() if line.startswith("shrunk: ")]
        assert line in lines


def test_shrinking_can_be_switched_off(between: str, shell: Shell) -> None:
    command = ("stress", between, "--seeds", "0:50")
    plain = shell(*command, "--no-shrink").out.splitlines()
    whole = shell(*command).out.splitlines()
    assert [line for line in whole if line not in plain] == whole[-3:-1]
    assert len(plain) == len(whole) - 2


def test_what_is_too_big_is_not_shrunk(
    between: str, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stressing, "AFFORDABLE", 3 * 2**2)  # two contexts
    *_, said, command = shell("stress", between, "--seeds", "0:50").out.splitlines()
    assert said == "not shrunk: 3 states did not show the least; for a smaller one:"
    assert shell(*command.split()[3:]).status == 0


# Files of seeds.


def test_seeds_are_kept_and_run_first(between: str, shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "failing"
    first = shell("stress", between, "--seeds", "0:50", "--keep", str(file))
    kept = Kept.read(file)
    assert "kept seeds: 0 of 0 still fail" in first.out
    assert 0 < len(kept.seeds) < 50
    assert {(s.strategy, s.violated, s.target) for s in kept.seeds} == {
        ("uniform", "never_seen_in_between", f"{NAME}/one")
    }
    # Of another variant nothing is known; then one seed that does not fail, and all the kept ones.
    other = shell("stress", f"{NAME}/fixed", "--seeds", "0:50", "--keep", str(file))
    assert (other.status, other.out.splitlines()[0]) == (0, "kept seeds: 0 of 0 still fail")
    good = next(n for n in range(50) if n not in {s.number for s in kept.seeds})
    again = shell("stress", between, "--seeds", f"{good}:{good + 1}", "--keep", str(file))
    many = len(kept.seeds)
    assert again.out.splitlines()[0] == f"kept seeds: {many} of {many} still fail"
    assert again.status == 1
    assert "none of 1 fails" in again.out
    assert Kept.read(file).seeds == kept.seeds


def test_a_kept_seed_that_no_longer_fails_stays(users: Users, shell: Shell) -> None:
    users("between.py", FILE)
    line = Seed(3, "surw", "never_seen_in_between", f"{NAME}/fixed")
    Kept([line]).write(file := seed_files_path())
    done = shell("stress", f"{NAME}/fixed", "--seeds", "0:20", "--keep", str(file))
    assert (done.status, done.out.splitlines()[0]) == (0, "kept seeds: 0 of 1 still fail")
    assert Kept.read(file).seeds == [line]


def test_a_kept_seed_that_violates_something_else_is_told_apart(
    between: str, shell: Shell, tmp_path: Path
) -> None:
    shell("stress", between, "--seeds", "0:50", "--keep", "failing")
    kept = Kept.read(tmp_path / "failing").seeds
    Kept([replace(kept[0], violated="something_else"), *kept[1:]]).write(tmp_path / "failing")
    done = shell("stress", between, "--seeds", "0:1", "--keep", "failing")
    many = len(kept)
    assert done.out.splitlines()[0] == (
        f"kept seeds: {many - 1} of {many} still fail, 1 by violating something else"
    )
    assert done.status == 1


def test_a_file_of_scenarios_may_be_named_by_any_path(
    between: str, shell: Shell, tmp_path: Path
) -> None:
    """What counts is where it lies beside the file of seeds."""
    (tmp_path / "kept").mkdir()
    shell("stress", between, "--seeds", "0:50", "--keep", "kept/failing")
    kept = Kept.read(tmp_path / "kept/failing").seeds
    assert {seed.target for seed in kept} == {f"../{NAME}/one"}
    for spelled in (f"./{between}", f"kept/../{between}", f"{tmp_path}/{between}"):
        done = shell("stress", spelled, "--seeds", "0:1", "--keep", f"{tmp_path}/kept/failing")
        assert done.out.startswith(f"kept seeds: {len(kept)} of {len(kept)} still fail\n")
    assert Kept.read(tmp_path / "kept/failing").seeds == kept


def seed_files_path() -> Path:
    from pathlib import Path

    return Path("kept")


def test_strategies_keep_seeds_side_by_side(between: str, shell: Shell, tmp_path: Path) -> None:
    file = str(tmp_path / "failing")
    for strategy in ("surw", "portfolio"):
        shell("stress", between, "--seeds", "0:40", "--strategy", strategy, "--keep", file)
    kept = Kept.read(tmp_path / "failing").seeds
    assert {"surw", "pct:2", "pos"} <= {seed.strategy for seed in kept} < {
        "uniform", "pct:2", "pct:3", "pos", "surw", "paced", ""
    }  # fmt: skip
    assert len(kept) == len(set(kept))
    done = shell("stress", between, "--seeds", "0:1", "--keep", file)
    assert done.out.startswith(f"kept seeds: {len(kept)} of {len(kept)} still fail\n")


def test_of_a_kind_only_so_many_are_kept() -> None:
    kept = Kept()
    kept.add(Seed(n, "uniform", "p", "t/v") for n in range(MOST + 7))
    kept.add(Seed(n, "uniform", "p", "t/v") for n in (0, 1, 500))
    assert len(kept.seeds) == MOST
    kept.add([Seed(0, "pos", "p", "t/v"), Seed(0, "uniform", "p", "t/w")])
    assert len(kept.seeds) == MOST + 2


def test_a_file_of_seeds_reads_as_it_was_written(tmp_path: Path) -> None:
    many = [Seed((1 << 64) - 1, "pct:7", "p", "a b/c d.py:e/f"), Seed(0, "pos", "q", "x/y")]
    Kept(many).write(tmp_path / "f")
    assert (tmp_path / "f").read_text() == (
        f"{HEADER}\n18446744073709551615 pct:7 p a b/c d.py:e/f\n0 pos q x/y\n"
    )
    assert Kept.read(tmp_path / "f").seeds == many


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f:1: expected 'smpmmu seeds 1', found ''"),
        ("smpmmu seeds 2\n", "f:1: expected 'smpmmu seeds 1', found 'smpmmu seeds 2'"),
        (f"{HEADER}\n1 pos p x/y", "f:2: the last line is cut off: '1 pos p x/y'"),
        (f"{HEADER}\n1 pos p\n", "f:2: expected 'SEED STRATEGY PROPERTY VARIANT', found '1 pos p'"),
        (f"{HEADER}\n\n", "f:2: expected 'SEED"),
        (f"{HEADER}\n1 pos p x/y\n-1 pos p x/y\n", "f:3: expected a seed of 0 to 2^64 - 1"),
        (f"{HEADER}\n{1 << 64} pos p x/y\n", "f:2: expected a seed"),
        (f"{HEADER}\n{'9' * 5000} pos p x/y\n", "f:2: expected a seed"),
        (f"{HEADER}\n٣ pos p x/y\n", "f:2: expected a seed"),
        (f"{HEADER}\n1 portfolio p x/y\n", "f:2: expected one strategy, found 'portfolio'"),
        (f"{HEADER}\n1 bogus p x/y\n", "f:2: no strategy is called 'bogus'"),
    ],
)
def test_a_damaged_file_of_seeds_is_an_error(
    text: str, said: str, between: str, shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text(text, encoding="utf-8")
    done = shell("stress", between, "--keep", "f")
    assert (done.status, done.out) == (4, "")
    assert said in done.err
    assert (tmp_path / "f").read_text(encoding="utf-8") == text


def test_what_is_no_text_or_cannot_be_reached_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xff\xfe")
    with pytest.raises(ScheduleError, match="found what is not text"):
        Kept.read(tmp_path / "f")
    with pytest.raises(UsageError, match="cannot read the seeds"):
        Kept.read(tmp_path / "f" / "g")
    with pytest.raises(UsageError, match="cannot write the seeds"):
        Kept().write(tmp_path / "none" / "g")


def test_a_file_of_seeds_is_never_half_written(
    between: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Kept([Seed(3, "pos", "p", "x/y")]).write(tmp_path / "f")
    before = (tmp_path / "f").read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(seed_files, "write_whole", full)
    done = shell("stress", between, "--keep", "f")
    assert done.status == 2
    assert "cannot write the seeds to f: No space left on device" in done.err
    assert (tmp_path / "f").read_text() == before
