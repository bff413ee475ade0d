"""One agent that races with 99 others, as `reorder_100` of SCTBench: who sees A and not yet B?

Setters store A, then B; the checker loads A, then B, and must find both or none. In `spawned` one
agent starts the others one by one, the checker last, as threads are started in C.
"""

from __future__ import annotations

import smpmmu as s

A, B = s.Word("a", 1), s.Word("b", 1)
STARTED = (s.Word("started 0 to 63", 64), s.Word("started 64 to 127", 64))


async def started(number: int) -> None:
    """Wait until somebody has started agent `number`."""
    bit = 1 << number % 64
    await s.wait_until(STARTED[number // 64], bit, mask=bit)


async def setter(number: int, *, waits: bool) -> None:
    """Set both words."""
    if waits:
        await started(number)
    await s.store(A, 1)
    await s.store(B, 1)


async def checker(number: int, *, waits: bool) -> None:
    """Find both words set, or none."""
    if waits:
        await started(number)
    a = await s.load(A)
    b = await s.load(B)
    s.bug_on(a != b, "both_or_none")


async def start(many: int) -> None:
    """Start all agents, one after the other."""
    for number in range(1, many + 1):
        await s.fetch_or(STARTED[number // 64], 1 << number % 64)


@s.scenario(
    s.variant("at_once"),
    s.variant("spawned", spawned=True),
    s.variant("few", agents=8),
    s.variant("few_spawned", agents=8, spawned=True),
)
def reorder(setup: s.Setup, *, agents: int = 100, spawned: bool = False) -> None:
    """One of many agents reads two words that all others write."""
    if spawned:
        setup.cpu(0, s.call(start, agents))
    for number in range(1, agents):
        setup.cpu(number, s.call(setter, number, waits=spawned))
    setup.cpu(agents, s.call(checker, agents, waits=spawned))
