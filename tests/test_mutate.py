"""Mutation testing: that it finds what is planted, and that what it found is still so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from smpmmu.targets import EVICTOR
from tests.mutate import coverage, report
from tests.mutate.judge import (
    MOST_STATES,
    Baseline,
    Found,
    Result,
    Subject,
    baselines,
    judged,
    look,
)
from tests.mutate.judge import kernel as modelled_kernel
from tests.mutate.operators import mutants, mutated
from tests.mutate.results import WHYS, read, reasons, survivors, write

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.mutate.operators import Mutant

KERNEL = modelled_kernel()
MUTANTS = KERNEL.mutants()
RESULTS = read()
REASONS = reasons()

# A toy: a survivor and a kill are planted.

TOY_KERNEL = '''
"""A counter that two CPUs add to."""

from __future__ import annotations

from smpmmu import Word, fetch_or, load, spin_lock, spin_unlock, spinlock, store

lock, total = spinlock("lock"), Word("total", 3)
log, bits = Word("log", 1), Word("bits", 2)


async def add(cpu: int) -> None:
    await spin_lock(lock)
    now = await load(total)
    await store(total, now + 1)
    await store(log, 1)
    await spin_unlock(lock)
    await fetch_or(bits, 1 << cpu)


async def never() -> None:
    await store(log, 0)
'''
TOY_SCENARIO = '''
"""Two CPUs add to a counter, under its lock."""

import smpmmu as s
from toykernel.counter import add, bits, total


@s.scenario(s.variant("two", s.holds("the lock")))
def adding(setup: s.Setup) -> None:
    for cpu in (0, 1):
        setup.cpu(cpu, s.call(add, cpu))
    setup.at_quiescence("no_addition_is_lost", s.value(total) == 2)
    setup.at_quiescence("no_bit_is_lost", s.value(bits) == 3)
    setup.sometimes("one has been added", s.value(total) == 1)
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """Return a package of one module, with a user's file that judges it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "toykernel"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "counter.py").write_text(TOY_KERNEL, encoding="utf-8")
    (tmp_path / "toy.py").write_text(TOY_SCENARIO, encoding="utf-8")
    return Subject("toykernel", (f"{tmp_path / 'toy.py'}:adding/two",))


def fates(subject: Subject, chosen: Iterable[Mutant], known: Iterable[Baseline]) -> dict[str, str]:
    """Return what became of mutants, by statement and mutation."""
    wanted = list(chosen)
    found = zip(wanted, judged(subject, wanted, known), strict=True)
    return {f"{mutant.text}: {mutant.mutation}": result.says for mutant, result in found}


def test_planted_mutants_of_a_toy(toy: Subject) -> None:
    found = toy.mutants()
    assert {mutant.function for mutant in found} == {"add", "never"}
    (known,) = baselines(toy)
    assert known.found.text == "HOLDS"
    told = fates(toy, [mutant for mutant in found if mutant.function == "add"], [known])
    assert told["await store(log, 1): removed"] == ""  # nobody reads it
    assert told["await store(total, now + 1): moved after `await store(log, 1)`"] == ""
    lost = "VIOLATED no_addition_is_lost"
    assert told["await store(total, now + 1): removed"] == lost
    assert told["await spin_lock(lock): lock not taken here at all"] == lost
    assert told["await spin_unlock(lock): removed"].startswith("VIOLATED no_")
    assert (
        told["await fetch_or(bits, 1 << cpu): fetch_or split in two"] == "VIOLATED no_bit_is_lost"
    )
    survives = {name for name, says in told.items() if not says}
    # What moves out from under the lock is the log alone, or the bit, which needs no lock.
    assert survives == {
        "await store(log, 1): removed",
        "await store(total, now + 1): moved after `await store(log, 1)`",
        "await store(log, 1): moved after `await spin_unlock(lock)`",
        "await spin_unlock(lock): moved after `await fetch_or(bits, 1 << cpu)`",
    }


def test_a_mutant_that_nobody_executes_survives_unseen(toy: Subject) -> None:
    (unseen,) = (mutant for mutant in toy.mutants() if mutant.function == "never")
    (known,) = baselines(toy)
    (result,) = judged(toy, [unseen], [known])
    assert result == Result(unseen.name, reached=0)


