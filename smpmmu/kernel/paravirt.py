"""paravirt_ops: the table of hooks through which Linux and a hypervisor meet.

`native` fills it with what the bare machine does. It must not know any hypervisor; `kernel`
calls hooks only through `cpu.pv`. Source: include/asm-i386/paravirt.h, Linux 2.6.21, and the
patch "paravirt: update pte hook" (789e6ac0a7c).
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from smpmmu.engine.steps import store
from smpmmu.kernel import pgtable_3level
from smpmmu.kernel.page_hooks import AS_MERGED, PageHooks
from smpmmu.machine.cpu import Cpu, flush_global, invlpg, load_cr3, read_cr3

Hook = Callable[..., Awaitable[None]]


class LazyMode(enum.Enum):
    """PARAVIRT_LAZY_: whether a hypervisor may hold updates back. Lazy CPU mode is left out."""

    NONE = "none"
    MMU = "MMU"
    FLUSH = "flush"


class AddressSpace(Protocol):
    """What a hypervisor may know of struct mm_struct."""

    @property
    def number(self) -> int:
        """Which it is."""

    @property
    def is_init(self) -> bool:
        """Whether it is init_mm."""


@dataclass(frozen=True, slots=True)
class Linux:
    """Knobs of the kernel: what the merged code has, and what mutants have.

    Attributes:
        local_first: flushes act on this CPU before they tell the others (the code has it so).
        macros_flush: ptep_set_access_flags and ptep_clear_flush_dirty and _young flush themselves;
            if not, that is left to the caller.
        get_and_clear_hooked: ptep_get_and_clear notifies (since 8ecb8950695, 2.6.20).
        test_and_clear_deferred: ptep_test_and_clear_young and _dirty defer (0013572b2ae,
            2.6.22-rc1); if not, they notify at once (d6f8bb1310d, 2.6.22-rc5).
        page_hooks: where the page allocation hooks stand.
        frames: frames that the page allocator has, in the order in which it hands them out.
        online: CPUs that smp_call_function reaches; with one alone, a mmu_gather frees pages
            before it flushes (fast mode).
        short: an allocation may fail at any time (`page_alloc.memory_is_short`).
        pgds: (bit in pgd_list, frame) of the page directories that can be on it; the last is the
            one that pgd_alloc hands out.
        listed: pgd_list at first.
        pmds: frames that page directories can have (PAE).
        gather: pages that a mmu_gather holds before it flushes and frees them (FREE_PTE_NR).
        unlinks_first: free_pgtables hides mappings from rmap walkers before it frees their tables.
        clear_refs_flushes_locked: clear_refs flushes for each page table that it changed, before
            it gives the lock back (proposed against the former, not merged).
        lazy_mmu_left_late: lazy MMU mode is left after the ptl was released; the code leaves it
            before.
        mprotect_clears: change_pte_range empties an entry before it writes it anew; if not, it
            writes over what a walker may have marked meanwhile.
        mprotect_flushes: mprotect flushes before it returns.
        mremap_flushes_locked: move_ptes flushes each entry with the locks held; if not, all are
            flushed after the locks (until eb66ae030829, 4.19).
        mremap_locks_file: move_ptes takes i_mmap_lock for a file; if not, truncation can come in
            between, as in the kernels that eb66ae030829 mends.
        zap_flushes_after_lazy: where a mmu_gather is full, zap_pte_range leaves lazy MMU mode and
            the ptl before it flushes, as later kernels do.
        zap_flushes_page: unmapping flushes the addresses that it has cleared, as later kernels do,
            not all of the mm.
        generic_wrprotect: ptep_set_wrprotect is the generic one, a load and set_pte_at, as a direct
            implementation needs it.
        copy_break: entries after which copy_pte_range gives its locks up (the C: 4, if somebody
            waits for them); 0 for never.
        copied: frames for do_wp_page, which then takes the page to be shared and copies it.
        copied_frees: the page that was copied is freed: its other user is gone by then.
        copy_rereads: copy_one_pte reads the parent's entry again after it was write-protected
            (until 3dc90795144).
        kunmap_flushes: kunmap_atomic empties its entry and flushes it (2.6.19); if not, it does
            nothing, and kmap_atomic flushes what it has overwritten.
        kmap_flushes: kmap_atomic and kunmap_atomic flush what lazy MMU mode holds back
            (49f19710512, 2.6.21).
        pud_populate_flushes: an entry of PAE's root is fetched by all processors that run the mm
            (4981d01eada5, 2.6.39); if not, by this one (6194ba6ff6c, 2.6.25).
    """

    local_first: bool = True
    macros_flush: bool = True
    get_and_clear_hooked: bool = True
    test_and_clear_deferred: bool = True
    clear_refs_flushes_locked: bool = False
    page_hooks: PageHooks = AS_MERGED
    frames: tuple[int, ...] = ()
    online: tuple[int, ...] = (0, 1)
    short: bool = False
    pgds: tuple[tuple[int, int], ...] = ()
    listed: int = 0b11
    pmds: tuple[int, ...] = ()
    gather: int = 3
    unlinks_first: bool = True
    pud_populate_flushes: bool = True
    lazy_mmu_left_late: bool = False
    kunmap_flushes: bool = True
    mprotect_clears: bool = True
    mprotect_flushes: bool = True
    mremap_flushes_locked: bool = True
    mremap_locks_file: bool = True
    zap_flushes_after_lazy: bool = False
    zap_flushes_page: bool = False
    copied: tuple[int, ...] = ()
    copied_frees: bool = True
    copy_rereads: bool = False
    copy_break: int = 0
    generic_wrprotect: bool = False
    kmap_flushes: bool = True


@dataclass(frozen=True, slots=True)
class ParavirtOps:
    """The hooks.

    Attributes:
        set_pte: (cpu, ptep, pteval): write an entry.
        set_pte_at: (cpu, mm, addr, ptep, pteval): write an entry of `mm` at `addr`.
        set_pte_present: (cpu, mm, addr, ptep, pteval): replace one that may be present (PAE).
        set_pte_atomic: (cpu, ptep, pteval): replace one that must never be absent (PAE).
        pte_clear: (cpu, mm, addr, ptep): empty one (PAE).
        pmd_clear: (cpu, pmdp): empty an entry of a page directory (PAE).
        pte_update: (cpu, mm, addr, ptep): an entry was changed other than by an accessor.
        pte_update_defer: the same, but may be held back until the flush that must follow.
        flush_tlb_user: (cpu): drop what is cached here, but for global entries.
        flush_tlb_kernel: (cpu): drop everything cached here.
        flush_tlb_single: (cpu, addr): INVLPG.
        write_cr3: (cpu, root): change the page directory.
        page_fault: (cpu, addr, *, write, execute=False, user=True): a walk found no right; True if
            it is to be retried.
        set_pmd: (cpu, pmdp, pmdval): write a directory entry.
        set_pud: (cpu, pudp, pudval): write an entry of the root (PAE).
        alloc_pt: (cpu, pfn): a frame is about to become a page table.
        alloc_pd: (cpu, pfn): likewise a page directory.
        alloc_pd_clone: (cpu, pfn, clonepfn, start, count): likewise, with `count` entries from
            `start` on copied from another one.
        release_pt: (cpu, pfn): a frame is no longer a page table.
        release_pd: (cpu, pfn): likewise a page directory.
        set_linear_mapping: (cpu, vaddr, pfn): a page table is mapped at `vaddr` for a moment.
        set_lazy_mode: (cpu, mode): updates may be held back from here on (LazyMode.MMU), no longer
            (NONE), or must be applied up to here (FLUSH).
    """

    set_pte: Hook
    set_pte_at: Hook
    set_pte_present: Hook
    set_pte_atomic: Hook
    pte_clear: Hook
    pmd_clear: Hook
    pte_update: Hook
    pte_update_defer: Hook
    flush_tlb_user: Hook
    flush_tlb_kernel: Hook
    flush_tlb_single: Hook
    write_cr3: Hook
    page_fault: Callable[..., Awaitable[bool]]
    set_pmd: Hook
    set_pud: Hook
    alloc_pt: Hook
    alloc_pd: Hook
    alloc_pd_clone: Hook
    release_pt: Hook
    release_pd: Hook
    set_lazy_mode: Hook
    set_linear_mapping: Hook


async def native_set_pte(cpu: Cpu, ptep: int, pteval: int) -> None:
    """Write an entry.

    C: native_set_pte
    """
    if cpu.memory.paging.is_pae:
        await pgtable_3level.set_pte(cpu, ptep, pteval)
    else:
        await store(cpu.memory.at(ptep), pteval)


async def native_set_pte_at(cpu: Cpu, mm: object, addr: int, ptep: int, pteval: int) -> None:
    """Write an entry.

    C: native_set_pte_at
    """
    await native_set_pte(cpu, ptep, pteval)


async def native_set_pte_present(cpu: Cpu, mm: object, addr: int, ptep: int, pteval: int) -> None:
    """Replace an entry that may be present.

    C: native_set_pte_present
    """
    await pgtable_3level.set_pte_present(cpu, ptep, pteval)


async def native_pte_clear(cpu: Cpu, mm: object, addr: int, ptep: int) -> None:
    """Empty an entry.

    C: native_pte_clear
    """
    await pgtable_3level.pte_clear(cpu, ptep)


async def native_nop(cpu: Cpu, mm: object, addr: int, ptep: int) -> None:
    """Do nothing: the walker reads the primary itself."""


async def native_flush_tlb(cpu: Cpu) -> None:
    """Load CR3 with what it holds.

    C: native_flush_tlb
    """
    await load_cr3(cpu, await read_cr3(cpu))


async def native_flush_tlb_global(cpu: Cpu) -> None:
    """Toggle CR4.PGE.

    C: native_flush_tlb_global
    """
    await flush_global(cpu)


async def native_flush_tlb_single(cpu: Cpu, addr: int) -> None:
    """Execute INVLPG.

    C: native_flush_tlb_single
    """
    await invlpg(cpu, addr)


async def native_write_cr3(cpu: Cpu, root: int) -> None:
    """Change the page directory.

    C: native_write_cr3
    """
    await load_cr3(cpu, root)


async def native_page_fault(
    cpu: Cpu, addr: int, *, write: bool, execute: bool = False, user: bool = True
) -> bool:
    """Give every fault to Linux."""
    return False


async def native_set_pmd(cpu: Cpu, pmdp: int, pmdval: int) -> None:
    """Write a directory entry, in PAE with cmpxchg8b: at once.

    C: native_set_pmd
    """
    await store(cpu.memory.at(pmdp), pmdval)


async def native_set_pud(cpu: Cpu, pudp: int, pudval: int) -> None:
    """Write an entry of the root, which processors keep until they load CR3 (PAE).

    C: native_set_pud
    Model: two plain stores; a page directory lies below 4 GiB, so that the high one changes
    nothing and is left out.
    """
    await store(cpu.memory.at(pudp), pudval)


async def native_page_nop(cpu: Cpu, *frames: int) -> None:
    """Do nothing: a processor knows page tables by walking them."""


async def native_set_lazy_mode(cpu: Cpu, mode: LazyMode) -> None:
    """Do nothing: the bare machine holds nothing back."""


async def arch_enter_lazy_mmu_mode(cpu: Cpu) -> None:
    """Let updates be held back from here on. Interrupts stay as they are.

    C: arch_enter_lazy_mmu_mode
    """
    await cpu.pv.set_lazy_mode(cpu, LazyMode.MMU)


async def arch_leave_lazy_mmu_mode(cpu: Cpu, *, late: bool = False) -> None:
    """Have all that was held back applied, and nothing held back from here on.

    It stands twice where the ptl is released: before it as in the C, and after it, `late`. The
    kernel's knob says which of the two is there.

    C: arch_leave_lazy_mmu_mode
    """
    if cpu.linux.lazy_mmu_left_late is late:
        await cpu.pv.set_lazy_mode(cpu, LazyMode.NONE)


async def arch_flush_lazy_mmu_mode(cpu: Cpu) -> None:
    """Have all that was held back applied, and stay in the mode if this CPU is in it.

    C: arch_flush_lazy_mmu_mode (49f19710512, 2.6.21)
    """
    await cpu.pv.set_lazy_mode(cpu, LazyMode.FLUSH)


native = ParavirtOps(
    set_pte=native_set_pte,
    set_pte_at=native_set_pte_at,
    set_pte_present=native_set_pte_present,
    set_pte_atomic=pgtable_3level.set_pte_atomic,
    pte_clear=native_pte_clear,
    pmd_clear=pgtable_3level.pte_clear,
    pte_update=native_nop,
    pte_update_defer=native_nop,
    flush_tlb_user=native_flush_tlb,
    flush_tlb_kernel=native_flush_tlb_global,
    flush_tlb_single=native_flush_tlb_single,
    write_cr3=native_write_cr3,
    page_fault=native_page_fault,
    set_pmd=native_set_pmd,
    set_pud=native_set_pud,
    alloc_pt=native_page_nop,
    alloc_pd=native_page_nop,
    alloc_pd_clone=native_page_nop,
    release_pt=native_page_nop,
    release_pd=native_page_nop,
    set_lazy_mode=native_set_lazy_mode,
    set_linear_mapping=native_page_nop,
)
