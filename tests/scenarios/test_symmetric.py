"""What the catalogue declares to be interchangeable is so, and saves nearly half of the states."""

from __future__ import annotations

import pytest

from smpmmu.engine.answer import answer
from smpmmu.engine.reduction import SYMMETRY
from smpmmu.targets import one

SOME = ("permission_increase/native_under_ptl", "permission_increase/deferred_under_ptl",
        "pte_alloc_race/native", "pte_alloc_race/vmi")  # fmt: skip


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("evictor", [False, True])
def test_it_is_accepted_and_saves_states(name: str, evictor: bool) -> None:  # noqa: FBT001
    system = one(name).systems()[evictor]
    assert system is not None
    plain, found = answer(system), answer(system, reductions=(SYMMETRY,), reduce_from=0)
    assert found.reductions == (SYMMETRY,)
    assert found.verdict is plain.verdict
    assert found.reached == plain.reached
    assert plain.states / 2 <= found.states < 0.55 * plain.states
