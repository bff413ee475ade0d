"""The benchmark model `defer`, straight on steps and words, below the kernel layer.

Cleaners clear a dirty bit and shoot down before they unlock, writers write through their TLB,
readers toggle a protection; every action is the same as in `peers/defer.pml` and `peers/defer.c`.
It must not use the machine or kernel packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.engine.expressions import implies, value
from smpmmu.engine.local import Call, call
from smpmmu.engine.routines import AGAIN, Again, bug_on, indivisible, retry
from smpmmu.engine.steps import (
    Step,
    Wait,
    Word,
    acquire,
    fetch_and,
    fetch_or,
    fetch_xor,
    load,
    release,
    store,
    wait_until,
)
from smpmmu.scenario import Setup, holds, scenario, variant, violated

if TYPE_CHECKING:
    from smpmmu.engine.system import System

P, RW, A, D = 1, 2, 4, 8
ONE_STEP = "the benchmark defines this as one atomic step"


@dataclass(frozen=True, slots=True)
class Defer:
    """The words of the model at a size (cpus, pages, iterations) and in a variant."""

    cpus: int
    pages: int
    iterations: int
    variant: str = "locked"

    @property
    def roles(self) -> str:
        """The role of each CPU: C cleaner, W writer, R reader."""
        return "CR" if self.cpus == 2 else "CWRCWRCW"[: self.cpus]

    @property
    def most(self) -> int:
        """The highest content of a page."""
        return 1 + self.iterations * self.roles.count("W")

    def ptl(self) -> Word:
        """The page-table lock."""
        return Word("ptl", 1)

    def primary(self, page: int) -> Word:
        """The guest's entry."""
        return Word(f"primary[{page}]", 4, 15)

    def shadow(self, page: int) -> Word:
        """The entry that the walker sees."""
        return Word(f"shadow[{page}]", 4, 15)

    def content(self, page: int) -> Word:
        """The version of the page in memory."""
        return Word(f"content[{page}]", self.most.bit_length(), 1)

    def disk(self, page: int) -> Word:
        """The version of the page on disk."""
        return Word(f"disk[{page}]", self.most.bit_length())

    def tlb(self, cpu: int, page: int) -> Word:
        """1 while the CPU holds a dirty translation of the page."""
        return Word(f"tlb{cpu}[{page}]", 1, owner=f"cpu{cpu}")

    def queue(self, cpu: int) -> Word:
        """The pages whose update a cleaner has deferred."""
        return Word(f"queue{cpu}", self.pages, owner=f"cpu{cpu}")

    def mailbox(self, sender: int) -> Word:
        """The pages that a sender asks the others to flush, `pages` bits for each receiver."""
        return Word(f"mailbox[{sender}]", self.pages * self.cpus)


async def in_sync(m: Defer, page: int) -> None:
    """Assert that shadow and primary agree."""
    primary = await load(m.primary(page))
    shadow = await load(m.shadow(page))
    bug_on(primary != shadow, "shadow_equals_primary_under_lock")


@indivisible(ONE_STEP)
async def lock(m: Defer) -> None:
    """Take the page-table lock and assert that nothing is out of sync."""
    await acquire(m.ptl())
    for page in range(m.pages):
        await in_sync(m, page)


@indivisible(ONE_STEP)
async def drain(m: Defer, page: int, *, cpu: int | None) -> None:
    """Copy the primary to the shadow; for a cleaner, from its queue."""
    primary = await load(m.primary(page))
    await store(m.shadow(page), primary)
    if cpu is not None:
        await fetch_and(m.queue(cpu), m.queue(cpu).mask & ~(1 << page))


@indivisible(ONE_STEP)
async def writeback(m: Defer, page: int) -> None:
    """Write the page to disk."""
    content = await load(m.content(page))
    await store(m.disk(page), content)


async def cleaner(m: Defer, cpu: int, page: int) -> None:
    """Clear D, push the update, shoot the others down, unlock, write back."""
    await lock(m)
    dirty = await load(m.primary(page), D)
    if not dirty:
        await release(m.ptl())
        return
    await fetch_and(m.primary(page), m.primary(page).mask & ~D)
    await fetch_or(m.queue(cpu), 1 << page)
    if m.variant == "late":
        await release(m.ptl())
    await drain(m, page, cpu=cpu)
    await store(m.tlb(cpu, page), 0)
    for receiver in [c for c in range(m.cpus) if c != cpu]:
        await fetch_or(m.mailbox(cpu), 1 << receiver * m.pages + page)
    if m.variant != "noack":
        await wait_until(m.mailbox(cpu), 0)
    if m.variant != "late":
        await release(m.ptl())
    await writeback(m, page)


