"""A plain read-modify-write of an entry, beside a processor that sets D in it.

    cpu0                              cpu1
    spin_lock(ptl)                    write the page: the walk sets A and D
    load the entry
    store it with A set
    spin_unlock(ptl)

The functions are those of architectures or systems that did it so, on this machine; i386 Linux
stores plainly only what has D set itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import any_of, finished, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import AGAIN, Again, retry
from smpmmu.engine.steps import TAKEN, cmpxchg, load, store
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.kernel.pgtable import ptep_set_access_flags, ptep_set_wrprotect
from smpmmu.kernel.smp import flush_tlb_page
from smpmmu.machine.entries import PAGE_ACCESSED, PAGE_DIRTY, PAGE_PRESENT, PAGE_RW, entry
from smpmmu.machine.memory import VERSION_SHIFT
from smpmmu.machine.spinlock import spin_lock, spin_unlock
from smpmmu.machine.walker import user_write
from smpmmu.properties.promises import NO_WRITE_LOST
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import ADDR, PAGE, UNTOUCHED
from smpmmu.scenarios.races.common import memory, native_cpu, one_mm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from smpmmu.machine.cpu import Cpu


async def set_access_flags_plainly(cpu: Cpu, vma: VmAreaStruct, ptep: int, pte: int) -> None:
    """Store what was read, with A.

    C: ptep_set_access_flags, arch/arm64, before 6d332747fa5f
    """
    await store(cpu.memory.at(ptep), pte | PAGE_ACCESSED)


async def set_access_flags_atomically(cpu: Cpu, vma: VmAreaStruct, ptep: int, pte: int) -> None:
    """Add A to whatever the entry holds by now.

    C: ptep_set_access_flags, arch/arm64, since 6d332747fa5f
    """
    await retry(add_accessed, cpu, ptep)


async def add_accessed(cpu: Cpu, ptep: int) -> bool | Again:
    """Try once."""
    word = cpu.memory.at(ptep)
    old = await load(word)
    return True if await cmpxchg(word, old, old | PAGE_ACCESSED) & TAKEN else AGAIN


async def set_access_flags_of_write(cpu: Cpu, vma: VmAreaStruct, ptep: int, pte: int) -> None:
    """Store what was read, with A and D: the seed's function, for a write fault."""
    entry_ = pte | PAGE_ACCESSED | PAGE_DIRTY
    await ptep_set_access_flags(cpu, vma, ADDR, ptep, entry_, dirty=True)


async def set_access_flags_of_read(cpu: Cpu, vma: VmAreaStruct, ptep: int, pte: int) -> None:
    """Store nothing: the seed's function, for a read fault."""
    await ptep_set_access_flags(cpu, vma, ADDR, ptep, pte | PAGE_ACCESSED, dirty=False)


async def protect_plainly(cpu: Cpu, vma: VmAreaStruct, ptep: int, pte: int) -> None:
    """Store what was read, without the right to write.

    C: pmap_protect, sys/i386, FreeBSD, before the fix of PR 61852
    """
    await store(cpu.memory.at(ptep), pte & ~PAGE_RW)
    await flush_tlb_page(cpu, vma, ADDR)


async def protect_locked(cpu: Cpu, vma: VmAreaStruct, ptep: int, pte: int) -> None:
    """Take the right to write away with a locked instruction."""
    await ptep_set_wrprotect(cpu, vma.vm_mm, ADDR, ptep)
    await flush_tlb_page(cpu, vma, ADDR)


async def change(cpu: Cpu, vma: VmAreaStruct, how: Callable[..., Awaitable[None]]) -> None:
    """Change the entry under the ptl."""
    mm = vma.vm_mm
    ptep = mm.pte_offset(ADDR)
    await spin_lock(mm.pte_lockptr(ADDR))
    pte = await load(cpu.memory.at(ptep))
    # Another CPU's walker may set A and D from here on.
    if pte & PAGE_PRESENT:
        await how(cpu, vma, ptep, pte)
    await spin_unlock(mm.pte_lockptr(ADDR))


MERGE = "6d332747fa5f (arm64, 4.7): a loop of compare-and-exchange that never clears D"
GUARD = (
    "789e6ac0a7c: ptep_set_access_flags stores plainly only with `dirty`, and then D is in what "
    "is stored"
)
FREEBSD = "FreeBSD PR 61852 (2004): pmap_protect lost PG_M"


@scenario(
    variant("defect", violated(NO_WRITE_LOST, MERGE), how=set_access_flags_plainly),
    variant("repair", holds(MERGE), how=set_access_flags_atomically),
    variant("seed_write_fault", holds(GUARD), how=set_access_flags_of_write),
    variant("seed_read_fault", holds(GUARD), how=set_access_flags_of_read),
    variant("protect_defect", violated(NO_WRITE_LOST, FREEBSD), how=protect_plainly),
    variant("protect_repair", holds("a locked instruction that clears one bit keeps the others"),
            how=protect_locked),
)  # fmt: skip
def ad_nonatomic_rmw(setup: Setup, *, how: Callable[..., Awaitable[None]]) -> None:
    """A changes a clean entry with a load and a store; B's write sets D in between."""
    mm = one_mm(0, 1)
    vma, guest = VmAreaStruct(mm), memory(entry(PAGE, UNTOUCHED))
    cpu0, cpu1 = (native_cpu(setup, n, mm, guest) for n in (0, 1))
    setup.cpu(0, call(change, cpu0, vma, how))
    setup.cpu(1, call(user_write, cpu1, ADDR))
    dirty = value(guest.at(mm.pte_offset(ADDR))) & PAGE_DIRTY != 0
    written = value(guest.page(PAGE)) >> VERSION_SHIFT != 0
    setup.at_quiescence(NO_WRITE_LOST, any_of(~written, dirty))
    setup.sometimes("the page was written", written & dirty)
    setup.sometimes("the entry was changed first", finished("cpu0") & ~written)
