"""Changing page-table entries, as include/asm-i386/pgtable.h has it with the first patch.

It must not know any hypervisor. Source: Linux 2.6.21 and, for the hooks, 789e6ac0a7c; for
ptep_test_and_clear_young and _dirty 0013572b2ae and d6f8bb1310d (2.6.22). That the patch's macros
pass `addr` where their parameter is `address` is no race, and is not modelled. With PAE an entry is
two words: flags are tested and changed in pte_low alone, and what is read whole is read in two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, holds, routine
from smpmmu.engine.steps import Step, load
from smpmmu.kernel import pgtable_3level
from smpmmu.kernel.smp import flush_tlb_page
from smpmmu.machine.entries import (
    ENTRY,
    FRAME,
    HIGH,
    LOW,
    PAGE_ACCESSED,
    PAGE_BIT_ACCESSED,
    PAGE_BIT_DIRTY,
    PAGE_BIT_RW,
    PAGE_DIRTY,
    PAGE_RW,
)
from smpmmu.machine.memory import store_low, xchg_low

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct, VmAreaStruct
    from smpmmu.machine.cpu import Cpu


PAGE_CHG_MASK = FRAME | PAGE_ACCESSED | PAGE_DIRTY
"""What pte_modify keeps."""


async def clear_bit(cpu: Cpu, nr: int, addr: int) -> None:
    """Clear bit `nr` of the entry at `addr` with a locked instruction.

    C: clear_bit, include/asm-i386/bitops.h
    """
    word, bit = cpu.memory.at(addr), 1 << nr
    await Step(f"clear_bit {ENTRY.show(bit)} {word.name}", word, and_mask=word.mask & ~bit)


async def test_and_clear_bit(cpu: Cpu, nr: int, addr: int) -> bool:
    """Clear bit `nr` of the entry at `addr` with a locked instruction; whether it was set.

    C: test_and_clear_bit, include/asm-i386/bitops.h
    """
    word, bit = cpu.memory.at(addr), 1 << nr
    label = f"test_and_clear_bit {ENTRY.show(bit)} {word.name}"
    return await Step(label, word, and_mask=word.mask & ~bit, returns=bit) != 0


async def read_pte(cpu: Cpu, ptep: int, mask: int = LOW | HIGH) -> int:
    """Return what `mask` keeps of an entry: `pte_t entry = *ptep`, and what is tested of it.

    With PAE that is a load for each word of which something is kept, and another CPU may write in
    between. That the low word is read first is the compiler's choice; unverified.
    """
    word = cpu.memory.at(ptep)
    pte = await load(word, mask & LOW) if mask & LOW else 0
    if cpu.memory.paging.is_pae and mask & HIGH:
        pte |= await load(word, mask & HIGH)
    return pte


async def pte_lock_held(mm: MmStruct, addr: int, where: str) -> None:
    """BUG_ON the lock of the entry for `addr` not being held; no step.

    The entries of init_mm have none: who may change them is settled otherwise.
    """
    bug_on(not mm.is_init and not await holds(mm.pte_lockptr(addr)), f"ptl_held_in_{where}")


def pte_modify(pte: int, newprot: int) -> int:
    """Return an entry with other rights; frame, A and D are kept.

    C: pte_modify
    """
    return pte & PAGE_CHG_MASK | newprot


async def set_pte(cpu: Cpu, ptep: int, pteval: int) -> None:
    """Write an entry through the accessor.

    C: set_pte
    """
    await cpu.pv.set_pte(cpu, ptep, pteval)


async def set_pte_at(cpu: Cpu, mm: MmStruct, addr: int, ptep: int, pteval: int) -> None:
    """Write the entry of `mm` for `addr` through the accessor.

    C: set_pte_at
    Holds: the ptl
    """
    await pte_lock_held(mm, addr, "set_pte_at")
    await cpu.pv.set_pte_at(cpu, mm, addr, ptep, pteval)


async def set_pte_present(cpu: Cpu, mm: MmStruct, addr: int, ptep: int, pteval: int) -> None:
    """Replace the entry of `mm` for `addr`, which may be present, through the accessor.

    C: set_pte_present; set_pte_at but in PAE
    Holds: the ptl
    """
    await pte_lock_held(mm, addr, "set_pte_present")
    if cpu.memory.paging.is_pae:
        await cpu.pv.set_pte_present(cpu, mm, addr, ptep, pteval)
    else:
        await cpu.pv.set_pte_at(cpu, mm, addr, ptep, pteval)


async def set_pte_atomic(cpu: Cpu, ptep: int, pteval: int) -> None:
    """Replace an entry that nobody may find absent through the accessor.

    C: set_pte_atomic; set_pte but in PAE
    """
    if cpu.memory.paging.is_pae:
        await cpu.pv.set_pte_atomic(cpu, ptep, pteval)
    else:
        await cpu.pv.set_pte(cpu, ptep, pteval)


async def pte_clear(cpu: Cpu, mm: MmStruct, addr: int, ptep: int) -> None:
    """Empty the entry of `mm` for `addr` through the accessor.

    C: pte_clear; set_pte_at of 0 but in PAE
    Holds: the ptl
    """
    await pte_lock_held(mm, addr, "pte_clear")
    if cpu.memory.paging.is_pae:
        await cpu.pv.pte_clear(cpu, mm, addr, ptep)
    else:
        await cpu.pv.set_pte_at(cpu, mm, addr, ptep, 0)


@routine
async def ptep_set_access_flags(
    cpu: Cpu, vma: VmAreaStruct, address: int, ptep: int, entry: int, *, dirty: bool
) -> None:
    """Raise an entry's rights to `entry`, and flush; nothing for a mere read.

    C: ptep_set_access_flags
    Holds: the ptl
    """
    await pte_lock_held(vma.vm_mm, address, "ptep_set_access_flags")
    if dirty:
        # Not a locked instruction: A and D are both being set, so nothing can be lost.
        await store_low(cpu.memory.at(ptep), entry)
        await cpu.pv.pte_update_defer(cpu, vma.vm_mm, address, ptep)
        await macro_flush(cpu, vma, address)


async def macro_flush(cpu: Cpu, vma: VmAreaStruct, address: int) -> None:
    """Flush as the macros do that have it inside, unless the kernel's knob leaves it out."""
    if cpu.linux.macros_flush:
        await flush_tlb_page(cpu, vma, address)


