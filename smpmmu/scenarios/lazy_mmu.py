"""What lazy MMU mode holds back, against those who must not meet it: copies, zapping, interrupts.

    COPY  cpu0: change_pte_range, a path     cpu1, cpu2: write the page; the fault copies it,
          that has the ptl alone                         unmaps the old one and frees it
    ZAP   cpu0: zap_pte_range, which flushes cpu1: write the page, read it
          and frees if its gather is full
    KMAP  cpu0: change_pte_range             an interrupt there: map a page for a moment and
                                             write to it, then another one

In the mode memory is as it was (direct page tables) or its shadow is, until the mode is left under
the lock. An interrupt may land in it, and must not wait for that.
"""

from __future__ import annotations

import enum
from dataclasses import replace

from smpmmu.engine.expressions import finished, implies, value
from smpmmu.engine.local import call
from smpmmu.engine.routines import bug_on
from smpmmu.hypervisor.direct import direct
from smpmmu.hypervisor.shadow import Holds, Hypervisor, Record
from smpmmu.hypervisor.update_queue import lazy_mode
from smpmmu.kernel.free_pgtables import zap_page_range
from smpmmu.kernel.highmem import (
    FIX_KMAP_BEGIN,
    KMAP_TABLE,
    kmap_atomic,
    kunmap_atomic,
)
from smpmmu.kernel.mm import VM_READ, MmStruct, VmAreaStruct
from smpmmu.kernel.mprotect import change_pte_range, page_prot
from smpmmu.kernel.paravirt import Linux, native
from smpmmu.machine.cpu import FIRST_DEVICE_VECTOR, Cpu, send_ipi, take_interrupt
from smpmmu.machine.entries import KERNPG_TABLE, PAGE_TABLE, entry
from smpmmu.machine.memory import (
    PAGE_OWNER,
    PAGE_SIZE,
    VERSION_SHIFT,
    Memory,
    pgd_index,
)
from smpmmu.machine.supervisor import kernel_write
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, Access, user_read, user_write
from smpmmu.scenario import Setup, Variant, holds, scenario, variant, violated
from smpmmu.scenarios.common import ADDR, PAGE, PGD, READ_ONLY, TABLE, TOUCHED, vcpu
from smpmmu.scenarios.mprotect import OUTLIVES, RULE, Knobs, lazily, write

NEW_PAGES = (0x13, 0x14, 0x15)
KMAPPED = (0x33, 0x34)
EVERY_WRITE_GOES_THROUGH = "every_write_goes_through_at_last"
KMAP_LEADS_TO_ITS_PAGE = "every_kmap_leads_to_its_page"
MODE_ENDS_WITH_THE_LOCK = "no_lazy_mmu_mode_when_lock_free"


class Race(enum.Enum):
    """Who meets what is held back."""

    COPY = "copy"
    ZAP = "zap"
    KMAP = "kmap"


FOUND_EMPTY = f"{OUTLIVES}: a fault finds the entry empty, whose new value is held back"
GATHER_FULL = (
    "tlb_remove_page flushes and frees in the mode when the gather is full: the flush must apply "
    "what is held back before it, as VMI's does (FlushTLB drains)"
)
FLUSH_HELD = (
    "the flush here waits behind the update, the IPIs do not: other CPUs fill again from what is "
    "behind, and the page is freed; as with KVM's queue (096d14a3b57), until mmu_gather left the "
    "mode first"
)
ROOM_LEFT = "while there is room pages are kept until a flush after the mode"
EXPLICIT = "49f19710512: kmap_atomic in an interrupt flushes what the mode holds back"
FAULT_OR_FLUSH = (
    "a fault drains the queue, and so does the INVLPG of kunmap_atomic: nothing stale is met"
)
SILENT = (
    "49f19710512: the mapping silently fails; INVLPG waits in the queue, so that the next use of "
    "the address leads to the page of the one before"
)
BEHIND = "49f19710512: the mapping is not there yet when the interrupt writes to it"
MODE_RESTORED = (
    "vmi_set_lazy_mode, arch/i386/kernel/vmi.c: an interrupt between SetLazyMode(0) and the store "
    "to lazy_mode restores the mode that was, so that it outlives the lock (found here)"
)
NOTED_FIRST = "the variable is written before SetLazyMode: what an interrupt restores is right"


