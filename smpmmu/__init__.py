"""Find SMP races in page-table, TLB and shadow-paging code, or show that there are none.

What a scenario needs is here by name; `smpmmu.machine`, `smpmmu.kernel` and `smpmmu.hypervisor`
have the modelled machine. Start reading at `engine/steps.py`, then `engine/explore.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smpmmu.engine.errors import (
    InternalError,
    ModelError,
    ScheduleError,
    SmpmmuError,
    UsageError,
)
from smpmmu.engine.expressions import all_of, any_of, finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import (
    AGAIN,
    Again,
    bug_on,
    indivisible,
    instruction,
    irqs_enabled,
    retry,
    routine,
)
from smpmmu.engine.steps import (
    TAKEN,
    Format,
    Part,
    Step,
    Wait,
    When,
    Word,
    cmpxchg,
    fetch_add,
    fetch_and,
    fetch_or,
    fetch_xor,
    load,
    local_irq_disable,
    local_irq_enable,
    store,
    try_acquire,
    wait_until,
    xchg,
)
from smpmmu.engine.verdict import Budget, Exploration, Verdict
from smpmmu.machine.spinlock import (
    spin_lock,
    spin_lock_irq,
    spin_lock_irqsave,
    spin_unlock,
    spin_unlock_irq,
    spin_unlock_irqrestore,
    spinlock,
)
from smpmmu.scenario import Setup, holds, scenario, variant, violated

if TYPE_CHECKING:
    from smpmmu.checking import Answered, check, explore

__version__ = "0.1.0"

__all__ = [
    "AGAIN",
    "TAKEN",
    "Again",
    "Answered",
    "Budget",
    "Exploration",
    "Format",
    "InternalError",
    "ModelError",
    "Part",
    "ScheduleError",
    "Setup",
    "SmpmmuError",
    "Step",
    "UsageError",
    "Verdict",
    "Wait",
    "When",
    "Word",
    "all_of",
    "any_of",
    "bug_on",
    "call",
    "check",
    "cmpxchg",
    "explore",
    "fetch_add",
    "fetch_and",
    "fetch_or",
    "fetch_xor",
    "finished",
    "holds",
    "implies",
    "indivisible",
    "instruction",
    "irqs_enabled",
    "load",
    "local_irq_disable",
    "local_irq_enable",
    "retry",
    "routine",
    "scenario",
    "spin_lock",
    "spin_lock_irq",
    "spin_lock_irqsave",
    "spin_unlock",
    "spin_unlock_irq",
    "spin_unlock_irqrestore",
    "spinlock",
    "store",
    "try_acquire",
    "value",
    "variant",
    "violated",
    "wait_until",
    "xchg",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  whatever the name stands for
    if name in ("Answered", "check", "explore"):
        from smpmmu import checking as module

        return getattr(module, name)
    import difflib

    near = difflib.get_close_matches(name, __all__, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    msg = f"module {__name__!r} has no attribute {name!r}{hint}"
    raise AttributeError(msg)