@routine
async def ptep_clear_flush_dirty(cpu: Cpu, vma: VmAreaStruct, address: int, ptep: int) -> bool:
    """Clear D and flush; whether it was set.

    C: ptep_clear_flush_dirty
    Holds: the ptl
    """
    await pte_lock_held(vma.vm_mm, address, "ptep_clear_flush_dirty")
    dirty = await load(cpu.memory.at(ptep), PAGE_DIRTY)
    if dirty:
        # A CPU that has D cached goes on writing without touching the entry, until the flush.
        await clear_bit(cpu, PAGE_BIT_DIRTY, ptep)
        await cpu.pv.pte_update_defer(cpu, vma.vm_mm, address, ptep)
        await macro_flush(cpu, vma, address)
    return dirty != 0


@routine
async def ptep_clear_flush_young(cpu: Cpu, vma: VmAreaStruct, address: int, ptep: int) -> bool:
    """Clear A and flush; whether it was set.

    C: ptep_clear_flush_young
    Holds: the ptl
    """
    await pte_lock_held(vma.vm_mm, address, "ptep_clear_flush_young")
    young = await load(cpu.memory.at(ptep), PAGE_ACCESSED)
    if young:
        await clear_bit(cpu, PAGE_BIT_ACCESSED, ptep)
        await cpu.pv.pte_update_defer(cpu, vma.vm_mm, address, ptep)
        await macro_flush(cpu, vma, address)
    return young != 0


