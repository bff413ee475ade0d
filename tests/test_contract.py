"""The report on the hooks' contract: a sample is watched again, and says what the document says."""

from __future__ import annotations

import pytest

from tests import contract

SAMPLE = (
    "macros_as_written/access_flags_vmi",
    "macros_as_written/young_vmi",
    "macros_as_written/wrprotect_vmi",
    "macros_as_written/get_and_clear_vmi",
    "clear_refs/as_merged",
    "clear_refs/immediate",
    "pae_words/kernel_exec_vmi",
)
BROKEN = {
    # By hand, from the history of the callers: what the sample must be seen to break.
    "ptep_get_and_clear": {"stays present"},
    "ptep_test_and_clear_young": {"under the lock"},  # 0013572b2ae
    "set_kernel_exec": {"user entry"},
    "ptep_set_wrprotect": set(),
    "ptep_clear_flush_young": set(),
    "ptep_set_access_flags": set(),
}


@pytest.fixture(scope="module")
def sample() -> contract.Table:
    return contract.observe(SAMPLE)


def test_what_each_caller_breaks(sample: contract.Table) -> None:
    found = {
        caller: {
            clause
            for (_, other, _), counted in sample.items()
            if other == caller
            for clause in contract.CLAUSES
            if counted[clause]
        }
        for _, caller, _ in sample
    }
    assert found == BROKEN


def test_the_document_says_the_same_of_the_sample(sample: contract.Table) -> None:
    lines = contract.FILE.read_text(encoding="utf-8").splitlines()
    told = {tuple(c.strip() for c in line.split("|")[1:4]): line for line in lines if "| " in line}
    for key, counted in sample.items():
        hook, caller, path = key
        line = told[caller, hook, path or "(boot)"]
        kept = [cell.strip() for cell in line.split("|")[4:8]]
        for clause, cell in zip(contract.CLAUSES, kept, strict=True):
            here = contract.cell(counted, clause, hook)
            assert cell in (here, "**not always**"), (key, clause)
        assert line.rstrip("| ").endswith(contract.history(caller))


def test_a_flush_left_out_is_seen() -> None:
    """Not a check that cannot fail: a kernel thread's flush has no part here, a thread's has."""
    late = contract.observe(["clear_refs/migrates"])
    (counted,) = [c for (hook, _, _), c in late.items() if hook == "pte_update_defer"]
    assert 0 < counted["flush follows"] <= counted[""]  # the flush is on another CPU


def test_mutants_of_the_kernel_are_left_out() -> None:
    assert contract.observe(["clear_refs/flush_under_ptl"]) == {}
    assert contract.observe(["macros_as_written/young_kswapd_vmi"]) != {}
    late = contract.observe(["macros_as_written/wrprotect_deferred"])
    assert "pte_update_defer" not in {hook for hook, _, _ in late}  # its hook table is another
