"""A lock taken with interrupts off, and then one whose holder waits for answers.

cpu0                              cpu1
spin_lock_irqsave(pgd_lock)       spin_lock(page_table_lock)
spin_lock(page_table_lock)        flush: IPI to cpu0, wait for its answer
"""

from __future__ import annotations

from smpmmu.engine.system import NO_DEADLOCK
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.races.common import UNVERIFIED
from smpmmu.scenarios.shootdown_deadlocks import flush_under_ptl_wanted_by_sync

PLAIN = (
    "a79e53d85683 (2.6.38): pgd_lock is taken with interrupts on, as nobody takes it in an "
    f"interrupt; the steps are {UNVERIFIED}"
)


@scenario(
    variant("defect", violated(NO_DEADLOCK, PLAIN), irqsave=True),
    variant("repair", holds(PLAIN), irqsave=False),
)
def pgd_lock_ipi_deadlock(setup: Setup, *, irqsave: bool) -> None:
    """vmalloc_sync_all waits for a ptl with interrupts off; its holder waits for an answer."""
    flush_under_ptl_wanted_by_sync(setup, irqsave=irqsave)