async def test_and_clear_update(cpu: Cpu, mm: MmStruct, addr: int, ptep: int) -> None:
    """Notify of a bit cleared, deferred or at once as the kernel's knob says."""
    if cpu.linux.test_and_clear_deferred:
        await cpu.pv.pte_update_defer(cpu, mm, addr, ptep)
    else:
        await cpu.pv.pte_update(cpu, mm, addr, ptep)


@routine
async def ptep_test_and_clear_dirty(cpu: Cpu, vma: VmAreaStruct, addr: int, ptep: int) -> bool:
    """Clear D; whether it was set. The caller must flush.

    C: ptep_test_and_clear_dirty, with the hook of 0013572b2ae (2.6.22-rc1) or d6f8bb1310d (rc5)
    Holds: the ptl
    """
    await pte_lock_held(vma.vm_mm, addr, "ptep_test_and_clear_dirty")
    dirty = False
    if await load(cpu.memory.at(ptep), PAGE_DIRTY):
        dirty = await test_and_clear_bit(cpu, PAGE_BIT_DIRTY, ptep)
    if dirty:
        await test_and_clear_update(cpu, vma.vm_mm, addr, ptep)
    return dirty


@routine
async def ptep_test_and_clear_young(cpu: Cpu, vma: VmAreaStruct, addr: int, ptep: int) -> bool:
    """Clear A; whether it was set. The caller must flush.

    C: ptep_test_and_clear_young, with the hook of 0013572b2ae (2.6.22-rc1) or d6f8bb1310d (rc5)
    Holds: the ptl
    """
    await pte_lock_held(vma.vm_mm, addr, "ptep_test_and_clear_young")
    young = False
    if await load(cpu.memory.at(ptep), PAGE_ACCESSED):
        young = await test_and_clear_bit(cpu, PAGE_BIT_ACCESSED, ptep)
    if young:
        await test_and_clear_update(cpu, vma.vm_mm, addr, ptep)
    return young


@routine
async def ptep_set_wrprotect(cpu: Cpu, mm: MmStruct, addr: int, ptep: int) -> None:
    """Take the right to write away; the caller must flush.

    C: ptep_set_wrprotect; if the kernel's knob says so, that of include/asm-generic/pgtable.h
    Holds: the ptl
    """
    await pte_lock_held(mm, addr, "ptep_set_wrprotect")
    if cpu.linux.generic_wrprotect:
        await set_pte_at(cpu, mm, addr, ptep, await read_pte(cpu, ptep) & ~PAGE_RW)
        return
    # The walker of another CPU may set A or D at any moment: the instruction is locked.
    await clear_bit(cpu, PAGE_BIT_RW, ptep)
    await cpu.pv.pte_update(cpu, mm, addr, ptep)


@routine
async def ptep_get_and_clear(cpu: Cpu, mm: MmStruct, addr: int, ptep: int) -> int:
    """Empty an entry and return it; the caller must flush.

    C: ptep_get_and_clear, with the hook of 8ecb8950695 unless the kernel's knob leaves it out
    Holds: the ptl
    """
    await pte_lock_held(mm, addr, "ptep_get_and_clear")
    # A walker may set A and D until the very exchange.
    if cpu.memory.paging.is_pae:
        pte = await pgtable_3level.ptep_get_and_clear(cpu, ptep)
    else:
        pte = await xchg_low(cpu.memory.at(ptep), 0)
    if cpu.linux.get_and_clear_hooked:
        await cpu.pv.pte_update(cpu, mm, addr, ptep)
    return pte


@routine
async def ptep_clear_flush(cpu: Cpu, vma: VmAreaStruct, address: int, ptep: int) -> int:
    """Empty an entry, flush, and return it.

    C: ptep_clear_flush, include/asm-generic/pgtable.h
    Holds: the ptl
    """
    pte = await ptep_get_and_clear(cpu, vma.vm_mm, address, ptep)
    await flush_tlb_page(cpu, vma, address)
    return pte
