"""How close a state is to a violation: which TLBs and shadows allow more than the entry does.

A stale word is legal until somebody relies on its being gone, so these are no properties: they say
where the danger is, not that anything is wrong. It must not know how states are found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import Expr, all_of, implies, value
from smpmmu.machine.cpu import Cpu
from smpmmu.machine.entries import (
    FRAME,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    PAGE_TABLES,
    pfn_of,
)
from smpmmu.properties.lock_rule import no_more_permissive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from smpmmu.engine.steps import Word
    from smpmmu.engine.system import System

PRIMARY = "primary"


def windows(system: System, words: Iterable[Word]) -> dict[str, Expr]:
    """Return what can be more permissive than an entry: (words about it, the truth that it is).

    `words` are those that programs can come to; others are as they were at first.
    """
    known = {word.name: word for word in words}
    found = {}
    for shadow, entry in _shadows(known.values()):
        found[f"{shadow.name} allows more than {entry.name}"] = ~no_more_permissive(shadow, entry)
    for cpu in _cpus(system):
        for addr in cpu.pages:
            tlb, leaf = cpu.tlb(addr), _leaf(cpu, addr)
            if leaf is not None and tlb.name in known:
                text = f"{tlb.name} allows more than {leaf.name}"
                found[text] = ~cached_no_more_permissive(tlb, leaf)
    return found


def cached_no_more_permissive(tlb: Word, entry: Word) -> Expr:
    """Return the truth that a TLB entry is empty, or allows nothing that the entry does not.

    One that has D lets a page be written without the entry's being marked.
    """
    cached, primary = value(tlb), value(entry)
    return implies(
        cached & PAGE_PRESENT != 0,
        all_of(
            primary & PAGE_PRESENT != 0,
            cached & FRAME == primary & FRAME,
            implies(cached & PAGE_RW != 0, primary & PAGE_RW != 0),
            implies(cached & PAGE_DIRTY != 0, primary & PAGE_DIRTY != 0),
        ),
    )


def _shadows(words: Iterable[Word]) -> Iterator[tuple[Word, Word]]:
    """Yield every entry of a shadow with the one that it stands for."""
    tables = [w for w in words if w.part is not None and w.part.table == PAGE_TABLES]
    primaries = {w.part.row: w for w in tables if w.part and w.part.column == PRIMARY}
    for word in tables:
        assert word.part is not None
        kept_by_a_cpu = bool(word.owner)
        if word.part.column != PRIMARY and not kept_by_a_cpu and word.part.row in primaries:
            yield word, primaries[word.part.row]


def _cpus(system: System) -> list[Cpu]:
    """Return the vCPUs that programs are called with, each once."""
    found: dict[str, Cpu] = {}
    for context in system.contexts:
        for call in context.calls:
            for argument in (*call.args, *(v for _, v in call.kwargs)):
                if isinstance(argument, Cpu):
                    found.setdefault(argument.name, argument)
    return list(found.values())


def _leaf(cpu: Cpu, addr: int) -> Word | None:
    """Return the entry that maps a page at first; None where a large page does, or nothing."""
    frame = cpu.root
    *upper, (last_shift, last_entries) = cpu.memory.paging.levels
    for shift, entries in upper:
        entry = cpu.memory.table(frame, addr >> shift & entries - 1)
        if not entry.initial & PAGE_PRESENT or entry.initial & PAGE_PSE:
            return None
        frame = pfn_of(entry.initial)
    return cpu.memory.table(frame, addr >> last_shift & last_entries - 1)
