"""Where the page allocation hooks stand: as c119ecce894 has them, or otherwise.

It is a record of knobs and must not know what the hooks do. Source: "page allocation hooks for
VMI backend" (c119ecce894, 2.6.21-rc1); each knob's default is what that patch has.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Place(enum.Enum):
    """Where a hook stands, against the statement that its site is about."""

    MISSING = "missing"
    EARLY = "early"
    BEFORE = "before"
    AFTER = "after"
    LATE = "late"
    TWICE = "twice"


@dataclass(frozen=True, slots=True)
class PageHooks:
    """Where each hook stands.

    Attributes:
        populate: alloc_pt against the link in pmd_populate and one_page_table_init; EARLY is where
            the page is allocated, before the lock.
        free_tlb: release_pt against tlb_remove_page; EARLY is before pmd_clear.
        clone: alloc_pd_clone against pgd_list_add; EARLY is before pgd_lock is taken, AFTER is
            after it is given back.
        copies_locked: clone_pgd_range stands under pgd_lock too.
        dtor: release_pd against pgd_list_del; TWICE is on both sides.
        pmd: alloc_pd against set_pgd in the loop of pgd_alloc (PAE).
        out_of_memory: release_pd against kmem_cache_free where pgd_alloc gives up (PAE); TWICE is
            on both sides.
        pgd_free: the same in pgd_free.
        md_table: alloc_pd against set_pgd in one_md_table_init (PAE).
        split: alloc_pt against the filling of the new table; LATE is after its link.
        split_zeroed: split_large_page asks for a zeroed page.
        split_rechecks: split_large_page looks again once it has its lock back (2.6.25).
        revert: release_pt against revert_page.
        pgd_locked: set_pmd_pte changes init_mm's directory under pgd_lock too (2.6.25).
        root: pagetable_init announces swapper_pg_dir.
        boot_tables: it announces the tables of head.S first (proposed here).
    """

    populate: Place = Place.BEFORE
    free_tlb: Place = Place.BEFORE
    clone: Place = Place.BEFORE
    copies_locked: bool = True
    dtor: Place = Place.BEFORE
    pmd: Place = Place.BEFORE
    out_of_memory: Place = Place.BEFORE
    pgd_free: Place = Place.BEFORE
    md_table: Place = Place.BEFORE
    split: Place = Place.BEFORE
    split_zeroed: bool = False
    split_rechecks: bool = False
    revert: Place = Place.BEFORE
    pgd_locked: bool = False
    root: bool = True
    boot_tables: bool = False


AS_MERGED = PageHooks()
