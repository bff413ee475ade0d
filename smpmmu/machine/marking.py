"""How walkers set A and D: atomically with a look at what they have read, or by an erratum without.

It must not know which tables are walked.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from smpmmu.engine.routines import AGAIN, Again
from smpmmu.engine.steps import TAKEN, cmpxchg, fetch_or, store
from smpmmu.machine.entries import PAGE_ACCESSED, PAGE_DIRTY

if TYPE_CHECKING:
    from smpmmu.engine.steps import Word
    from smpmmu.machine.cpu import Cpu


class Marking(enum.Enum):
    """What a walker does that finds A or D clear in an entry it has read."""

    CHECKED = "checked"
    """Sets them if the entry is still what it read, and else walks again."""
    STRAY = "stray"
    """Sets them whatever the entry is by now, and then walks again if that was not what it read.

    The erratum of Knights Landing (Linux 00839ee3b299): no access is made that is not allowed.
    """
    PLAIN = "plain"
    """Stores what it read, with A and D: no processor that is known."""


async def mark(cpu: Cpu, word: Word, found: int, *, write: bool) -> int | Again:
    """Set A (and D for a write) in an entry read as `found`; AGAIN if it has changed since."""
    bits = PAGE_ACCESSED | (PAGE_DIRTY if write else 0)
    wanted = found | bits
    if wanted == found:
        return wanted
    # Another CPU may have changed the entry since it was read.
    if cpu.marking is Marking.CHECKED:
        return wanted if await cmpxchg(word, found, wanted) & TAKEN else AGAIN
    if cpu.marking is Marking.STRAY:
        return wanted if await fetch_or(word, bits, word.mask) | bits == wanted else AGAIN
    await store(word, wanted)
    return wanted
