"""Single live runs: what a list of choices does, and what a seed does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from smpmmu.engine.batch import Kernel
from smpmmu.engine.errors import ModelError, ScheduleError
from smpmmu.engine.layout import Grown
from smpmmu.engine.live import Stray, random_run, replay
from smpmmu.engine.local import call
from smpmmu.engine.run import Action, Ending, Run
from smpmmu.engine.steps import load, store
from smpmmu.engine.stress import SeededRun, stress
from smpmmu.targets import one
from tests.live.systems import LOCK, SYSTEMS, X, main, running, system
from tests.shell import DEFECT

if TYPE_CHECKING:
    from smpmmu.engine.system import System
    from smpmmu.engine.vcpus import Machine

CROSSWISE = ("cpu0", "cpu1", "cpu1", "cpu0")


@pytest.mark.trio
async def test_choices_decide_who_moves_and_the_run_tells_what_was_done() -> None:
    run = await replay(SYSTEMS["lost_update"], CROSSWISE)
    assert run.choices == CROSSWISE
    assert [a.text for a in run.actions] == [
        "load x -> 0",
        "load x -> 0",
        "store x = 1",
        "store x = 1",
    ]
    assert run.ending is Ending.VIOLATION
    assert run.violated == "both_increments_count"
    assert run.broken == ("both_increments_count",)
    assert run.values == (("x", 1),)


@pytest.mark.trio
async def test_another_order_ends_otherwise() -> None:
    run = await replay(SYSTEMS["lost_update"], ("cpu1", "cpu1", "cpu0", "cpu0"))
    assert (run.ending, run.violated, run.values) == (Ending.QUIESCENT, "", (("x", 2),))


@pytest.mark.trio
async def test_too_few_choices_are_cut_and_none_are_the_start() -> None:
    run = await replay(SYSTEMS["lost_update"], CROSSWISE[:3])
    assert (run.ending, run.values, len(run.actions)) == (Ending.CUT, (("x", 1),), 3)
    run = await replay(SYSTEMS["lost_update"], ())
    assert run == Run(Ending.CUT, ())


@pytest.mark.trio
async def test_one_choice_takes_a_whole_indivisible_action() -> None:
    run = await replay(SYSTEMS["no_update_lost"], ("cpu1", "cpu0"))
    assert [a.text for a in run.actions] == [
        "load x -> 0; store x = 1",
        "load x -> 1; store x = 2",
    ]
    parted = await replay(
        SYSTEMS["no_update_lost"], CROSSWISE, dropped=frozenset({"the test says so"})
    )
    assert parted.violated == "both_increments_count"


@pytest.mark.trio
async def test_a_deadlock_is_stuck() -> None:
    run = await replay(SYSTEMS["deadlock"], ("cpu0", "cpu1"))
    assert run.ending is Ending.STUCK
    assert run.values == (("lock", 1), ("other", 1))


@pytest.mark.trio
async def test_choices_name_interrupts_and_hardware() -> None:
    run = await replay(SYSTEMS["interrupt"], ("cpu1", "cpu0.irq", "cpu0.irq", "cpu0.irq"))
    assert [a.text for a in run.actions] == ["set 1 in vector", "take vector", "load x -> 0",
                                             "set 1 in z"]  # fmt: skip
    run = await replay(SYSTEMS["hardware"], ("cpu0", "cpu0.hw", "cpu0.hw", "cpu0", "cpu0"))
    assert run.ending is Ending.QUIESCENT


@pytest.mark.parametrize(
    ("choices", "number", "known", "possible"),
    [
        (("cpu7",), 0, False, ("cpu0", "cpu1")),
        (("cpu0", "cpu0", "cpu1"), 2, True, ("cpu0",)),  # it waits for the lock
        (("cpu0",) * 5, 4, True, ("cpu1",)),  # it has finished
        (("cpu0",) * 4 + ("cpu1",) * 4 + ("cpu0 ",), 8, False, ()),
    ],
)
@pytest.mark.trio
async def test_a_choice_that_cannot_move_is_an_error(
    choices: tuple[str, ...], number: int, known: object, possible: tuple[str, ...]
) -> None:
    with pytest.raises(Stray, match=f"choice {number + 1}: {choices[number]} ") as caught:
        await replay(SYSTEMS["locked"], choices)
    assert isinstance(caught.value, ScheduleError)
    assert (caught.value.number, caught.value.choice) == (number, choices[number])
    assert caught.value.known is known
    assert tuple(name for name, _ in caught.value.possible) == possible


@pytest.mark.trio
async def test_every_action_can_be_looked_at_as_it_is_taken() -> None:
    seen: list[tuple[int, str, int]] = []

    def look(number: int, machine: Machine, action: Action) -> None:
        seen.append((number, action.text, machine.read(X)))

    await replay(SYSTEMS["lost_update"], CROSSWISE, check=look)
    assert seen == [
        (0, "load x -> 0", 0),
        (1, "load x -> 0", 0),
        (2, "store x = 1", 1),
        (3, "store x = 1", 1),
    ]


@pytest.mark.trio
async def test_what_a_look_raises_comes_out_as_it_is() -> None:
    def refuse(*_: object) -> None:
        msg = "enough"
        raise LookupError(msg)

    with pytest.raises(LookupError, match="enough"):
        await replay(SYSTEMS["lost_update"], CROSSWISE, check=refuse)


async def _raises() -> None:
    seen = await load(X)
    if seen:
        msg = "one was read"
        raise ValueError(msg)


@pytest.mark.trio
async def test_a_model_error_in_the_middle_comes_out_as_it_is() -> None:
    wrong = system(running(0, call(_raises)), main(1, store(X, 1)))
    with pytest.raises(ModelError, match="one was read"):
        await replay(wrong, ("cpu1", "cpu0"))


def batch_values(kernel: Kernel, run: SeededRun) -> dict[str, int]:
    """Take a run's choices on the batch kernel, and return the words that differ in the end."""
    block = kernel.initial()
    for number in run.choices:
        while True:
            try:
                (emission,) = kernel.fire(block, number, None)
                break
            except Grown:
                before = kernel.layout.grow()
                block.lanes = kernel.layout.repack(before, block.lanes)
        for lane, delta in enumerate(emission.deltas):
            block.lanes[lane] ^= np.asarray(delta, dtype=np.uint64)
        block.fps = emission.fps
    words = {w.name: (w, kernel.word(block, w)) for w in kernel._words.values()}
    return {
        n: int(np.ravel(v)[0]) for n, (w, v) in words.items() if int(np.ravel(v)[0]) != w.initial
    }


