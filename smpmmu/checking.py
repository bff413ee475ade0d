"""The product in one call: explore a system, and back the answer with live runs.

A violation is re-run on live vCPUs and told from that run; a HOLDS is backed by seeded random
runs on live vCPUs, unfolded, which must agree step by step with the automata and choice by
choice with the batch kernel. `check` is async; `explore` is the same from synchronous code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smpmmu.engine.answer import REDUCE_FROM, Answer
from smpmmu.engine.errors import ClusterError, InternalError
from smpmmu.engine.live import Stray, breathe, in_trio, random_run, replay
from smpmmu.engine.live_search import search_live
from smpmmu.engine.program import Role
from smpmmu.engine.reduction import REDUCTIONS
from smpmmu.engine.run import Ending, Run
from smpmmu.engine.strategies.plan import PLAIN, Plan
from smpmmu.engine.stress import SeededRun, stress
from smpmmu.engine.system import NO_DEADLOCK, QUIESCENCE_STAYS_REACHABLE
from smpmmu.engine.verdict import Budget, Exploration, Verdict

if TYPE_CHECKING:
    from smpmmu.engine.automaton import Automaton
    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.cores import Helper
    from smpmmu.engine.explore import Search
    from smpmmu.engine.keeper import Keeper
    from smpmmu.engine.system import System
    from smpmmu.engine.verdict import Counterexample

LIVE_RUNS = 20
"""Random live runs that back a HOLDS unless another number is asked for."""

LONGEST_BACKING_RUN = 2_000
"""Actions after which such a run is cut off."""

LINGERING_RUNS = 5
"""Random continuations of a counterexample that says that something can never happen again."""
LONGEST_LINGERING = 500


@dataclass(frozen=True, slots=True)
class Answered:
    """An exploration and the live runs behind it.

    Attributes:
        exploration: verdict and counts.
        stories: for each violation, the live run that showed it.
        live_runs: how many random live runs agreed, for a HOLDS.
        engine: `batch` or `live`, whichever explored.
        again: the answer with more hardware, where that was asked for and this holds.
    """

    exploration: Exploration
    stories: tuple[Run, ...] = ()
    live_runs: int = 0
    engine: str = "batch"
    again: Answered | None = None


Watch = Callable[[Exploration], None]
"""Called now and then with what is covered so far."""


async def check(
    system: System,
    budget: Budget | None = None,
    *,
    every: bool = False,
    engine: str = "batch",
    live_runs: int = LIVE_RUNS,
    dropped: frozenset[str] = frozenset(),
    again: System | None = None,
    watch: Watch | None = None,
    after: Kernel | None = None,
    keeper: Keeper | None = None,
    reductions: Collection[str] = REDUCTIONS,
    reduce_from: int = REDUCE_FROM,
    helped: Callable[[Search], Helper] | None = None,
) -> Answered:
    """Explore `system` and confirm the answer live.

    Args:
        system: what to explore.
        budget: where to stop; the verdict is then UNDECIDED.
        every: go on after the first violation, and report every violated property.
        engine: `live` explores on the trio vCPUs themselves (small finite systems).
        live_runs: random live runs that must agree with a HOLDS.
        dropped: claims of indivisibility to do without.
        again: the same with more hardware, which is explored as well if `system` holds.
        watch: is called now and then with what is covered so far.
        after: a kernel whose automata of the same contexts are used.
        reductions: what large spaces are reduced by.
        reduce_from: states up to which a space is explored plainly.
        helped: has blocks of the plain search expanded elsewhere.
        keeper: keeps the exploration in a file, and goes on from what lies there.

    Raises:
        ModelError: the modelled code breaks a rule.
        InternalError: live and batch disagree.
        CheckpointError: what lies in the keeper's file is of something else.
    """
    if engine == "live":
        exploration, _ = await search_live(
            system, budget, every=every, dropped=dropped, watch=watch
        )
        stories = [
            await _confirm(system, example, None, dropped) for example in exploration.violations
        ]
        second = None
        if again is not None and exploration.verdict is Verdict.HOLDS:
            second = await check(
                again, budget, every=every, engine=engine, dropped=dropped, watch=watch
            )
        return Answered(exploration, tuple(stories), engine=engine, again=second)
    if keeper is not None and keeper.first is not None and again is not None:
        exploration, backed = keeper.first
    else:
        question = Answer(
            system,
            budget,
            every=every,
            dropped=dropped,
            after=after,
            reductions=reductions,
            reduce_from=reduce_from,
            helped=helped,
        )
        await _work(question, watch, keeper)
        exploration = question.result or question.so_far()
        after = question.kernel
        if exploration.verdict is Verdict.VIOLATED:
            found = exploration.violations
            stories = [await _confirm(system, e, after.automata, dropped) for e in found]
            return Answered(exploration, tuple(stories))
        if exploration.verdict is not Verdict.HOLDS:
            return Answered(exploration)
        backed = await _back(system, after, live_runs, dropped)
    second = None
    if again is not None:
        if keeper is not None:
            keeper.first = (exploration, backed)
        second = await check(
            again,
            budget,
            every=every,
            live_runs=0,
            dropped=dropped,
            watch=watch,
            after=after,
            keeper=keeper,
            reductions=reductions,
            reduce_from=reduce_from,
            helped=helped,
        )
    return Answered(exploration, (), backed, again=second)


async def _work(question: Answer, watch: Watch | None, keeper: Keeper | None) -> None:
    """Answer a question, looking up between blocks; there a Ctrl-C lands, with nothing lost."""
    if keeper is not None:
        keeper.go_on(question)
    try:
        for _ in question.work():
            if watch is not None:
                watch(question.so_far())
            if keeper is not None:
                keeper.look(question)
            await breathe()
    except (KeyboardInterrupt, ClusterError):  # between two blocks
        if keeper is not None:
            keeper.save(question)
        raise


def explore(system: System, budget: Budget | None = None, *, every: bool = False,
            engine: str = "batch", live_runs: int = LIVE_RUNS) -> Answered:  # fmt: skip
    """Do what `check` does, from synchronous code.

    Raises:
        ModelError: the modelled code breaks a rule.
        InternalError: live and batch disagree.
        UsageError: a trio program is already running in this thread.
    """

    async def run() -> Answered:
        return await check(system, budget, every=every, engine=engine, live_runs=live_runs)

    return in_trio(run)


async def _confirm(
    system: System,
    example: Counterexample,
    automata: list[Automaton] | None,
    dropped: frozenset[str],
) -> Run:
    """Run a counterexample live; it must end as exploring said."""
    try:
        run = await replay(system, example.choices, automata=automata, dropped=dropped)
    except Stray as stray:
        msg = f"the counterexample for {example.name} cannot be run live: {stray}"
        raise InternalError(msg) from stray
    if not confirms(run, example.name) or not await lasts(
        system, example.name, example.choices, dropped
    ):
        msg = (
            f"exploring found {example.name} violated after {len(example.choices)} choices, but "
            f"the live run ended as {run.ending.value} {run.violated}"
        )
        raise InternalError(msg)
    return run


def confirms(run: Run, name: str) -> bool:
    """Whether the last state of a live run can be one that violates `name`.

    That nothing obligatory, or no rest, can follow is not seen in a state; `lasts` looks on.
    """
    if name in (NO_DEADLOCK, QUIESCENCE_STAYS_REACHABLE):
        return run.ending in (Ending.STUCK, Ending.CUT)
    return run.ending is Ending.VIOLATION and name in run.broken


async def lasts(
    system: System,
    name: str,
    choices: tuple[str, ...],
    dropped: frozenset[str] = frozenset(),
) -> bool:
    """Let the state after a counterexample go on at random: does what `name` says stay so?"""
    if name not in (NO_DEADLOCK, QUIESCENCE_STAYS_REACHABLE):
        return True
    roles = {context.name: context.role for context in system.contexts}
    for seed in range(LINGERING_RUNS):
        run = await random_run(
            system,
            seed,
            after=choices,
            longest=len(choices) + LONGEST_LINGERING,
            dropped=dropped,
        )
        later = run.choices[len(choices) :]
        if run.ending is Ending.QUIESCENT:
            return False
        if name == NO_DEADLOCK and any(roles[c] is not Role.DAEMON for c in later):
            return False
    return True


async def _back(system: System, kernel: Kernel, runs: int, dropped: frozenset[str]) -> int:
    """Back a HOLDS by live runs of the seeds 0 to `runs`, against automata and batch kernel."""
    for part in stress(kernel, range(runs), longest=LONGEST_BACKING_RUN):
        for batch in part:
            run = await live_again(system, batch, kernel, dropped)
            if run.ending in (Ending.VIOLATION, Ending.STUCK):
                msg = f"seed {run_text(batch)} ends badly although every interleaving holds"
                raise InternalError(msg)
            await breathe()
    return runs


async def live_again(
    system: System, batch: SeededRun, kernel: Kernel, dropped: frozenset[str] = frozenset(),
    plan: Plan = PLAIN
) -> Run:  # fmt: skip
    """Run the seed of a batch run live, and hold both against each other.

    Raises:
        InternalError: they differ.
    """
    hopeless = batch.violated in (NO_DEADLOCK, QUIESCENCE_STAYS_REACHABLE)
    cut = batch.ending is Ending.CUT or hopeless
    longest = max(len(batch.choices), 1) if cut else LONGEST_BACKING_RUN**2
    run = await random_run(
        system, batch.seed, automata=kernel.automata, longest=longest, dropped=dropped, plan=plan
    )
    names = tuple(system.contexts[c].name for c in batch.choices)
    if hopeless and run.ending is Ending.CUT and run.choices == names:
        return run
    if (run.ending, run.violated, run.choices) != (batch.ending, batch.violated, names):
        msg = (
            f"seed {run_text(batch)} on the batch kernel, but {run.ending.value} {run.violated} "
            f"after {len(run.actions)} actions on live vCPUs"
        )
        raise InternalError(msg)
    return run


def run_text(run: SeededRun) -> str:
    """Return a seeded run in words, for an error."""
    return f"{run.seed}: {run.ending.value} {run.violated} after {len(run.choices)} actions"
