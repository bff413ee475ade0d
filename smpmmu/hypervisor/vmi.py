"""VMI's hooks: a shadow kept in step by notifications, with a queue of deferred ones per vCPU.

A deferred update waits in the queue of the vCPU that made it (`update_queue.py`); in lazy MMU mode
every update does. It must not know Linux beyond the hook table. Source: arch/i386/kernel/vmi.c,
Linux 2.6.21, and the VMI specification 2.0 (2006-03-13).
"""

from __future__ import annotations

from smpmmu.engine.routines import bug_on, instruction, routine
from smpmmu.engine.steps import Word, load, store
from smpmmu.hypervisor.page_types import (
    ONLY_ANNOUNCED_FRAMES_ARE_UPDATED,
    PD,
    PT,
    announce,
    announce_clone,
    check,
    check_root,
    page_type,
    release,
    spde_for,
)
from smpmmu.hypervisor.shadow import Holds, demand_page, set_spte, sync_directory, sync_entry
from smpmmu.hypervisor.update_queue import (
    FLUSH_EVERYTHING,
    FLUSH_PAGE,
    FLUSH_USER,
    drain,
    drains,
    enqueue,
    flush_all,
    flush_page,
    holds_flushes,
    holds_updates,
    is_page_table,
    lazy_mode,
    linear_mapping,
    refetch,
    supersede,
)
from smpmmu.kernel.paravirt import AddressSpace, LazyMode, ParavirtOps, native
from smpmmu.machine.cpu import Cpu, load_cr3
from smpmmu.machine.entries import PAGE_SHIFT
from smpmmu.machine.memory import PAGE_SIZE

LAZY_MODES_DO_NOT_NEST = "lazy_modes_do_not_nest"


@routine
async def set_shadow(cpu: Cpu, ptep: int, value: int, kinds: int) -> None:
    """Write the shadow of an entry in a frame that is one of `kinds`.

    C: check_page_type, and what the hypervisor does then
    """
    word = cpu.memory.at(ptep)
    if cpu.hypervisor.types is None:
        await set_spte(cpu, word, value)
        return
    kind = await load(page_type(cpu, ptep >> PAGE_SHIFT))
    check(cpu, kind & kinds, ONLY_ANNOUNCED_FRAMES_ARE_UPDATED)
    if kind == PD:
        await set_spte(cpu, word, await spde_for(cpu, value, linking=True))
    elif kind == PT:
        await set_spte(cpu, word, value)


@routine
async def sync_shadow(cpu: Cpu, ptep: int) -> None:
    """Bring the shadow of an entry up to date, whatever level its table is of."""
    word = cpu.memory.at(ptep)
    kind = PT
    if cpu.hypervisor.types is not None:
        kind = await load(page_type(cpu, ptep >> PAGE_SHIFT))
        check(cpu, kind, ONLY_ANNOUNCED_FRAMES_ARE_UPDATED)
    if kind == PT:
        await sync_entry(cpu, word)
    elif kind == PD:
        await sync_directory(cpu, word)


def lazy_mode_variable(cpu: Cpu) -> Word:
    """Return what vmi.c believes of this CPU's mode: whether it is lazy MMU mode.

    C: per_cpu(lazy_mode), in vmi_set_lazy_mode
    """
    return Word(f"{cpu.name}.lazy_mode", 1, owner=cpu.name)


@instruction
async def rom_set_lazy_mode(cpu: Cpu, mode: int) -> None:
    """Begin or end lazy MMU mode; both apply what is held back: VMI_SetLazyMode."""
    await drain(cpu)
    await store(lazy_mode(cpu), mode)


async def vmi_set_lazy_mode(cpu: Cpu, mode: LazyMode) -> None:
    """Enter, leave or interrupt lazy MMU mode; nothing if the hypervisor has none.

    C: vmi_set_lazy_mode
    """
    if cpu.hypervisor.lazy is Holds.NOTHING:
        return
    believed = lazy_mode_variable(cpu)
    nested = await load(believed) and mode is LazyMode.MMU
    bug_on(nested, LAZY_MODES_DO_NOT_NEST)
    if mode is LazyMode.FLUSH:
        await rom_set_lazy_mode(cpu, 0)
        await rom_set_lazy_mode(cpu, await load(believed))
    else:
        on = int(mode is LazyMode.MMU)
        if cpu.hypervisor.lazy_noted_first:
            await store(believed, on)
        await rom_set_lazy_mode(cpu, on)
        # An interrupt that flushes here sets the mode that is noted.
        if not cpu.hypervisor.lazy_noted_first:
            await store(believed, on)


