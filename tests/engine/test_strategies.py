"""Strategies: the same run side by side, live, and by the paper; and what each is good for."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from smpmmu.engine import profiling
from smpmmu.engine import stress as stressing
from smpmmu.engine.batch import Kernel
from smpmmu.engine.errors import UsageError
from smpmmu.engine.live import in_trio, random_run
from smpmmu.engine.local import call
from smpmmu.engine.profiling import plan_of_seed, planned, profile
from smpmmu.engine.program import Context, Role
from smpmmu.engine.routines import bug_on
from smpmmu.engine.run import Ending
from smpmmu.engine.steps import Word, fetch_add, load, store
from smpmmu.engine.strategies import NAMES, Profile, dealt, named
from smpmmu.engine.strategies.pct import Pct
from smpmmu.engine.stress import Herd, SeededRun, stress
from smpmmu.engine.system import System
from smpmmu.engine.vcpus import Machine
from smpmmu.targets import one
from tests.engine.by_the_paper import STRATEGIES, accesses
from tests.live.systems import SYSTEMS, X, Y, independent, main, stores, system

if TYPE_CHECKING:
    from smpmmu.engine.strategies.plan import Plan

LARGEST = (1 << 64) - 1
EACH = tuple(STRATEGIES)
NAMED = SYSTEMS | {"three": independent(5, 5, 5), "nothing_shared": independent(1, 4)}


@pytest.fixture(autouse=True)
def short_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "LONGEST_PROFILED", 60)


def plan(kernel: Kernel, name: str) -> Plan:
    (strategy,) = named(name)
    return planned(kernel, (strategy,))[0]


def by_the_paper(whole: System, name: str, known: Profile, seed: int, longest: int) -> str:
    machine = Machine(whole)
    for cpu in dict.fromkeys(c.cpu for c in whole.contexts):
        machine.power_on(cpu)
    strategy = STRATEGIES[name](seed, len(whole.contexts), known)
    choices = ""
    while len(choices) < longest:
        able = machine.runnable()
        if not able or machine.violated() or machine.quiescent():
            break
        chosen = strategy.choose(len(choices), able, accesses(machine))
        machine.cpus[whole.contexts[chosen].cpu].act(chosen, machine)
        choices += str(chosen)
    machine.close()
    return choices


def written(run: SeededRun) -> str:
    return "".join(str(c) for c in run.choices)


@pytest.mark.parametrize("strategy", EACH)
@pytest.mark.parametrize("name", NAMED)
def test_side_by_side_a_seed_runs_as_the_paper_says(name: str, strategy: str) -> None:
    kernel = Kernel(NAMED[name])
    known = profile(kernel)
    (runs,) = stress(kernel, range(40), plan=plan(kernel, strategy), longest=200)
    assert [written(run) for run in runs] == [
        by_the_paper(NAMED[name], strategy, known, seed, 200) for seed in range(40)
    ]


@pytest.mark.parametrize("strategy", EACH)
@pytest.mark.parametrize("name", ["interrupt", "hardware", "bug", "deadlock", "retried_update"])
def test_a_seed_runs_live_as_side_by_side(name: str, strategy: str) -> None:
    whole = NAMED[name]
    (runs,) = stress(Kernel(whole), range(10), plan=plan(Kernel(whole), strategy))
    for run in runs:
        made = plan_of_seed(whole, strategy, run.seed)
        live = in_trio(lambda run=run, made=made: random_run(whole, run.seed, plan=made))
        assert (live.ending, live.violated) == (run.ending, run.violated)
        assert live.choices == tuple(whole.contexts[c].name for c in run.choices)


@pytest.mark.parametrize("strategy", EACH)
def test_with_walkers_and_interrupts_too(strategy: str) -> None:
    whole = one("two_cpus_speculation/deferred_after_unlock").system()
    kernel = Kernel(whole)
    made = plan(kernel, strategy)
    (runs,) = stress(kernel, range(3), plan=made)
    for run in runs:
        live = in_trio(lambda run=run: random_run(whole, run.seed, plan=made))
        assert live.choices == tuple(whole.contexts[c].name for c in run.choices)


@pytest.mark.parametrize("strategy", EACH)
@pytest.mark.parametrize("name", ["interrupt", "no_update_lost", "deadlock", "bug", "endless"])
def test_all_ways_to_move_a_herd_agree(
    name: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All successors found and one taken, or only the chosen ones acting, traced or not."""
    kernel = Kernel(NAMED[name])
    made = plan(kernel, strategy)
    (few,) = stress(kernel, range(300), plan=made, longest=60)
    monkeypatch.setattr(stressing, "FEW", -1)
    (chosen,) = stress(Kernel(NAMED[name]), range(300), plan=made, longest=60)
    herd = Herd(Kernel(NAMED[name]), range(300), plan=made, longest=60, traced=True)
    list(herd.gallop())
    assert few == chosen == herd.runs()
    assert herd.lengths.tolist() == [len(run.choices) for run in few]


