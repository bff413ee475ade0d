"""A seed and the schedule saved of it tell the same story; a prefix goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.shell import REPAIR, Shell

if TYPE_CHECKING:
    from pathlib import Path

# Variant, seed, longest run, exit status of the seed, what the file expects.
RUNS = [
    ("reliant_flusher/deferred_range", 4013, 100_000, 1, "VIOLATED no_write_after_promise"),
    (REPAIR, 0, 100_000, 0, "PASSES"),
    (REPAIR, 0, 31, 3, "UNDECIDED"),
    ("reliant_skipper/native_after_unlock_pae", 2, 100_000, 1, "VIOLATED no_write_after_promise"),
    ("unmap_twice/vmi_reclaim", 5, 100_000, 0, "PASSES"),
]


def story(out: str) -> str:
    """Return what stands above the conclusion."""
    return out[: out.rindex("\n\n")]


@pytest.mark.parametrize(("name", "seed", "longest", "status", "expect"), RUNS)
def test_a_seed_and_its_file_tell_the_same_story(
    name: str, seed: int, longest: int, status: int, expect: str, shell: Shell, tmp_path: Path
) -> None:
    asked = ("replay", name, "--seed", str(seed), "--longest", str(longest))
    plain = shell(*asked)
    saved = shell(*asked, "--save", str(tmp_path))
    (file,) = tmp_path.glob("*.schedule")
    assert (plain.status, saved.status) == (status, status)
    assert f"\nexpect   {expect}\n" in file.read_text(encoding="utf-8")
    again = shell("replay", str(file))
    assert (again.status, again.err) == (0, "")
    assert story(again.out) == story(plain.out) == story(saved.out)
    assert len(story(plain.out).splitlines()) > 20


def test_a_deadlock_met_by_a_seed_is_recorded_as_one(shell: Shell, tmp_path: Path) -> None:
    asked = ("replay", "shootdown_deadlocks/flushes_irqs_off", "--seed")
    found = [s for s in range(10) if shell(*asked, str(s), "--save", str(tmp_path)).status == 1]
    assert found
    for seed in found:
        (file,) = tmp_path.glob(f"*.seed.{seed}.schedule")
        done = shell("replay", str(file))
        assert done.status == 0
        assert "confirmed: no_deadlock is violated after " in done.out


def test_a_prefix_continued_by_its_own_seed_is_the_seed(shell: Shell, tmp_path: Path) -> None:
    name, seed = "reliant_flusher/deferred_range", "4013"
    whole = shell("replay", name, "--seed", seed)
    shell("replay", name, "--seed", seed, "--longest", "40", "--save", str(tmp_path))
    (file,) = tmp_path.glob("*.schedule")
    onward = ("replay", str(file), "--then", "uniform", "--seed")
    done = shell(*onward, seed)
    assert done.status == 1
    assert story(done.out) == story(whole.out)
    assert shell(*onward, "1", "--save", str(tmp_path)).status == 0
    (other,) = tmp_path.glob("*.then.1.schedule")
    prefix, continued = (f.read_text(encoding="utf-8").splitlines()[4:] for f in (file, other))
    assert continued[:40] == prefix
    assert len(continued) > 40


def test_a_prefix_that_has_ended_goes_nowhere(shell: Shell, tmp_path: Path) -> None:
    name = "reliant_flusher/deferred_range"
    shell("replay", name, "--seed", "4013", "--save", str(tmp_path))
    (file,) = tmp_path.glob("*.schedule")
    done = shell("replay", str(file), "--then", "uniform", "--seed", "0")
    assert done.status == 1
    assert story(done.out) == story(shell("replay", str(file)).out)


def test_a_pass_that_is_none_is_told(shell: Shell, tmp_path: Path) -> None:
    shell("replay", REPAIR, "--seed", "0", "--save", str(tmp_path))
    (file,) = tmp_path.glob("*.schedule")
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("PASSES", "UNDECIDED"), encoding="utf-8")
    done = shell("replay", str(file))
    assert done.status == 4
    assert "expected the run to be able to go on, found quiescent after" in done.err
    shell("replay", "reliant_flusher/deferred_range", "--seed", "4013", "--save", str(tmp_path))
    (other,) = tmp_path.glob("*4013.schedule")
    text = other.read_text(encoding="utf-8")
    other.write_text(text.replace("VIOLATED no_write_after_promise", "PASSES"), encoding="utf-8")
    done = shell("replay", str(other))
    assert done.status == 4
    assert "expected a step that breaks nothing, found that it violates no_write" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((REPAIR, "--longest", "5"), "--longest is for seeds"),
        ((REPAIR, "--save", "d"), "--save is for seeds"),
        (("it.schedule", "--then", "uniform"), "--then needs the --seed"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str, shell: Shell) -> None:
    done = shell("replay", *arguments)
    assert (done.status, done.out) == (2, "")
    assert message in done.err


def test_an_unknown_strategy_is_told(shell: Shell, tmp_path: Path) -> None:
    shell("replay", REPAIR, "--seed", "0", "--longest", "5", "--save", str(tmp_path))
    (file,) = tmp_path.glob("*.schedule")
    done = shell("replay", str(file), "--then", "worst", "--seed", "0")
    assert done.status == 2
    assert "no strategy is called 'worst'; there are: uniform" in done.err