def direct_or(name: str) -> Hypervisor | None:
    """Return what keeps a shadow; none where page tables are direct."""
    return None if name.startswith("direct") else lazily(Holds.UPDATES, Record.VALUE)


def noted_first(back: Holds) -> Hypervisor:
    """Return a hypervisor whose vmi.c notes the mode before it sets it."""
    return replace(lazily(back), lazy_noted_first=True)


def copies() -> tuple[Variant, ...]:
    """Return the variants of COPY, whose wrong form is left late."""
    found = []
    for name in ("value", "direct"):
        knobs: Knobs = {
            "race": Race.COPY, "hypervisor": direct_or(name), "is_direct": name == "direct",
        }  # fmt: skip
        on_time = Linux(copied=NEW_PAGES)
        late = Linux(copied=NEW_PAGES, lazy_mmu_left_late=True)
        broken = violated(NO_ACCESS_TO_FREED_FRAME, OUTLIVES)
        if name == "direct":
            broken = violated(EVERY_WRITE_GOES_THROUGH, FOUND_EMPTY)
        found += [
            variant(f"copy_{name}", holds(RULE), linux=on_time, **knobs),
            variant(f"copy_{name}_left_late", broken, linux=late, **knobs),
        ]
    return tuple(found)


async def protect_again(cpu: Cpu, vma: VmAreaStruct) -> None:
    """Rewrite an entry that is read-only, under its lock alone."""
    prot = page_prot(vma, VM_READ)
    await change_pte_range(cpu, vma.vm_mm, ADDR, ADDR + PAGE_SIZE, prot, dirty_accountable=False)


async def kmap_and_write(cpu: Cpu) -> None:
    """Handle an interrupt: write to two pages, one after the other."""
    await take_interrupt(cpu, FIRST_DEVICE_VECTOR)
    for page in KMAPPED:
        vaddr = await kmap_atomic(cpu, page)
        bug_on(await kernel_write(cpu, vaddr) is not Access.DONE, KMAP_LEADS_TO_ITS_PAGE)
        await kunmap_atomic(cpu, vaddr)


def copy(setup: Setup, cpus: list[Cpu], vma: VmAreaStruct) -> None:
    """Let two CPUs fault for the right to write, beside a path that rewrites the entry."""
    cpu0, cpu1, cpu2 = cpus
    setup.cpu(0, call(protect_again, cpu0, vma))
    setup.cpu(1, call(write, cpu1, vma), call(user_read, cpu1, ADDR))
    setup.cpu(2, call(write, cpu2, vma))
    pages = [value(cpu0.memory.page(page)) for page in (PAGE, *NEW_PAGES)]
    old, one, other, third = (page >> VERSION_SHIFT for page in pages)
    # Counts of writes are not copied with a page: each is where it was made.
    setup.at_quiescence(EVERY_WRITE_GOES_THROUGH, old + one + other + third == 2)
    setup.sometimes("the page was copied and freed", pages[0] & PAGE_OWNER == 0)
    setup.sometimes("the first copy was used", one == 2)
    setup.sometimes("the first copy was given back", other == 2)


def zapping(setup: Setup, cpus: list[Cpu], vma: VmAreaStruct) -> None:
    """Let a CPU use the page that another one zaps."""
    cpu0, cpu1 = cpus
    setup.cpu(0, call(zap_page_range, cpu0, vma, ADDR, PAGE_SIZE))
    setup.cpu(1, call(user_write, cpu1, ADDR), call(user_read, cpu1, ADDR))
    page = value(cpu0.memory.page(PAGE))
    setup.sometimes("the page was freed", page & PAGE_OWNER == 0)
    setup.sometimes("the page was used first", finished("cpu1") & (page >> VERSION_SHIFT != 0))
    setup.sometimes("zapping stopped the use", finished("cpu1") & (page >> VERSION_SHIFT == 0))


