"""What the catalogue says of a mutant: the variants that reach it, cheapest first.

It must not know how mutants are made nor how results are written. A mutant lives in a process of
its own, in which its module is executed mutated before anything imports it; variants are explored
on the batch kernel, without live runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpmmu.engine.answer import Answer
from smpmmu.engine.verdict import Budget, Verdict
from smpmmu.targets import EVICTOR, catalogue, one
from tests.mutate.operators import mutants, mutated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from smpmmu.engine.system import System
    from smpmmu.engine.verdict import Exploration
    from tests.mutate.operators import Mutant

PROCESSES = 2
MOST_STATES = 100_000
"""What a mutant's exploration may cost beyond four times what the unmutated variant costs."""

REFUSED = "refused: "
UNDECIDED = Verdict.UNDECIDED.value


@dataclass(frozen=True, slots=True)
class Subject:
    """A package of modelled code, and the variants that are to notice its mutants.

    Attributes:
        package: its importable name.
        names: what `smpmmu.targets.one` finds the variants by.
    """

    package: str
    names: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where its modules lie."""
        spec = importlib.util.find_spec(self.package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        return Path(spec.submodule_search_locations[0])

    def source(self, file: str) -> str:
        """Return the text of a module."""
        return (self.folder / file).read_text(encoding="utf-8")

    def mutants(self) -> list[Mutant]:
        """Return the mutants of all its modules."""
        files = sorted(path.name for path in self.folder.glob("*.py"))
        return [mutant for file in files for mutant in mutants(self.source(file), file)]


def kernel() -> Subject:
    """Return the modelled kernel, judged by the whole catalogue."""
    return Subject("smpmmu.kernel", tuple(target.name for target in catalogue()))


@dataclass(frozen=True, slots=True)
class Found:
    """What exploring a variant says.

    Attributes:
        text: `HOLDS`, a violation, what a HOLDS never reaches, or why the model is refused.
        states: distinct states, those with evictors included.
        evictor: it was found with the evictors only.
    """

    text: str
    states: int = 0
    evictor: bool = False


@dataclass(frozen=True, slots=True)
class Baseline:
    """An unmutated variant: what it says, and which lines of the package it executes."""

    name: str
    found: Found
    lines: frozenset[tuple[str, int]]

    def reaches(self, mutant: Mutant) -> bool:
        """Whether the variant executes a line that the mutant touches."""
        return any((mutant.file, line) in self.lines for line in mutant.lines)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutant.

    Attributes:
        mutant: its name.
        reached: how many variants execute what it touches.
        killed_by: the first variant that differs, or "" if it survives.
        says: what that variant says of the mutant.
        undecided: how many variants met the budget.
        differ: all variants that differ, if all were asked for.
    """

    mutant: str
    reached: int
    killed_by: str = ""
    says: str = ""
    undecided: int = 0
    differ: dict[str, str] = field(default_factory=dict)

    def further(self, later: Result) -> Result:
        """Return this survivor's result after further variants were asked."""
        return replace(
            later,
            reached=self.reached + later.reached,
            undecided=self.undecided + later.undecided,
            differ=self.differ | later.differ,
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A mutant to judge by `baselines`, all of them if `every`, else up to the first kill."""

    subject: Subject
    mutant: Mutant
    baselines: tuple[tuple[str, str, int], ...]
    every: bool = False


def look(name: str, most: int | None = None) -> Found:
    """Explore a variant, and if it holds once more with its evictors."""
    try:
        system, evicted = one(name).systems()
        question, found = _answer(system, most, None)
        if found.text == Verdict.HOLDS.value and evicted is not None:
            _, again = _answer(evicted, most, question)
            return Found(again.text, found.states + again.states, again.text != found.text)
    except Exception as error:  # noqa: BLE001  a mutant may break anything
        # The first line; further ones name places in the source.
        return Found(REFUSED + [*str(error).splitlines(), type(error).__name__][0])
    return found


def _answer(system: System, most: int | None, after: Answer | None) -> tuple[Answer, Found]:
    question = Answer(system, Budget(most), after=after.kernel if after else None)
    for _ in question.work():
        pass
    assert question.result is not None
    return question, Found(_text(question.result), question.result.states)


def _text(found: Exploration) -> str:
    if found.violations:
        return f"{found.verdict.value} {found.violations[0].name}"
    if found.verdict is Verdict.HOLDS and found.vacuous:
        return f"never reached: {', '.join(found.vacuous)}"
    return found.verdict.value


def baseline(subject: Subject, name: str) -> Baseline:
    """Explore an unmutated variant and note which lines of the package run while it compiles."""
    folder, seen = str(subject.folder), set[tuple[str, int]]()

    def line(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        seen.add((frame.f_code.co_filename, frame.f_lineno))
        return line

    def called(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        inside = os.path.dirname(frame.f_code.co_filename) == folder
        return line(frame, event, _) if inside else None

    before = sys.gettrace()
    sys.settrace(called)
    try:
        found = look(name)
    finally:
        sys.settrace(before)
    return Baseline(name, found, frozenset((Path(file).name, number) for file, number in seen))


def judge(job: Job) -> Result:
    """Install the mutant in this process, which must be fresh, and ask the variants."""
    subject, mutant = job.subject, job.mutant
    install(subject, mutant)
    differ: dict[str, str] = {}
    undecided = 0
    for name, expected, states in job.baselines:
        found = look(name, 4 * states + MOST_STATES)
        if found.text == UNDECIDED:
            undecided += 1
        elif found.text != expected:
            differ[name + EVICTOR if found.evictor else name] = found.text
            if not job.every:
                break
    first, says = next(iter(differ.items()), ("", ""))
    everything = differ if job.every else {}
    return Result(mutant.name, len(job.baselines), first, says, undecided, everything)


def install(subject: Subject, mutant: Mutant) -> None:
    """Execute the mutated module under its own name, before anybody has imported it."""
    name = f"{subject.package}.{mutant.file.removesuffix('.py')}"
    assert name not in sys.modules, f"{name} is imported already, unmutated"
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    tree = mutated(subject.source(mutant.file), mutant.file, mutant.name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(tree, spec.origin, "exec", dont_inherit=True), vars(module))
    setattr(sys.modules[subject.package], mutant.file.removesuffix(".py"), module)


def _pool(*, fresh: bool) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    # Loaded once, and forked for every mutant: nothing of the modelled code.
    context.set_forkserver_preload(["tests.mutate.judge"])
    tasks = 1 if fresh else None
    return ProcessPoolExecutor(PROCESSES, mp_context=context, max_tasks_per_child=tasks)


def baselines(subject: Subject, names: Iterable[str] | None = None) -> Iterator[Baseline]:
    """Explore the unmutated variants, in order, several at a time."""
    wanted = list(subject.names if names is None else names)
    with _pool(fresh=False) as pool:
        yield from pool.map(baseline, [subject] * len(wanted), wanted)


def judged(
    subject: Subject,
    chosen: Iterable[Mutant],
    known: Iterable[Baseline],
    every: Callable[[Mutant], bool] = lambda _: False,
) -> Iterator[Result]:
    """Judge mutants, in order, several at a time, each by the variants that reach it."""
    cheapest = sorted(known, key=lambda b: b.found.states)
    jobs = [
        Job(
            subject,
            mutant,
            tuple((b.name, b.found.text, b.found.states) for b in cheapest if b.reaches(mutant)),
            every(mutant),
        )
        for mutant in chosen
    ]
    with _pool(fresh=True) as pool:
        yield from pool.map(judge, jobs)
