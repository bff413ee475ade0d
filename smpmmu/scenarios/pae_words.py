"""Entries of two words: a walker reads both at once, between any two of the kernel's stores.

    cpu0                                cpu1               cpu1's walker
    spin_lock(ptl)                      use the page       walk for the page at any time
    one word of the entry, the other    use the page
    [flush_tlb_page]
    spin_unlock(ptl)

With the words in the wrong order, a walker pairs one word of the old entry with one of the new, and
what it caches leads to a frame that neither names. The pages here lie above 4 GiB, so that the
high words differ; the frames that wrong pairs name belong to nobody.

The rest of what only PAE has is here too: dirty marks beside two words, mappings that nobody may
find absent, entries of the root that each processor keeps, and NX, changed while Linux boots.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from smpmmu.hypervisor.shadow import Hypervisor, Record
from smpmmu.hypervisor.vmi import vmi
from smpmmu.kernel.paravirt import Linux, native
from smpmmu.machine.entries import entry
from smpmmu.machine.memory import store_high, store_low
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, NO_WRITE_AFTER_PROMISE
from smpmmu.properties.promises import NO_WRITE_LOST
from smpmmu.scenario import Setup, holds, scenario, variant, violated
from smpmmu.scenarios.common import HIGH_PAGE, UNTOUCHED
from smpmmu.scenarios.pae_races import (
    NEVER_ABSENT,
    NO_WRONG_PAIR,
    NOT_EXECUTED,
    changed_while_used,
    clear,
    kernel_exec,
    kernel_mapping_changed,
    recache,
    recache_atomic,
    root_populated,
    set_new,
    set_new_atomic,
    set_new_present,
    take,
    take_without_xchg,
    taken_while_written,
    written_back_while_changed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from smpmmu.machine.cpu import Cpu

REACHABLE = "quiescence_stays_reachable"

CLEAR_ORDER = "6e5882cfa24: pte_clear must take P away first, or it is found with another frame"
VIA_ABSENT = "d6d861e3c96: through not present, so that no walker pairs the words"


# Hook tables with the words in another order.


async def set_pte_low_first(cpu: Cpu, ptep: int, pteval: int) -> None:
    """Write an entry as no accessor may."""
    await store_low(cpu.memory.at(ptep), pteval)
    await store_high(cpu.memory.at(ptep), pteval)


async def set_pte_at_low_first(cpu: Cpu, mm: object, addr: int, ptep: int, pteval: int) -> None:
    """Write an entry as no accessor may."""
    await set_pte_low_first(cpu, ptep, pteval)


async def pte_clear_high_first(cpu: Cpu, mm: object, addr: int, ptep: int) -> None:
    """Empty an entry as pte_clear did before 6e5882cfa24."""
    await store_high(cpu.memory.at(ptep), 0)
    await store_low(cpu.memory.at(ptep), 0)


async def flush_nothing(cpu: Cpu) -> None:
    """Leave out a flush."""


LOW_FIRST = replace(native, set_pte=set_pte_low_first, set_pte_at=set_pte_at_low_first)
HIGH_FIRST = replace(native, pte_clear=pte_clear_high_first)
UNFLUSHED = replace(vmi, flush_tlb_kernel=flush_nothing)


VMI: dict[str, Any] = {"pv": vmi, "hypervisor": Hypervisor()}
ONE_CPU = "one CPU: its own flush drops what it has cached, and drains its queue"
HERE_ONLY = Linux(pud_populate_flushes=False)


@scenario(
    variant("set_pte", holds("P comes with the low word, last"),
            race=changed_while_used, change=set_new, before=0),
    variant("set_pte_low_first",
            violated(NO_ACCESS_TO_FREED_FRAME, "P comes with half a frame number"),
            race=changed_while_used, change=set_new, before=0, pv=LOW_FIRST),
    variant("pte_clear", holds(CLEAR_ORDER), race=changed_while_used, change=clear),
    variant("pte_clear_high_first", violated(NO_ACCESS_TO_FREED_FRAME, CLEAR_ORDER),
            race=changed_while_used, change=clear, pv=HIGH_FIRST),
    variant("pte_clear_speculation", holds(CLEAR_ORDER),
            race=changed_while_used, change=clear, speculated=True),
    variant("pte_clear_high_first_speculation", violated(NO_WRONG_PAIR, CLEAR_ORDER),
            race=changed_while_used, change=clear, pv=HIGH_FIRST, speculated=True),
    variant("replace_set_pte_present", holds(VIA_ABSENT),
            race=changed_while_used, change=set_new_present),
    variant("replace_set_pte_atomic", holds("cmpxchg8b writes both words at once"),
            race=changed_while_used, change=set_new_atomic),
    variant("replace_set_pte", violated(NO_ACCESS_TO_FREED_FRAME, VIA_ABSENT),
            race=changed_while_used, change=set_new),
    variant("replace_set_pte_present_vmi", holds("the flush that drains is under the ptl"),
            race=changed_while_used, change=set_new_present, **VMI),
    variant("replace_set_pte_vmi",
            holds("walkers read the shadow, which is written at once; no fault reads the primary"),
            race=changed_while_used, change=set_new, **VMI),
    variant("replace_set_pte_vmi_untouched_page",
            violated(NO_ACCESS_TO_FREED_FRAME, "a hidden fault reads the primary, half written"),
            race=changed_while_used, change=set_new, before=entry(HIGH_PAGE, UNTOUCHED), **VMI),
    variant("kernel_set_pte_atomic", holds("set_pte_atomic is for what nobody may find absent"),
            race=kernel_mapping_changed, atomic=True),
    variant("kernel_set_pte_present", violated(NEVER_ABSENT, "it is not present for a moment"),
            race=kernel_mapping_changed, atomic=False),
    variant("get_and_clear",
            holds("the exchange takes all marks, and walkers leave alone what has no P"),
            race=taken_while_written, change=take),
    variant("get_and_clear_without_xchg",
            violated(NO_WRITE_LOST, "a walker sets D between the load and the store"),
            race=taken_while_written, change=take_without_xchg),
    variant("page_mkclean", holds("479db0bf408: it looks at the entry under the ptl"),
            race=written_back_while_changed, change=recache, sync=True),
    variant("page_mkclean_peeks",
            violated(NO_WRITE_AFTER_PROMISE,
                     "479db0bf408: an entry that is absent for a moment is passed over, dirty"),
            race=written_back_while_changed, change=recache, sync=False),
    variant("page_mkclean_peeks_set_pte_atomic", holds("it is never absent"),
            race=written_back_while_changed, change=recache_atomic, sync=False),
    variant("pud_populate", holds("4981d01eada5: every CPU that runs the mm loads CR3"),
            race=root_populated),
    variant("pud_populate_two", holds("__pmd_alloc looks again under page_table_lock"),
            race=root_populated, two=True),
    variant("pud_populate_here_only",
            violated(REACHABLE, "4981d01eada5: the other CPU keeps the entry absent, and faults"),
            race=root_populated, linux=HERE_ONLY),
    variant("pud_populate_here_only_one_cpu", holds("6194ba6ff6c: it loads its own CR3"),
            race=root_populated, linux=HERE_ONLY, cpus=(0,)),
    variant("kernel_exec", holds(ONE_CPU), race=kernel_exec),
    variant("kernel_exec_vmi", holds(ONE_CPU), race=kernel_exec, **VMI),
    variant("kernel_exec_vmi_value", holds("the entry is written before the hook names it"),
            race=kernel_exec, pv=vmi, hypervisor=Hypervisor(record=Record.VALUE)),
    variant("kernel_exec_vmi_unflushed", violated(NOT_EXECUTED, "nothing drains the queue"),
            race=kernel_exec, pv=UNFLUSHED, hypervisor=Hypervisor()),
    variant("kernel_exec_two_cpus",
            violated(NOT_EXECUTED, "the flush is local: __init code, for one CPU"),
            race=kernel_exec, cpus=(0, 1)),
)  # fmt: skip
def pae_words(setup: Setup, *, race: Callable[..., None], **knobs: object) -> None:
    """A changes an entry of two words; B finds it between two stores."""
    race(setup, **knobs)
