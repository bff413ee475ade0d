"""The macros of the first patch as it has them, each against the paths that contend with it.

    macro                    called by                  hook        flush
    ptep_set_access_flags    handle_pte_fault           deferred    in the macro, under the ptl
    ptep_clear_flush_dirty   msync_pte_range            deferred    in the macro, under the ptl
    ptep_clear_flush_young   page_referenced_one        deferred    in the macro, under the ptl
    ptep_set_wrprotect       copy_one_pte (fork)        immediate   dup_mmap, after the last ptl
    ptep_get_and_clear       zap_pte_range, reclaim     immediate   after the ptl, or under it

As written they keep every promise and the lock rule; the last one the patch forgot, and it has its
hook since 8ecb8950695. What breaks them is one thing done otherwise: an update of a foreign address
space deferred, a load of CR3 that drains nothing, the update in fork deferred, the missing hook.
"""

from __future__ import annotations

import enum

from smpmmu.hypervisor.shadow import Hypervisor, Record
from smpmmu.kernel.paravirt import Linux
from smpmmu.machine.memory import NON_PAE, PAE, Paging
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, NO_WRITE_AFTER_PROMISE
from smpmmu.properties.lock_rule import SHADOW_NO_MORE_PERMISSIVE
from smpmmu.scenario import Expected, Setup, Variant, holds, scenario, variant, violated
from smpmmu.scenarios.common import CLEAN, COMMENT, PAE_SUFFIX, TOUCHED, Judge
from smpmmu.scenarios.macro_paths import (
    RULE,
    Contender,
    Walker,
    access_flags,
    dirty,
    get_and_clear,
    wrprotect,
    young,
)

VMI = Hypervisor()
TORN = Hypervisor(record=Record.TORN)
VALUE = Hypervisor(record=Record.VALUE)
FOREIGN = Hypervisor(current_only=False)
FOREIGN_TORN = Hypervisor(record=Record.TORN, current_only=False)
FOREIGN_VALUE = Hypervisor(record=Record.VALUE, current_only=False)
CR3_KEEPS = Hypervisor(cr3_drains=False)
UNHOOKED = Linux(get_and_clear_hooked=False)

NATIVELY = "i386 without a hypervisor: the flush is in the macro, under the ptl"
ANY_CPU_CURES = (
    "i386 without a hypervisor: the walker reads the entry itself, and whoever relies on it or "
    "clears it does a shootdown of its own"
)
FOREIGN_AT_ONCE = (
    "is_current_as, arch/i386/kernel/vmi.c: for an address space that is not the current one the "
    "deferred hook is an immediate one"
)
NO_LOCAL_FLUSH = (
    "is_current_as, arch/i386/kernel/vmi.c: the flush of a foreign address space has no local "
    "part, so that nothing drains the queue before the ptl is released"
)
ONLY_A_HINT = (
    "a stale shadow costs an accessed bit, a heuristic; the record re-reads the entry, which is "
    "gone by then"
)
A_SET_AGAIN = (
    "no shootdown of the mm drains kswapd's queue; a hidden fault for writing set A again before "
    "the entry's value was taken, which is installed after the page was freed"
)
A_STAYS_CLEAR = "with D set no fault sets A again: what is applied late installs nothing"
LEAVE_MM = "the thread borrows the mm: its flush is leave_mm, whose load of CR3 drains"
LEAVE_MM_KEEPS = "the thread borrows the mm: its flush is leave_mm, whose load of CR3 drains not"
AT_ONCE = (
    "ptep_set_wrprotect in 789e6ac0a7c: it has no flush, so its hook is immediate and the shadow "
    "is as strict as the entry when fork releases the ptl"
)
LOCAL_FIRST = "fork's own flush drains its queue before it tells the others; nobody else relies"
IN_FORK = f"{COMMENT}; fork flushes after the last ptl is gone"
OLD_VALUE = (
    "migration's shootdown makes fork's CPU install the entry's old value, after it was cleared"
)
RECLAIM_DRAINS = (
    "reclaim clears A first, and that flush makes fork's CPU apply the old value while the "
    "entry is there; a value with A that is taken later stops reclaim, which finds A set"
)
RECLAIM_TORN = (
    "A is set again after reclaim looked for it; fork's drain reads the entry before it is cleared "
    "and applies it after"
)
GONE = "the record re-reads the entry, which reclaim rewrites through an immediate hook"
HOOKED = "8ecb8950695 (2.6.20): ptep_get_and_clear notifies at once"
NO_HOOK = (
    "8ecb8950695 (2.6.20), which adds the hook: until then the shadow still maps what was "
    "cleared, and a TLB that was flushed fills again from it"
)


