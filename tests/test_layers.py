"""The arrows between modules, read from their source; and that modules are tidy."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.shell import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = ROOT / "smpmmu"
LONGEST = 450

# Ranks: a module may import what stands before it, and what stands beside it in its own layer.
LAYERS = (
    ("engine",),
    ("machine",),
    # The kernel installs its interrupt handlers in a Setup, so scenario.py lies below it.
    ("scenario",),
    ("kernel", "hypervisor", "properties"),
    ("scenarios",),
    ("targets", "checking"),
    ("report",),
    ("work",),
    ("seeds",),
    ("replaying",),
    ("showing", "shrinking", "passing", "stepping"),
    ("stressed",),
    ("stressing",),
    ("cluster",),
    ("cli",),
    ("__main__",),
)
RANKS = {layer: rank for rank, layers in enumerate(LAYERS) for layer in layers}
PACKAGE_ITSELF = "__init__"
"""Gathers names for users; nobody below the command line may import it."""


@dataclass(frozen=True)
class Import:
    """One import: who, of which module, which names, and where."""

    by: str
    module: str
    names: tuple[str, ...]
    line: int

    @property
    def target(self) -> str:
        """Return the layer that is imported, or "" if it is not ours."""
        parts = self.module.split(".")
        if parts[0] != "smpmmu":
            return ""
        return parts[1] if len(parts) > 1 else PACKAGE_ITSELF

    def __str__(self) -> str:
        return f"{self.by}:{self.line}: from {self.module} import {', '.join(self.names)}"


FILES = {str(p.relative_to(PACKAGE)): p for p in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def layer(name: str) -> str:
    return name.split("/", maxsplit=1)[0].removesuffix(".py")


def imports(name: str) -> Iterator[Import]:
    """Yield all imports of a file, those inside functions and for type checkers included."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, (), node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: a relative import"
            names = tuple(alias.name for alias in node.names)
            module = node.module or ""
            if module == "smpmmu":  # from smpmmu import layer: each name may be a module
                for each in names:
                    known = each in RANKS
                    yield Import(name, f"smpmmu.{each}" if known else module, (each,), node.lineno)
            else:
                yield Import(name, module, names, node.lineno)


ALL = [each for name in FILES for each in imports(name)]
OURS = [each for each in ALL if each.target]


def test_the_walk_sees_the_package() -> None:
    assert len(FILES) > 40
    assert len(OURS) > 150
    assert {layer(name) for name in FILES} - {PACKAGE_ITSELF} <= RANKS.keys()
    assert {
        "engine/live.py",
        "kernel/smp.py",
        "cli/explore.py",
        "scenarios/reliant_flusher.py",
    } <= set(FILES)


def wrong_way(each: Import) -> bool:
    here, there = layer(each.by), each.target
    if here in (there, PACKAGE_ITSELF):
        return False
    if there == PACKAGE_ITSELF:
        return here not in ("cli",)
    return RANKS[there] >= RANKS[here]


ALLOWED = {
    # The hook table is where kernel and hypervisor meet.
    ("hypervisor", "smpmmu.kernel.paravirt"),
}


def test_every_import_goes_down() -> None:
    wrong = [e for e in OURS if wrong_way(e) and (layer(e.by), e.module) not in ALLOWED]
    assert [str(e) for e in wrong] == []


def test_a_wrong_import_would_be_seen() -> None:
    assert wrong_way(Import("engine/batch.py", "smpmmu.scenario", ("Setup",), 1))
    assert wrong_way(Import("machine/cpu.py", "smpmmu.kernel.mm", (), 1))
    assert wrong_way(Import("kernel/smp.py", "smpmmu.hypervisor.vmi", (), 1))
    assert wrong_way(Import("hypervisor/vmi.py", "smpmmu.kernel.smp", (), 1))
    assert wrong_way(Import("engine/batch.py", "smpmmu", ("load",), 1))
    assert not wrong_way(Import("cli/explore.py", "smpmmu.report.text", (), 1))


def test_the_engine_knows_nothing_of_ours() -> None:
    assert {e.target for e in OURS if layer(e.by) == "engine"} == {"engine"}


def test_the_kernel_takes_only_setup_from_scenario() -> None:
    taken = [e for e in OURS if layer(e.by) == "kernel" and e.target == "scenario"]
    assert {e.names for e in taken} == {("Setup",)}


def test_kernel_and_hypervisor_meet_only_in_the_hook_table() -> None:
    kernel = [str(e) for e in OURS if layer(e.by) == "kernel" and e.target == "hypervisor"]
    assert kernel == []
    met = {e.module for e in OURS if layer(e.by) == "hypervisor" and e.target == "kernel"}
    assert met == {"smpmmu.kernel.paravirt"}


