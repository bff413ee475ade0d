"""What the hypervisor believes of frames: page tables, page directories, or neither.

Linux announces a frame before it becomes a table and releases it after. From these calls alone the
hypervisor knows which frames to shadow: a directory entry is shadowed only if it leads to a frame
announced as a page table, and releasing a frame strips its shadow. With `checked` it stops where a
call breaks an obligation, as vmi.c has it under CONFIG_DEBUG_PAGE_TYPE; without, it goes on as best
it can, and what users lose by that shows as a promise broken. It must not know Linux. Source:
arch/i386/kernel/vmi.c, Linux 2.6.21; that a clone is copied an entry at a time is assumed
(unverified).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.engine.routines import bug_on, routine
from smpmmu.engine.steps import Format, Part, Word, load, store, xchg
from smpmmu.machine.entries import PAGE_PRESENT, PAGE_PSE, pfn_of
from smpmmu.machine.memory import pgd_indices, pmd_indices, pte_indices

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu

NORMAL, PT, PD = 0, 1, 2
TYPE = Format(flags=((PT, "PT"), (PD, "PD")))

ONLY_NORMAL_FRAMES_ARE_ANNOUNCED = "only_normal_frames_are_announced"
ONLY_ANNOUNCED_FRAMES_ARE_RELEASED = "only_announced_frames_are_released"
ONLY_ANNOUNCED_FRAMES_ARE_UPDATED = "only_announced_frames_are_updated"
ANNOUNCED_FRAMES_ARE_ZERO = "frames_announced_as_zero_are_zero"
CLONES_ARE_COPIES = "clones_are_copies_when_announced"
TABLES_ARE_ANNOUNCED_WHEN_LINKED = "tables_are_announced_when_linked"
TABLES_ARE_UNLINKED_WHEN_RELEASED = "tables_are_unlinked_when_released"
FREE_FRAMES_ARE_NORMAL = "free_frames_are_normal"


@dataclass(frozen=True, slots=True)
class PageTypes:
    """How page types are kept.

    Attributes:
        frames: (frame, type at first) of every frame that can be a table; others are NORMAL.
        checked: obligations are checked.
        claims_zero: alloc_pt and alloc_pd say that the frame is all zero, as 2.6.21's do whatever
            the frame holds; if not, the hypervisor looks.
        compares_clones: of a clone the copied part is checked too; vmi.c looks at the rest alone.
    """

    frames: tuple[tuple[int, int], ...]
    checked: bool = True
    claims_zero: bool = True
    compares_clones: bool = True


def page_type(cpu: Cpu, pfn: int) -> Word:
    """Return the word of a frame's type."""
    known = dict(cpu.hypervisor.types.frames)
    part = Part("page types", f"frame {pfn:#x}")
    return Word(f"type of {pfn:#x}", 2, known.get(pfn, NORMAL), format=TYPE, part=part)


def check(cpu: Cpu, right: object, name: str) -> None:
    """End the run as a violation of the obligation `name` unless `right`, if it is checked."""
    bug_on(cpu.hypervisor.types.checked and not right, name)


def indices(cpu: Cpu, kind: int) -> tuple[int, ...]:
    """Return which entries of a table of `kind` anybody uses: those for the CPUs' addresses."""
    of_kind = pte_indices if kind == PT else pmd_indices
    return of_kind(cpu.pages, cpu.memory.paging)


def links(value: int, pfn: int) -> bool:
    """Whether a directory entry leads to the page table in frame `pfn`."""
    return value & (PAGE_PRESENT | PAGE_PSE) == PAGE_PRESENT and pfn_of(value) == pfn


@routine
async def spde_for(cpu: Cpu, gpde: int, *, linking: bool) -> int:
    """Return what may be in the shadow for a directory entry: nothing for an unknown table.

    While Linux is `linking` it, that is a broken obligation; to a fault it is none, which may have
    read the entry long ago.
    """
    if gpde & (PAGE_PRESENT | PAGE_PSE) != PAGE_PRESENT:
        return gpde if gpde & PAGE_PRESENT else 0
    known = await load(page_type(cpu, pfn_of(gpde))) == PT
    check(cpu, known or not linking, TABLES_ARE_ANNOUNCED_WHEN_LINKED)
    return gpde if known else 0


