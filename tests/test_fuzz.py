"""A fixed sample of damaged inputs gives only clear errors; `python -m tests.fuzz` tries more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests import fuzz

if TYPE_CHECKING:
    import pytest


def test_damaged_input_gives_answers_or_clear_errors() -> None:
    found = fuzz.fuzz(range(1_500))
    assert not [each for each in found if each[1] == "BAD"]
    for kind in {kind.__name__ for kind in fuzz.KINDS}:
        refused = sum(n for (k, outcome), n in found.items() if k == kind and outcome)
        assert refused > 50, kind
    assert found["schedule", ""] > 5  # some changes do no harm


def test_another_error_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise LookupError

    monkeypatch.setattr(fuzz, "KINDS", (crash,))
    assert fuzz.fuzz(range(3)) == {("crash", "BAD"): 3}