class Macro(enum.Enum):
    """Which macro is at issue."""

    ACCESS_FLAGS = "access_flags"
    DIRTY = "dirty"
    YOUNG = "young"
    WRPROTECT = "wrprotect"
    GET_AND_CLEAR = "get_and_clear"


def deferring(macro: Macro, name: str = "", **knobs: object) -> tuple[Variant, ...]:
    """Return what holds of a macro that defers and flushes by itself, for any record."""
    begin = f"{macro.value}{name}"
    return (
        variant(f"{begin}_native", holds(NATIVELY), macro=macro, hypervisor=None, **knobs),
        variant(f"{begin}_vmi", holds(COMMENT), macro=macro, hypervisor=VMI, **knobs),
        variant(f"{begin}_vmi_torn", holds(COMMENT), macro=macro, hypervisor=TORN, **knobs),
        variant(f"{begin}_vmi_value", holds(COMMENT), macro=macro, hypervisor=VALUE, **knobs),
        variant(f"{begin}_vmi_rule", holds(COMMENT), macro=macro, hypervisor=VMI, judged=RULE,
                **knobs),
        variant(f"{begin}_vmi_value_rule", holds(COMMENT), macro=macro, hypervisor=VALUE,
                judged=RULE, **knobs),
    )  # fmt: skip


def with_pae(macro: Macro, name: str, expected: Expected, **knobs: object) -> Variant:
    """Return a variant with PAE, where the paths have steps of their own for the second word."""
    return variant(f"{macro.value}_{name}{PAE_SUFFIX}", expected, macro=macro, paging=PAE, **knobs)


FREED = violated(NO_ACCESS_TO_FREED_FRAME, NO_HOOK)


