"""docs/mutants.md: every mutant, survivors first, each with its reason.

It must not know how mutants are judged.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from tests.mutate.judge import REFUSED
from tests.mutate.results import WHYS, survivors
from tests.shell import ROOT

if TYPE_CHECKING:
    from tests.mutate.judge import Result
    from tests.mutate.operators import Mutant
    from tests.mutate.results import Reason

FILE = ROOT / "docs/mutants.md"

ASSERTIONS = re.compile(
    r"_held_in_|_only_by_its_holder$|_at_end$|^schedule_with|^switch_mm_knows|^lazy_cpu|^leave_mm"
    r"|^flush_tlb_others_"
)
"""Properties that the modelled code or the engine asserts, whatever the scenario is about."""

HEAD = """# Mutants of the modelled kernel

Written by `python -m tests.mutate`; the reasons are in `tests/mutate/survivors.toml`.

What does the catalogue prove? That it notices. Every statement of `smpmmu/kernel` that awaits and
does nothing else (a hook, a lock, a flush, an access, a call) is removed, and moved across its
neighbour; every lock is left out of the function that takes it and gives it back; every locked
read-modify-write is split into a load and a store. Of two neighbours that change places, the mutant
is named after the first.

Each mutant is explored in the variants that execute what it touches, cheapest first, with their
evictors too, until one is **killed**: the verdict or the violated property is another one, a
`sometimes` is no longer reached, or the model is refused. A variant that meets its budget (four
times the states that it has unmutated, and 100,000 more) says nothing and is counted as undecided.
What no variant kills **survives**, and has a reason.
"""


def report(mutants: list[Mutant], results: dict[str, Result], reasons: list[Reason]) -> str:
    """Return the text of the report."""
    known = {mutant.name: mutant for mutant in mutants}
    parts = [HEAD, summary(mutants, results, reasons), "## Survivors\n"]
    for why, meaning in WHYS.items():
        chosen = [reason for reason in reasons if reason.why == why]
        if not chosen:
            continue
        parts.append(f"### {why.capitalize()}\n\n{meaning[0].upper()}{meaning[1:]}.\n")
        parts += [_group(reason, known, results) for reason in chosen]
    reviewed = {name for reason in reasons for name in reason.mutants}
    open_ = [name for name in survivors(results) if name not in reviewed]
    if open_:
        parts.append("### Without a reason\n")
        parts.append("\n".join(f"- {_cell(name)}" for name in open_) + "\n")
    parts.append("## Killed\n")
    for file in dict.fromkeys(mutant.file for mutant in mutants):
        parts.append(_killed([m for m in mutants if m.file == file], results))
    return "\n".join(part for part in parts if part)


def summary(mutants: list[Mutant], results: dict[str, Result], reasons: list[Reason]) -> str:
    """Return the counts: by what the statement is, and by why survivors survive."""
    why = {name: reason.why for reason in reasons for name in reason.mutants}
    killed: Counter[str] = Counter()
    left: Counter[tuple[str, str]] = Counter()
    for mutant in mutants:
        if results[mutant.name].killed_by:
            killed[mutant.kind] += 1
        else:
            left[mutant.kind, why.get(mutant.name, "")] += 1
    kinds = list(dict.fromkeys(mutant.kind for mutant in mutants))
    lines = [
        f"{len(mutants)} mutants: {killed.total()} killed, {left.total()} survive.\n",
        f"| statement | mutants | killed | {' | '.join(WHYS)} |",
        f"|---|---|---|{'---|' * len(WHYS)}",
    ]
    for kind in sorted(kinds):
        counts = [left[kind, each] for each in WHYS]
        total = killed[kind] + sum(n for (k, _), n in left.items() if k == kind)
        lines.append(f"| {kind} | {total} | {killed[kind]} | {' | '.join(map(str, counts))} |")
    sums = [sum(n for (_, w), n in left.items() if w == each) for each in WHYS]
    lines.append(f"| all | {len(mutants)} | {killed.total()} | {' | '.join(map(str, sums))} |\n")
    hows = Counter(how(results[m.name].says) for m in mutants if results[m.name].killed_by)
    lines += ["Of the killed, the killing variant", ""]
    lines += [f"- {each}: {number}" for each, number in sorted(hows.items())]
    return "\n".join(lines) + "\n"


def how(says: str) -> str:
    """Return in what way a variant differs that says this of a mutant."""
    if says.startswith(REFUSED):
        return "is refused as a model"
    verdict, _, name = says.partition(" ")
    if verdict == "VIOLATED":
        asserted = ASSERTIONS.search(name)
        return "violates an assertion" if asserted else "violates a property of its own"
    return "no longer shows its defect" if verdict == "HOLDS" else "is vacuous"


def _group(reason: Reason, known: dict[str, Mutant], results: dict[str, Result]) -> str:
    lines = [reason.text, "", "| in | statement | mutation | reached by |", "|---|---|---|---|"]
    for name in reason.mutants:
        mutant, result = known.get(name), results.get(name)
        if mutant is None or result is None:
            continue
        reached = str(result.reached)
        if result.undecided:
            reached += f", {result.undecided} undecided"
        where = f"{mutant.file} {mutant.function}"
        lines.append(f"| {where} | {_code(mutant.text)} | {_cell(mutant.mutation)} | {reached} |")
    return "\n".join(lines) + "\n"


def _killed(mutants: list[Mutant], results: dict[str, Result]) -> str:
    chosen = [mutant for mutant in mutants if results[mutant.name].killed_by]
    if not chosen:
        return ""
    lines = [
        f"### {chosen[0].file}\n",
        "| function | statement | mutation | killed by | of which it says |",
        "|---|---|---|---|---|",
    ]
    for mutant in chosen:
        result = results[mutant.name]
        lines.append(
            f"| {mutant.function} | {_code(mutant.text)} | {_cell(mutant.mutation)} | "
            f"{result.killed_by} | {result.says} |"
        )
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """Return code for a cell; the number of a repeated statement stands behind it."""
    code, _, number = text.partition(" #")
    return _cell(f"`{code}`") + (f" ({number})" if number else "")


def _cell(text: str) -> str:
    return re.sub(r"\|", r"\\|", text)
