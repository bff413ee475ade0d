"""What the races share: native vCPUs on the first machine, and the evidence marks.

It is no scenario itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.kernel.mm import MmStruct
from smpmmu.kernel.paravirt import Linux, ParavirtOps, native
from smpmmu.kernel.smp import install_interrupts
from smpmmu.machine.cpu import Cpu
from smpmmu.machine.entries import PAGE_TABLE, entry
from smpmmu.machine.memory import Memory
from smpmmu.scenarios.common import ADDR, PAGE, PGD, TABLE, TOUCHED, install_evictor

if TYPE_CHECKING:
    from smpmmu.scenario import Setup

ANOTHER = MmStruct(2, 0x12)
"""An address space that has nothing to do with the race, but whose threads may."""

UNVERIFIED = "unverified: recalled, the source was not read"


def one_mm(*cpus: int) -> MmStruct:
    """Return an address space with one page table, loaded on `cpus`."""
    return MmStruct(1, PGD, ((0, TABLE),), cpus)


def memory(
    pte: int = entry(PAGE, TOUCHED), owners: tuple[tuple[int, int], ...] = (), index: int = 1
) -> Memory:
    """Return memory with one page table, and in it this entry, by default for ADDR."""
    entries = ((PGD, 0, entry(TABLE, PAGE_TABLE)), (TABLE, index, pte))
    return Memory(entries, owners=owners)


def native_cpu(
    setup: Setup,
    number: int,
    mm: MmStruct,
    guest: Memory,
    pages: tuple[int, ...] = (ADDR,),
    *,
    pv: ParavirtOps = native,
    root_changes: bool = False,
    cached: tuple[tuple[int, int], ...] = (),
) -> Cpu:
    """Return a vCPU of the bare machine; it can be interrupted if `mm` is loaded on it."""
    cpu = Cpu(
        number, guest, guest, mm.pgd, pv, mm, pages, root_changes=root_changes, cached=cached,
        linux=Linux(),
    )  # fmt: skip
    if number in mm.cpus:
        install_interrupts(setup, cpu)
        install_evictor(setup, cpu)
    return cpu
