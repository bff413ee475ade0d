"""clear_refs: the bug as merged, its two repairs, and what the hypervisor makes of the bug."""

from __future__ import annotations

import smpmmu
from smpmmu.machine.walker import NO_ACCESS_TO_FREED_FRAME
from smpmmu.properties.accessed import USE_AFTER_FLUSH_IS_SEEN
from smpmmu.properties.lock_rule import NO_QUEUE_HOLDS_ENTRY, SHADOW_NO_MORE_PERMISSIVE
from smpmmu.scenarios.clear_refs import clear_refs

VIOLATED = {
    "as_merged_rule_pae": SHADOW_NO_MORE_PERMISSIVE,
    "as_merged_value_pae": NO_ACCESS_TO_FREED_FRAME,
    "as_merged_rule": SHADOW_NO_MORE_PERMISSIVE,
    "as_merged_torn": NO_ACCESS_TO_FREED_FRAME,
    "as_merged_value": NO_ACCESS_TO_FREED_FRAME,
    "migrates_cr3_keeps_value": NO_ACCESS_TO_FREED_FRAME,
    "untracked_as_merged_torn": NO_ACCESS_TO_FREED_FRAME,
    "untracked_as_merged_value": NO_ACCESS_TO_FREED_FRAME,
    "untracked_as_merged_value_dirty_page": NO_ACCESS_TO_FREED_FRAME,
    "as_merged_accessed": USE_AFTER_FLUSH_IS_SEEN,
    "untracked_immediate_accessed": USE_AFTER_FLUSH_IS_SEEN,
}


def test_what_is_expected() -> None:
    found = {v.name: v.expected.name for v in clear_refs.variants if v.expected is not None}
    assert {name: broken for name, broken in found.items() if broken} == VIOLATED
    assert len(found) == len(clear_refs.variants) == 37


def test_live_agrees_on_every_violation_of_the_rule() -> None:
    system = clear_refs.system(clear_refs.variant("as_merged_rule"))
    for engine in ("batch", "live"):
        found = smpmmu.explore(system, engine=engine, every=True).exploration.violations
        assert {v.name for v in found} == {SHADOW_NO_MORE_PERMISSIVE, NO_QUEUE_HOLDS_ENTRY}
