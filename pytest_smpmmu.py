"""The pytest plugin: every variant of a scenario in a test file is a test.

It must cost nothing where no scenario is: it stands outside the package, and imports that only
for a test file that has a scenario, or a test that asks for `interleavings`. See `docs/pytest.md`.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from smpmmu.report.rows import Row
    from smpmmu.report.text import Page
    from smpmmu.scenario import Expected, Scenario, Variant
    from smpmmu.targets import Target

OPTIONS = {
    "max_states": ("N", "Stop a variant after N states."),
    "max_seconds": ("S", "Stop a variant after S seconds."),
    "max_memory": ("BYTES", "Stop a variant when the search's arrays reach this (500M, 2G)."),
    "seeds": ("N", "Random runs: live ones behind a HOLDS (else 20); of what is undecided, any."),
    "save": ("DIR", "Write the schedules of unexpected violations into DIR, not pytest's cache."),
}
ALLOW = "Skip what a budget left undecided; else it fails."
PIPED_WIDTH = 120
"""Columns of output that does not go to a terminal, or comes from a worker of pytest-xdist."""


@dataclass(frozen=True)
class Settings:
    """The options, from the command line or else from the ini file; None where not given."""

    max_states: int | None
    max_seconds: float | None
    max_memory: int | None
    seeds: int | None
    save: str | None
    allow_undecided: bool


SETTINGS = pytest.StashKey[Settings]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, each of which may stand in the ini file, too."""
    group = parser.getgroup("smpmmu", "smpmmu: scenarios")
    for name, (metavar, text) in OPTIONS.items():
        group.addoption(f"--smpmmu-{name.replace('_', '-')}", metavar=metavar, help=text)
        parser.addini(f"smpmmu_{name}", text, default="")
    group.addoption("--smpmmu-allow-undecided", action="store_true", help=ALLOW)
    parser.addini("smpmmu_allow_undecided", ALLOW, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Read the options; a wrong one ends pytest at once."""
    texts = {
        name: config.getoption(f"smpmmu_{name}") or config.getini(f"smpmmu_{name}")
        for name in (*OPTIONS, "allow_undecided")
    }
    config.stash[SETTINGS] = Settings(
        _number("max_states", texts["max_states"], int),
        _number("max_seconds", texts["max_seconds"], float),
        _bytes(texts["max_memory"]),
        _number("seeds", texts["seeds"], int),
        texts["save"] or None,
        bool(texts["allow_undecided"]),
    )


def _number(name: str, text: str, kind: type[Any]) -> Any:  # noqa: ANN401  an int or a float
    if not text:
        return None
    try:
        number = kind(text)
    except ValueError:
        number = 0
    if not number > 0:
        what = f"expected {'a whole number' if kind is int else 'a number'} above 0, found {text!r}"
        raise _wrong(what, name)
    return number


def _bytes(text: str) -> int | None:
    if not text:
        return None
    from smpmmu.engine.errors import UsageError
    from smpmmu.engine.verdict import bytes_of

    try:
        return bytes_of(text)
    except UsageError as error:
        raise _wrong(str(error), "max_memory") from error


def _wrong(what: str, name: str) -> pytest.UsageError:
    return pytest.UsageError(f"--smpmmu-{name.replace('_', '-')} (in ini: smpmmu_{name}): {what}")


def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> list[pytest.Item] | None:
    """Make a test of every variant of a scenario, where it is defined or has a test's name."""
    module = sys.modules.get("smpmmu.scenario")
    if module is None or not isinstance(obj, module.Scenario):
        return None
    if not isinstance(collector, pytest.Module):
        if obj.build.__qualname__ == f"{collector.obj.__qualname__}.{obj.name}":
            msg = f"scenario {obj.name} stands in a class, where nothing explores it; move it out"
            raise collector.CollectError(msg)
        return None
    first = next(known for known, value in vars(collector.obj).items() if value is obj)
    at_home = name == first and obj.build.__module__ == collector.obj.__name__
    if not at_home and not collector.funcnamefilter(name):
        return None
    return [
        VariantItem.from_parent(collector, name=f"{name}[{each.name}]", scenario=obj, variant=each)
        for each in obj.variants
    ]


class VariantItem(pytest.Item):
    """A test that explores one variant; without an expectation it must hold."""

    def __init__(self, *, scenario: Scenario, variant: Variant, **kwargs: Any) -> None:  # noqa: ANN401
        """Remember what to explore; the rest is pytest's."""
        super().__init__(**kwargs)
        self.scenario = scenario
        self.variant = variant
        self.obj = scenario.build  # pytest-trio looks at every test's function in its trio mode

    def runtest(self) -> None:
        """Explore, and compare with what is expected."""
        judge(self, self.scenario, self.variant)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:  # noqa: ANN401
        """Show what was found; a traceback would show nothing of the user's."""
        from smpmmu.engine.errors import InternalError, SmpmmuError

        error = excinfo.value
        if isinstance(error, SmpmmuError) and not isinstance(error, InternalError):
            return f"error: {error}"
        if isinstance(error, pytest.fail.Exception):
            return str(error)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Say where the scenario stands; lines count from 0."""
        return self.path, self.scenario.build.__code__.co_firstlineno - 1, self.name


@pytest.fixture
def interleavings(request: pytest.FixtureRequest) -> Interleavings:
    """Say of a scenario's variant what must come out when every interleaving is explored."""
    return Interleavings(request.node)


class Interleavings:
    """What a test can demand of scenarios."""

    def __init__(self, item: pytest.Item) -> None:
        """Serve one test."""
        self._item = item

    def must_hold(self, scenario: Scenario, variant: str = "") -> Row:
        """Explore a variant; the test fails unless it HOLDS. Return what was found.

        The variant may be left out if there is one. In an async test, where a trio program is
        running already, `await smpmmu.check(...)` instead.
        """
        __tracebackhide__ = True
        from smpmmu.scenario import holds

        return self._demand(scenario, variant, holds("this test"))

    def must_be_violated(self, scenario: Scenario, variant: str = "", *, by: str) -> Row:
        """Explore a variant; the test fails unless it violates the property called `by`.

        The rest is as for `must_hold`.
        """
        __tracebackhide__ = True
        from smpmmu.scenario import violated

        return self._demand(scenario, variant, violated(by, "this test"))

    def _demand(self, scenario: Scenario, name: str, expected: Expected) -> Row:
        __tracebackhide__ = True
        from smpmmu.engine.errors import ModelError, UsageError

        names = [variant.name for variant in scenario.variants]
        if not name and len(names) > 1:
            pytest.fail(f"scenario {scenario.name} has several variants; name one: {names}")
        try:
            variant = scenario.variant(name or names[0])
            return judge(self._item, scenario, replace(variant, expected=expected))
        except (ModelError, UsageError) as error:
            wrong = str(error)
        pytest.fail(f"error: {wrong}")


def judge(item: pytest.Item, scenario: Scenario, variant: Variant) -> Row:
    """Explore a variant; return what was found, or fail if that is not what is expected of it."""
    __tracebackhide__ = True
    from smpmmu.engine.live import in_trio
    from smpmmu.engine.verdict import Budget
    from smpmmu.scenario import holds
    from smpmmu.targets import Target
    from smpmmu.work import Job, do_target

    if variant.expected is None:
        variant = replace(variant, expected=holds("no expectation is given, so it must hold"))
    target = Target(scenario, variant, _file(scenario))
    given = item.config.stash[SETTINGS]
    job = Job("", Budget(given.max_states, given.max_seconds, given.max_memory))
    if given.seeds is not None:
        job = replace(job, live_runs=given.seeds)
    row = in_trio(do_target, target, job)
    item.user_properties.append((target.name, f"{row.verdict} {row.violated}".strip()))
    item.user_properties.append((f"{target.name} states", row.states))
    if not row.decided:
        _try_seeds(item, target, row, given)
    elif complaint := _complaint(row):
        _fail(item, f"{target.name}: {complaint}", row)
    item.add_report_section("call", "smpmmu", _answer(item, row))
    return row


def _complaint(row: Row) -> str:
    """Return what is wrong with a verdict, or ""."""
    if row.surprising:
        wanted = f"{row.expected} {row.expected_property}".strip()
        return f"expected {wanted}, found {row.verdict} {row.violated}".strip()
    if row.verdict == "HOLDS" and not row.transitions:
        return "HOLDS, but nothing was explored: no program takes a step"
    if row.vacuous:
        return f"HOLDS, but this was never reached: {'; '.join(row.vacuous)}"
    return ""


def _try_seeds(item: pytest.Item, target: Target, row: Row, given: Settings) -> None:
    """Fail, or skip if that is allowed, unless random runs show the violation that is expected."""
    __tracebackhide__ = True
    reason = f"undecided: {row.reason} ended it after {row.states:,} states"
    if given.seeds is not None:
        from smpmmu.replaying import replay_seed
        from smpmmu.report.text import story
        from smpmmu.stressing import stress_seeds

        found = stress_seeds(target, range(given.seeds), lambda _: None, shrink=False)
        if row.expected_property and row.expected_property in found.failing:
            return
        if found.first is not None:
            told = replay_seed(target, found.first)
            page = _page(item)
            story(told.steps, told.columns, page, told.race, told.violated)
            wanted = f"{row.expected} {row.expected_property}".strip()
            head = f"{target.name}: expected {wanted}, found {told.conclusion}"
            pytest.fail("\n".join([head, page.text, *found.lines()]))
        reason += f"; none of {given.seeds:,} random runs fails"
    if given.allow_undecided:
        # The user asked for it: undecided is neither a pass nor a failure, and the reason is shown.
        pytest.skip(reason)
    more = "give it more, make the scenario smaller, or skip it with --smpmmu-allow-undecided"
    _fail(item, f"{target.name}: {reason}\n  {more}", row)


def _fail(item: pytest.Item, complaint: str, row: Row) -> NoReturn:
    __tracebackhide__ = True
    folder = _folder(item)
    if folder is not None and row.broken:
        from smpmmu.work import save

        row = save(row, folder)
    pytest.fail(f"{complaint}\n{_answer(item, row)}")


def _folder(item: pytest.Item) -> Path | None:
    """Return where schedules go: a folder for each test file, since scenarios may share names."""
    wanted = item.config.stash[SETTINGS].save
    cache: pytest.Cache | None = getattr(item.config, "cache", None)  # it may be switched off
    if wanted is not None:
        base = item.config.invocation_params.dir / wanted
    elif cache is not None:
        base = cache.mkdir("smpmmu")
    else:
        return None
    file = item.nodeid.partition("::")[0]
    return _near(base / file.removesuffix(".py").replace("/", "."))


def _answer(item: pytest.Item, row: Row) -> str:
    from smpmmu.report.text import answer

    page = _page(item)
    answer(row, page)
    return page.text.rstrip("\n")


def _page(item: pytest.Item) -> Page:
    """Return a page as wide as the terminal, less what pytest puts before lines of a failure."""
    from smpmmu.report.text import Page

    encoding = getattr(sys.__stdout__, "encoding", None) or "ascii"
    ascii_only = not encoding.lower().replace("-", "").startswith("utf")
    width = PIPED_WIDTH
    if sys.__stdout__ is not None and sys.__stdout__.isatty():
        width = item.config.get_terminal_writer().fullwidth
    return Page(max(width - 4, 60), ascii_only=ascii_only)


def _file(scenario: Scenario) -> str:
    """Return a scenario's file as the command line takes it; "" for one of the catalogue."""
    if scenario.build.__module__.startswith("smpmmu.scenarios."):
        return ""
    return str(_near(Path(inspect.getfile(scenario.build))))


def _near(path: Path) -> Path:
    """Return a path relative to the current directory if it lies in it."""
    resolved, here = path.resolve(), Path.cwd()
    return resolved.relative_to(here) if resolved.is_relative_to(here) else resolved