def test_who_is_stuck_at_the_limit_is_not_cut_off() -> None:
    """After `longest` actions a deadlock is a deadlock, as on live vCPUs."""
    whole = NAMED["deadlock"]
    (run,) = next(iter(stress(Kernel(whole), range(7, 8))))
    assert (run.ending, len(run.choices)) == (Ending.STUCK, 2)
    (cut,) = next(iter(stress(Kernel(whole), range(7, 8), longest=2)))
    live = in_trio(lambda: random_run(whole, 7, longest=2))
    assert cut.ending is live.ending is Ending.STUCK


# People keep seeds: these may not change.

FROZEN: dict[str, dict[str, tuple[str, str]]] = {
    "three": {
        "pct:3": ("111110000022222", "100000222221111"),
        "pos": ("011022222000111", "211122220000011"),
        "surw": ("002220001111122", "111200222112000"),
        "paced": ("120200100211122", "121002010011222"),
    },
    "interrupt": {
        "pct:3": ("0000002111", "02111"),
        "pos": ("000020111", "21110"),
        "surw": ("0020000111", "21110"),
        "paced": ("000200111", "02111"),
    },
    "no_update_lost": {
        "pct:3": ("01", "01"),
        "pos": ("01", "10"),
        "surw": ("01", "10"),
        "paced": ("01", "10"),
    },
}


@pytest.mark.parametrize("strategy", EACH[1:])
@pytest.mark.parametrize("name", FROZEN)
def test_a_seed_makes_the_choices_it_always_made(name: str, strategy: str) -> None:
    kernel = Kernel(NAMED[name])
    made = plan(kernel, strategy)
    runs = [next(iter(stress(kernel, range(s, s + 1), plan=made)))[0] for s in (1, LARGEST)]
    assert (written(runs[0]), written(runs[1])) == FROZEN[name][strategy]


# What they promise.


def first_writes(length: int) -> System:
    """One store against `length` additions to the same word: `length` + 1 interleavings."""
    adds = (fetch_add(Word("count", 8), 1),) * length
    return system(main(0, store(Word("count", 8), 100)), main(1, *adds))


def test_surw_makes_every_interleaving_equally_likely() -> None:
    """One event among nine places: each 1/9 by SURW; the uniform walk has it early: 1/2, 1/4 .."""
    kernel = Kernel(first_writes(8))
    runs = 4_500
    (surw,) = stress(kernel, range(runs), plan=plan(kernel, "surw"))
    places = Counter(written(run).index("0") for run in surw)
    assert set(places) == set(range(9))
    expected = runs / 9
    chi_square = sum((n - expected) ** 2 / expected for n in places.values())
    assert chi_square < 26.1  # 8 degrees of freedom, 0.1 %
    (uniform,) = stress(kernel, range(runs))
    early = Counter(written(run).index("0") for run in uniform)
    assert early[0] > 0.45 * runs
    assert early[7] < 0.02 * runs


async def never_in_between() -> None:
    bug_on(await load(X) == 1, "never_seen_in_between")


IN_BETWEEN = System(
    (
        main(0, store(X, 1), *stores("x", 6), store(X, 2)),
        Context("cpu1", "cpu1", (call(never_in_between),)),
    )
)
"""A bug of depth 2: one load after the first store to X and before its last."""


def test_paced_lets_a_short_program_wait_for_a_long_one() -> None:
    """One store beside 20: each time it goes with probability 1/21, not 1/2."""
    kernel = Kernel(first_writes(20))
    runs = 2_000
    (paced,) = stress(kernel, range(runs), plan=plan(kernel, "paced"))
    late = sum(written(run).index("0") >= 10 for run in paced) / runs
    assert abs(late - (20 / 21) ** 10) < 0.04  # 3.7 standard deviations
    (uniform,) = stress(kernel, range(runs))
    assert sum(written(run).index("0") >= 10 for run in uniform) < 0.01 * runs