def test_the_machine_and_the_hypervisor_know_no_scenarios() -> None:
    taken = [
        str(e)
        for e in OURS
        if layer(e.by) in ("machine", "hypervisor", "properties")
        and e.target in ("scenario", "scenarios")
    ]
    assert taken == []


def test_a_scenario_of_ours_needs_nothing_that_users_cannot_have() -> None:
    taken = {e.target for e in OURS if layer(e.by) == "scenarios"}
    assert taken <= {
        "engine",
        "machine",
        "kernel",
        "hypervisor",
        "properties",
        "scenario",
        "scenarios",
    }


def importers(*packages: str) -> set[str]:
    return {e.by for e in ALL if e.module.split(".")[0] in packages}


def test_only_live_imports_trio() -> None:
    assert importers("trio") == {"engine/live.py"}
    assert importers("outcome") == {"engine/live.py"}


def test_only_the_command_line_knows_click() -> None:
    assert {layer(name) for name in importers("click")} == {"cli"}


def test_only_what_is_shown_knows_rich() -> None:
    assert importers("rich") <= {
        "cli/printing.py", "report/races.py", "report/text.py", "report/theorem.py",
    }  # fmt: skip


def test_nothing_is_random_or_reads_another_clock() -> None:
    assert importers("random", "secrets", "datetime", "asyncio", "threading") == set()
    assert importers("time") <= {
        "cli/printing.py", "engine/answer.py", "engine/explore.py", "engine/keeper.py",
        "engine/live_search.py",
    }  # fmt: skip


def test_only_numbers_seeds_no_generator_of_numpy() -> None:
    drawn = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("random", "default_rng")
    ]
    assert drawn == []


def prints(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            f = node.func
            if (isinstance(f, ast.Name) and f.id in ("print", "input")) or (
                isinstance(f, ast.Attribute) and f.attr in ("echo", "secho")
            ):
                yield node.lineno
        elif (
            isinstance(node, ast.Attribute)
            and node.attr in ("stdout", "stderr", "__stdout__", "__stderr__")
            and isinstance(node.value, ast.Name)
            and node.value.id == "sys"
        ):
            yield node.lineno


def test_only_the_command_line_prints() -> None:
    printers = {name for name, tree in TREES.items() if any(prints(tree))}
    assert {layer(name) for name in printers} == {"cli"}


def test_only_live_runs_trio() -> None:
    ran = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("run", "open_nursery", "lowlevel")
        and isinstance(node.value, ast.Name)
        and node.value.id == "trio"
    }
    assert ran == {"engine/live.py"}


# Tidiness.


@pytest.mark.parametrize("name", FILES)
def test_a_module_says_what_it_is(name: str) -> None:
    doc = ast.get_docstring(TREES[name])
    assert doc
    first = doc.split("\n\n")[0]
    assert first.rstrip().endswith((".", ":")), f"{name}: {first}"


@pytest.mark.parametrize("name", FILES)
def test_a_module_is_not_long(name: str) -> None:
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("folder", ["smpmmu", "tests"])
def test_every_folder_of_modules_is_a_package(folder: str) -> None:
    folders = {path.parent for path in (ROOT / folder).rglob("*.py")}
    assert len(folders) >= 3
    assert [str(f) for f in sorted(folders) if not (f / "__init__.py").exists()] == []


def test_public_functions_say_what_they_do() -> None:
    silent = [
        f"{name}:{node.lineno}: {node.name}"
        for name, tree in TREES.items()
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
        and not any("overload" in ast.dump(d) for d in node.decorator_list)
    ]
    # The overloads of a function share the docstring of the last.
    assert [s for s in silent if s.split()[-1] not in ("enabled", "taken", "updated")] == []


def test_modelled_code_is_plain() -> None:
    """No try, no with, no nursery: as in C."""
    fancy = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        if layer(name) in ("machine", "kernel", "hypervisor")
        for node in ast.walk(tree)
        if isinstance(node, (ast.Try, ast.With, ast.AsyncWith, ast.AsyncFor, ast.Yield, ast.Global))
    ]
    assert fancy == []


def test_every_test_can_fail() -> None:
    """A test asserts, expects an error, or calls a helper in its file that does."""
    idle = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {
            node.name: node
            for node in tree.body
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        }
        sure: set[str] = set()
        while new := {n for n, f in functions.items() if n not in sure and _can_fail(f, sure)}:
            sure |= new
        idle += [f"{path.name}: {n}" for n in functions if n.startswith("test_") and n not in sure]
    assert idle == []


def _can_fail(function: ast.AST, sure: set[str]) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in sure or name.endswith((".raises", ".warns")) or "assert" in name:
                return True
    return False