async def agree_on_seeds(system: System, seeds: range, *, longest: int) -> list[Run]:
    kernel = Kernel(system)
    (many,) = stress(kernel, seeds, longest=longest)
    runs = []
    for batch in many:
        run = await random_run(system, batch.seed, automata=kernel.automata, longest=longest)
        names = tuple(system.contexts[c].name for c in batch.choices)
        assert run.choices == names
        assert (run.ending, run.violated) == (batch.ending, batch.violated)
        assert dict(run.values) == batch_values(kernel, batch)
        runs.append(run)
    return runs


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.trio
async def test_a_seed_does_live_what_it_does_in_stress(name: str) -> None:
    runs = await agree_on_seeds(SYSTEMS[name], range(20), longest=50)
    assert [len(r.actions) > 0 for r in runs].count(True) >= 19
    again = [await replay(SYSTEMS[name], run.choices) for run in runs]
    assert [(r.actions, r.values, r.violated) for r in again] == [
        (r.actions, r.values, r.violated) for r in runs
    ]


@pytest.mark.trio
async def test_a_seed_does_live_what_it_does_in_stress_on_the_pair() -> None:
    runs = await agree_on_seeds(one(DEFECT).system(), range(100, 110), longest=10_000)
    assert {r.ending for r in runs} == {Ending.QUIESCENT}


@pytest.mark.trio
async def test_seeds_meet_every_kind_of_ending() -> None:
    met = set()
    for name in ("lost_update", "deadlock", "endless", "independent"):
        met |= {r.ending for r in await agree_on_seeds(SYSTEMS[name], range(20), longest=30)}
    assert met == set(Ending)


@pytest.mark.trio
async def test_a_run_that_is_cut_off_has_the_length_asked_for() -> None:
    for longest in (1, 7):
        (run,) = await agree_on_seeds(SYSTEMS["endless"], range(3, 4), longest=longest)
        assert (run.ending, len(run.actions)) == (Ending.CUT, longest)


@pytest.mark.trio
async def test_two_words_of_one_name_must_agree() -> None:
    other = type(X)("x", 7)
    with pytest.raises(ModelError, match="two words are named 'x'"):
        await replay(system(main(0, store(X, 1)), main(1, load(other))), ("cpu0", "cpu1"))


@pytest.mark.trio
async def test_a_private_word_is_private_live_as_well() -> None:
    mine = type(LOCK)("mine", 2, owner="cpu0")
    fine = await replay(system(main(0, store(mine, 1), load(mine, 3))), ("cpu0", "cpu0"))
    assert [a.text for a in fine.actions] == ["store mine = 1", "load mine -> 1"]
    assert fine.values == (("mine", 1),)