@instruction
async def vmi_set_pte(cpu: Cpu, ptep: int, pteval: int) -> None:
    """Write an entry, its words in the order that the bare machine has, and its shadow.

    C: vmi_set_pte
    """
    await native.set_pte(cpu, ptep, pteval)
    if await holds_updates(cpu):
        await enqueue(cpu, ptep)
        return
    await supersede(cpu, ptep)
    # set_pmd_pte writes directory entries with it as well; the level is not looked at.
    await set_shadow(cpu, ptep, pteval, PT | PD)


async def vmi_set_pte_at(cpu: Cpu, mm: object, addr: int, ptep: int, pteval: int) -> None:
    """Write an entry and its shadow; never deferred.

    C: vmi_set_pte_at
    """
    await vmi_set_pte(cpu, ptep, pteval)


@instruction
async def vmi_set_pte_present(
    cpu: Cpu, mm: AddressSpace, addr: int, ptep: int, pteval: int
) -> None:
    """Replace an entry; its shadow when this vCPU flushes, or at once if `mm` is not the current.

    C: vmi_set_pte_present, with is_current_as where it must be user
    """
    await native.set_pte_present(cpu, mm, addr, ptep, pteval)
    await defer(cpu, ptep, current=mm.number == cpu.mm.number)


@instruction
async def vmi_set_pte_atomic(cpu: Cpu, ptep: int, pteval: int) -> None:
    """Replace an entry at once, then bring its shadow up to date.

    C: vmi_set_pte_atomic
    Model: set_pmd_pte writes directory entries with it; the level is not looked at.
    """
    await native.set_pte_atomic(cpu, ptep, pteval)
    if await holds_updates(cpu):
        await enqueue(cpu, ptep)
        return
    await supersede(cpu, ptep)
    await sync_shadow(cpu, ptep)


@instruction
async def vmi_pte_clear(cpu: Cpu, mm: object, addr: int, ptep: int) -> None:
    """Empty an entry and its shadow.

    C: vmi_pte_clear
    """
    await native.pte_clear(cpu, mm, addr, ptep)
    if await holds_updates(cpu):
        await enqueue(cpu, ptep)
        return
    await supersede(cpu, ptep)
    await set_shadow(cpu, ptep, 0, PT)


@instruction
async def vmi_pmd_clear(cpu: Cpu, pmdp: int) -> None:
    """Empty an entry of a page directory, and its shadow.

    C: vmi_pmd_clear
    """
    await native.pmd_clear(cpu, pmdp)
    await set_shadow(cpu, pmdp, 0, PD)


@instruction
async def vmi_update_pte(cpu: Cpu, mm: object, addr: int, ptep: int) -> None:
    """Bring the shadow of an entry up to date now, or in lazy MMU mode when it is left.

    C: vmi_update_pte
    """
    if await holds_updates(cpu):
        await enqueue(cpu, ptep)
        return
    await supersede(cpu, ptep)
    if await is_page_table(cpu, ptep):
        await sync_entry(cpu, cpu.memory.at(ptep))


@instruction
async def vmi_update_pte_defer(cpu: Cpu, mm: AddressSpace, addr: int, ptep: int) -> None:
    """Queue the entry until this vCPU flushes; at once if `mm` is neither the current nor init_mm.

    C: vmi_update_pte_defer, with is_current_as
    """
    await defer(cpu, ptep, current=mm.is_init or mm.number == cpu.mm.number)


async def defer(cpu: Cpu, ptep: int, *, current: bool) -> None:
    """Queue the entry if its address space is the `current` one, or bring its shadow up to date."""
    at_once = not current and cpu.hypervisor.current_only
    if at_once and not await holds_updates(cpu):
        await supersede(cpu, ptep)
        await sync_entry(cpu, cpu.memory.at(ptep))
        return
    await enqueue(cpu, ptep)


@instruction
async def vmi_flush_tlb_single(cpu: Cpu, addr: int) -> None:
    """Drain the queue, then drop the translation of `addr`: VMI_InvalPage."""
    if await holds_flushes(cpu):
        await enqueue(cpu, addr & ~(PAGE_SIZE - 1) | FLUSH_PAGE)
        return
    if drains(cpu):
        await drain(cpu)
    await flush_page(cpu, addr)


@instruction
async def vmi_write_cr3(cpu: Cpu, root: int) -> None:
    """Drain the queue, then change the page directory: VMI_SetCR3."""
    if drains(cpu) and cpu.hypervisor.cr3_drains:
        await drain(cpu)
    # Before the load: once CR3 leads there, this CPU may speculate from what is stale.
    if cpu.hypervisor.private:
        for addr in cpu.pages:
            await refetch(cpu, root, addr)
    await check_root(cpu, root)
    await load_cr3(cpu, root)


