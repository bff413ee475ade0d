"""VMI's hooks: a shadow kept in step by notifications, with a queue of deferred ones per vCPU.

A deferred update waits in the queue of the vCPU that made it, and is applied at that vCPU's next
INVLPG, load of CR3 or page fault, its own or an interrupt's. It must not know Linux beyond the
hook table. Source: arch/i386/kernel/vmi.c, Linux 2.6.21, and the VMI specification 2.0
(2006-03-13). The queue being one per vCPU is inferred; when a record is read is unverified, hence
the knobs (`shadow.Hypervisor`).
"""

from __future__ import annotations

from smpmmu.engine.routines import instruction, routine
from smpmmu.engine.steps import Part, Word, load, store, xchg
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
from smpmmu.hypervisor.shadow import (
    Record,
    demand_page,
    set_spte,
    sync_directory,
    sync_entry,
    sync_entry_torn,
)
from smpmmu.kernel.paravirt import AddressSpace, ParavirtOps, native
from smpmmu.machine.cpu import Cpu, flush_global, invlpg, load_cr3, read_cr3
from smpmmu.machine.entries import ENTRY, PAGE_PRESENT, PAGE_SHIFT, Address, pfn_of
from smpmmu.machine.memory import pgd_index, pmd_index, pte_index

DEFERRED_SLOTS = 2
"""Records that a queue holds; a full one is drained, which is always allowed."""
QUEUES = "deferred updates"
"""Reports show the queues in this table."""


def deferred(cpu: Cpu, slot: int) -> Word:
    """Return a slot of a vCPU's queue: the physical address of an entry, or 0."""
    held = Address(entry_size=cpu.memory.paging.entry_size)
    part = Part(QUEUES, f"slot {slot}", cpu.name, held)
    return Word(f"{cpu.name}.deferred[{slot}]", 32, owner=cpu.name, part=part)


def deferred_value(cpu: Cpu, slot: int) -> Word:
    """Return the entry's value that goes with the slot, where records hold values."""
    width = cpu.memory.paging.entry_bits
    name = f"{cpu.name}.deferred_value[{slot}]"
    part = Part(QUEUES, f"slot {slot}, its value", cpu.name)
    return Word(name, width, owner=cpu.name, format=ENTRY, part=part)


def drains(cpu: Cpu) -> bool:
    """Whether what is flushed here and now drains the queue."""
    return bool(cpu.hypervisor.ipis_drain or not cpu.in_interrupt)


@routine
async def drain(cpu: Cpu) -> None:
    """Apply and empty this vCPU's queue, oldest first."""
    for slot in range(DEFERRED_SLOTS):
        ptep = await xchg(deferred(cpu, slot), 0)
        if not ptep:
            return
        word = cpu.memory.at(ptep)
        if not await is_page_table(cpu, ptep):
            continue
        if cpu.hypervisor.record is Record.VALUE:
            await set_spte(cpu, word, await xchg(deferred_value(cpu, slot), 0))
        elif cpu.hypervisor.record is Record.TORN:
            await sync_entry_torn(cpu, word)
        else:
            await sync_entry(cpu, word)


async def is_page_table(cpu: Cpu, ptep: int) -> bool:
    """Whether there is a shadow for the frame that `ptep` lies in; no step if types are not kept.

    C: check_page_type
    """
    if cpu.hypervisor.types is None:
        return True
    known = await load(page_type(cpu, ptep >> PAGE_SHIFT)) == PT
    check(cpu, known, ONLY_ANNOUNCED_FRAMES_ARE_UPDATED)
    return known


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


@routine
async def supersede(cpu: Cpu, ptep: int) -> None:
    """Bring a queued value up to date when its entry is updated now: no call overtakes another.

    Records of addresses need no such care: whenever they are applied, the entry is read anew.
    """
    if cpu.hypervisor.record is not Record.VALUE:
        return
    for slot in range(DEFERRED_SLOTS):
        queued = await load(deferred(cpu, slot))
        if not queued:
            return
        if queued == ptep:
            await store(deferred_value(cpu, slot), await load(cpu.memory.at(ptep)))


@routine
async def put(cpu: Cpu, slot: int, ptep: int) -> None:
    """Write a record."""
    if cpu.hypervisor.record is Record.VALUE:
        await store(deferred_value(cpu, slot), await load(cpu.memory.at(ptep)))
    await store(deferred(cpu, slot), ptep)


@routine
async def refetch(cpu: Cpu, root: int, addr: int) -> None:
    """Bring this vCPU's own shadow of the page of `addr` under `root` up to date."""
    paging = cpu.memory.paging
    if paging.is_pae:
        pdpte = await load(cpu.memory.table(root, pgd_index(addr, paging)))
        if not pdpte & PAGE_PRESENT:
            return
        root = pfn_of(pdpte)
    gpde = await load(cpu.memory.table(root, pmd_index(addr, paging)))
    if gpde & PAGE_PRESENT:
        await sync_entry(cpu, cpu.memory.table(pfn_of(gpde), pte_index(addr, paging)))


@instruction
async def vmi_set_pte(cpu: Cpu, ptep: int, pteval: int) -> None:
    """Write an entry, its words in the order that the bare machine has, and its shadow.

    C: vmi_set_pte
    """
    await native.set_pte(cpu, ptep, pteval)
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
    await supersede(cpu, ptep)
    await sync_shadow(cpu, ptep)


@instruction
async def vmi_pte_clear(cpu: Cpu, mm: object, addr: int, ptep: int) -> None:
    """Empty an entry and its shadow.

    C: vmi_pte_clear
    """
    await native.pte_clear(cpu, mm, addr, ptep)
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
    """Bring the shadow of an entry up to date now.

    C: vmi_update_pte
    """
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
    if not current and cpu.hypervisor.current_only:
        await supersede(cpu, ptep)
        await sync_entry(cpu, cpu.memory.at(ptep))
        return
    for slot in range(DEFERRED_SLOTS):
        if not await load(deferred(cpu, slot)):
            await put(cpu, slot, ptep)
            return
    await drain(cpu)
    await put(cpu, 0, ptep)


@instruction
async def vmi_flush_tlb_single(cpu: Cpu, addr: int) -> None:
    """Drain the queue, then drop the translation of `addr`: VMI_InvalPage."""
    if drains(cpu):
        await drain(cpu)
    if cpu.hypervisor.private:
        await refetch(cpu, await read_cr3(cpu), addr)
    await invlpg(cpu, addr)


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
    if drains(cpu):
        await drain(cpu)
    if cpu.hypervisor.private:
        root = await read_cr3(cpu)
        for addr in cpu.pages:
            await refetch(cpu, root, addr)
    if everything:
        await flush_global(cpu)
    else:
        await load_cr3(cpu, await read_cr3(cpu))


@routine
async def vmi_page_fault(
    cpu: Cpu, addr: int, *, write: bool, execute: bool = False, user: bool = True
) -> bool:
    """Drain the queue, then try to answer the fault from the primary."""
    await drain(cpu)
    return await demand_page(cpu, addr, write=write, execute=execute, user=user)


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
)
