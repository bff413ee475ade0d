"""What a reduced search relied on: whatever takes that back makes it begin again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine import reduction
from smpmmu.engine.answer import answer
from smpmmu.engine.batch import Kernel
from smpmmu.engine.expressions import value
from smpmmu.engine.local import call
from smpmmu.engine.reduction import PARTIAL_ORDER
from smpmmu.engine.routines import bug_on
from smpmmu.engine.steps import Step, Wait, Word, load, store, wait_until
from smpmmu.engine.system import System, always
from tests.engine.programs import X, Y, Z, main, play
from tests.engine.test_reduction import MINE, names, reduced

if TYPE_CHECKING:
    import pytest

SEEN, TOLD = Word("seen", 1), Word("told", 2)


async def sees(times: int) -> None:
    """Let a property see some stores, so that nobody takes them alone."""
    for number in range(times):
        await store(SEEN, number & 1)


async def writes() -> None:
    """Take the second store at once where nobody who may read X is left."""
    await Step("take", Y, wait=Wait(Y.mask, 2), and_mask=0, xor_mask=1)
    await store(X, 2)


async def reads() -> None:
    """Let the other write at once; or read X in the end, which long nobody knows."""
    if await load(X) == 0:
        await load(MINE)
        await load(MINE)
        await store(TOLD, 2)
        await store(Y, 2)
        return
    await store(TOLD, 1)
    await sees(6)
    if await load(Y, 1):
        bug_on(await load(X) == 1, "read_between")


async def lets_write() -> None:
    """Let the writer go when it has long been known that the reader only reads Y."""
    await wait_until(TOLD, 0, equal=False)
    if await load(TOLD) == 1:
        await sees(20)
        await store(Y, 2)
    await load(Y)


def test_what_is_taken_from_memory_is_relied_on_by_the_tables_of_that_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That both stores go at once is learnt while only the reader's short way is known.

    It is looked up where the reader is on its long way, once that seems to be harmless.
    """
    monkeypatch.setattr(reduction, "STALE", 0.0)
    programs = (call(writes), call(reads), call(play, (store(X, 1),)), call(lets_write))
    contexts = tuple(main(f"a{n}", body) for n, body in enumerate(programs))
    system = System(contexts, (always("sees", value(SEEN) <= value(Z) + 1),))
    known = Kernel(system)
    ways = ((0, [0, 0]), (1, [0] * 5), (2, [0]), (3, [0, 2, 0]), (3, [0, 1, *[0] * 22]))
    for program, results in ways:
        at = 0
        for result in results:
            at = known.follow(known.automata[program], at, result)
        assert known.automata[program].positions[at].ended
    assert [v.name for v in answer(system).violations] == ["read_between"]
    assert names(reduced(system, (PARTIAL_ORDER,), known=known)) == {"read_between"}