async def vmi_flush_tlb_user(cpu: Cpu) -> None:
    """Drop what is cached here but for global entries: VMI_FlushTLB."""
    await flush_tlb(cpu, everything=False)


async def vmi_flush_tlb_kernel(cpu: Cpu) -> None:
    """Drop everything cached here: VMI_FlushTLB with VMI_FLUSH_GLOBAL."""
    await flush_tlb(cpu, everything=True)


@instruction
async def flush_tlb(cpu: Cpu, *, everything: bool) -> None:
    """Drain the queue, then drop what is cached; with `everything` global entries as well."""
    if await holds_flushes(cpu):
        await enqueue(cpu, FLUSH_EVERYTHING if everything else FLUSH_USER)
        return
    if drains(cpu):
        await drain(cpu)
    await flush_all(cpu, everything=everything)


@routine
async def vmi_page_fault(
    cpu: Cpu, addr: int, *, write: bool, execute: bool = False, user: bool = True
) -> bool:
    """Drain the queue, then try to answer the fault from the primary."""
    await drain(cpu)
    return await demand_page(cpu, addr, write=write, execute=execute, user=user)


@instruction
async def vmi_set_linear_mapping(cpu: Cpu, vaddr: int, pfn: int) -> None:
    """Learn which page table is mapped for a moment: VMI_SetLinearMapping.

    C: vmi_kmap_atomic_pte (9a1c13e91f1)
    """
    if cpu.hypervisor.highpte and cpu.hypervisor.registered:
        await store(linear_mapping(cpu), pfn)


@instruction
async def vmi_set_pmd(cpu: Cpu, pmdp: int, pmdval: int) -> None:
    """Write a directory entry and its shadow.

    C: vmi_set_pmd
    """
    await store(cpu.memory.at(pmdp), pmdval)
    await set_shadow(cpu, pmdp, pmdval, PD)


@instruction
async def vmi_set_pud(cpu: Cpu, pudp: int, pudval: int) -> None:
    """Write an entry of the root; it counts, here as on the bare machine, from a load of CR3.

    C: vmi_set_pud; roots are never announced, since several share a page
    """
    await native.set_pud(cpu, pudp, pudval)


@instruction
async def vmi_allocate_pt(cpu: Cpu, pfn: int) -> None:
    """Learn of a page table: VMI_AllocatePage, VMI_PAGE_L1.

    C: vmi_allocate_pt
    """
    await announce(cpu, pfn, PT)


@instruction
async def vmi_allocate_pd(cpu: Cpu, pfn: int) -> None:
    """Learn of a page directory: VMI_AllocatePage, VMI_PAGE_L2.

    C: vmi_allocate_pd
    """
    await announce(cpu, pfn, PD)


@instruction
async def vmi_allocate_pd_clone(cpu: Cpu, pfn: int, clonepfn: int, start: int, count: int) -> None:
    """Learn of a directory that is partly a copy: VMI_AllocatePage, VMI_PAGE_CLONE.

    C: vmi_allocate_pd_clone
    """
    await announce_clone(cpu, pfn, clonepfn, start, count)


@instruction
async def vmi_release_pt(cpu: Cpu, pfn: int) -> None:
    """Forget a page table: VMI_ReleasePage.

    C: vmi_release_pt
    """
    await release(cpu, pfn, PT)


@instruction
async def vmi_release_pd(cpu: Cpu, pfn: int) -> None:
    """Forget a page directory: VMI_ReleasePage.

    C: vmi_release_pd
    """
    await release(cpu, pfn, PD)


vmi = ParavirtOps(
    set_pte=vmi_set_pte,
    set_pte_at=vmi_set_pte_at,
    set_pte_present=vmi_set_pte_present,
    set_pte_atomic=vmi_set_pte_atomic,
    pte_clear=vmi_pte_clear,
    pmd_clear=vmi_pmd_clear,
    pte_update=vmi_update_pte,
    pte_update_defer=vmi_update_pte_defer,
    flush_tlb_user=vmi_flush_tlb_user,
    flush_tlb_kernel=vmi_flush_tlb_kernel,
    flush_tlb_single=vmi_flush_tlb_single,
    write_cr3=vmi_write_cr3,
    page_fault=vmi_page_fault,
    set_pmd=vmi_set_pmd,
    set_pud=vmi_set_pud,
    alloc_pt=vmi_allocate_pt,
    alloc_pd=vmi_allocate_pd,
    alloc_pd_clone=vmi_allocate_pd_clone,
    release_pt=vmi_release_pt,
    release_pd=vmi_release_pd,
    set_lazy_mode=vmi_set_lazy_mode,
    set_linear_mapping=vmi_set_linear_mapping,
)
