"""Races of the catalogue shrunk to what was worked out by hand, from long random runs.

A run is written as its blocks: who, and how many choices in a row. The argument why there can
be no fewer switches, then no fewer preemptions, then no fewer choices stands beside each.
"""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import TYPE_CHECKING, NamedTuple

import pytest

from smpmmu.engine.batch import Kernel
from smpmmu.engine.run import Ending
from smpmmu.engine.stress import stress
from smpmmu.engine.system import NO_DEADLOCK
from smpmmu.shrinking import shrink_seed
from smpmmu.targets import one
from tests.shell import REPAIR, Shell

if TYPE_CHECKING:
    from pathlib import Path


class Minimal(NamedTuple):
    """A variant, and the least run of what its random runs violate, without some parts."""

    variant: str
    violated: str
    blocks: list[tuple[str, int]]
    preemptions: int
    left_out: tuple[str, ...] = ()


RACES = [
    # cpu1 must have the page in its TLB as writable, so its walk (4) and first write (1) come
    # before cpu0 clears RW; and it must look at the entry afterwards to take it for final. So
    # cpu0 stands between two parts of cpu1: 2 switches. The first leaves cpu1 in the middle
    # of its program: 1 preemption. The second does not if cpu0 goes on until it waits for cpu1
    # to answer (10); leaving it earlier would save choices and cost a preemption. Then cpu1 locks,
    # looks, promises, unlocks, finds its old entry and writes: 6.
    Minimal("reliant_skipper/native_after_unlock", "no_write_after_promise",
            [("cpu1", 5), ("cpu0", 10), ("cpu1", 6)], 1),
    # No race at all: one CPU locks, clears RW, looks at its queue, queues, unlocks, and the rule
    # is about the moment after. Its program has no other order.
    Minimal("lock_rule/deferred_after_unlock",
            "shadow_no_more_permissive_when_lock_free", [("cpu0", 5)], 0, ("cpu1",)),
    # cpu1's walk must read the entry between cpu0's two stores, so cpu0 is left after its second
    # step, while it could go on: 1 switch, 1 preemption. cpu1 walks (4) and writes (1). With
    # no switch, cpu0 uses no page, and cpu1 finds what was there before.
    Minimal("pae_words/replace_set_pte", "no_access_to_freed_frame",
            [("cpu0", 2), ("cpu1", 5)], 1, ("cpu1[1]",)),
    # One CPU frees a table that was announced and not released. It shoots down before, and waits
    # for the other's handler (7 steps: it is in the mask): to it and back are 2 switches. Both
    # leave who cannot go on: cpu0 waits, the handler is done. Nobody's order is free.
    Minimal("page_table_free/not_released", "free_frames_are_normal",
            [("cpu0", 30), ("cpu1.irq.invalidate", 7), ("cpu0", 10)], 0, ("cpu1", "cpu2")),
    # cpu1 must look at the mask after cpu0 has queued and left it, and write before cpu0 loads CR3,
    # which would drain: 1 switch, in the middle of cpu0's program: 1 preemption. cpu0's part
    # is lock, clear, look, queue, unlock, cli, leave the mask; cpu1's is lock, look, the empty
    # mask, its own flush (2), promise, unlock, a walk (5, as it reads CR3) and the write.
    Minimal("mask_omits_deferrer/deferred_sibling_relies",
            "no_write_after_promise", [("cpu0", 7), ("cpu1", 13)], 1, ("cpu1[2]",)),
    # Each waits for the other: cpu0, with the lock, for an answer; cpu1, with interrupts off, for
    # the lock. Both have moved, so 1 switch; cpu0 first, since cpu1 first would get the lock. cpu0
    # goes on until it waits, so there is no preemption; it sends after 9 steps. cpu1 switches
    # interrupts off and says that it wants the lock.
    Minimal("shootdown_deadlocks/ptl_irqs_off", "no_deadlock",
            [("cpu0", 9), ("cpu1", 2)], 0),
    # Who sends first waits for the other, who has interrupts off and waits for the same lock. Both
    # have moved: 1 switch, away from one that waits. cli, mask, own TLB, lock, three words
    # of the request, the vector: 8; the other's are cli, mask, own TLB: 3. What each did before
    # (it used the page) is not needed.
    Minimal("shootdown_deadlocks/flushes_irqs_off", "no_deadlock",
            [("cpu1", 8), ("cpu0", 3)], 0, ("cpu0[0]", "cpu1[0]")),
    # A flush that tells the others first. cpu0 drains only when cpu1's handler has answered, and
    # the handler drops what cpu1 has cached; so cpu1 must fill from the old shadow between the
    # two: cpu0, handler, cpu1, cpu0. It must write after cpu0's promise: cpu1 again, 4 switches.
    # cpu0 waits, the handler is done, cpu0 has ended; only cpu1, left between its fill and its
    # write, could go on: 1 preemption.
    Minimal("remote_first/deferred_after_unlock", "no_write_after_promise",
            [("cpu0", 11), ("cpu1.irq.invalidate", 7), ("cpu1", 4), ("cpu0", 9), ("cpu1", 1)], 1,
            ("cpu1[1]",)),
    # An unmap that tells the hypervisor nothing: the shadow stays as it was. cpu0 must free
    # the page, for which it waits for cpu1's handler (2 switches, there and back), and cpu1
    # uses it after that (a third). cpu0 waits, the handler is done, cpu0 has ended: no preemption.
    # 4 + 8 steps up to the vector, 7 to answer, 4 to finish and 1 to free, a walk and
    # a write.
    Minimal("macros_as_written/get_and_clear_unhooked",
            "no_access_to_freed_frame",
            [("cpu0", 12), ("cpu1.irq.invalidate", 7), ("cpu0", 5), ("cpu1", 5)], 0,
            ("cpu0[1]", "cpu1[1]")),
    # On two CPUs only hardware can fill while cpu1 itself waits for cpu0's answer: cpu0 queues;
    # cpu1 flushes and sends; its walker fills from the old shadow; cpu0 answers, which drains; cpu1
    # promises and writes: 4 switches between 5 parts in the only order. cpu0 is left after its
    # unlock, while it could go on; cpu1 waits, the walker is done (the page is cached), the handler
    # is done: 1 preemption.
    Minimal("two_cpus_speculation/deferred_after_unlock",
            "no_write_after_promise",
            [("cpu0", 5), ("cpu1", 10), ("cpu1.walker", 4), ("cpu0.irq.invalidate", 9),
             ("cpu1", 8)], 1),
    # The written page is clean on disk and dirty in no table. cpu1's TLB must have D (its walk, 4)
    # before cpu0 takes D away; cpu2 must write back (3) after cpu0 has marked the page and before
    # cpu1 writes; then all comes to rest, for which cpu1's handler answers and cpu0 finishes: six
    # parts in this order, 5 switches. cpu1 is left between walk and write: 1 preemption; the
    # others wait or are done. (That the write itself comes last of cpu1's is why its handler is
    # another part: an instruction is not interrupted.)
    Minimal("dirty_writeback/native_after_unlock", "no_write_lost_at_rest",
            [("cpu1", 4), ("cpu0", 12), ("cpu2", 3), ("cpu1", 1), ("cpu1.irq.invalidate", 6),
             ("cpu0", 4)], 1, ("cpu1[1]",)),
    # No race either: a table that was not announced is not shadowed, so that whoever filled it
    # faults for ever. All 25 steps are one CPU's, in the order of its program.
    Minimal("pte_alloc_race/not_announced_promises",
            "mapped_pages_are_reachable", [("cpu0", 25)], 0, ("cpu1",)),
]  # fmt: skip