@routine
async def announce(cpu: Cpu, pfn: int, kind: int) -> None:
    """Take a frame for a table that is empty from now on, or filled as it is.

    C: vmi_allocate_pt, vmi_allocate_pd
    """
    was = await xchg(page_type(cpu, pfn), kind)
    check(cpu, was == NORMAL, ONLY_NORMAL_FRAMES_ARE_ANNOUNCED)
    for index in indices(cpu, kind):
        value = await load(cpu.memory.table(pfn, index))
        if cpu.hypervisor.types.claims_zero:
            check(cpu, not value, ANNOUNCED_FRAMES_ARE_ZERO)
        elif kind == PD:
            # What is missing here is filled by a fault; a page table's entries always are.
            await store(cpu.walked.table(pfn, index), await spde_for(cpu, value, linking=True))


@routine
async def announce_clone(cpu: Cpu, pfn: int, clonepfn: int, start: int, count: int) -> None:
    """Take a frame for a directory with `count` entries from `start` on as another one has them.

    C: vmi_allocate_pd_clone
    """
    was = await xchg(page_type(cpu, pfn), PD)
    check(cpu, was == NORMAL, ONLY_NORMAL_FRAMES_ARE_ANNOUNCED)
    types = cpu.hypervisor.types
    for index in indices(cpu, PD):
        copied = start <= index < start + count
        if types.checked and (types.compares_clones or not copied):
            own = await load(cpu.memory.table(pfn, index))
            other = await load(cpu.memory.table(clonepfn, index)) if copied else 0
            check(cpu, own == other, CLONES_ARE_COPIES)
        if copied:
            shadow = await load(cpu.walked.table(clonepfn, index))
            # An update of both directories here would be lost in the copy.
            await store(cpu.walked.table(pfn, index), shadow)


@routine
async def release(cpu: Cpu, pfn: int, kind: int) -> None:
    """Take a frame for a table no longer, and strip its shadow.

    C: vmi_release_pt, vmi_release_pd
    """
    if kind == PT and cpu.hypervisor.types.checked:
        await check_unlinked(cpu, pfn)
    was = await xchg(page_type(cpu, pfn), NORMAL)
    check(cpu, was == kind, ONLY_ANNOUNCED_FRAMES_ARE_RELEASED)
    if kind == PT:
        for directory, _ in cpu.hypervisor.types.frames:
            for index in indices(cpu, PD):
                spde = cpu.walked.table(directory, index)
                if links(await load(spde), pfn):
                    await store(spde, 0)
    for index in indices(cpu, kind):
        await store(cpu.walked.table(pfn, index), 0)


@routine
async def check_root(cpu: Cpu, root: int) -> None:
    """Look for an entry of a root about to be loaded that leads to no known directory (PAE).

    What it held before does not matter: roots are never announced, and count from here.
    """
    types, paging = cpu.hypervisor.types, cpu.memory.paging
    if types is None or not types.checked or not paging.is_pae:
        return
    for index in pgd_indices(cpu.pages, paging):
        pdpte = await load(cpu.memory.table(root, index))
        if pdpte & PAGE_PRESENT:
            known = await load(page_type(cpu, pfn_of(pdpte))) == PD
            check(cpu, known, TABLES_ARE_ANNOUNCED_WHEN_LINKED)


@routine
async def is_directory(cpu: Cpu, pfn: int) -> bool:
    """Whether a fault finds a frame shadowed as a page directory; no step but in PAE.

    Without PAE it is the root.
    """
    if cpu.hypervisor.types is None or not cpu.memory.paging.is_pae:
        return True
    return await load(page_type(cpu, pfn)) == PD


@routine
async def check_unlinked(cpu: Cpu, pfn: int) -> None:
    """Look for an entry of an announced directory that leads to a page table."""
    for directory, _ in cpu.hypervisor.types.frames:
        if await load(page_type(cpu, directory)) == PD:
            for index in indices(cpu, PD):
                linked = links(await load(cpu.memory.table(directory, index)), pfn)
                check(cpu, not linked, TABLES_ARE_UNLINKED_WHEN_RELEASED)
