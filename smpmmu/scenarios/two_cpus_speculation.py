"""As `reliant_flusher`, but the one who relies is the one who writes, and its CPU speculates.

    cpu0                          cpu1                            cpu1's walker
    spin_lock(ptl)                spin_lock(ptl)                  walk for the page at any time
    ptep_set_wrprotect(pte)       if pte is read-only:
      [pte_update]                  flush_tlb_page
    [flush_tlb_page]                the page is final (copied)
    spin_unlock(ptl)              spin_unlock(ptl)
    [flush_tlb_page]              write the page

Two CPUs suffice once the processor may fill its TLB without being asked: between cpu1's own INVLPG
and cpu0's answer the walker finds the stale shadow, and nobody flushes what it caches. Without
the walker cpu1's next walk comes after cpu0's answer, which drained the queue: no violation, and
yet no safety.
"""

from __future__ import annotations

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.kernel.smp import flush_cpumask
from smpmmu.machine.entries import PAGE_PRESENT
from smpmmu.machine.memory import NON_PAE, PAGE_FROZEN, VERSION_SHIFT, Paging
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE, user_write
from smpmmu.scenario import Expected, Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import (
    ADDR,
    COMMENT,
    Flush,
    Hook,
    address_space,
    install_walker,
    page_of,
    rows,
    vcpus,
)
from smpmmu.scenarios.reliant_flusher import expect as as_reliant_flusher
from smpmmu.scenarios.reliant_flusher import rely_on_protection, write_protect


def expect(hook: Hook, flush: Flush) -> Expected:
    """Return what the earlier check says in its column F6."""
    if hook.deferred and flush.late:
        return violated(NO_WRITE_AFTER_PROMISE, COMMENT)
    return as_reliant_flusher(hook, flush)


def control(hook: Hook, flush: Flush) -> Expected:
    """Return that two CPUs without speculation show nothing."""
    return holds(
        "cpu0's answer to the shootdown drains its queue before cpu1 can walk again; this is no "
        "safety, only two CPUs too few"
    )


@scenario(
    *rows(expect, walker=True),
    *rows(control, "_no_walker", walker=False),
    *(
        variant(f"{hook.value}_after_unlock_whole_mm", expect(hook, Flush.AFTER_UNLOCK), hook=hook,
                flush=Flush.AFTER_UNLOCK, walker=True, whole_mm=True)
        for hook in (Hook.NATIVE, Hook.DEFERRED)
    ),
)  # fmt: skip
def two_cpus_speculation(
    setup: Setup,
    *,
    hook: Hook,
    flush: Flush,
    walker: bool,
    whole_mm: bool = False,
    paging: Paging = NON_PAE,
) -> None:
    """A write-protects a page; B shoots down and relies, and writes through what it speculated."""
    mm = address_space(flush, (0, 1), paging)
    vma = VmAreaStruct(mm)
    cpu0, cpu1 = vcpus(setup, hook, mm, (0, 1))
    setup.cpu(0, call(write_protect, cpu0, vma, flush))
    rely = call(rely_on_protection, cpu1, vma, whole_mm=whole_mm)
    setup.cpu(1, rely, call(user_write, cpu1, ADDR))
    if walker:
        install_walker(setup, cpu1)
    page = value(cpu0.memory.page(page_of(paging)))
    promised, written = page & PAGE_FROZEN != 0, page >> VERSION_SHIFT
    setup.sometimes("a write went through unpromised", ~promised & (written != 0))
    stopped = finished("cpu1") & promised & (written == 0)
    setup.sometimes("protection stopped a write", stopped)
    if walker:
        waits = value(flush_cpumask) & 1 != 0
        filled = value(cpu1.tlb(ADDR)) & PAGE_PRESENT != 0
        setup.sometimes("the walker filled the TLB while its CPU waited", waits & filled)
