"""The first patch's macros as written, and what each of its safeguards is there for."""

from __future__ import annotations

import pytest

import smpmmu
from smpmmu.engine.verdict import Verdict
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME, NO_WRITE_AFTER_PROMISE
from smpmmu.properties.lock_rule import SHADOW_NO_MORE_PERMISSIVE
from smpmmu.scenarios.macros_as_written import macros_as_written

VIOLATED = {
    "wrprotect_deferred_pae": NO_WRITE_AFTER_PROMISE,
    "wrprotect_deferred_value_migration_pae": NO_ACCESS_TO_FREED_FRAME,
    "get_and_clear_unhooked_pae": NO_ACCESS_TO_FREED_FRAME,
    "young_kswapd_foreign_deferred_torn": NO_ACCESS_TO_FREED_FRAME,
    "young_kswapd_foreign_deferred_value": NO_ACCESS_TO_FREED_FRAME,
    "young_kswapd_foreign_deferred_rule": SHADOW_NO_MORE_PERMISSIVE,
    "young_borrower_cr3_keeps_rule": SHADOW_NO_MORE_PERMISSIVE,
    "wrprotect_deferred": NO_WRITE_AFTER_PROMISE,
    "wrprotect_deferred_rule": SHADOW_NO_MORE_PERMISSIVE,
    "wrprotect_deferred_torn_reclaim": NO_ACCESS_TO_FREED_FRAME,
    "wrprotect_deferred_value_migration": NO_ACCESS_TO_FREED_FRAME,
    "get_and_clear_unhooked": NO_ACCESS_TO_FREED_FRAME,
    "get_and_clear_unhooked_rule": SHADOW_NO_MORE_PERMISSIVE,
    "get_and_clear_unhooked_migration": NO_ACCESS_TO_FREED_FRAME,
    "get_and_clear_unhooked_reclaim": NO_ACCESS_TO_FREED_FRAME,
}


def test_only_what_is_not_as_written_is_violated() -> None:
    found = {v.name: v.expected.name for v in macros_as_written.variants if v.expected is not None}
    assert len(found) == len(macros_as_written.variants) == 71
    assert {name: broken for name, broken in found.items() if broken} == VIOLATED


@pytest.mark.parametrize("name", ["get_and_clear_vmi", "wrprotect_deferred_alone"])
def test_live_agrees_that_it_holds(name: str) -> None:
    system = macros_as_written.system(macros_as_written.variant(name))
    assert smpmmu.explore(system, engine="live").exploration.verdict is Verdict.HOLDS


@pytest.mark.parametrize("name", ["get_and_clear_unhooked", "get_and_clear_unhooked_rule"])
def test_live_agrees_on_every_violation(name: str) -> None:
    system = macros_as_written.system(macros_as_written.variant(name))
    batch, live = (
        {v.name for v in smpmmu.explore(system, engine=engine, every=True).exploration.violations}
        for engine in ("batch", "live")
    )
    assert VIOLATED[name] in batch
    assert batch == live
