"""What was found out about one variant, as plain data that travels between processes.

It must not know how it is printed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from smpmmu.engine.schedule import recorded
from smpmmu.engine.verdict import Verdict

if TYPE_CHECKING:
    from smpmmu.checking import Answered
    from smpmmu.engine.race import Race
    from smpmmu.engine.run import Run
    from smpmmu.report.account import Place
    from smpmmu.scenario import Expected

SCHEMA = 1
"""Version of the JSON form; raised when a key changes its meaning or goes."""


@dataclass(frozen=True, slots=True)
class Step:
    """One action of a story: which context moved, what it did, and by which lines if asked for."""

    context: str
    text: str
    where: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Broken:
    """One violated property.

    Attributes:
        name: the property.
        choices: actions in the schedule.
        switches: context switches in it.
        shortest: no shorter schedule exists.
        fewest_switches: no equally short one has fewer switches.
        story: the live run.
        schedule: the text of the schedule file.
        values: the words that had changed at the end, as (name, text).
        file: where the schedule was saved, or "".
        race: the critical race, if it was asked for and there is one.
    """

    name: str
    choices: int
    switches: int
    shortest: bool
    fewest_switches: bool
    story: tuple[Step, ...]
    schedule: str
    values: tuple[tuple[str, str], ...]
    file: str = ""
    race: Race | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """The answer for one variant; the fields are those of the JSON form."""

    scenario: str
    variant: str
    name: str
    verdict: str
    broken: tuple[Broken, ...]
    expected: str
    expected_property: str
    source: str
    states: int
    transitions: int
    depth: int
    levels: tuple[int, ...]
    reached: tuple[tuple[str, bool], ...]
    reason: str
    exact: bool
    collision_bound: float
    bytes_per_state: float
    live_runs: int
    evictor_states: int
    evictor_transitions: int
    engine: str
    columns: tuple[tuple[str, str], ...]
    defined: Place | None = None
    reductions: tuple[str, ...] = ()
    evictor_reductions: tuple[str, ...] = ()
    refused: str = ""

    @property
    def violated(self) -> str:
        """The first violated property, or ""."""
        return self.broken[0].name if self.broken else ""

    @property
    def decided(self) -> bool:
        """Whether everything was looked at, or a violation found."""
        return self.verdict != Verdict.UNDECIDED.value

    @property
    def vacuous(self) -> tuple[str, ...]:
        """The `sometimes` never reached by a HOLDS."""
        if self.verdict != Verdict.HOLDS.value:
            return ()
        return tuple(name for name, seen in self.reached if not seen)

    @property
    def surprising(self) -> bool:
        """Whether the answer differs from what is expected (UNDECIDED does not)."""
        if not self.expected or not self.decided:
            return False
        found = (self.verdict, self.violated)
        return found != (self.expected, self.expected_property)

    def bad(self, *, expected: bool) -> bool:
        """Whether the answer is a failure: violated, or by what is `expected` where that is known.

        A budget that ended the search, and a HOLDS that is vacuous, are no failures but no passes.
        """
        return self.surprising if expected and self.expected else bool(self.broken)

    def json(self) -> dict[str, Any]:
        """Return the JSON form."""
        first = self.broken[0] if self.broken else None
        return {
            "scenario": self.scenario,
            "variant": self.variant,
            "verdict": self.verdict,
            "property": self.violated or None,
            "expected_verdict": self.expected or None,
            "expected_property": self.expected_property or None,
            "as_expected": not self.surprising if self.expected and self.decided else None,
            "source": self.source or None,
            "states": self.states,
            "transitions": self.transitions,
            "depth": self.depth,
            "choices": first.choices if first else None,
            "context_switches": first.switches if first else None,
            "shortest": first.shortest if first else None,
            "schedule_file": (first.file or None) if first else None,
            "critical_race": asdict(first.race) if first and first.race else None,
            "violations": [
                {k: v for k, v in asdict(b).items() if k not in ("story", "values", "race")}
                | {"story": [{"context": s.context, "text": s.text} for s in b.story]}
                for b in self.broken
            ],
            "levels": list(self.levels),
            "reached": dict(self.reached),
            "vacuous": list(self.vacuous),
            "undecided_because": self.reason or None,
            "exact": self.exact,
            "bytes_per_state": self.bytes_per_state,
            "collision_bound": self.collision_bound,
            "live_runs": self.live_runs,
            "with_evictor": {
                "states": self.evictor_states,
                "transitions": self.evictor_transitions,
                "reductions": list(self.evictor_reductions),
            }
            if self.evictor_states
            else None,
            "engine": self.engine,
            "reductions": list(self.reductions),
            "symmetry_refused": self.refused or None,
        }


def row(
    name: str, scenario: str, variant: str, expected: Expected | None, answered: Answered,
    columns: tuple[tuple[str, str], ...]
) -> Row:  # fmt: skip
    """Return the row of a variant; `columns` are (context, vCPU)."""
    found = answered.exploration
    second = answered.again.exploration if answered.again else None
    broken = []
    stories = answered.stories or (None,) * len(found.violations)
    for example, run in zip(found.violations, stories, strict=True):
        story = tuple(Step(a.context, a.text) for a in run.actions) if run else ()
        broken.append(
            Broken(
                example.name,
                len(example.choices),
                example.switches,
                example.shortest,
                example.fewest_switches,
                story,
                recorded(name, run, example.name).write() if run else "",
                shown(run) if run else (),
            )
        )
    return Row(
        scenario,
        variant,
        name,
        found.verdict.value,
        tuple(broken),
        expected.verdict.value if expected else "",
        expected.name if expected else "",
        expected.source if expected else "",
        found.states,
        found.transitions,
        found.depth,
        found.levels,
        tuple(found.reached.items()),
        found.reason,
        found.exact,
        found.collision_bound,
        round(found.nbytes / found.states, 1),
        answered.live_runs,
        second.states if second else 0,
        second.transitions if second else 0,
        answered.engine,
        columns,
        reductions=found.reductions,
        evictor_reductions=second.reductions if second else (),
        refused=found.refused or (second.refused if second else ""),
    )


def shown(run: Run) -> tuple[tuple[str, str], ...]:
    """Return the words that had changed at the end of a run, as (name, text)."""
    formats = {
        taken.step.word.name: taken.step.word.format
        for action in run.actions
        for taken in action.steps
        if taken.step.word is not None
    }
    return tuple((n, formats[n].show(v) if n in formats else hex(v)) for n, v in run.values)