def kmapping(setup: Setup, cpus: list[Cpu], vma: VmAreaStruct) -> None:
    """Let an interrupt use short mappings while its CPU may be in lazy MMU mode."""
    (cpu0,) = cpus
    setup.cpu(0, call(protect_again, cpu0, vma))
    setup.cpu(1, call(send_ipi, 0, FIRST_DEVICE_VECTOR))
    setup.irq(0, "device", call(kmap_and_write, replace(cpu0, in_interrupt=True)))
    written = [value(cpu0.memory.page(page)) >> VERSION_SHIFT for page in KMAPPED]
    taken = value(cpu0.pending(FIRST_DEVICE_VECTOR)) == 0
    once = (written[0] == 1) & (written[1] == 1)
    setup.at_quiescence(KMAP_LEADS_TO_ITS_PAGE, once)
    free = value(vma.vm_mm.pte_lockptr(ADDR)) == 0
    setup.sometimes("the interrupt came under the lock", ~free & once & taken)
    setup.sometimes("it came after it", once & finished("cpu0"))
    if cpu0.hypervisor is not None:
        in_mode = value(lazy_mode(cpu0)) != 0
        setup.sometimes("it came in the mode", in_mode & (written[1] == 1))
        if not cpu0.linux.lazy_mmu_left_late:
            setup.always(MODE_ENDS_WITH_THE_LOCK, implies(free, ~in_mode))


@scenario(
    *copies(),
    *(
        variant(f"zap_{name}", expected, race=Race.ZAP, hypervisor=hypervisor,
                linux=Linux(gather=gather))
        for name, expected, hypervisor, gather in (
            ("native", holds(GATHER_FULL), None, 1),
            ("updates", holds(GATHER_FULL), lazily(Holds.UPDATES), 1),
            ("updates_value", holds(GATHER_FULL), lazily(Holds.UPDATES, Record.VALUE), 1),
            ("flushes", violated(NO_ACCESS_TO_FREED_FRAME, FLUSH_HELD), lazily(Holds.FLUSHES), 1),
            ("flushes_room_left", holds(ROOM_LEFT), lazily(Holds.FLUSHES), 2),
        )
    ),
    *(
        variant(f"kmap_{name}", expected, race=Race.KMAP, hypervisor=hypervisor,
                is_direct=hypervisor is None, linux=Linux(kmap_flushes=flushes))
        for name, expected, hypervisor, flushes in (
            ("mode_restored", violated(MODE_ENDS_WITH_THE_LOCK, MODE_RESTORED),
             lazily(Holds.UPDATES), True),
            ("updates", holds(f"{EXPLICIT}; {NOTED_FIRST}"), noted_first(Holds.UPDATES), True),
            ("all", holds(f"{EXPLICIT}; {NOTED_FIRST}"), noted_first(Holds.ALL), True),
            ("updates_unflushed", holds(FAULT_OR_FLUSH), noted_first(Holds.UPDATES), False),
            ("flushes_unflushed", holds(FAULT_OR_FLUSH), noted_first(Holds.FLUSHES), False),
            ("all_unflushed", violated(KMAP_LEADS_TO_ITS_PAGE, SILENT), noted_first(Holds.ALL),
             False),
            ("direct", holds(EXPLICIT), None, True),
            ("direct_unflushed", violated(KMAP_LEADS_TO_ITS_PAGE, BEHIND), None, False),
        )
    ),
)  # fmt: skip
def lazy_mmu(
    setup: Setup,
    *,
    race: Race,
    hypervisor: Hypervisor | None,
    is_direct: bool = False,
    linux: Linux | None = None,
) -> None:
    """Updates are held back: does anybody meet what is behind, who ought not to?"""
    numbers = {Race.COPY: (0, 1, 2), Race.ZAP: (0, 1), Race.KMAP: (0,)}[race]
    vma = VmAreaStruct(MmStruct(1, PGD, ((0, TABLE),), numbers), ADDR, ADDR + PAGE_SIZE)
    guest = Memory(
        (
            (PGD, 0, entry(TABLE, PAGE_TABLE)),
            (TABLE, 1, entry(PAGE, TOUCHED if race is Race.ZAP else READ_ONLY)),
            (PGD, pgd_index(FIX_KMAP_BEGIN), entry(KMAP_TABLE, KERNPG_TABLE)),
        ),
        owners=tuple((page, 0) for page in NEW_PAGES),
    )
    pages = (ADDR, FIX_KMAP_BEGIN) if race is Race.KMAP else (ADDR,)
    cpus = [
        vcpu(
            setup, n, vma.vm_mm, guest, hypervisor, tables=(TABLE, KMAP_TABLE),
            linux=linux, pages=pages, bare=direct if is_direct else native,
        )
        for n in numbers
    ]  # fmt: skip
    {Race.COPY: copy, Race.ZAP: zapping, Race.KMAP: kmapping}[race](setup, cpus, vma)
