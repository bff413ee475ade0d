"""The seed rule: what was deferred, or batched, is applied while the lock is still held.

cpu0                              cpu1
spin_lock(ptl)                    spin_lock(ptl)
change the entry; defer           change the entry; immediate hook
[flush: drains]                   spin_unlock(ptl)
spin_unlock(ptl)
[flush: drains]
"""

from __future__ import annotations

from smpmmu.engine.expressions import finished, value
from smpmmu.engine.local import call
from smpmmu.kernel.mm import VmAreaStruct
from smpmmu.kernel.munmap import unmap_region
from smpmmu.machine.entries import PAGE_PRESENT
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE
from smpmmu.properties.lock_rule import no_more_permissive
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import ADDR, COMMENT, Flush, Hook, address_space, vcpus
from smpmmu.scenarios.reliant_flusher import reliant_flusher, write_protect

SHADOW_AGREES = "shadow_no_more_permissive_at_rest"
ADDRESS = "the drain re-reads the entry, so that the last one leaves what is there"


@scenario(
    variant("defect", violated(SHADOW_AGREES, COMMENT),
            hook=Hook.DEFERRED_VALUE, flush=Flush.AFTER_UNLOCK),
    variant("repair", holds(COMMENT), hook=Hook.DEFERRED_VALUE, flush=Flush.UNDER_PTL),
    variant("address_queue", holds(ADDRESS), hook=Hook.DEFERRED, flush=Flush.AFTER_UNLOCK),
    variant("address_queue_relied_on",
            violated(NO_WRITE_AFTER_PROMISE, "agreement in the end is no promise kept meanwhile"),
            hook=Hook.DEFERRED, flush=Flush.AFTER_UNLOCK, relied_on=True),
    variant("address_queue_relied_on_repair", holds(COMMENT),
            hook=Hook.DEFERRED, flush=Flush.UNDER_PTL, relied_on=True),
)  # fmt: skip
def seed_defer_outside_lock(
    setup: Setup, *, hook: Hook, flush: Flush, relied_on: bool = False
) -> None:
    """A changes an entry and defers the news of it; B empties it before A's queue is drained."""
    if relied_on:
        reliant_flusher.build(setup, hook=hook, flush=flush)
        return
    mm = address_space(flush, (0, 1))
    vma = VmAreaStruct(mm)
    cpu0, cpu1 = vcpus(setup, hook, mm, (0, 1))
    setup.cpu(0, call(write_protect, cpu0, vma, flush))
    setup.cpu(1, call(unmap_region, cpu1, vma, ADDR, frees=False))
    pte = mm.pte_offset(ADDR)
    primary, shadow = cpu0.memory.at(pte), cpu0.walked.at(pte)
    setup.at_quiescence(SHADOW_AGREES, no_more_permissive(shadow, primary))
    both = finished("cpu0") & finished("cpu1")
    setup.sometimes("the entry was emptied last", both & (value(primary) == 0))
    setup.sometimes("the shadow had the entry", value(shadow) & PAGE_PRESENT != 0)
