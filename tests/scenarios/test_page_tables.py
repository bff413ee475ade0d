"""The second patch: every hook with a variant that needs it, findings beside their repairs."""

from __future__ import annotations

import pytest

import smpmmu
from smpmmu.engine.verdict import Verdict
from smpmmu.hypervisor import page_types as types
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, NO_WRITE_AFTER_PROMISE
from smpmmu.scenarios import FAMILIES, NAMES
from smpmmu.scenarios.allocation import MAPPED_PAGES_ARE_REACHABLE, By
from smpmmu.scenarios.change_page_attr import LINEAR_MAP_IS_ALWAYS_MAPPED
from smpmmu.scenarios.pae_pgd import KEPT_DIRECTORIES_ARE_ANNOUNCED, NO_FREED_DIRECTORY_IS_KEPT
from smpmmu.targets import find, one

FAMILY = FAMILIES["page_tables"]
TARGETS = {target.name: target for target in find("page_tables")}

# Written down apart from the scenarios.
VIOLATED = {
    "pte_alloc_race/not_announced": types.TABLES_ARE_ANNOUNCED_WHEN_LINKED,
    "pte_alloc_race/not_announced_promises": MAPPED_PAGES_ARE_REACHABLE,
    "pte_alloc_race/announced_after_link": types.TABLES_ARE_ANNOUNCED_WHEN_LINKED,
    "pte_alloc_race/announced_when_allocated": types.FREE_FRAMES_ARE_NORMAL,
    "page_table_free/released_after_remove": types.FREE_FRAMES_ARE_NORMAL,
    "page_table_free/released_after_remove_promises": MAPPED_PAGES_ARE_REACHABLE,
    "page_table_free/released_before_unlink": types.TABLES_ARE_UNLINKED_WHEN_RELEASED,
    "page_table_free/not_released": types.FREE_FRAMES_ARE_NORMAL,
    "page_table_free/released_twice": types.ONLY_ANNOUNCED_FRAMES_ARE_RELEASED,
    "page_table_free/released_twice_promises": MAPPED_PAGES_ARE_REACHABLE,
    "page_table_free/walker_after_both": types.ONLY_ANNOUNCED_FRAMES_ARE_UPDATED,
    "page_table_free/walker_after_both_value_untracked_ipis_keep": NO_ACCESS_TO_FREED_FRAME,
    "free_pgtables/released_after_remove": types.FREE_FRAMES_ARE_NORMAL,
    "free_pgtables/released_after_remove_promises": MAPPED_PAGES_ARE_REACHABLE,
    "free_pgtables/walker_hidden_late": NO_ACCESS_TO_FREED_FRAME,
    "free_pgtables/walker_file_hidden_late": NO_ACCESS_TO_FREED_FRAME,
    "free_pgtables/fast_released_after_remove": types.FREE_FRAMES_ARE_NORMAL,
    "pgd_lifetime/clone_compared": types.CLONES_ARE_COPIES,
    "pgd_lifetime/copied_before_lock": NO_WRITE_AFTER_PROMISE,
    "pgd_lifetime/copied_before_lock_native": NO_WRITE_AFTER_PROMISE,
    "pgd_lifetime/cloned_before_lock": NO_WRITE_AFTER_PROMISE,
    "pgd_lifetime/cloned_after_lock": types.ONLY_ANNOUNCED_FRAMES_ARE_UPDATED,
    "pgd_lifetime/cloned_after_lock_promises": NO_WRITE_AFTER_PROMISE,
    "pgd_lifetime/not_cloned": types.ONLY_ANNOUNCED_FRAMES_ARE_UPDATED,
    "pgd_lifetime/destroyed": types.ONLY_ANNOUNCED_FRAMES_ARE_UPDATED,
    "pgd_lifetime/destroyed_not_released": types.FREE_FRAMES_ARE_NORMAL,
    "pgd_lifetime/destroyed_released_twice": types.ONLY_ANNOUNCED_FRAMES_ARE_RELEASED,
    "pae_pgd/not_announced": types.TABLES_ARE_ANNOUNCED_WHEN_LINKED,
    "pae_pgd/not_announced_promises": MAPPED_PAGES_ARE_REACHABLE,
    "pae_pgd/given_up_not_released": types.FREE_FRAMES_ARE_NORMAL,
    "pae_pgd/given_up_released_after": types.FREE_FRAMES_ARE_NORMAL,
    "pae_pgd/given_up_released_after_promises": MAPPED_PAGES_ARE_REACHABLE,
    "pae_pgd/given_up_released_twice": types.ONLY_ANNOUNCED_FRAMES_ARE_RELEASED,
    "pae_pgd/freed_not_released": types.FREE_FRAMES_ARE_NORMAL,
    "pae_pgd/freed_released_after": types.FREE_FRAMES_ARE_NORMAL,
    "pae_pgd/freed_released_after_promises": MAPPED_PAGES_ARE_REACHABLE,
    "pae_pgd/freed_released_twice": types.ONLY_ANNOUNCED_FRAMES_ARE_RELEASED,
    "pae_pgd/borrowed_dropped_before_switch_native": NO_FREED_DIRECTORY_IS_KEPT,
    "pae_pgd/borrowed_dropped_before_switch": KEPT_DIRECTORIES_ARE_ANNOUNCED,
    "change_page_attr/split": types.ANNOUNCED_FRAMES_ARE_ZERO,
    "change_page_attr/split_not_announced": types.ONLY_ANNOUNCED_FRAMES_ARE_UPDATED,
    "change_page_attr/split_not_announced_promises": LINEAR_MAP_IS_ALWAYS_MAPPED,
    "change_page_attr/split_announced_after_fill": types.ONLY_ANNOUNCED_FRAMES_ARE_UPDATED,
    "change_page_attr/split_announced_after_link": types.ONLY_ANNOUNCED_FRAMES_ARE_UPDATED,
    "change_page_attr/split_announced_after_link_promises": LINEAR_MAP_IS_ALWAYS_MAPPED,
    "change_page_attr/revert": types.TABLES_ARE_UNLINKED_WHEN_RELEASED,
    "change_page_attr/revert_promises": LINEAR_MAP_IS_ALWAYS_MAPPED,
    "change_page_attr/revert_not_released": types.FREE_FRAMES_ARE_NORMAL,
    "change_page_attr/both_native": NO_WRITE_AFTER_PROMISE,
    "change_page_attr/both_promises": NO_WRITE_AFTER_PROMISE,
    "vmalloc_fault/not_announced": types.TABLES_ARE_ANNOUNCED_WHEN_LINKED,
    "vmalloc_fault/not_announced_promises": MAPPED_PAGES_ARE_REACHABLE,
    "vmalloc_fault/announced_after_link": types.TABLES_ARE_ANNOUNCED_WHEN_LINKED,
    "vmalloc_fault/announced_after_link_promises": MAPPED_PAGES_ARE_REACHABLE,
    "vmalloc_fault/table_freed": types.TABLES_ARE_UNLINKED_WHEN_RELEASED,
    "boot_page_tables/vmi": types.ANNOUNCED_FRAMES_ARE_ZERO,
    "boot_page_tables/vmi_no_pse_promises": LINEAR_MAP_IS_ALWAYS_MAPPED,
    "boot_page_tables/root_claims_nothing": types.TABLES_ARE_ANNOUNCED_WHEN_LINKED,
    "boot_page_tables/root_not_announced": types.ONLY_ANNOUNCED_FRAMES_ARE_UPDATED,
    "boot_page_tables/boot_tables_claim_zero": types.ANNOUNCED_FRAMES_ARE_ZERO,
    "boot_page_tables/fixmap_not_announced": types.TABLES_ARE_ANNOUNCED_WHEN_LINKED,
    "boot_page_tables/fixmap_announced_after_link": types.TABLES_ARE_ANNOUNCED_WHEN_LINKED,
    "boot_page_tables/directory_not_announced_pae": types.ONLY_ANNOUNCED_FRAMES_ARE_UPDATED,
    "boot_page_tables/directory_not_announced_promises_pae": LINEAR_MAP_IS_ALWAYS_MAPPED,
    "boot_page_tables/fixmap_not_announced_pae": types.TABLES_ARE_ANNOUNCED_WHEN_LINKED,
    "boot_page_tables/fixmap_announced_after_link_pae": types.TABLES_ARE_ANNOUNCED_WHEN_LINKED,
}
IN_BOTH_MODES = ("pte_alloc_race", "page_table_free", "change_page_attr", "vmalloc_fault")
VIOLATED |= {
    f"{name}_pae": broken
    for name, broken in VIOLATED.items()
    if name.split("/")[0] in IN_BOTH_MODES and "walker" not in name
} | {"vmalloc_fault/table_freed_pae": types.ONLY_ANNOUNCED_FRAMES_ARE_UPDATED}
PROMISES = {
    NO_ACCESS_TO_FREED_FRAME,
    NO_WRITE_AFTER_PROMISE,
    NO_FREED_DIRECTORY_IS_KEPT,
    LINEAR_MAP_IS_ALWAYS_MAPPED,
    MAPPED_PAGES_ARE_REACHABLE,
}
HOLDING = [name for name in TARGETS if name not in VIOLATED]

