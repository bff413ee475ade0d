"""Races from the record: what was reported of Linux, KVM, Xen and others, as it was and repaired.

Every one is a scenario with the variants `defect` and `repair`, and whatever else is worth asking.
Each says which commit or advisory it is from. This module is the list; `docs/races.md` tells them.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFECT, REPAIR = "defect", "repair"
"""The variants that every race has: the code as it was, and as it was repaired."""


@dataclass(frozen=True, slots=True)
class Race:
    """A race of the record.

    Attributes:
        name: the scenario.
        module: of this package, where it is.
        system: whose code it was.
        year: when it was reported or repaired.
        reference: the commit or advisory of the repair.
        breaks: what goes wrong, in one sentence.
    """

    name: str
    module: str
    system: str
    year: int
    reference: str
    breaks: str


RACES = (
    Race("seed_defer_outside_lock", "deferred", "Linux (paravirt)", 2006, "789e6ac0a7c",
         "The queue is drained after another CPU has emptied the entry, and brings it back."),
    Race("migrate_vma_flush_after_ptl", "late_flush", "Linux", 2022, "60bae7370896",
         "A thread gives a page up, finds nothing to flush, and goes on writing to it."),
    Race("mremap_flush_after_ptl", "late_flush", "Linux", 2018, "eb66ae030829",
         "A page is freed at its new address while a TLB still leads to it from the old one."),
    Race("reclaim_batch_vs_mprotect", "late_flush", "Linux", 2017, "3ea277194daa",
         "A thread protects a page that reclaim has just taken, and goes on writing to it."),
    Race("lazymmu_drain_after_unlock", "lazy_mmu", "Linux (paravirt)", 2006, "6606c3e0da5",
         "A write that was held back puts a page back into an entry after it was freed."),
    Race("kvm_dirtylog_skip_flush", "kvm_dirty_log", "KVM", 2012, "6dbf79e7164e",
         "A page is read as a page table while a vCPU can still write to it."),
    Race("kvm_shadow_stale_gpte", "kvm_shadow", "KVM", 2008, "f7d9c7b7b902",
         "A shadow entry keeps what the guest has changed, in a table where that must not be."),
    Race("xen_oos_read_to_use", "xen", "Xen", 2010, "24488e9b29",
         "The shadow of a table in sync gives a right that the guest has taken away."),
    Race("xsa401_typeref_early_flush", "xen", "Xen", 2022, "8cc5036bc3",
         "A guest writes to a page that was checked and is in use as a page table."),
    Race("uffd_wp_cow", "copies", "Linux", 2021, "6ce64428d620",
         "A write lands in a page after it was copied, and the copy is what is mapped."),
    Race("ksm_stale_writable", "copies", "Linux", 2017, "b3a81d0841a9",
         "A write lands in a page after it was compared, and the other one is what is mapped."),
    Race("switch_mm_store_buffer", "switch_mm", "Linux", 2016, "71b3c126e611",
         "Neither of two CPUs sees what the other has stored, and a freed page stays in a TLB."),
    Race("lazy_tlb_freed_table", "lazy_tlb", "Linux", 2018, "2ff6ddf19c0e",
         "A walker takes what somebody else has written for entries of a page table."),
    Race("pgd_lock_ipi_deadlock", "deadlock", "Linux", 2011, "a79e53d85683",
         "Who waits for the ptl with interrupts off cannot answer who holds it."),
    Race("pae_pte_clear_order", "pae", "Linux", 2006, "6e5882cfa24",
         "A walker caches a frame of which only the low half of the number is left."),
    Race("pae_pmd_torn_read", "pae", "Linux", 2012, "26c191788f18",
         "Half of an entry is followed to a page table that does not exist."),
    Race("ad_nonatomic_rmw", "dirty", "Linux (arm64), FreeBSD", 2004, "6d332747fa5f",
         "The D that a processor has just set is overwritten, and the write never reaches disk."),
    Race("pdpte_cached_pmd_freed", "pae", "Linux", 2013, "1de14c3c5cbc",
         "The processor walks a page directory that belongs to somebody else by now."),
)  # fmt: skip
"""The eighteen that the family began with, each with the record of a model of numbered steps."""

BEYOND = (
    Race("batched_flush_lost", "batched", "Linux", 2022, "5ee2fa2f0636",
         "A flush that reclaim put off is forgotten, and a page is written that was protected."),
    Race("nested_flush_by_address", "nested", "KVM (arm64)", 2013,
         "hyp/tlb.c",
         "A guest goes on through a translation of two levels of which its host has changed one."),
    Race("mmu_notifier_fault", "nested", "KVM", 2008, "e930bffe95e1",
         "A guest is given a page that its host has just unmapped, and keeps it when it is freed."),
    Race("stray_accessed_dirty", "stray", "Linux, Knights Landing", 2016, "97e3c602ccbd",
         "A processor sets A and D in an entry that was cleared, which then looks like another."),
)  # fmt: skip
"""More of the record: one that was tried as a user would, and what the eighteen do not need."""