@indivisible(ONE_STEP)
async def write_or_walk(m: Defer, cpu: int, page: int) -> Again | None:
    """Write through a dirty translation, or walk the shadow and be back before the write."""
    if await load(m.tlb(cpu, page)):
        await Step(f"write page {page}", m.content(page), add=1)
        return None
    if not await load(m.shadow(page), RW):
        return None
    await fetch_or(m.shadow(page), A | D)
    await fetch_or(m.primary(page), A | D)
    await store(m.tlb(cpu, page), 1)
    return AGAIN


async def writer(m: Defer, cpu: int, page: int) -> None:
    """Write to the page, or give up where it is write-protected."""
    await retry(write_or_walk, m, cpu, page)


async def reader(m: Defer, page: int) -> None:
    """Toggle RW under the lock, with an immediate update."""
    await lock(m)
    await checked_read(m, page)
    await fetch_xor(m.primary(page), RW)
    await drain(m, page, cpu=None)
    await release(m.ptl())


@indivisible(ONE_STEP)
async def checked_read(m: Defer, page: int) -> None:
    """Read the entry and assert that its shadow agrees."""
    await in_sync(m, page)


@indivisible(ONE_STEP)
async def interrupt(m: Defer, sender: int, cpu: int) -> None:
    """Clear the pages that a sender names from this CPU's TLB, and acknowledge."""
    box, shift = m.mailbox(sender), cpu * m.pages
    mine = (1 << m.pages) - 1 << shift
    pages = await Step(
        f"take {box.name}",
        box,
        wait=Wait(mine, 0, equal=False),
        and_mask=box.mask & ~mine,
        returns=mine,
    )
    for page in range(m.pages):
        if pages >> shift + page & 1:
            await store(m.tlb(cpu, page), 0)


def program(m: Defer, cpu: int) -> tuple[Call, ...]:
    """Return the operations of one CPU."""
    calls = []
    for number in range(m.iterations * m.pages):
        page = number % m.pages
        role = m.roles[cpu]
        if role == "C":
            calls.append(call(cleaner, m, cpu, page))
        elif role == "W":
            calls.append(call(writer, m, cpu, page))
        else:
            calls.append(call(reader, m, page))
    return tuple(calls)


def fill(setup: Setup, m: Defer) -> None:
    """Give every CPU its program and its interrupts, and demand that no write is lost."""
    for cpu in range(m.cpus):
        setup.cpu(cpu, *program(m, cpu))
        for sender, role in enumerate(m.roles):
            if role == "C" and sender != cpu:
                setup.irq(cpu, f"from{sender}", call(interrupt, m, sender, cpu), priority=sender)
    for page in range(m.pages):
        changed = value(m.content(page)) != value(m.disk(page))
        dirty = value(m.primary(page)) & D != 0
        setup.at_quiescence(f"no_lost_write_to_page_{page}", implies(changed, dirty))


def defer(cpus: int, pages: int, iterations: int, kind: str = "locked") -> System:
    """Return the model at a size, `locked`, `late` or `noack`."""
    setup = Setup()
    fill(setup, Defer(cpus, pages, iterations, kind))
    return setup.system()


SIZES = ((2, 1, 1), (3, 1, 1), (3, 1, 2), (3, 2, 1), (4, 2, 1), (5, 2, 1), (4, 2, 2), (6, 2, 1),
         (4, 2, 3))  # fmt: skip
SAME_LOCK = "the flush happens under the lock that guards the entry"


@scenario(
    *(
        variant(f"locked.{n}.{p}.{k}", holds(SAME_LOCK), size=(n, p, k), kind="locked")
        for n, p, k in SIZES
    ),
    variant(
        "late.4.2.1",
        violated("shadow_equals_primary_under_lock", "the flush comes after the unlock"),
        size=(4, 2, 1),
        kind="late",
    ),
    variant(
        "noack.4.2.1",
        violated("no_lost_write_to_page_0", "nobody waits for the flush"),
        size=(4, 2, 1),
        kind="noack",
    ),
)
def benchmark(setup: Setup, *, size: tuple[int, int, int], kind: str) -> None:
    """The model `defer` at (cpus, pages, iterations), for `python -m smpmmu explore`."""
    fill(setup, Defer(*size, kind))


LARGE = ((4, 2, 4), (5, 2, 2))
"""87,612,861 and 107,928,547 states without reduction."""


@scenario(
    *(
        variant(f"locked.{n}.{p}.{k}", holds(SAME_LOCK), size=(n, p, k), kind="locked")
        for n, p, k in LARGE
    )
)
def large(setup: Setup, *, size: tuple[int, int, int], kind: str) -> None:
    """The same at sizes that take a gigabyte or two."""
    fill(setup, Defer(*size, kind))
