"""Which verdicts rest on which claim of indivisibility; `python -m tests.claims` writes it.

With names of scenarios or families only those are asked for, and the rest stays as it was written.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from smpmmu.engine.answer import answer
from smpmmu.hypervisor.shadow import FAULT_IS_ATOMIC, SYNC_IS_ATOMIC
from smpmmu.machine.cpu import FLUSH_IS_ONE
from smpmmu.machine.speculation import WALK_STOPS_AT_ONCE
from smpmmu.machine.store_buffer import TSO_TRANSITION
from smpmmu.targets import catalogue, find, one
from tests.shell import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

FILE = ROOT / "tests/claims.json"
CLAIMS = {
    "SYNC_IS_ATOMIC": SYNC_IS_ATOMIC,
    "FAULT_IS_ATOMIC": FAULT_IS_ATOMIC,
    "FLUSH_IS_ONE": FLUSH_IS_ONE,
    "WALK_STOPS_AT_ONCE": WALK_STOPS_AT_ONCE,
    "TSO_TRANSITION": TSO_TRANSITION,
}


def unexpected_without(name: str) -> list[str]:
    """Return the claims without which a variant has another verdict or property than expected."""
    target = one(name)
    wanted = target.variant.expected
    assert wanted is not None
    system = target.system()
    changed = []
    for claim, why in CLAIMS.items():
        found = answer(system, dropped=frozenset({why}))
        violated = found.violations[0].name if found.violations else ""
        if (found.verdict, violated) != (wanted.verdict, wanted.name):
            changed.append(claim)
    return changed


def changed(names: Iterable[str]) -> dict[str, list[str]]:
    """Return, by claim, the variants of `names` whose verdict rests on it."""
    result: dict[str, list[str]] = {claim: [] for claim in CLAIMS}
    chosen = list(names)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for name, claims in zip(chosen, pool.map(unexpected_without, chosen), strict=True):
            for claim in claims:
                result[claim].append(name)
    return result


def main() -> None:
    """Drop every claim over the whole catalogue, or what is named."""
    order = [target.name for target in catalogue()]
    asked = [target.name for text in sys.argv[1:] for target in find(text)] or order
    before = json.loads(FILE.read_text(encoding="utf-8"))
    found = {
        claim: [
            name for name in order if name in (names if name in asked else before.get(claim, []))
        ]
        for claim, names in changed(asked).items()
    }
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