@scenario(
    *deferring(Macro.ACCESS_FLAGS),
    *deferring(Macro.DIRTY),
    variant("dirty_native_unmapped", holds(NATIVELY), macro=Macro.DIRTY, hypervisor=None,
            contender=Contender.MIGRATION),
    variant("dirty_vmi_unmapped", holds(COMMENT), macro=Macro.DIRTY, hypervisor=VMI,
            contender=Contender.MIGRATION),
    variant("dirty_vmi_value_unmapped", holds(COMMENT), macro=Macro.DIRTY, hypervisor=VALUE,
            contender=Contender.MIGRATION),
    *deferring(Macro.YOUNG, pte=CLEAN),
    *(
        variant(f"young_kswapd_{name}", expected, macro=Macro.YOUNG, hypervisor=hypervisor,
                judged=judged, pte=pte, walker=Walker.KSWAPD)
        for name, expected, hypervisor, judged, pte in (
            ("native", holds(NATIVELY), None, Judge.PROMISES, CLEAN),
            ("vmi", holds(FOREIGN_AT_ONCE), VMI, Judge.PROMISES, CLEAN),
            ("vmi_torn", holds(FOREIGN_AT_ONCE), TORN, Judge.PROMISES, CLEAN),
            ("vmi_value", holds(FOREIGN_AT_ONCE), VALUE, Judge.PROMISES, CLEAN),
            ("vmi_rule", holds(FOREIGN_AT_ONCE), VMI, RULE, CLEAN),
            ("foreign_deferred", holds(ONLY_A_HINT), FOREIGN, Judge.PROMISES, CLEAN),
            ("foreign_deferred_torn", violated(NO_ACCESS_TO_FREED_FRAME, A_SET_AGAIN),
             FOREIGN_TORN, Judge.PROMISES, CLEAN),
            ("foreign_deferred_value", violated(NO_ACCESS_TO_FREED_FRAME, A_SET_AGAIN),
             FOREIGN_VALUE, Judge.PROMISES, CLEAN),
            ("foreign_deferred_torn_dirty_page", holds(A_STAYS_CLEAR),
             FOREIGN_TORN, Judge.PROMISES, TOUCHED),
            ("foreign_deferred_value_dirty_page", holds(A_STAYS_CLEAR),
             FOREIGN_VALUE, Judge.PROMISES, TOUCHED),
            ("foreign_deferred_rule", violated(SHADOW_NO_MORE_PERMISSIVE, NO_LOCAL_FLUSH),
             FOREIGN, RULE, CLEAN),
        )
    ),
    *(
        variant(f"young_borrower_{name}", expected, macro=Macro.YOUNG, hypervisor=hypervisor,
                judged=judged, pte=CLEAN, walker=Walker.BORROWER)
        for name, expected, hypervisor, judged in (
            ("vmi", holds(LEAVE_MM), VMI, Judge.PROMISES),
            ("vmi_rule", holds(LEAVE_MM), VMI, RULE),
            ("cr3_keeps", holds(ONLY_A_HINT), CR3_KEEPS, Judge.PROMISES),
            ("cr3_keeps_rule", violated(SHADOW_NO_MORE_PERMISSIVE, LEAVE_MM_KEEPS),
             CR3_KEEPS, RULE),
        )
    ),
    *(
        variant(f"wrprotect_{name}", expected, macro=Macro.WRPROTECT, hypervisor=hypervisor,
                contender=contender, judged=judged, defers=defers)
        for name, expected, hypervisor, contender, judged, defers in (
            ("native", holds(ANY_CPU_CURES), None, Contender.READER, Judge.PROMISES, False),
            ("vmi", holds(AT_ONCE), VMI, Contender.READER, Judge.PROMISES, False),
            ("native_reclaim", holds(ANY_CPU_CURES), None, Contender.RECLAIM, Judge.PROMISES,
             False),
            ("vmi_reclaim", holds(AT_ONCE), VMI, Contender.RECLAIM, Judge.PROMISES, False),
            ("vmi_value_migration", holds(AT_ONCE), VALUE, Contender.MIGRATION, Judge.PROMISES,
             False),
            ("vmi_rule", holds(AT_ONCE), VMI, Contender.NOBODY, RULE, False),
            ("deferred", violated(NO_WRITE_AFTER_PROMISE, IN_FORK), VMI, Contender.READER,
             Judge.PROMISES, True),
            ("deferred_alone", holds(LOCAL_FIRST), VMI, Contender.NOBODY, Judge.PROMISES, True),
            ("deferred_rule", violated(SHADOW_NO_MORE_PERMISSIVE, IN_FORK), VMI, Contender.NOBODY,
             RULE, True),
            ("deferred_reclaim", holds(GONE), VMI, Contender.RECLAIM, Judge.PROMISES, True),
            ("deferred_torn_reclaim", violated(NO_ACCESS_TO_FREED_FRAME, RECLAIM_TORN), TORN,
             Contender.RECLAIM, Judge.PROMISES, True),
            ("deferred_value_reclaim", holds(RECLAIM_DRAINS), VALUE, Contender.RECLAIM,
             Judge.PROMISES, True),
            ("deferred_value_migration", violated(NO_ACCESS_TO_FREED_FRAME, OLD_VALUE), VALUE,
             Contender.MIGRATION, Judge.PROMISES, True),
        )
    ),
    *(
        variant(f"get_and_clear_{name}", expected, macro=Macro.GET_AND_CLEAR,
                hypervisor=hypervisor, contender=contender, linux=linux, judged=judged)
        for name, expected, hypervisor, contender, linux, judged in (
            ("native_unhooked", holds(ANY_CPU_CURES), None, Contender.MUNMAP, UNHOOKED,
             Judge.PROMISES),
            ("vmi", holds(HOOKED), VMI, Contender.MUNMAP, Linux(), Judge.PROMISES),
            ("vmi_rule", holds(HOOKED), VMI, Contender.MUNMAP, Linux(), RULE),
            ("unhooked", FREED, VMI, Contender.MUNMAP, UNHOOKED, Judge.PROMISES),
            ("unhooked_rule", violated(SHADOW_NO_MORE_PERMISSIVE, NO_HOOK), VMI,
             Contender.MUNMAP, UNHOOKED, RULE),
            ("native_unhooked_migration", holds(ANY_CPU_CURES), None, Contender.MIGRATION, UNHOOKED,
             Judge.PROMISES),
            ("vmi_migration", holds(HOOKED), VMI, Contender.MIGRATION, Linux(), Judge.PROMISES),
            ("unhooked_migration", FREED, VMI, Contender.MIGRATION, UNHOOKED, Judge.PROMISES),
            ("vmi_reclaim", holds(HOOKED), VMI, Contender.RECLAIM, Linux(), Judge.PROMISES),
            ("unhooked_reclaim", FREED, VMI, Contender.RECLAIM, UNHOOKED, Judge.PROMISES),
        )
    ),
    with_pae(Macro.ACCESS_FLAGS, "vmi", holds(COMMENT), hypervisor=VMI),
    with_pae(Macro.ACCESS_FLAGS, "vmi_rule", holds(COMMENT), hypervisor=VMI, judged=RULE),
    *(
        with_pae(Macro.WRPROTECT, name, expected, hypervisor=hypervisor, contender=contender,
                 defers=defers)
        for name, expected, hypervisor, contender, defers in (
            ("native", holds(ANY_CPU_CURES), None, Contender.READER, False),
            ("vmi", holds(AT_ONCE), VMI, Contender.READER, False),
            ("native_reclaim", holds(ANY_CPU_CURES), None, Contender.RECLAIM, False),
            ("deferred", violated(NO_WRITE_AFTER_PROMISE, IN_FORK), VMI, Contender.READER, True),
            ("deferred_value_migration", violated(NO_ACCESS_TO_FREED_FRAME, OLD_VALUE), VALUE,
             Contender.MIGRATION, True),
        )
    ),
    *(
        with_pae(Macro.GET_AND_CLEAR, name, expected, hypervisor=hypervisor, contender=contender,
                 linux=linux, judged=judged)
        for name, expected, hypervisor, contender, linux, judged in (
            ("native_unhooked", holds(ANY_CPU_CURES), None, Contender.MUNMAP, UNHOOKED,
             Judge.PROMISES),
            ("vmi", holds(HOOKED), VMI, Contender.MUNMAP, Linux(), Judge.PROMISES),
            ("vmi_rule", holds(HOOKED), VMI, Contender.MUNMAP, Linux(), RULE),
            ("unhooked", FREED, VMI, Contender.MUNMAP, UNHOOKED, Judge.PROMISES),
            ("vmi_reclaim", holds(HOOKED), VMI, Contender.RECLAIM, Linux(), Judge.PROMISES),
        )
    ),
)  # fmt: skip
def macros_as_written(
    setup: Setup,
    *,
    macro: Macro,
    hypervisor: Hypervisor | None,
    judged: Judge = Judge.PROMISES,
    pte: int = TOUCHED,
    contender: Contender = Contender.NOBODY,
    walker: Walker = Walker.THREAD,
    linux: Linux | None = None,
    defers: bool = False,
    paging: Paging = NON_PAE,
) -> None:
    """Each macro of the first patch, with its hook and its flush where they stand."""
    match macro:
        case Macro.ACCESS_FLAGS:
            access_flags(setup, hypervisor, judged, paging)
        case Macro.DIRTY:
            dirty(setup, hypervisor, judged, pte, contender)
        case Macro.YOUNG:
            young(setup, hypervisor, judged, pte, walker)
        case Macro.WRPROTECT:
            wrprotect(setup, hypervisor, judged, contender, defers=defers, paging=paging)
        case Macro.GET_AND_CLEAR:
            get_and_clear(setup, hypervisor, judged, contender, linux or Linux(), paging)
