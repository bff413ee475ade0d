"""The catalogue: every scenario that comes with smpmmu, by name.

It must not know how scenarios are explored. A scenario is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from smpmmu.scenarios.races import BEYOND, RACES

if TYPE_CHECKING:
    from smpmmu.scenario import Scenario

NAMES = (
    "reliant_flusher",
    "reliant_skipper",
    "dirty_writeback",
    "young_clear",
    "unmap_free",
    "mask_omits_deferrer",
    "remote_first",
    "two_cpus_speculation",
    "permission_increase",
    "lock_rule",
    "clear_refs",
    "macros_as_written",
    "shootdown_deadlocks",
    "pte_alloc_race",
    "page_table_free",
    "free_pgtables",
    "pgd_lifetime",
    "pae_pgd",
    "change_page_attr",
    "revert_page",
    "vmalloc_fault",
    "vmalloc_reuse",
    "boot_page_tables",
    "pae_words",
    "enter_mm",
    "locked_update",
    "unmap_twice",
    "flush_all",
    "shootdown_storm",
    "mmu_gather",
    "highpte",
    "lazy_mmu",
    "mprotect",
    "mremap",
    "fork_range",
    *(race.name for race in (*RACES, *BEYOND)),
    "litmus",
)
"""The catalogue in the order of the main table; each is a module of this package, or in `races`."""


FAMILIES = {
    "page_tables": (
        "pte_alloc_race",
        "page_table_free",
        "free_pgtables",
        "pgd_lifetime",
        "pae_pgd",
        "change_page_attr",
        "revert_page",
        "vmalloc_fault",
        "boot_page_tables",
    ),
    "paths": ("lazy_mmu", "mprotect", "mremap", "fork_range"),
    "races": tuple(race.name for race in (*RACES, *BEYOND)),
}
"""Names that stand for several scenarios of the catalogue."""


def scenario(name: str) -> Scenario:
    """Return the catalogue's scenario called `name`, which must be one of `NAMES`."""
    kept = {race.name: f"races.{race.module}" for race in (*RACES, *BEYOND)}.get(name, name)
    module = importlib.import_module(f"{__name__}.{kept}")
    found: Scenario = getattr(module, name)
    return found
