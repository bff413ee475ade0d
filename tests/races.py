"""Writes what is worked out in `docs/races.md`: `python -m tests.races`, when the model changed.

With names of races only their cheapest schedules are looked for again; they are kept in
`races.json`. What is on record of each race is written down here, apart from the scenarios.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from smpmmu.engine import schedule
from smpmmu.engine.answer import answer
from smpmmu.engine.shrink import shrink
from smpmmu.scenarios import scenario
from smpmmu.scenarios.races import BEYOND, DEFECT, RACES, REPAIR, Race
from smpmmu.targets import one
from tests.shell import ROOT

FILE = ROOT / "docs/races.md"
LEAST = ROOT / "tests/races.json"
COUNTS = ROOT / "tests/counts.json"

EMPTY = (
    "TLBs are empty at first: who is to have the entry cached must use it before, a switch more."
)
ANSWERS = (
    "Who flushes waits, and each answer is an interrupt of another CPU, a switch there and back."
)
SHOT_DOWN = (
    "Who relies on the entry shoots down first, as it must on bare hardware too; each answer is "
    "a switch there and back; who writes does so in between."
)
WAITS = "Who waits for an answer cannot go on, so that leaving it is no preemption."


@dataclass(frozen=True)
class OnRecord:
    """The fewest switches and preemptions of a model of numbered steps, where there was one.

    Attributes:
        switches: between agents.
        preemptions: None where it was not counted.
        why: the reasons why they differ here; empty if they do not.
    """

    switches: int
    preemptions: int | None
    why: tuple[str, ...] = ()


ON_RECORD = {
    "seed_defer_outside_lock": OnRecord(2, 1, (ANSWERS, "It is judged when all have finished.")),
    "migrate_vma_flush_after_ptl": OnRecord(1, 1, (EMPTY,)),
    "mremap_flush_after_ptl": OnRecord(1, 1, (EMPTY, ANSWERS)),
    "reclaim_batch_vs_mprotect": OnRecord(1, 1, (EMPTY,)),
    "lazymmu_drain_after_unlock": OnRecord(2, 1, (
        ANSWERS, "The page is freed after a flush, and it takes a third CPU to walk once more.",
    )),
    "kvm_dirtylog_skip_flush": OnRecord(2, 1, (EMPTY,)),
    "kvm_shadow_stale_gpte": OnRecord(2, 1),
    "xen_oos_read_to_use": OnRecord(
        3, 1, (ANSWERS, "The resync write-protects the table, and flushes for it.")
    ),
    "xsa401_typeref_early_flush": OnRecord(3, 2, (ANSWERS, WAITS)),
    "uffd_wp_cow": OnRecord(2, 2, (
        EMPTY, ANSWERS, "Protecting and unprotecting are calls on two CPUs, as they were reported.",
    )),
    "ksm_stale_writable": OnRecord(4, 3, (EMPTY, ANSWERS)),
    "switch_mm_store_buffer": OnRecord(3, None, (
        "INVLPG, which comes before the page is freed, waits for the buffer to drain.",
    )),
    "lazy_tlb_freed_table": OnRecord(1, None, (
        "The walker must have read the directory before, a switch more.",
    )),
    "pgd_lock_ipi_deadlock": OnRecord(1, 0),
    "pae_pte_clear_order": OnRecord(1, 1),
    "pae_pmd_torn_read": OnRecord(2, 1),
    "ad_nonatomic_rmw": OnRecord(2, 1),
    "pdpte_cached_pmd_freed": OnRecord(0, None),
}  # fmt: skip


@dataclass(frozen=True)
class Stated:
    """What is on record of a variant: that it holds, or the fewest switches that show the defect.

    Attributes:
        variant: its scenario and name.
        switches: the fewest on record, or None if it holds.
        why: the reasons why they differ here; empty if they do not.
    """

    variant: str
    switches: int | None
    why: tuple[str, ...] = ()


STATED = (
    Stated("switch_mm_store_buffer/sequentially_consistent", None),
    Stated("kvm_dirtylog_skip_flush/late_with_software_bit", None),
    Stated("kvm_dirtylog_skip_flush/two_agents_cached_defect", 1),
    Stated("kvm_dirtylog_skip_flush/two_agents_defect", 1, (EMPTY,)),
    Stated("reclaim_batch_vs_mprotect/relock_defect", 2),
    Stated("seed_defer_outside_lock/address_queue", None),
    Stated("seed_defer_outside_lock/address_queue_relied_on", 2, (SHOT_DOWN,)),
)  # fmt: skip

BEGIN = "<!-- written by python -m tests.races -->\n"


def asked() -> list[str]:
    """Return the variants whose cheapest schedules are looked for."""
    stated = [each.variant for each in STATED if each.switches is not None]
    return [f"{race.name}/{DEFECT}" for race in (*RACES, *BEYOND)] + stated


def least(variant: str) -> list[int]:
    """Return [switches, preemptions] of the cheapest schedule that shows the defect."""
    system = one(variant).system()
    violation = answer(system).violations[0]
    found = shrink(system, violation.choices, violation.name, smaller=False)
    assert found.least, variant
    return [found.cost.switches, found.cost.preemptions]


def document() -> str:
    """Return the text: what stands before the mark, then what is worked out from other files."""
    cheapest = json.loads(LEAST.read_text(encoding="utf-8"))
    counts = json.loads(COUNTS.read_text(encoding="utf-8"))
    lines = [*HEAD]
    lines += [row(race, cheapest, counts) for race in RACES]
    lines += ["", "Where the numbers differ from those on record:", ""]
    for race in RACES:
        if why := ON_RECORD[race.name].why:
            lines.append(f"- {race.name}: {' '.join(why)}")
    lines += ["", "What is on record of other variants:", "", "| variant | on record | here |",
              "|---|---|---|"]  # fmt: skip
    for each in STATED:
        here = "holds" if each.switches is None else switches_of(cheapest[each.variant][0])
        record = "holds" if each.switches is None else switches_of(each.switches)
        lines.append(f"| {each.variant} | {record} | {': '.join((here, *each.why))} |")
    lines += ["", "Beyond the eighteen:", "", *HEAD]
    lines += [row(race, cheapest, counts) for race in BEYOND]
    lines += ["", "## One by one"]
    for race in (*RACES, *BEYOND):
        lines += ["", f"### {race.name}", "", f"{race.system}, {race.year}: {race.reference}.",
                  race.breaks, ""]  # fmt: skip
        lines += [
            f"- `{v.name}` {v.expected.verdict.value}"
            + (f" `{v.expected.name}`" if v.expected.name else "")
            + f": {v.expected.source}"
            for v in scenario(race.name).variants
            if v.expected is not None
        ]
    written = FILE.read_text(encoding="utf-8").partition(BEGIN)[0]
    return written + BEGIN + "\n".join(lines) + "\n"


HEAD = (
    "| race | the defect breaks | steps | switches | preempted | on record | repair |",
    "|---|---|---|---|---|---|---|",
)


def row(race: Race, cheapest: dict[str, list[int]], counts: dict[str, list[int]]) -> str:
    """Return a race's row."""
    steps, broken = recorded(race)
    switches, preemptions = cheapest[f"{race.name}/{DEFECT}"]
    states = max(counts[f"{race.name}/{REPAIR}"][::3])
    record = said(ON_RECORD[race.name]) if race.name in ON_RECORD else "-"
    return (
        f"| {race.name} | `{broken}` | {steps} | {switches} | {preemptions} | "
        f"{record} | {states:,} states |"
    )


def switches_of(number: int) -> str:
    """Return how a violated variant is told by the fewest switches."""
    return f"violated, {number} switch{'' if number == 1 else 'es'}"


def said(record: OnRecord) -> str:
    """Return what is on record in a cell."""
    return f"{record.switches}, {'-' if record.preemptions is None else record.preemptions}"


def recorded(race: Race) -> tuple[int, str]:
    """Return (steps, property) of the defect's schedule."""
    path = ROOT / f"schedules/races/{race.name}.{DEFECT}.schedule"
    found = schedule.read(path.read_text(encoding="utf-8"), path.name)
    return len(found.lines), found.violated


def main() -> None:
    """Look for the cheapest schedules of what is named, or of all, and write both files."""
    known = json.loads(LEAST.read_text(encoding="utf-8")) if sys.argv[1:] else {}
    found = {
        name: least(name) if not known or name.partition("/")[0] in sys.argv[1:] else known[name]
        for name in asked()
    }
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in found.items())
    LEAST.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    FILE.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