def longest_failing(race: Minimal) -> int:
    """Return, of the first 500 seeds that violate it, the one with the most context switches."""
    kernel = Kernel(one(race.variant).system())
    (runs,) = stress(kernel, range(500))
    broken = [
        run
        for run in runs
        if race.violated == (NO_DEADLOCK if run.ending is Ending.STUCK else run.violated)
    ]
    return max(broken, key=lambda run: sum(a != b for a, b in pairwise(run.choices))).seed


@pytest.mark.parametrize("race", RACES, ids=lambda race: race.variant)
def test_a_random_run_shrinks_to_the_least_by_hand(race: Minimal) -> None:
    found = shrink_seed(race.variant, longest_failing(race))
    shrunk = found.shrunk
    assert shrunk.before > shrunk.cost
    assert shrunk.before.switches >= 4
    blocks = [(who, len(list(group))) for who, group in groupby(shrunk.choices)]
    assert blocks == race.blocks
    assert (shrunk.name, shrunk.cost.preemptions) == (race.violated, race.preemptions)
    assert shrunk.least
    assert shrunk.left_out == race.left_out
    assert found.told.run.choices == shrunk.choices


def test_the_races_are_of_many_kinds() -> None:
    assert len({race.variant.split("/", maxsplit=1)[0] for race in RACES}) >= 10


def test_the_command_tells_saves_and_replays(shell: Shell, tmp_path: Path) -> None:
    asked = ("shrink", "pae_words/replace_set_pte", "--seed", "11")
    plain = shell(*asked)
    done = shell(*asked, "--save", str(tmp_path))
    assert (plain.status, done.status) == (0, 0)
    assert done.out.startswith(
        "pae_words/replace_set_pte, seed 11: 8 context switches (8 preemptions), 14 choices\n"
        "shrunk: 1 context switch (1 preemption), 7 choices: the least there is, of "
    )
    assert "preserved: VIOLATED no_access_to_freed_frame\n" in done.out
    assert "not needed for it: cpu1[1]; 2 of 3 calls are left\n" in done.out
    (file,) = tmp_path.glob("*.schedule")
    assert file.name == "pae_words.replace_set_pte.shrunk.schedule"
    assert "\nwithout  cpu1[1]\n" in file.read_text(encoding="utf-8")
    replayed = shell("replay", str(file))
    assert replayed.status == 0
    assert "confirmed: no_access_to_freed_frame is violated after 7 choices" in replayed.out
    story = done.out[done.out.index("\n\n") + 1 : done.out.index("  replay: ")]
    assert story in replayed.out
    again = shell("shrink", str(file))
    assert "1 context switch (1 preemption), 7 choices: the least there is" in again.out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((REPAIR, "--seed", "0"), 2, f"{REPAIR}, seed 0 violates nothing"),
        ((REPAIR,), 2, "is no schedule file; name a --seed of the variant"),
        (("nothere.schedule",), 2, "cannot read the schedule nothere.schedule"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], status: int, message: str, shell: Shell) -> None:
    done = shell("shrink", *arguments)
    assert (done.status, done.out) == (status, "")
    assert message in done.err


def test_a_part_left_out_that_is_not_there_is_told(shell: Shell, tmp_path: Path) -> None:
    shell("shrink", "pae_words/replace_set_pte", "--seed", "11", "--save", str(tmp_path))
    (file,) = tmp_path.glob("*.schedule")
    text = file.read_text(encoding="utf-8").replace("without  cpu1[1]", "without  cpu1[5]")
    file.write_text(text, encoding="utf-8")
    done = shell("replay", str(file))
    assert done.status == 4
    assert "cpu1 has 2 calls; there is no 'cpu1[5]' to leave out" in done.err
