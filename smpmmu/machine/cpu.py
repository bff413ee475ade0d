"""A vCPU as modelled code sees it: its number, its hooks, whose memory it runs in, its TLB.

A `Cpu` is a frozen record; everything that changes is a word. It must not know Linux.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smpmmu.engine.errors import ModelError
from smpmmu.engine.routines import indivisible
from smpmmu.engine.steps import Part, Step, Wait, When, Word, fetch_and, fetch_or, load, store
from smpmmu.machine.entries import (
    ENTRY,
    PAGE_GLOBAL,
    PAGE_PRESENT,
    PAGE_SHIFT,
    PAGE_TABLES,
    TLB_ENTRY,
    WALKING,
    pfn_of,
)
from smpmmu.machine.marking import Marking
from smpmmu.machine.memory import pgd_index, pgd_indices

if TYPE_CHECKING:
    from smpmmu.machine.memory import Memory

INVALIDATE_TLB_VECTOR = 0xFD
CALL_FUNCTION_VECTOR = 0xFB
FIRST_DEVICE_VECTOR = 0x31

FLUSH_IS_ONE = (
    "a load of CR3 and a toggle of CR4.PGE are one instruction of one CPU: its own walker fills "
    "nothing while they drop what is cached, and no other CPU can see the TLB"
)


@dataclass(frozen=True, slots=True)
class Cpu:
    """One vCPU, as the thread that runs on it sees it.

    Attributes:
        number: as in smp_processor_id().
        memory: physical memory as Linux sees it.
        walked: the tables that this CPU's walker reads: `memory`, or the hypervisor's shadow.
        root: frame of the root of the tables (the page directory, or with PAE the
            page-directory-pointer table) that CR3 holds at first, which is that of one of `mms`
            if it ever changes.
        pv: the hook table (`kernel/paravirt.py`).
        mm: the thread's current->active_mm; another thread on the CPU has another record.
        pages: the virtual addresses whose translations it can come to cache.
        mms: the address spaces that it changes between; if there are none, CR3 and its
            cpu_tlbstate stay as they are and are not read.
        root_changes: with PAE, entries of the root are written while it is loaded, so that a load
            of CR3 with what it holds can fetch others.
        kernel_thread: current->mm is NULL: the thread borrows `mm`.
        lazy: it begins with a borrowed address space, as after enter_lazy_tlb.
        caches_directory: it keeps entries of the page directory that it has used, beside its TLB.
        marking: how its walkers set A and D; an erratum unless CHECKED.
        nested: the second-level tables that its guest's frames are looked up in
            (`machine/nested.py`), or None.
        cached: (address, leaf entry) that its TLB holds at first; it is empty unless it says so.
        fault_drops: a page fault drops what is cached for its page.
        in_interrupt: this is what an interrupt handler sees.
        hypervisor: the hypervisor's knobs (`hypervisor/vmi.py`), or None.
        linux: the kernel's knobs (`kernel/paravirt.py`).
    """

    number: int
    memory: Memory
    walked: Memory
    root: int
    pv: Any
    mm: Any
    pages: tuple[int, ...]
    mms: tuple[Any, ...] = ()
    root_changes: bool = False
    kernel_thread: bool = False
    lazy: bool = False
    caches_directory: bool = False
    marking: Marking = Marking.CHECKED
    nested: Any = None
    cached: tuple[tuple[int, int], ...] = ()
    fault_drops: bool = True
    in_interrupt: bool = False
    hypervisor: Any = None
    linux: Any = None

    def __post_init__(self) -> None:
        pages = [addr >> PAGE_SHIFT for addr in self.pages]
        if len(set(pages)) < len(pages):
            msg = f"{self.name}: two of its addresses {self.pages} lie in one page"
            raise ModelError(msg)
        if self.nested is not None and (self.memory.paging.is_pae or self.caches_directory):
            msg = f"{self.name}: second-level tables; expected neither PAE nor a cached directory"
            raise ModelError(msg)

    @property
    def name(self) -> str:
        """What choices call it."""
        return f"cpu{self.number}"

    @property
    def switches(self) -> bool:
        """Whether it changes its address space."""
        return bool(self.mms)

    @property
    def cr3(self) -> Word:
        """The frame of the root of the tables in use."""
        part = Part("registers", "CR3", self.name)
        return Word(f"{self.name}.cr3", 20, self.root, owner=self.name, part=part)

    def pdpte(self, index: int) -> Word:
        """Return an entry of the root as the processor keeps it since CR3 was loaded (PAE)."""
        initial = self.memory.table(self.root, index).initial
        name = f"{self.name}.pdpte[{index}]"
        part = Part(PAGE_TABLES, f"root[{index}]", f"kept by {self.name}")
        return Word(name, 64, initial, owner=self.name, format=ENTRY, part=part)

    def tlb(self, addr: int) -> Word:
        """Return the TLB entry for the page of `addr`: 0, or a leaf entry as it was cached.

        Raises:
            ModelError: the page is not among `pages`, so that flushing all would miss it.
        """
        page = addr >> PAGE_SHIFT
        if page not in [each >> PAGE_SHIFT for each in self.pages]:
            msg = f"{self.name} uses address {addr:#x}, which is not among its pages"
            raise ModelError(msg)
        width = self.memory.paging.entry_bits
        name = f"{self.name}.tlb[{page:#x}]"
        part = Part("TLB entries", f"address {page << PAGE_SHIFT:#x}", self.name)
        initial = dict(self.cached).get(page << PAGE_SHIFT, 0)
        return Word(name, width, initial, owner=self.name, format=TLB_ENTRY, part=part)

    def pde_cache(self, addr: int) -> Word:
        """Return the entry of the page directory for `addr` as it was used last, or 0."""
        paging = self.memory.paging
        name = f"{self.name}.pde_cache[{addr >> paging.pmd_shift:#x}]"
        return Word(name, paging.entry_bits, owner=self.name, format=ENTRY)

    def pending(self, vector: int) -> Word:
        """Return the bit in which the local APIC keeps `vector` until it is taken."""
        return irr(self.number, vector)


def irr(number: int, vector: int) -> Word:
    """Return the pending bit of `vector` at CPU `number`."""
    part = Part("interrupts pending", f"vector {vector:#x}", f"cpu{number}")
    return Word(f"cpu{number}.irr[{vector:#x}]", 1, part=part)


async def read_cr3(cpu: Cpu) -> int:
    """Return the frame of the root in use; no step on a CPU that never changes it."""
    return await load(cpu.cr3) if cpu.switches else cpu.root


async def page_directory(cpu: Cpu, addr: int) -> int | None:
    """Return the frame of the page directory for `addr` as a walk finds it; None if there is none.

    Without PAE that is what CR3 holds. With PAE it is what the last load of CR3 found in the
    root: what was stored there since makes no difference. No step on a CPU where that is constant.
    """
    paging = cpu.memory.paging
    if not paging.is_pae:
        return await read_cr3(cpu)
    kept = cpu.pdpte(pgd_index(addr, paging))
    pdpte = await load(kept) if cpu.switches or cpu.root_changes else kept.initial
    return pfn_of(pdpte) if pdpte & PAGE_PRESENT else None


async def load_pdptes(cpu: Cpu, root: int) -> None:
    """Fetch the entries of the root that this CPU can use, from memory as it is now (PAE).

    They are not shadowed: a hypervisor takes them over when it is told of the load.
    """
    paging = cpu.memory.paging
    for index in pgd_indices(cpu.pages, paging):
        await store(cpu.pdpte(index), await load(cpu.memory.table(root, index)))


async def invlpg(cpu: Cpu, addr: int) -> None:
    """Drop the TLB entry for the page of `addr`, global or not, and abort its walk in flight.

    Instruction: INVLPG, which drops all of the paging-structure caches too (Intel SDM 3A 4.10.4.1)
    """
    if cpu.caches_directory:
        await invlpg_and_structures(cpu, addr)
    else:
        await store(cpu.tlb(addr), 0)


@indivisible(FLUSH_IS_ONE)
async def invlpg_and_structures(cpu: Cpu, addr: int) -> None:
    """Drop the TLB entry for the page of `addr`, and all that is kept of directories."""
    await store(cpu.tlb(addr), 0)
    await drop_structures(cpu)


async def drop_structures(cpu: Cpu) -> None:
    """Drop all that is kept of page directories; no step on a CPU that keeps nothing."""
    if cpu.caches_directory:
        shift = cpu.memory.paging.pmd_shift
        for addr in {each >> shift: each for each in cpu.pages}.values():
            await store(cpu.pde_cache(addr), 0)


@indivisible(FLUSH_IS_ONE)
async def load_cr3(cpu: Cpu, root: int) -> None:
    """Change the root; drop what is not global and abort the walks in flight.

    Instruction: MOV to CR3
    """
    if cpu.switches:
        await store(cpu.cr3, root)
    if cpu.memory.paging.is_pae and (cpu.switches or cpu.root_changes):
        await load_pdptes(cpu, root)
    for addr in cpu.pages:
        await fetch_and(cpu.tlb(addr), ~WALKING)
        label = f"drop {cpu.tlb(addr).name} unless global"
        await Step(label, cpu.tlb(addr), when=When(PAGE_GLOBAL, 0), and_mask=0)
    await drop_structures(cpu)


@indivisible(FLUSH_IS_ONE)
async def flush_global(cpu: Cpu) -> None:
    """Drop everything that is cached, and abort the walks in flight.

    With PAE it fetches the entries of the root anew (general x86 knowledge; unverified).

    Instruction: MOV to CR4, switching PGE off and on
    """
    if cpu.memory.paging.is_pae and cpu.root_changes:
        await load_pdptes(cpu, await read_cr3(cpu))
    for addr in cpu.pages:
        await store(cpu.tlb(addr), 0)
    await drop_structures(cpu)


async def send_ipi(number: int, vector: int) -> None:
    """Make `vector` pending at CPU `number`; a second one before it is taken is lost in it."""
    await fetch_or(irr(number, vector), 1)


async def request_interrupt(cpu: Cpu, vector: int) -> None:
    """Make `vector` pending once it is not: a device that wants attention again and again."""
    await Step(f"request interrupt {vector:#x}", cpu.pending(vector), wait=Wait(1, 0), xor_mask=1)


async def take_interrupt(cpu: Cpu, vector: int) -> None:
    """Wait for `vector` and accept it: the first step of every handler."""
    word = cpu.pending(vector)
    await Step(f"take interrupt {vector:#x}", word, wait=Wait(1, 1), and_mask=0)
