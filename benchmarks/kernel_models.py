"""Scenarios of the catalogue that have a twin in Promela, just as SPIN is asked for them.

They are the catalogue's own, without the second look with TLB evictions that follows a HOLDS
there. The twins are `peers/NAME.pml`, written from the C that the scenarios quote; each has exactly
as many states and transitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.scenario import Scenario, Setup, scenario, variant
from smpmmu.scenarios.dirty_writeback import dirty_writeback
from smpmmu.scenarios.reliant_flusher import reliant_flusher
from smpmmu.scenarios.two_cpus_speculation import two_cpus_speculation
from smpmmu.scenarios.unmap_free import unmap_free

if TYPE_CHECKING:
    from smpmmu.scenario import Variant


@dataclass(frozen=True, slots=True)
class Twin:
    """A variant of the catalogue, with a number of CPUs, and how its Promela twin is configured."""

    scenario: Scenario
    variant: str
    defines: tuple[str, ...]
    cpus: int = 0

    @property
    def name(self) -> str:
        """What it is called here."""
        with_cpus = f".{self.cpus}cpus" if self.cpus else ""
        return f"{self.scenario.name}.{self.variant}{with_cpus}"

    def chosen(self) -> Variant:
        """Return the variant with its number of CPUs."""
        found = self.scenario.variant(self.variant)
        return self.scenario.scaled(found, self.cpus) if self.cpus else found


TWINS = (
    Twin(reliant_flusher, "native_after_unlock", ("NATIVE", "LATE")),
    Twin(reliant_flusher, "deferred_under_ptl", ("DEFERRED",)),
    Twin(reliant_flusher, "deferred_untouched_page", ("DEFERRED", "UNTOUCHED")),
    Twin(reliant_flusher, "deferred_after_unlock", ("DEFERRED", "LATE")),
    Twin(two_cpus_speculation, "native_under_ptl", ("NATIVE",)),
    Twin(two_cpus_speculation, "immediate_after_unlock", ("IMMEDIATE", "LATE")),
    Twin(two_cpus_speculation, "deferred_after_unlock", ("DEFERRED", "LATE")),
    Twin(unmap_free, "deferred_under_ptl", ("DEFERRED",)),
    Twin(unmap_free, "deferred_after_unlock", ("DEFERRED", "LATE")),
    Twin(dirty_writeback, "native_under_ptl", ("NATIVE",)),
    Twin(dirty_writeback, "deferred_under_ptl", ("DEFERRED",)),
    Twin(dirty_writeback, "deferred_after_unlock", ("DEFERRED", "LATE")),
    Twin(reliant_flusher, "deferred_under_ptl", ("DEFERRED", "N=4"), cpus=4),
    Twin(reliant_flusher, "deferred_under_ptl", ("DEFERRED", "N=5"), cpus=5),
)


class WithoutEvictors:
    """A setup that leaves evictors out and is otherwise the one given."""

    def __init__(self, setup: Setup) -> None:
        """Pass on to `setup`."""
        self._setup = setup

    def evictor(self, *_: object) -> None:
        """Leave it out."""

    def __getattr__(self, name: str) -> object:
        found: object = getattr(self._setup, name)
        return found


@scenario(*(variant(each.name, each.chosen().expected, of=each) for each in TWINS))
def twin(setup: Setup, *, of: Twin) -> None:
    """A scenario of the catalogue without its evictors."""
    of.scenario.build(WithoutEvictors(setup), **dict(of.chosen().knobs))
