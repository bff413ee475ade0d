"""What the scenarios of page allocation share: the machine, what is judged, and by what.

A variant is judged by the page types, where the hypervisor checks every call, or by what users
lose where it does not; never by both. It is no scenario itself.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import Expr, all_of, implies, value
from smpmmu.engine.routines import bug_on
from smpmmu.hypervisor.page_types import (
    FREE_FRAMES_ARE_NORMAL,
    NORMAL,
    PageTypes,
    page_type,
)
from smpmmu.hypervisor.shadow import Hypervisor, gpte_to_spte, shadow_prefix
from smpmmu.hypervisor.vmi import vmi
from smpmmu.kernel.paravirt import Linux, native
from smpmmu.kernel.pgd import PAGE_OFFSET
from smpmmu.kernel.smp import install_interrupts
from smpmmu.machine.cpu import Cpu
from smpmmu.machine.entries import PAGE_PRESENT, entry
from smpmmu.machine.memory import PAGE_OWNER, Memory, Paging, pgd_index
from smpmmu.machine.walker import Access
from smpmmu.scenarios.common import install_evictor

if TYPE_CHECKING:
    from smpmmu.kernel.mm import MmStruct
    from smpmmu.scenario import Setup

MAPPED_PAGES_ARE_REACHABLE = "mapped_pages_are_reachable"
"""An access to what Linux has mapped ends, and not with a page fault that Linux cannot answer."""

MERGED = "c119ecce894 as merged"
NATIVELY = "i386 without a hypervisor: the hooks are native_nop"
REUSABLE = (0x40, 0x41)
"""Frames that the page allocator has."""


class By(enum.Enum):
    """What a variant is judged by."""

    NATIVE = "native"
    """What users lose on the bare machine."""
    PAGE_TYPES = "page_types"
    """The obligations of the hooks, which the hypervisor checks."""
    PROMISES = "promises"
    """What users lose under a hypervisor that checks nothing."""


KERNEL_PMD = 0x7D
"""With PAE, the page directory of the kernel, to which the last entry of every root leads."""


def directory(paging: Paging, pgd: int, addr: int) -> int:
    """Return the frame of the page directory for `addr` under a root: without PAE, the root."""
    if not paging.is_pae:
        return pgd
    return KERNEL_PMD if addr >= PAGE_OFFSET else pgd + 4


def directories(paging: Paging, roots: tuple[int, ...], addr: int) -> tuple[int, ...]:
    """Return the frames of the page directories for `addr` under roots, each once."""
    return tuple(dict.fromkeys(directory(paging, root, addr) for root in roots))


def links(paging: Paging, roots: tuple[int, ...], addr: int) -> tuple[tuple[int, int, int], ...]:
    """Return the entries of roots that lead to the page directories for `addr`: none but in PAE."""
    if not paging.is_pae:
        return ()
    index = pgd_index(addr, paging)
    return tuple((r, index, entry(directory(paging, r, addr), PAGE_PRESENT)) for r in roots)


def hypervisor_of(
    by: By,
    frames: tuple[tuple[int, int], ...],
    *,
    knobs: Hypervisor | None = None,
    claims_zero: bool = True,
    compares_clones: bool = True,
) -> Hypervisor | None:
    """Return the hypervisor by which a variant is judged; `frames` have these types at first."""
    if by is By.NATIVE:
        return None
    types = PageTypes(frames, by is By.PAGE_TYPES, claims_zero, compares_clones)
    return replace(knobs or Hypervisor(), types=types)


def shadow_at_first(guest: Memory, hypervisor: Hypervisor, number: int) -> Memory:
    """Return the shadow of the frames that are announced at first."""
    kinds = dict(hypervisor.types.frames) if hypervisor.types else {}
    entries = tuple(
        (frame, i, gpte_to_spte(v, tracking=hypervisor.tracking))
        for frame, i, v in guest.entries
        if kinds.get(frame, NORMAL)
    )
    return Memory(entries, shadow_prefix(hypervisor, number), paging=guest.paging)


def vcpu(
    setup: Setup,
    number: int,
    mm: MmStruct,
    guest: Memory,
    hypervisor: Hypervisor | None,
    pages: tuple[int, ...],
    *,
    linux: Linux,
    mms: tuple[MmStruct, ...] = (),
    alone: bool = False,
    root_changes: bool = False,
) -> Cpu:
    """Return a vCPU; it has interrupts and evictors unless it is `alone`."""
    cpu = Cpu(
        number,
        guest,
        guest if hypervisor is None else shadow_at_first(guest, hypervisor, number),
        mm.pgd,
        native if hypervisor is None else vmi,
        mm,
        pages,
        mms=mms,
        root_changes=root_changes,
        hypervisor=hypervisor,
        linux=linux,
    )
    if not alone:
        install_interrupts(setup, cpu, call_function=True)
        install_evictor(setup, cpu)
    return cpu


def demand_normal_when_free(setup: Setup, cpu: Cpu, frames: tuple[int, ...]) -> None:
    """Demand that a frame has been released before it is free."""
    if judges_promises(cpu):
        return
    normal = [
        implies(value(cpu.memory.page(f)) & PAGE_OWNER == 0, value(page_type(cpu, f)) == NORMAL)
        for f in frames
    ]
    setup.always(FREE_FRAMES_ARE_NORMAL, all_of(*normal))


def free(cpu: Cpu, frame: int) -> Expr:
    """Return the truth that a frame is free."""
    return value(cpu.memory.page(frame)) & PAGE_OWNER == 0


def judges_promises(cpu: Cpu) -> bool:
    """Whether this variant is judged by what users lose."""
    return cpu.hypervisor is None or not cpu.hypervisor.types.checked


def must_reach(cpu: Cpu, access: Access, name: str = MAPPED_PAGES_ARE_REACHABLE) -> None:
    """Promise, if promises are judged, that an access to a mapped page goes through."""
    bug_on(judges_promises(cpu) and access is not Access.DONE, name)
