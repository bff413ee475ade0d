"""How tests hold a scenario's variants to what is expected of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.answer import answer
from smpmmu.engine.verdict import Verdict

if TYPE_CHECKING:
    from smpmmu.scenario import Scenario


def names(scenario: Scenario, verdict: Verdict) -> list[str]:
    """Return the names of the variants of which `verdict` is expected."""
    return [v.name for v in scenario.variants if v.expected and v.expected.verdict is verdict]


Outcome = tuple[Verdict, list[str], tuple[str, ...]]
"""A verdict, what is violated, and what a HOLDS never reached."""


def foretold(scenario: Scenario, name: str) -> Outcome:
    """Return what is expected of a variant."""
    expected = scenario.variant(name).expected
    assert expected is not None
    return expected.verdict, [expected.name] if expected.name else [], ()


def outcome(scenario: Scenario, name: str, *, evictor: bool = False) -> Outcome:
    """Explore a variant."""
    found = answer(scenario.system(scenario.variant(name), evictor=evictor))
    vacuous = found.vacuous if found.verdict is Verdict.HOLDS else ()
    return found.verdict, [example.name for example in found.violations], vacuous
