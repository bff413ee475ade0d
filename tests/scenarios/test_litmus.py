"""Litmus tests: what is reached on store buffers is what an axiomatic model of TSO allows."""

from __future__ import annotations

import pytest

from smpmmu.engine.answer import answer
from smpmmu.engine.live import in_trio
from smpmmu.engine.live_search import search_live
from smpmmu.engine.steps import Word
from smpmmu.engine.verdict import Verdict
from smpmmu.machine.store_buffer import TSO_TRANSITION, StoreBuffer
from smpmmu.scenarios.litmus import VARIANTS, litmus
from smpmmu.targets import one
from tests.tso import outcomes

KNOBS = {variant.name: dict(variant.knobs) for variant in VARIANTS}
HOLDING = [variant.name for variant in VARIANTS if variant.expected.verdict is Verdict.HOLDS]

# What the papers say of a test: an outcome, and whether x86-TSO allows it. Written down apart.
FAMOUS = {
    "sb": ("0011", True), "sb_mfence": ("0011", False), "sb_locked": ("000011", False),
    "lb": ("1111", False), "mp": ("1011", False), "s": ("121", False), "r": ("012", True),
    "r_mfence": ("012", False), "r_locked": ("0012", False), "two_two_w": ("11", False),
    "iriw": ("101011", False), "wrc": ("11011", False), "co_rr": ("101", False),
    "n5": ("211", False), "n6": ("1012", True), "sb_sequential": ("0011", False),
    "n6_mfence": ("1012", False), "n6_locked": ("10012", False), "lb_mfence": ("1111", False),
    "lb_locked": ("110011", False), "mp_mfence": ("1011", False), "mp_locked": ("100011", False),
    "s_mfence": ("121", False), "s_locked": ("100021", False), "two_two_w_mfence": ("11", False),
    "two_two_w_locked": ("2211", False), "iriw_mfence": ("101011", False),
    "iriw_locked": ("10100011", False), "co_rr_mfence": ("101", False),
    "co_rr_locked": ("1001", False), "r_sequential": ("012", False),
    "n6_sequential": ("1012", False),
}  # fmt: skip


@pytest.mark.parametrize("name", HOLDING)
def test_the_list_is_what_the_axioms_allow(name: str) -> None:
    knobs = KNOBS[name]
    listed = {tuple(map(int, text)) for text in knobs["outcomes"].split()}
    assert listed == outcomes(knobs["of"], buffered=knobs["tso"])


@pytest.mark.parametrize("name", FAMOUS)
def test_the_list_agrees_with_the_papers(name: str) -> None:
    text, allowed = FAMOUS[name]
    assert (text in KNOBS[name]["outcomes"].split()) is allowed


@pytest.mark.parametrize("name", HOLDING)
def test_what_is_listed_is_reached_and_nothing_else(name: str) -> None:
    found = answer(one(f"litmus/{name}").system())
    assert found.verdict is Verdict.HOLDS
    assert found.vacuous == ()
    assert sum(text.startswith("outcome ") for text in found.reached) == len(
        KNOBS[name]["outcomes"].split()
    )


@pytest.mark.parametrize("name", ["sb", "r", "n6"])
def test_what_buffers_add_is_what_sequential_memory_lacks(name: str) -> None:
    test = KNOBS[name]["of"]
    more = outcomes(test) - outcomes(test, buffered=False)
    assert more == {tuple(map(int, FAMOUS[name][0]))}


@pytest.mark.parametrize("name", ["sb", "sb_mfence", "mp", "n6"])
def test_live_vcpus_reach_the_same(name: str) -> None:
    found, seen = in_trio(search_live, one(f"litmus/{name}").system())
    assert found.verdict is Verdict.HOLDS
    assert found.vacuous == ()
    assert seen.quiescent


def test_one_fence_is_not_enough() -> None:
    both = {tuple(map(int, text)) for text in KNOBS["sb_mfence"]["outcomes"].split()}
    alone = {tuple(map(int, text)) for text in KNOBS["sb_one_mfence"]["outcomes"].split()}
    assert alone - both == {(0, 0, 1, 1)}


def test_entries_come_back_oldest_first() -> None:
    x, y = Word("x", 2), Word("y", 2)
    buffer = StoreBuffer(0, (x, y), 3)
    held = buffer.entry(y, 2) | buffer.entry(x, 0) << 4 | buffer.entry(y, 0) << 8
    assert buffer.entries(held) == ((y, 2), (x, 0), (y, 0))
    assert buffer.entries(0) == ()


def test_without_the_claim_stores_may_be_lost() -> None:
    """A buffer that is filled in two steps loses what is drained in between; so it is one."""
    found = [
        answer(one(f"litmus/{name}").system(), dropped=frozenset({TSO_TRANSITION}))
        for name in ("sb", "mp", "two_two_w")
    ]
    assert any(each.verdict is Verdict.VIOLATED for each in found)


def test_the_scenario_has_every_variant() -> None:
    assert [variant.name for variant in litmus.variants] == list(KNOBS)
