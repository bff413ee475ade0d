"""The main table: which variants are its cells, and what each column asks.

It is no scenario itself, and it must not know any answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from smpmmu.scenarios.common import PAE_SUFFIX, Flush, Hook


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table.

    Attributes:
        scenario: the scenario whose variants are its cells.
        suffix: what their names end with after the row's.
        asks: what is at stake, in a line.
        rule: it is judged by the lock rule rather than by promises.
    """

    scenario: str
    suffix: str
    asks: str
    rule: bool = False

    @property
    def name(self) -> str:
        """What the legend calls it."""
        return self.scenario + self.suffix

    def cell(self, hook: Hook, flush: Flush, *, pae: bool = False) -> str:
        """Return the name of the variant in a row."""
        last = PAE_SUFFIX if pae else ""
        return f"{self.scenario}/{hook.value}_{flush.value}{self.suffix}{last}"


COLUMNS = (
    Column("reliant_flusher", "", "B sees A's write protection, shoots down, and relies on it"),
    Column("reliant_skipper", "", "B sees A's write protection and relies on it without a flush"),
    Column("dirty_writeback", "", "A takes D over to the page, B writes it back, C writes"),
    Column("young_clear", "", "A clears A, B unmaps and frees, C uses"),
    Column("unmap_free", "", "A write-protects, B unmaps and frees, C uses"),
    Column("mask_omits_deferrer", "", "A moves to another CPU and flushes there"),
    Column("mask_omits_deferrer", "_cr3_keeps", "the same where a load of CR3 drains no queue"),
    Column("remote_first", "", "A's flush tells the others before it flushes itself"),
    Column("two_cpus_speculation", "", "as reliant_flusher on two CPUs, B's with a walker"),
    Column("two_cpus_speculation", "_no_walker", "the same without the walker"),
    Column("permission_increase", "", "A gives a right that B faults for"),
    Column("lock_rule", "", "are shadow and queues clean whenever the lock is free?", rule=True),
)

CELLS, PAE_CELLS = (
    tuple(c.cell(hook, flush, pae=pae) for hook in Hook for flush in Flush for c in COLUMNS)
    for pae in (False, True)
)
"""Every cell of either mode, row by row."""
