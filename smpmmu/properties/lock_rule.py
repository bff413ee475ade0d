"""The lock rule: whenever the lock of an entry is free, its shadow owes it nothing.

It is what the comment above pte_update asks for. It suffices for every promise of the native
kernel and is not necessary: a variant may break it and harm nobody. It must not know who takes
the lock. Source: `docs/model.md`, "Two kinds of property".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import Expr, all_of, implies, value
from smpmmu.machine.entries import (
    FRAME,
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_USER,
)

if TYPE_CHECKING:
    from smpmmu.engine.steps import Word

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
            shadow & FRAME == primary & FRAME,
            implies(primary & PAGE_NX != 0, shadow & PAGE_NX != 0),
            primary & (PAGE_PRESENT | PAGE_ACCESSED) == PAGE_PRESENT | PAGE_ACCESSED,
            implies(shadow & PAGE_USER != 0, primary & PAGE_USER != 0),
            implies(
                shadow & PAGE_RW != 0, primary & (PAGE_RW | PAGE_DIRTY) == PAGE_RW | PAGE_DIRTY
            ),
        ),
    )


def lock_rule(
    lock: Word, primary: Word, shadows: list[Word], slots: list[Word], ptep: int
) -> tuple[tuple[str, Expr], ...]:
    """Return the lock rule as named truths.

    Args:
        lock: the lock that guards the entry.
        primary: the entry, which lies at the physical address `ptep`.
        shadows: what walkers read in its place; none natively, where the rule is true of itself.
        slots: what queues hold: addresses of entries, or 0.
        ptep: the entry's address.
    """
    free = value(lock) == 0
    strict = [implies(free, no_more_permissive(shadow, primary)) for shadow in shadows]
    empty = [implies(free, value(slot) != ptep) for slot in slots]
    return (
        (SHADOW_NO_MORE_PERMISSIVE, all_of(*strict)),
        (NO_QUEUE_HOLDS_ENTRY, all_of(*empty)),
    )
