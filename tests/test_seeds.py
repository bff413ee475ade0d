"""A seed is a schedule: frozen here, the same in every process, with every hash seed."""

from __future__ import annotations

import json

import pytest

from smpmmu.engine.batch import Kernel
from smpmmu.engine.live import in_trio, random_run
from smpmmu.engine.run import Ending
from smpmmu.engine.stress import SeededRun, stress
from smpmmu.targets import one
from tests.live.systems import SYSTEMS, independent
from tests.shell import DEFECT, ROOT, Shell, python, spawn

LARGEST = (1 << 64) - 1
NAMED = SYSTEMS | {"three": independent(5, 5, 5)}

# The numbers are the contexts chosen, in order. People keep seeds: these may not change.
FROZEN: dict[str, dict[int, str]] = {
    "three": {
        0: "121120201100022",
        1: "110001010122222",
        2: "222220011010101",
        1000: "121002210220110",
        1 << 32: "001222122001011",
        (1 << 63) - 1: "120220100212101",
        1 << 63: "202100010121122",
        LARGEST: "021200010221211",
    },
    "interrupt": {
        0: "21110",
        1: "0000020111",
        7: "02111",
        1 << 32: "000200111",
        (1 << 63) - 1: "0200000111",
        LARGEST: "0200000111",
    },
    "hardware": {0: "01111010", 1: "01100", 1 << 32: "01111111100", LARGEST: "011100"},
    "deadlock": {0: "11110000", 7: "01", 1000: "11101000", LARGEST: "01"},
}


def batch_run(name: str, seed: int) -> SeededRun:
    ((run,),) = stress(Kernel(NAMED[name]), range(seed, seed + 1))
    return run


def written(run: SeededRun) -> str:
    return "".join(str(c) for c in run.choices)


CASES = [(name, seed) for name, seeds in FROZEN.items() for seed in seeds]


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_a_seed_makes_the_choices_it_always_made(name: str, seed: int) -> None:
    run = batch_run(name, seed)
    assert (run.seed, written(run)) == (seed, FROZEN[name][seed])


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_and_makes_them_live(name: str, seed: int) -> None:
    run = in_trio(lambda: random_run(NAMED[name], seed))
    numbers = {c.name: str(n) for n, c in enumerate(NAMED[name].contexts)}
    assert "".join(numbers[c] for c in run.choices) == FROZEN[name][seed]


def split_mix_64(state: int) -> int:
    """Return the next number after `state`, as published (Steele, Lea, Flood, OOPSLA 2014)."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def finish(z: int) -> int:
    return split_mix_64((z - 0x9E3779B97F4A7C15) % 2**64)


@pytest.mark.parametrize("seed", FROZEN["three"])
def test_the_choices_are_those_of_the_published_generator(seed: int) -> None:
    """Three programs of five steps: as long as all can move, a choice is a third each."""
    stream = finish(finish(seed) ^ 0x9E3779B97F4A7C15)
    left = [5, 5, 5]
    chosen = ""
    for index in range(15):
        number = split_mix_64((stream + index * 0x9E3779B97F4A7C15) % 2**64)
        able = [n for n in range(3) if left[n]]
        pick = able[(number // 2**32) * len(able) // 2**32]
        left[pick] -= 1
        chosen += str(pick)
    assert chosen == FROZEN["three"][seed]


PRINT = """
import json
from tests.test_seeds import CASES, batch_run, written
print(json.dumps([[n, str(s), written(batch_run(n, s))] for n, s in CASES]))
"""


@pytest.mark.parametrize("hash_seed", ["0", "4294967295"])
def test_another_process_with_another_hash_seed_makes_the_same(hash_seed: str) -> None:
    done = python(PRINT, PYTHONHASHSEED=hash_seed)
    assert done.err == ""
    assert json.loads(done.out) == [[n, str(s), FROZEN[n][s]] for n, s in CASES]


def test_a_range_is_its_seeds_one_by_one() -> None:
    kernel = Kernel(NAMED["interrupt"])
    together = [run for part in stress(kernel, range(40, 60)) for run in part]
    assert together == [batch_run("interrupt", seed) for seed in range(40, 60)]
    assert len({run.choices for run in together}) > 5


def test_ranges_longer_than_what_goes_together_are_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = [run for part in stress(Kernel(NAMED["three"]), range(50)) for run in part]
    monkeypatch.setattr("smpmmu.engine.stress.TOGETHER", 7)
    parts = list(stress(Kernel(NAMED["three"]), range(50)))
    assert [len(part) for part in parts] == [7] * 7 + [1]
    assert [run for part in parts for run in part] == whole


def test_the_largest_seeds_run_beside_each_other() -> None:
    seeds = range(LARGEST - 2, LARGEST + 1)
    (runs,) = stress(Kernel(NAMED["three"]), seeds)
    assert [run.seed for run in runs] == list(seeds)
    assert written(runs[-1]) == FROZEN["three"][LARGEST]


def test_seeds_differ() -> None:
    """Of 15! / 5!^3 = 756,756 schedules, a thousand seeds seldom meet one twice."""
    (runs,) = stress(Kernel(NAMED["three"]), range(1_000))
    assert len({run.choices for run in runs}) > 990
    assert {run.ending for run in runs} == {Ending.QUIESCENT}


# From the command line.


@pytest.mark.parametrize("seed", [0, 4, LARGEST])
def test_the_pair_tells_one_story_of_a_seed(shell: Shell, seed: int) -> None:
    done = shell("replay", DEFECT, "--seed", str(seed))
    run = in_trio(lambda: random_run(one(DEFECT).system(), seed))
    assert done.status == 0
    assert done.out.endswith(
        f"seed {seed}: came to rest; nothing was violated after {len(run.actions)} choices\n"
    )


def test_the_same_bytes_in_another_process(shell: Shell) -> None:
    here = shell("replay", DEFECT, "--seed", "17")
    there = spawn("replay", DEFECT, "--seed", "17", PYTHONHASHSEED="99", cwd=ROOT)
    assert (there.status, there.out, there.err) == (here.status, here.out, here.err)


@pytest.mark.parametrize("seed", ["-1", str(LARGEST + 1), "1.5", "x", ""])
def test_what_is_no_seed_is_refused(shell: Shell, seed: str) -> None:
    done = shell("replay", DEFECT, "--seed", seed)
    assert (done.status, done.out) == (2, "")
    assert "--seed" in done.err


@pytest.mark.parametrize("seeds", ["5:5", "6:5", "-1:5", "5", "a:b", f"0:{LARGEST + 2}", ":", ""])
def test_what_is_no_range_of_seeds_is_refused(shell: Shell, seeds: str) -> None:
    done = shell("stress", DEFECT, "--seeds", seeds)
    assert (done.status, done.out) == (2, "")
    assert f"expected A:B with 0 <= A < B, found '{seeds}'" in done.err


def test_the_largest_seed_is_in_a_range(shell: Shell) -> None:
    done = shell("stress", DEFECT, "--seeds", f"{LARGEST}:{LARGEST + 1}", "--format", "json")
    assert done.status == 0
    assert json.loads(done.out)["seeds"] == [LARGEST, LARGEST + 1]
