"""Who flushes waits for an answer of every other CPU; whoever cannot answer must not be waited for.

    cpu0                              cpu1
    spin_lock(L)                      interrupts off
    flush: IPI to cpu1                spin_lock(L): waits for cpu0
      waits for cpu1's answer           the IPI cannot land

L is tlbstate_lock or call_lock, if both flush; or a lock under which cpu0 flushes, as it may under
the page-table lock. An order of locks alone does not show these deadlocks: the answer is the
missing edge. The families below are a lock, or a pair of flushes, each with its repairs.

    flush, flushes    both CPUs flush
    ptl               cpu1 takes the page-table lock, in each of the ways there are
    pgd_lock          cpu1 takes it under pgd_lock
    bottom_half       a device's bottom half flushes
    vmlist_lock       cpu0 flushes as a writer, cpu1 is a reader (parisc)
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import Expr, all_of, finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, load, local_irq_disable, local_irq_enable, store
from smpmmu.engine.system import NO_DEADLOCK
from smpmmu.kernel.mm import INIT_MM, MmStruct, VmAreaStruct
from smpmmu.kernel.paravirt import Linux, native
from smpmmu.kernel.pgd import pgd_dtor, pgd_lock
from smpmmu.kernel.smp import (
    call_lock,
    flush_tlb_all,
    flush_tlb_page,
    install_interrupts,
    tlbstate_lock,
)
from smpmmu.kernel.softirq import install_device, schedule_work, work_pending, worker_thread
from smpmmu.kernel.vmalloc import (
    VMALLOC_START,
    remove_vm_area,
    vmalloc_sync_all,
    vmlist,
    vmlist_lock,
)
from smpmmu.machine.cpu import CALL_FUNCTION_VECTOR, INVALIDATE_TLB_VECTOR, Cpu, irr
from smpmmu.machine.entries import PAGE_TABLE, entry
from smpmmu.machine.memory import VERSION_SHIFT, Memory, pgd_index
from smpmmu.machine.rwlock import read_lock, read_unlock
from smpmmu.machine.spinlock import (
    spin_lock,
    spin_lock_irq,
    spin_lock_irqsave,
    spin_unlock,
    spin_unlock_irq,
    spin_unlock_irqrestore,
)
from smpmmu.machine.walker import user_write
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    PAGE,
    TOUCHED,
    Flush,
    address_space,
    guest_memory,
    install_evictor,
)
from smpmmu.scenarios.reliant_flusher import write_protect

if TYPE_CHECKING:
    from collections.abc import Callable

ONLINE = (0, 1)
MM = address_space(Flush.UNDER_PTL, ONLINE)
OTHER_MM = MmStruct(number=2, pgd=0x11)
LINUX = Linux(pgds=((MM.number, MM.pgd), (OTHER_MM.number, OTHER_MM.pgd)))
KERNEL_TABLE = 0x7E
"""The page table for VMALLOC_START, which only swapper_pg_dir has at first."""

wanted = Word("cpu1 wants the lock", 1)
"""Ghost: set before cpu1 takes a lock and cleared after, so that a wait shows in the state."""

DISABLED = (
    "smp_call_function, arch/i386/kernel/smp.c: must not be called with disabled interrupts; "
    "flush_tlb_others waits in the same way"
)
BOTTOM_HALF = "smp_call_function, arch/i386/kernel/smp.c: nor from a bottom half handler"
UNDER_PTL = "the ptl is only taken with interrupts on: whoever waits for it answers"
PGD_LOCK = "a79e53d85683: page_table_lock must not be taken with interrupts off"
LOCK_FLAGS = "__raw_spin_lock_flags, include/asm-i386/spinlock.h: sti around the spin if it was on"
LOCKDEP = "_spin_lock_irqsave, kernel/spinlock.c: lockdep does without __raw_spin_lock_flags"
PARISC = "08dc2ca61e6: read_lock spins with interrupts off while a writer does flush_tlb_all"
PARISC_FIXED = "08dc2ca61e6: read_lock spins with interrupts on if they were"


class Take(enum.Enum):
    """How a lock is taken."""

    PLAIN = "spin_lock"
    IRQ = "spin_lock_irq"
    IRQSAVE = "spin_lock_irqsave"
    IRQSAVE_LOCKDEP = "spin_lock_irqsave with lockdep"


async def flush_page(cpu: Cpu, vma: VmAreaStruct, *, irqs_off: bool) -> None:
    """Flush a page, as somebody may who forgot that interrupts are off."""
    if irqs_off:
        await local_irq_disable()
    await flush_tlb_page(cpu, vma, ADDR)
    if irqs_off:
        await local_irq_enable()


async def flush_all(cpu: Cpu, *, irqs_off: bool = False) -> None:
    """Flush everything everywhere, likewise."""
    if irqs_off:
        await local_irq_disable()
    await flush_tlb_all(cpu, ONLINE)
    if irqs_off:
        await local_irq_enable()


async def look_at_entry(cpu: Cpu, vma: VmAreaStruct, take: Take, *, irqs_off: bool) -> None:
    """Read an entry under its lock."""
    ptep = vma.vm_mm.pte_offset(ADDR)
    ptl = vma.vm_mm.pte_lockptr(ADDR)
    if irqs_off:
        await local_irq_disable()
    await store(wanted, 1)
    # The lock may be held by a CPU that waits for an answer from here.
    flags = await take_lock(ptl, take)
    await store(wanted, 0)
    await load(cpu.memory.at(ptep))
    if take is Take.PLAIN:
        await spin_unlock(ptl)
    elif take is Take.IRQ:
        await spin_unlock_irq(ptl)
    else:
        await spin_unlock_irqrestore(ptl, flags)
    if irqs_off:
        await local_irq_enable()


async def take_lock(lock: Word, take: Take) -> bool:
    """Take a lock; return the flags where they are saved."""
    if take is Take.PLAIN:
        await spin_lock(lock)
        return True
    if take is Take.IRQ:
        await spin_lock_irq(lock)
        return True
    return await spin_lock_irqsave(lock, lockdep=take is Take.IRQSAVE_LOCKDEP)


async def get_vmalloc_info(*, answers: bool) -> None:
    """Walk the list of areas, as a read of /proc/meminfo does.

    `answers` says whether read_lock spins with interrupts on (`machine/rwlock.py`).

    C: get_vmalloc_info, fs/proc/mmu.c
    """
    await store(wanted, 1)
    await read_lock(vmlist_lock, answers=answers)
    await store(wanted, 0)
    await load(vmlist)
    await read_unlock(vmlist_lock, answers=answers)


async def drop_other_pgd(cpu: Cpu) -> None:
    """Free the directory of the other mm, as the slab allocator may do at any time."""
    await pgd_dtor(cpu, OTHER_MM.pgd, irqsave=False)


def two_cpus(setup: Setup) -> tuple[Cpu, Cpu]:
    """Return two vCPUs on bare hardware with MM loaded, and their interrupts."""
    kernel = (INIT_MM.pgd, pgd_index(VMALLOC_START), entry(KERNEL_TABLE, PAGE_TABLE))
    memory = Memory((*guest_memory(TOUCHED).entries, kernel))
    cpu0, cpu1 = (
        Cpu(number, memory, memory, MM.pgd, native, MM, (ADDR,), linux=LINUX) for number in ONLINE
    )
    for cpu in (cpu0, cpu1):
        install_interrupts(setup, cpu, call_function=True)
        install_evictor(setup, cpu)
    return cpu0, cpu1


def owed(number: int, vector: int, *conditions: Expr) -> Expr:
    """Return the truth that an IPI is pending at a CPU under `conditions`.

    If the CPU also waits there for a lock that the sender keeps, and all is well in the end, it
    has answered while it waited.
    """
    return all_of(value(irr(number, vector)) == 1, *conditions)


def both_flush(setup: Setup, *, irqs_off: tuple[int, ...], everything: bool = False) -> None:
    """Both flush the page that both use, or cpu1 everything; `irqs_off` are CPUs that must not."""
    vma = VmAreaStruct(MM)
    cpu0, cpu1 = two_cpus(setup)
    setup.cpu(0, call(user_write, cpu0, ADDR), call(flush_page, cpu0, vma, irqs_off=0 in irqs_off))
    write, off = call(user_write, cpu1, ADDR), 1 in irqs_off
    both_written = value(cpu0.memory.page(PAGE)) >> VERSION_SHIFT == 2
    if everything:
        setup.cpu(1, write, call(flush_all, cpu1, irqs_off=off))
        mutual = owed(0, CALL_FUNCTION_VECTOR, value(irr(1, INVALIDATE_TLB_VECTOR)) == 1)
        setup.sometimes("each CPU waited for an answer of the other", mutual)
        return
    setup.cpu(1, write, call(flush_page, cpu1, vma, irqs_off=off))
    # cpu1 has flushed here already, and therefore stands before tlbstate_lock.
    before_lock = (value(cpu1.tlb(ADDR)) == 0) & ~finished("cpu1") & both_written
    waiting = owed(1, INVALIDATE_TLB_VECTOR, value(tlbstate_lock) == 1, before_lock)
    setup.sometimes("an IPI was sent to a CPU that waited for tlbstate_lock", waiting)


def flush_under_ptl(setup: Setup, *, take: Take, irqs_off: bool = False) -> None:
    """cpu0 flushes under the page-table lock, which cpu1 takes."""
    vma = VmAreaStruct(MM)
    cpu0, cpu1 = two_cpus(setup)
    setup.cpu(0, call(write_protect, cpu0, vma, Flush.UNDER_PTL))
    setup.cpu(1, call(look_at_entry, cpu1, vma, take, irqs_off=irqs_off))
    pending = owed(1, INVALIDATE_TLB_VECTOR, value(wanted) == 1)
    setup.sometimes("an IPI was sent to a CPU that wanted the sender's ptl", pending)


def flush_under_ptl_wanted_by_sync(
    setup: Setup, *, irqsave: bool, dtor_in_interrupt: bool = False, flushes: bool = True
) -> None:
    """cpu0 flushes under the page-table lock, which cpu1 takes under pgd_lock."""
    vma = VmAreaStruct(MM)
    cpu0, cpu1 = two_cpus(setup)
    looking = call(look_at_entry, cpu0, vma, Take.PLAIN, irqs_off=False)
    setup.cpu(0, call(write_protect, cpu0, vma, Flush.UNDER_PTL) if flushes else looking)
    setup.cpu(1, call(vmalloc_sync_all, cpu1, (MM, OTHER_MM), irqsave=irqsave))
    if dtor_in_interrupt:
        install_device(setup, cpu1, drop_other_pgd)
    missing = value(cpu1.memory.table(MM.pgd, pgd_index(VMALLOC_START))) == 0
    setup.at_quiescence("every_listed_directory_is_in_sync", ~missing)
    if not flushes:
        waits = (value(wanted) == 1) & (value(pgd_lock) == 1)
        setup.sometimes("the ptl was wanted while pgd_lock was held", waits)
        return
    pending = owed(1, INVALIDATE_TLB_VECTOR, value(pgd_lock) == 1, missing)
    setup.sometimes("an IPI was sent to the holder of pgd_lock, who wanted the ptl", pending)


def flush_put_off(setup: Setup, *, device: int, to_process: bool = False) -> None:
    """cpu0 flushes everything, and so does the bottom half of a device, or the process it wakes."""
    cpus = two_cpus(setup)
    install_device(setup, cpus[device], schedule_work if to_process else flush_all)
    rest = (call(worker_thread, cpus[0], flush_all),) if to_process else ()
    setup.cpu(0, call(flush_all, cpus[0]), *rest)
    held = value(call_lock) == 1
    if to_process:
        asked = held & (value(work_pending(cpus[0])) == 1)
        setup.sometimes("the bottom half asked for a flush while call_lock was held", asked)
    if device != 0:
        waits = owed(0, CALL_FUNCTION_VECTOR, held, ~finished("cpu0"))
        setup.sometimes("the bottom half waited for a CPU that was to flush too", waits)


def flush_under_vmlist_lock(
    setup: Setup, *, answers: bool, flush_after_unlock: bool = False
) -> None:
    """cpu0 flushes everything as a writer of vmlist_lock, for which cpu1 is a reader."""
    cpu0, _ = two_cpus(setup)
    remove = call(remove_vm_area, cpu0, ONLINE, flush_after_unlock=flush_after_unlock)
    setup.cpu(0, remove)
    setup.cpu(1, call(get_vmalloc_info, answers=answers))
    setup.at_quiescence("a_removed_area_is_off_the_list", value(vmlist) == 0)
    pending = owed(1, CALL_FUNCTION_VECTOR, value(wanted) == 1)
    setup.sometimes("an IPI was sent to a CPU that wanted vmlist_lock", pending)


@scenario(
    variant("flushes_irqs_off", violated(NO_DEADLOCK, DISABLED),
            race=both_flush, irqs_off=(0, 1)),
    variant("flush_irqs_off_meets_flush",
            violated(NO_DEADLOCK, f"one is enough: it waits for tlbstate_lock; {DISABLED}"),
            race=both_flush, irqs_off=(1,)),
    variant("flushes_irqs_on", holds("who waits for tlbstate_lock answers its holder"),
            race=both_flush, irqs_off=()),
    variant("flush_page_and_all_irqs_off",
            violated(NO_DEADLOCK, f"no lock is waited for, only answers; {DISABLED}"),
            race=both_flush, irqs_off=(0, 1), everything=True),
    variant("flush_all_irqs_off_meets_flush_page",
            holds("they share no lock, so cpu0 answers, and cpu1 once its interrupts are on"),
            race=both_flush, irqs_off=(1,), everything=True),
    variant("ptl_irqs_off", violated(NO_DEADLOCK, PGD_LOCK),
            race=flush_under_ptl, take=Take.PLAIN, irqs_off=True),
    variant("ptl_irqs_on", holds(UNDER_PTL), race=flush_under_ptl, take=Take.PLAIN),
    variant("ptl_spin_lock_irq", violated(NO_DEADLOCK, "spin_lock_irq: cli, then it only spins"),
            race=flush_under_ptl, take=Take.IRQ),
    variant("ptl_irqsave", holds(LOCK_FLAGS), race=flush_under_ptl, take=Take.IRQSAVE),
    variant("ptl_irqsave_irqs_off",
            violated(NO_DEADLOCK, f"interrupts were off before; {LOCK_FLAGS}"),
            race=flush_under_ptl, take=Take.IRQSAVE, irqs_off=True),
    variant("ptl_irqsave_lockdep", violated(NO_DEADLOCK, LOCKDEP),
            race=flush_under_ptl, take=Take.IRQSAVE_LOCKDEP),
    variant("pgd_lock_irqsave", violated(NO_DEADLOCK, PGD_LOCK),
            race=flush_under_ptl_wanted_by_sync, irqsave=True),
    variant("pgd_lock_irqsave_nobody_flushes", holds("no answer is waited for under the ptl"),
            race=flush_under_ptl_wanted_by_sync, irqsave=True, flushes=False),
    variant("pgd_lock_plain", holds(f"{PGD_LOCK}, so pgd_lock became a plain lock"),
            race=flush_under_ptl_wanted_by_sync, irqsave=False),
    variant("pgd_lock_plain_taken_in_interrupt",
            violated(NO_DEADLOCK, "a79e53d85683 rests on nobody taking pgd_lock in an interrupt"),
            race=flush_under_ptl_wanted_by_sync, irqsave=False, dtor_in_interrupt=True),
    variant("bottom_half_flushes", violated(NO_DEADLOCK, BOTTOM_HALF),
            race=flush_put_off, device=0),
    variant("bottom_half_flushes_elsewhere",
            holds("a bottom half has interrupts on: on another CPU than the holder's it answers"),
            race=flush_put_off, device=1),
    variant("bottom_half_leaves_flush_to_process",
            holds(f"keventd begins when call_lock is free again on its CPU; {BOTTOM_HALF}"),
            race=flush_put_off, device=0, to_process=True),
    variant("vmlist_lock_reader_irqs_off", violated(NO_DEADLOCK, PARISC),
            race=flush_under_vmlist_lock, answers=False),
    variant("vmlist_lock_reader_irqs_on", holds(PARISC_FIXED),
            race=flush_under_vmlist_lock, answers=True),
    variant("vmlist_lock_flush_after_unlock",
            holds("the reader waits for nobody who waits for its answer"),
            race=flush_under_vmlist_lock, answers=False, flush_after_unlock=True),
)  # fmt: skip
def shootdown_deadlocks(setup: Setup, *, race: Callable[..., None], **knobs: object) -> None:
    """A flush waits for answers: from whom may it, and under which locks?"""
    race(setup, **knobs)