REPAIRS = {
    # The finding, and what it holds with.
    "pgd_lifetime/destroyed": "pgd_lifetime/destroyed_released_after",
    "pgd_lifetime/clone_compared": "pgd_lifetime/clone_compared_pgd_locked",
    "pgd_lifetime/cloned_after_lock_promises": "pgd_lifetime/vmi_promises",
    "pgd_lifetime/cloned_after_lock": "pgd_lifetime/vmi",
    "page_table_free/released_after_remove": "page_table_free/vmi",
    "page_table_free/walker_after_both": "page_table_free/walker_under_rmap_lock",
    "free_pgtables/walker_hidden_late": "free_pgtables/walker_native",
    "free_pgtables/fast_released_after_remove": "free_pgtables/fast_vmi",
    "change_page_attr/split": "change_page_attr/split_zeroed_page",
    "change_page_attr/revert": "change_page_attr/revert_released_after",
    "change_page_attr/revert_pae": "change_page_attr/revert_released_after_pae",
    "change_page_attr/revert_promises_pae": "change_page_attr/revert_released_after_promises_pae",
    "change_page_attr/split_pae": "change_page_attr/split_zeroed_page_pae",
    "change_page_attr/both_native_pae": "change_page_attr/both_native_rechecked_pae",
    "page_table_free/released_after_remove_pae": "page_table_free/vmi_pae",
    "change_page_attr/revert_promises": "change_page_attr/revert_released_after_promises",
    "change_page_attr/both_native": "change_page_attr/both_native_rechecked",
    "change_page_attr/both_promises": "change_page_attr/both_rechecked_promises",
    "boot_page_tables/vmi": "boot_page_tables/boot_tables_claim_nothing",
    "pae_pgd/not_announced": "pae_pgd/vmi",
    "pae_pgd/given_up_released_after_promises": "pae_pgd/vmi_out_of_memory_promises",
    "pae_pgd/freed_released_after_promises": "pae_pgd/vmi_promises",
    "pae_pgd/borrowed_dropped_before_switch_native": "pae_pgd/borrowed_native",
    "pae_pgd/borrowed_dropped_before_switch": "pae_pgd/borrowed",
    "boot_page_tables/directory_not_announced_pae": "boot_page_tables/vmi_pae",
    "boot_page_tables/vmi_no_pse_promises": "boot_page_tables/boot_tables_no_pse_promises",
}


