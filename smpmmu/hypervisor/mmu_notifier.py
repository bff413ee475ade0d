"""KVM's side of MMU notifiers: what the host unmaps is taken out of the second level first.

A fault looks its page up before it takes mmu_lock; mmu_notifier_seq and mmu_notifier_count tell it
whether the page may have been unmapped since. It must not know Linux beyond that. Source:
virt/kvm/kvm_main.c, Linux 2.6.27 on (e930bffe95e1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.engine.steps import Word, load, store
from smpmmu.hypervisor.kvm import kvm_flush_remote_tlbs, mmu_lock
from smpmmu.machine.entries import PAGE_PRESENT
from smpmmu.machine.spinlock import spin_lock, spin_unlock

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

mmu_notifier_seq = Word("mmu_notifier_seq", 3)
mmu_notifier_count = Word("mmu_notifier_count", 3)


@dataclass(frozen=True, slots=True)
class Retry:
    """What a fault looks at under mmu_lock before it believes what it has looked up.

    Attributes:
        count: whether an invalidation is under way.
        sequence: whether one has ended since the fault read the sequence.
    """

    count: bool = True
    sequence: bool = True


async def mmu_notifier_retry(mmu_seq: int, retry: Retry) -> bool:
    """Whether what was looked up may have been unmapped since `mmu_seq` was read.

    C: mmu_notifier_retry, include/linux/kvm_host.h
    Holds: mmu_lock
    """
    if retry.count and await load(mmu_notifier_count):
        return True
    return retry.sequence and await load(mmu_notifier_seq) != mmu_seq


async def invalidate_range_start(
    cpu: Cpu, spte: Word, vcpus: tuple[int, ...], *, late: bool = False
) -> None:
    """Take a page that is about to be unmapped out of the second level.

    C: kvm_mmu_notifier_invalidate_range_start; where the flush is `late`, as until 2012
    """
    await spin_lock(mmu_lock)
    await store(mmu_notifier_count, await load(mmu_notifier_count) + 1)
    need_tlb_flush = await kvm_unmap_hva(spte)
    if need_tlb_flush and not late:
        await kvm_flush_remote_tlbs(cpu, vcpus)
    await spin_unlock(mmu_lock)
    if need_tlb_flush and late:
        # Whoever takes the lock now finds no entry, and nothing to flush.
        await kvm_flush_remote_tlbs(cpu, vcpus)


async def kvm_unmap_hva(spte: Word) -> bool:
    """Empty the second level's entry of a page; whether it has to be flushed.

    C: kvm_unmap_hva, kvm_unmap_rmapp
    Holds: mmu_lock
    """
    if not await load(spte, PAGE_PRESENT):
        return False
    await store(spte, 0)
    return True


async def invalidate_range_end() -> None:
    """Let faults enter pages again, but for those who looked one up before.

    C: kvm_mmu_notifier_invalidate_range_end
    """
    await spin_lock(mmu_lock)
    await store(mmu_notifier_seq, await load(mmu_notifier_seq) + 1)
    await store(mmu_notifier_count, await load(mmu_notifier_count) - 1)
    await spin_unlock(mmu_lock)