def test_an_exploration_cut_off_is_no_kill(toy: Subject) -> None:
    (known,) = baselines(toy)
    cheap = Found(known.found.text, 1 - MOST_STATES // 4)  # the budget: four states
    removed = next(m for m in toy.mutants() if m.text == "await store(total, now + 1)")
    (result,) = judged(toy, [removed], [Baseline(known.name, cheap, known.lines)])
    assert (result.reached, result.killed_by, result.undecided) == (1, "", 1)


def test_all_that_differ_can_be_asked_for(toy: Subject) -> None:
    (known,) = baselines(toy)
    removed = next(m for m in toy.mutants() if m.text == "await store(total, now + 1)")
    (result,) = judged(toy, [removed], [known], lambda _: True)
    assert result.differ == {known.name: "VIOLATED no_addition_is_lost"}


def test_lines_tell_who_reaches_a_mutant(toy: Subject) -> None:
    (known,) = baselines(toy)
    assert {mutant.function for mutant in toy.mutants() if known.reaches(mutant)} == {"add"}


# The operators.


def names(source: str) -> list[str]:
    return [f"{m.text}: {m.mutation}" for m in mutants(source, "x.py")]


def body(*statements: str) -> str:
    lines = "\n".join(f"    {statement}" for statement in statements)
    return f'"""A module."""\n\nfrom __future__ import annotations\n\nasync def f():\n{lines}\n'


def test_neighbours_change_places_once() -> None:
    assert names(body("await store(a, 1)", "await store(b, 1)")) == [
        "await store(a, 1): removed",
        "await store(a, 1): moved after `await store(b, 1)`",
        "await store(b, 1): removed",
    ]


def test_a_statement_moves_across_a_branch_but_not_out_of_one() -> None:
    found = names(body("if x:", "    await store(a, 1)", "await store(b, 1)"))
    assert found == [
        "await store(a, 1): removed",
        "await store(b, 1): removed",
        "await store(b, 1): moved before `if x:`",
    ]


def test_a_statement_does_not_move_across_what_it_needs() -> None:
    found = names(body("a = await load(w)", "await store(w, a)", "return a"))
    assert found == ["await store(w, a): removed"]


def test_an_assertion_is_no_neighbour_and_no_mutant() -> None:
    assert names(body("await pte_lock_held(mm, x)", "await store(w, 1)")) == [
        "await store(w, 1): removed"
    ]


def test_a_statement_that_stands_twice_is_numbered() -> None:
    twice = names(body("await store(a, 1)", "await store(a, 1)"))
    assert [name for name in twice if "removed" in name] == [
        "await store(a, 1): removed",
        "await store(a, 1) #2: removed",
    ]


def test_every_mutant_of_the_kernel_compiles_and_differs() -> None:
    for mutant in MUTANTS:
        source = KERNEL.source(mutant.file)
        tree = mutated(source, mutant.file, mutant.name)
        changed = compile(tree, mutant.file, "exec", dont_inherit=True)
        assert changed != compile(source, mutant.file, "exec", dont_inherit=True), mutant.name
    with pytest.raises(LookupError):
        mutated(KERNEL.source("smp.py"), "smp.py", "no such mutant")


# The results.


def test_every_mutant_has_a_result() -> None:
    wanted = [mutant.name for mutant in MUTANTS]
    assert len(set(wanted)) == len(wanted) > 200
    missing = [name for name in wanted if name not in RESULTS]
    assert missing == [], "python -m tests.mutate --new"
    assert list(RESULTS) == wanted, "python -m tests.mutate --report"


def test_every_survivor_has_a_reason_and_nothing_else_has() -> None:
    reviewed = [name for reason in REASONS for name in reason.mutants]
    assert len(set(reviewed)) == len(reviewed)
    assert set(survivors(RESULTS)) - set(reviewed) == set(), "write why, in survivors.toml"
    assert set(reviewed) - set(survivors(RESULTS)) == set(), "killed now, or gone"
    assert all(reason.why in WHYS and len(reason.text) > 40 for reason in REASONS)


def test_who_is_not_reached_is_a_hole() -> None:
    holes = {name for reason in REASONS if reason.why == "hole" for name in reason.mutants}
    assert {name for name, result in RESULTS.items() if not result.reached} <= holes


def test_killers_are_in_the_catalogue() -> None:
    known = set(KERNEL.names)
    for result in RESULTS.values():
        for name in (result.killed_by, *result.differ):
            assert not name or name.removesuffix(EVICTOR) in known


def test_the_documents_are_what_the_results_say() -> None:
    told = "python -m tests.mutate --report"
    assert report.FILE.read_text(encoding="utf-8") == report.report(MUTANTS, RESULTS, REASONS), told
    assert coverage.FILE.read_text(encoding="utf-8") == coverage.coverage(MUTANTS, RESULTS), told


def test_the_summary_counts_the_results() -> None:
    text = report.FILE.read_text(encoding="utf-8")
    left = survivors(RESULTS)
    total, killed = len(RESULTS), len(RESULTS) - len(left)
    assert f"\n{total} mutants: {killed} killed, {len(left)} survive.\n" in text
    rows = re.findall(r"^\| (\w+) \| ([\d |]+) \|$", text.split("## Survivors")[0], re.MULTILINE)
    *kinds, (last, sums) = [(kind, [int(n) for n in row.split("|")]) for kind, row in rows]
    assert last == "all"
    assert sums[:2] == [total, killed]
    assert sums[2:] == [
        sum(len(reason.mutants) for reason in REASONS if reason.why == why) for why in WHYS
    ]
    assert [sum(column) for column in zip(*(row for _, row in kinds), strict=True)] == sums


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    write(RESULTS, tmp_path / "results.json")
    assert read(tmp_path / "results.json") == RESULTS
    assert read(tmp_path / "none.json") == {}


# The coverage map.


def test_every_line_of_the_first_patch_is_modelled_and_missed() -> None:
    first = coverage.patches()[0]
    assert [line.around for line in first.lines if line.around] == [
        "ptep_set_access_flags", "ptep_clear_flush_dirty", "ptep_clear_flush_young",
        "ptep_set_wrprotect",
    ]  # fmt: skip
    assert {line.hook for line in first.lines} <= coverage.declared()
    for line in first.lines:
        if line.around:
            mutant = line.removal(MUTANTS)
            assert mutant is not None
            rests = coverage.resting(RESULTS[mutant.name])
            assert bool(rests) != bool(line.note), line


def test_a_line_is_not_modelled_where_no_function_calls_its_hook() -> None:
    wrprotect = coverage.Line("a hunk", "ptep_set_wrprotect", "pte_update", "a line")
    assert wrprotect.removal(MUTANTS) is not None
    other = coverage.Line("a hunk", "ptep_set_wrprotect", "alloc_pt", "a line")
    assert other.removal(MUTANTS) is None
    nowhere = coverage.Line("a hunk", "no_such_function", "pte_update", "a line")
    assert nowhere.removal(MUTANTS) is None


# A sample of real mutants is judged again.

KILLED = (
    "context.py switch_mm: await fetch_or(next.cpu_vm_mask, me): fetch_or split in two",
    "context.py leave_mm: await cpu.pv.write_cr3(cpu, INIT_MM.pgd): removed",
    "fork.py dup_mmap: await flush_tlb_mm(cpu, vma.vm_mm): removed",
    "munmap.py unmap_region: await flush_tlb_mm(cpu, vma.vm_mm): moved after `if frees:`",
    (
        "pgtable.py ptep_clear_flush_dirty: "
        "await cpu.pv.pte_update_defer(cpu, vma.vm_mm, address, ptep): removed"
    ),
    "pgtable.py ptep_set_wrprotect: await cpu.pv.pte_update(cpu, mm, addr, ptep): removed",
    (
        "pgtable.py ptep_set_wrprotect: await clear_bit(cpu, PAGE_BIT_RW, ptep): "
        "clear_bit split in two"
    ),
    (
        "rmap.py page_check_address: await spin_lock(ptl): "
        "moved after `found = await read_pte(cpu, pte, FRAME | PAGE_PRESENT)`"
    ),
    "smp.py flush_tlb_others: await wait_until(flush_cpumask, 0): removed",
    "smp.py smp_invalidate_interrupt: await cpu.pv.flush_tlb_single(cpu, va): removed",
)
SURVIVING = (
    "fork.py copy_pte_range: await spin_unlock(src_ptl): moved after `await spin_unlock(dst_ptl)`",
    "smp.py flush_tlb_others: await store(flush_mm, 0): removed",
)


@pytest.fixture(scope="module")
def again() -> dict[str, Result]:
    """Return the sample's results, by the variants that once killed them; survivors by two."""
    sample = [mutant for mutant in MUTANTS if mutant.name in (*KILLED, *SURVIVING)]
    killers = {RESULTS[name].killed_by for name in KILLED}
    wanted = {*killers, "macros_as_written/wrprotect_vmi_rule", "enter_mm/returns"}
    known = list(baselines(KERNEL, [name for name in KERNEL.names if name in wanted]))
    return {result.mutant: result for result in judged(KERNEL, sample, known)}


@pytest.mark.parametrize("name", KILLED)
def test_a_mutant_is_killed_again(name: str, again: dict[str, Result]) -> None:
    assert RESULTS[name].killed_by
    assert again[name].killed_by


@pytest.mark.parametrize("name", SURVIVING)
def test_a_mutant_survives_again(name: str, again: dict[str, Result]) -> None:
    assert not RESULTS[name].killed_by
    assert again[name].reached
    assert again[name] == Result(name, again[name].reached)


def test_what_is_not_mutated_is_as_expected() -> None:
    assert look("enter_mm/returns").text == "HOLDS"
    assert look("macros_as_written/wrprotect_deferred_rule").text.startswith("VIOLATED shadow_no")
    assert look("no_such/at_all").text.startswith("refused: no scenario is called")
