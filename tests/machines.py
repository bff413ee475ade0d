"""Small machines for tests of the modelled world: a page or two, and vCPUs that use them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from smpmmu.engine.answer import answer
from smpmmu.engine.live import in_trio, random_run
from smpmmu.engine.run import Ending
from smpmmu.engine.verdict import Verdict
from smpmmu.hypervisor.shadow import shadow_of
from smpmmu.kernel.mm import MmStruct, VmAreaStruct
from smpmmu.kernel.paravirt import Linux, native
from smpmmu.machine.cpu import Cpu
from smpmmu.machine.entries import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_TABLE,
    PAGE_USER,
    entry,
)
from smpmmu.machine.memory import Memory
from smpmmu.scenario import Setup

if TYPE_CHECKING:
    from smpmmu.engine.local import Call
    from smpmmu.engine.run import Run
    from smpmmu.engine.verdict import Exploration

PGD, TABLE, PAGE, OTHER_PAGE = 0x1, 0x2, 0x3, 0x4
ADDR, OTHER_ADDR = 0x1000, 0x2000
READ_ONLY = PAGE_PRESENT | PAGE_USER | PAGE_ACCESSED
UNTOUCHED = PAGE_PRESENT | PAGE_RW | PAGE_USER
CLEAN = UNTOUCHED | PAGE_ACCESSED
TOUCHED = CLEAN | PAGE_DIRTY

MM = MmStruct(1, PGD, ((0, TABLE),), (0,))
MM_OF_TWO = MmStruct(1, PGD, ((0, TABLE),), (0, 1))
MM_OF_THREE = MmStruct(1, PGD, ((0, TABLE),), (0, 1, 2))
VMA = VmAreaStruct(MM)


def memory(pte: int, other: int = 0, pde: int = PAGE_TABLE) -> Memory:
    """Return memory with these flags of the entries of ADDR, OTHER_ADDR and their table."""
    entries = [(PGD, 0, entry(TABLE, pde)), (TABLE, 1, entry(PAGE, pte))]
    if other:
        entries.append((TABLE, 2, entry(OTHER_PAGE, other)))
    return Memory(tuple(entries))


def vcpu(number: int = 0, mem: Memory | None = None, mm: MmStruct = MM, **fields: Any) -> Cpu:
    """Return a vCPU that runs `mm`; natively, unless `fields` say otherwise."""
    guest = mem or memory(TOUCHED)
    knobs = fields.get("hypervisor")
    walked = guest if knobs is None else shadow_of(guest, (TABLE,), knobs, number)
    whole = {"pv": native, "pages": (ADDR,), "linux": Linux(), **fields}
    return Cpu(number, guest, walked, mm.pgd, mm=mm, **whole)


def alone(*calls: Call) -> Run:
    """Run calls on one vCPU, on which nothing else happens, to their end or a violation."""
    setup = Setup()
    setup.cpu(0, *calls)
    asked = setup.system()

    async def run() -> Run:
        return await random_run(asked, 0)

    return in_trio(run)


def ended(run: Run) -> Counter[str]:
    """Return the last values of the words that a run touched, 0 for others; it must have ended."""
    assert run.ending is Ending.QUIESCENT, (run.ending, run.violated)
    steps = [taken for action in run.actions for taken in action.steps]
    return Counter({taken.step.word.name: taken.after for taken in steps if taken.step.word})


def labels(run: Run) -> list[str]:
    """Return the labels of a run's steps, in order."""
    return [taken.step.label for action in run.actions for taken in action.steps]


def holds(setup: Setup, *, evictor: bool = False) -> Exploration:
    """Explore, insist on HOLDS and on every `sometimes` having been reached."""
    found = answer(setup.system(evictor=evictor))
    assert found.verdict is Verdict.HOLDS, found.violations
    assert all(found.reached.values()), found.reached
    return found


def violated(setup: Setup, *, evictor: bool = False) -> str:
    """Explore, insist on VIOLATED, and return the name of what is violated."""
    found = answer(setup.system(evictor=evictor))
    assert found.verdict is Verdict.VIOLATED, found.reached
    return found.violations[0].name
