"""The accessed bit is not lost: a use of a page that was seen idle shows in its entry.

It is a heuristic (reclaim takes the wrong page first, smaps tells a wrong number) and no promise:
only variants that ask are judged by it. A use through a translation that a TLB has kept
since before A was cleared is seen on no machine; what counts is a use by a CPU that has dropped
what it had cached, as every load of CR3 does. It must not know who clears the bit. Source:
`docs/model.md`, "Two kinds of property".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.expressions import implies, value
from smpmmu.engine.steps import Word
from smpmmu.machine.entries import PAGE_ACCESSED

if TYPE_CHECKING:
    from smpmmu.engine.expressions import Expr

USE_AFTER_FLUSH_IS_SEEN = "use_after_flush_leaves_accessed_bit"

used_since_idle = Word("used since it was seen idle", 1)
"""A CPU saw A clear under the lock of the entry, dropped what it had cached, and used the page."""


def use_is_seen(gpte: Word) -> Expr:
    """Return the truth that A is set in the entry if the page was used since it was seen idle.

    For the end of a run in which A is cleared no more once it was seen clear.
    """
    return implies(value(used_since_idle) == 1, value(gpte) & PAGE_ACCESSED != 0)