def test_the_family_is_all_of_them() -> None:
    assert set(FAMILY) <= set(NAMES)
    assert [name for name in NAMES if name in FAMILY] == list(FAMILY)
    assert {name.split("/")[0] for name in TARGETS} == set(FAMILY)


def test_what_is_expected() -> None:
    found = {n: t.variant.expected.name for n, t in TARGETS.items() if t.variant.expected}
    assert found.keys() == TARGETS.keys()
    assert {name: broken for name, broken in found.items() if broken} == VIOLATED


@pytest.mark.parametrize("name", FAMILY)
def test_every_scenario_is_there_with_pae(name: str) -> None:
    modes = [t.name.endswith("_pae") or name == "pae_pgd" for t in find(name)]
    assert any(modes)
    holding = [t.name for t, pae in zip(find(name), modes, strict=True) if pae]
    assert set(holding) & set(HOLDING)


def test_a_variant_is_judged_by_one_kind_of_property() -> None:
    for name, broken in VIOLATED.items():
        by = dict(TARGETS[name].variant.knobs)["by"]
        assert (by is By.PAGE_TYPES) is (broken not in PROMISES), name


@pytest.mark.parametrize("name", FAMILY)
def test_every_scenario_is_there_without_a_hypervisor(name: str) -> None:
    native = [t for t in find(name) if dict(t.variant.knobs)["by"] is By.NATIVE]
    assert any(t.name in HOLDING for t in native)


def test_every_repair_holds() -> None:
    assert REPAIRS.keys() <= VIOLATED.keys()
    assert set(REPAIRS.values()) <= set(HOLDING)


LIVE = (
    "pte_alloc_race/native", "pte_alloc_race/announced_when_allocated",
    "change_page_attr/split_zeroed_page", "change_page_attr/revert_released_after",
    "change_page_attr/revert", "pgd_lifetime/destroyed", "pgd_lifetime/destroyed_released_after",
    "pgd_lifetime/destroyed_not_released",
    "boot_page_tables/boot_tables_claim_nothing", "boot_page_tables/vmi",
    "boot_page_tables/vmi_pae", "pae_pgd/vmi_out_of_memory", "change_page_attr/revert_pae",
    "change_page_attr/revert_released_after_pae", "pte_alloc_race/not_announced_pae",
    "pae_pgd/borrowed_dropped_before_switch",
)  # fmt: skip


@pytest.mark.parametrize("name", LIVE)
def test_the_live_engine_agrees(name: str) -> None:
    found = smpmmu.explore(one(name).system(), engine="live").exploration
    assert found.verdict is (Verdict.VIOLATED if name in VIOLATED else Verdict.HOLDS)
    assert [v.name for v in found.violations] == ([VIOLATED[name]] if name in VIOLATED else [])


def test_the_live_engine_agrees_on_every_violation() -> None:
    system = one("change_page_attr/revert_promises").system()
    batch, live = (
        {v.name for v in smpmmu.explore(system, engine=engine, every=True).exploration.violations}
        for engine in ("batch", "live")
    )
    assert batch == live == {LINEAR_MAP_IS_ALWAYS_MAPPED}
