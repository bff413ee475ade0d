"""Groups of three CPUs do what those of `reliant_flusher` do, each group to a page of its own.

    first of a group            second                        third
    spin_lock(ptl)              spin_lock(ptl)                write the group's page
    ptep_set_wrprotect(pte)     if pte is read-only:          write the group's page
    [flush_tlb_page]              flush_tlb_page
    spin_unlock(ptl)              the page is final
    [flush_tlb_page]            spin_unlock(ptl)

All CPUs run one address space, so that the groups share the lock, every shootdown concerns
everybody, and whoever waits for the lock or for an answer answers others meanwhile. A CPU that is
left over writes to the first page. With three CPUs it is `reliant_flusher`; with more it is for
`stress`.
"""

from __future__ import annotations

from smpmmu.engine.expressions import all_of, any_of, finished, value
from smpmmu.engine.local import call
from smpmmu.kernel.mm import MmStruct, VmAreaStruct
from smpmmu.machine.entries import PAGE_SHIFT, PAGE_TABLE, entry
from smpmmu.machine.memory import PAGE_FROZEN, VERSION_SHIFT, Memory
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE, user_write
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import COMMENT, PGD, TABLE, TOUCHED, Flush, Hook, vcpus
from smpmmu.scenarios.reliant_flusher import rely_on_protection, write_protect

GROUP = 3
WRITES = 2
FIRST_PAGE = 0x10


@scenario(
    variant(
        "native_after_unlock",
        holds("whoever relies on the entry does its own shootdown, which cures every TLB"),
        hook=Hook.NATIVE,
        flush=Flush.AFTER_UNLOCK,
    ),
    variant("deferred_under_ptl", holds(COMMENT), hook=Hook.DEFERRED, flush=Flush.UNDER_PTL),
    variant(
        "deferred_after_unlock",
        violated(NO_WRITE_AFTER_PROMISE, COMMENT),
        hook=Hook.DEFERRED,
        flush=Flush.AFTER_UNLOCK,
    ),
    cpus=range(GROUP, 65),
)
def shootdown_storm(setup: Setup, *, hook: Hook, flush: Flush, cpus: int = GROUP) -> None:
    """Groups of A, B and C as in reliant_flusher, each with a page, in one address space."""
    groups, left_over = divmod(cpus, GROUP)
    addrs = tuple(index << PAGE_SHIFT for index in range(1, 1 + groups))
    frames = tuple(FIRST_PAGE + index for index in range(groups))
    mm = MmStruct(1, PGD, ((0, TABLE),), tuple(range(cpus)))
    vma = VmAreaStruct(mm)
    entries = [
        (TABLE, a >> PAGE_SHIFT, entry(f, TOUCHED)) for a, f in zip(addrs, frames, strict=True)
    ]
    guest = Memory(((PGD, 0, entry(TABLE, PAGE_TABLE)), *entries))
    everybody = vcpus(
        setup, hook, mm, mm.cpus, guest=guest, pages=addrs,
        changers=tuple(range(0, groups * GROUP, GROUP)),
    )  # fmt: skip
    for group, (addr, frame) in enumerate(zip(addrs, frames, strict=True)):
        first, second, third = everybody[GROUP * group : GROUP * (group + 1)]
        setup.cpu(first.number, call(write_protect, first, vma, flush, addr=addr))
        relies = call(rely_on_protection, second, vma, addr=addr, frame=frame)
        setup.cpu(second.number, relies)
        setup.cpu(third.number, *(call(user_write, third, addr) for _ in range(WRITES)))
    for cpu in everybody[cpus - left_over :]:
        setup.cpu(cpu.number, call(user_write, cpu, addrs[0]))
    pages = [value(guest.page(frame)) for frame in frames]
    promised = [page & PAGE_FROZEN != 0 for page in pages]
    setup.sometimes("a page was promised to be final", any_of(*promised))
    done = [finished(cpu.name) for cpu in everybody]
    full = [page >> VERSION_SHIFT >= WRITES for page in pages]
    setup.sometimes("every write of every group went through", all_of(*done, *full))
    stopped = [page >> VERSION_SHIFT < WRITES for page in pages]
    setup.sometimes("protection stopped a write", all_of(*done) & any_of(*stopped))