def test_paced_takes_interrupts_at_once_in_half_of_the_runs() -> None:
    whole = NAMED["interrupt"]
    kernel = Kernel(whole)
    (handler,) = [n for n, c in enumerate(whole.contexts) if c.role is Role.IRQ]
    (runs,) = stress(kernel, range(400), plan=plan(kernel, "paced"))
    prompt = 0
    for run in runs:
        machine = Machine(whole)
        for cpu in dict.fromkeys(c.cpu for c in whole.contexts):
            machine.power_on(cpu)
        passed = False
        for chosen in run.choices:
            passed |= chosen != handler and handler in machine.runnable()
            machine.cpus[whole.contexts[chosen].cpu].act(chosen, machine)
        machine.close()
        prompt += not passed
    assert 0.5 * 400 < prompt < 0.9 * 400  # a run that is not prompt may look so by chance


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_pct_keeps_its_bound(depth: int) -> None:
    kernel = Kernel(IN_BETWEEN)
    made = plan(kernel, f"pct:{depth}")
    assert isinstance(made.strategy, Pct)
    assert made.profile is not None
    n, k, d = made.strategy.bound(2, made.profile)
    assert (n, k, d) == (2, 9, depth)
    many = 3_000
    (runs,) = stress(kernel, range(many), plan=made)
    found = sum(run.ending is Ending.VIOLATION for run in runs)
    if depth == 1:
        assert found == 0
    else:
        assert found > many / (n * k ** (d - 1))
    if depth == 2:  # cpu0 goes first, and the change point is at one of its actions 1 to 7
        assert abs(found / many - 1 / 2 * 7 / 9) < 0.03


def test_pct_of_depth_1_never_preempts() -> None:
    kernel = Kernel(independent(4, 4, 4))
    (runs,) = stress(kernel, range(200), plan=plan(kernel, "pct:1"))
    texts = {written(run) for run in runs}
    assert texts == {a * 4 + b * 4 + c * 4 for a, b, c in
                     ["012", "021", "102", "120", "201", "210"]}  # fmt: skip


@pytest.mark.parametrize(("depth", "switches"), [(2, 1 + 1), (3, 1 + 2), (4, 1 + 3)])
def test_pct_switches_at_change_points_alone(depth: int, switches: int) -> None:
    """Two threads: one switch at an end, one for each change point."""
    kernel = Kernel(independent(6, 6))
    (runs,) = stress(kernel, range(300), plan=plan(kernel, f"pct:{depth}"))
    most = max(sum(a != b for a, b in itertools.pairwise(t)) for t in map(written, runs))
    assert most == switches


def test_pos_keeps_independent_events_in_the_order_of_their_first_draw() -> None:
    """Nobody races, so every event keeps the priority it was born with: each order is possible."""
    kernel = Kernel(independent(1, 1, 1))
    (runs,) = stress(kernel, range(600), plan=plan(kernel, "pos"))
    orders = Counter(written(run) for run in runs)
    assert len(orders) == 6
    assert min(orders.values()) > 60


def test_a_profile_counts_what_is_shared() -> None:
    """Words of one context and words that nobody writes are not of interest."""
    only_read, own = Word("only read", 1), Word("own", 1)
    whole = system(
        main(0, load(X), store(X, 1), load(only_read), store(own, 1), load(Y)),
        main(1, load(X), load(only_read), store(Y, 1)),
    )
    assert profile(Kernel(whole)) == Profile(
        8, (("x", (2, 1)), ("y", (1, 1))), actions=(5, 3), handlers=(False, False)
    )


def test_a_profile_counts_actions_and_knows_interrupts() -> None:
    """A program that never moves counts as one action, so that it may."""
    whole = NAMED["interrupt"]
    known = profile(Kernel(whole))
    assert len(known.actions) == len(whole.contexts)
    assert min(known.actions) >= 1
    assert known.handlers == tuple(context.role is Role.IRQ for context in whole.contexts)
    assert any(known.handlers)


# Names, and how a portfolio deals.


def test_names_of_strategies() -> None:
    assert [s.name for s in named("portfolio")] == [
        "uniform", "pct:2", "pct:3", "pos", "surw", "paced",
    ]  # fmt: skip
    assert [s.name for n in ("uniform", "pct", "pct:7", "pos", "surw", "paced") for s in named(n)
            ] == ["uniform", "pct:3", "pct:7", "pos", "surw", "paced"]  # fmt: skip


@pytest.mark.parametrize("text", ["", "pct:", "pct:0", "pct:65", "pct:x", "pct:-1", "POS", "pos:2",
                                  "pct:9999999999", "pct:²"])  # fmt: skip
def test_what_is_no_strategy_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no strategy is called") as refused:
        named(text)
    assert all(name in str(refused.value) for name in NAMES)


@pytest.mark.parametrize("seeds", [range(12), range(7, 20), range(3, 5), range(1, 2)])
def test_a_portfolio_deals_seeds_by_their_remainder(seeds: range) -> None:
    shares = dealt(5, seeds)
    assert sorted(s for share in shares for s in share) == list(seeds)
    assert all(s % 5 == number for number, share in enumerate(shares) for s in share)


def test_a_seed_of_a_portfolio_is_one_of_its_strategy() -> None:
    whole = NAMED["lost_update"]
    for seed in range(6):
        made = plan_of_seed(whole, "portfolio", seed)
        assert made.strategy.name == named("portfolio")[seed].name
