"""A vCPU as modelled code sees it: its number, its hooks, whose memory it runs in, its TLB.

A `Cpu` is a frozen record; everything that changes is a word. It must not know Linux.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smpmmu.engine.steps import Step, Wait, Word, fetch_or, store
from smpmmu.machine.entries import ENTRY, PAGE_SHIFT

if TYPE_CHECKING:
    from smpmmu.machine.memory import Memory

INVALIDATE_TLB_VECTOR = 0xFD


@dataclass(frozen=True, slots=True)
class Cpu:
    """One vCPU.

    Attributes:
        number: as in smp_processor_id().
        memory: physical memory as Linux sees it.
        walked: the tables that this CPU's walker reads: `memory`, or the hypervisor's shadow.
        cr3: frame of the page directory.
        pv: the hook table (`kernel/paravirt.py`).
        mm: current->mm and current->active_mm.
    """

    number: int
    memory: Memory
    walked: Memory
    cr3: int
    pv: Any
    mm: Any

    @property
    def name(self) -> str:
        """What choices call it."""
        return f"cpu{self.number}"

    def tlb(self, addr: int) -> Word:
        """Return the TLB entry for the page of `addr`: 0, or a leaf entry as it was cached."""
        return Word(f"{self.name}.tlb[{addr >> PAGE_SHIFT:#x}]", 32, owner=self.name, format=ENTRY)

    def pending(self, vector: int) -> Word:
        """Return the bit in which the local APIC keeps `vector` until it is taken."""
        return irr(self.number, vector)


def irr(number: int, vector: int) -> Word:
    """Return the pending bit of `vector` at CPU `number`."""
    return Word(f"cpu{number}.irr[{vector:#x}]", 1)


async def invlpg(cpu: Cpu, addr: int) -> None:
    """Drop the TLB entry for the page of `addr`, global or not.

    Instruction: INVLPG
    """
    await store(cpu.tlb(addr), 0)


async def send_ipi(number: int, vector: int) -> None:
    """Make `vector` pending at CPU `number`; a second one before it is taken is lost in it."""
    await fetch_or(irr(number, vector), 1)


async def take_interrupt(cpu: Cpu, vector: int) -> None:
    """Wait for `vector` and accept it: the first step of every handler."""
    word = cpu.pending(vector)
    await Step(f"take interrupt {vector:#x}", word, wait=Wait(1, 1), and_mask=0)
