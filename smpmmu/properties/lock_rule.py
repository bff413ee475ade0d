"""The lock rule: whenever the lock of an entry is free, its shadow owes it nothing.

It is what the comment above pte_update asks for. It suffices for every promise of the native
kernel and is not necessary: a variant may break it and harm nobody. It must not know who takes
the lock. Source: `docs/model.md`, "Two kinds of property".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import Expr, all_of, implies, value
from smpmmu.hypervisor.vmi import DEFERRED_SLOTS, deferred
from smpmmu.machine.entries import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_SHIFT,
    PAGE_USER,
)

if TYPE_CHECKING:
    from smpmmu.engine.steps import Word
    from smpmmu.machine.cpu import Cpu
    from smpmmu.scenario import Setup

SHADOW_NO_MORE_PERMISSIVE = "shadow_no_more_permissive_when_lock_free"
NO_QUEUE_HOLDS_ENTRY = "no_queue_holds_entry_when_lock_free"


def no_more_permissive(spte: Word, gpte: Word) -> Expr:
    """Return the truth that a shadow entry is absent, or allows nothing the primary does not.

    Writable needs D in the primary too, and present needs A: else the next access would not be
    seen there.
    """
    shadow, primary = value(spte), value(gpte)
    return implies(
        shadow & PAGE_PRESENT != 0,
        all_of(
            shadow >> PAGE_SHIFT == primary >> PAGE_SHIFT,
            primary & (PAGE_PRESENT | PAGE_ACCESSED) == PAGE_PRESENT | PAGE_ACCESSED,
            implies(shadow & PAGE_USER != 0, primary & PAGE_USER != 0),
            implies(
                shadow & PAGE_RW != 0, primary & (PAGE_RW | PAGE_DIRTY) == PAGE_RW | PAGE_DIRTY
            ),
        ),
    )


def demand_lock_rule(setup: Setup, cpus: list[Cpu], lock: Word, ptep: int) -> None:
    """Demand the lock rule of the entry at `ptep`, guarded by `lock`, for all vCPUs.

    Natively the tables that are walked are the primary, and the rule is true of itself.
    """
    free = value(lock) == 0
    shadows = list(dict.fromkeys(cpu.walked.prefix for cpu in cpus))
    primary = cpus[0].memory.at(ptep)
    walked = {cpu.walked.prefix: cpu.walked.at(ptep) for cpu in cpus}
    setup.always(
        SHADOW_NO_MORE_PERMISSIVE,
        all_of(*(implies(free, no_more_permissive(walked[s], primary)) for s in shadows if s)),
    )
    slots = [
        value(deferred(cpu, n)) for cpu in cpus if cpu.hypervisor for n in range(DEFERRED_SLOTS)
    ]
    setup.always(NO_QUEUE_HOLDS_ENTRY, all_of(*(implies(free, slot != ptep) for slot in slots)))
