"""docs/api.md is what `python -m tests.api` writes, and the docstrings in it say what they must."""

from __future__ import annotations

import ast

import pytest

from tests import api
from tests.shell import ROOT

MODULES = [module for package in api.PACKAGES for module in api.modules(package)]
ENTRIES = api.exported() + [entry for module in MODULES for entry in api.public(module)]


def test_the_reference_is_up_to_date() -> None:
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    assert text == api.page(), "run `python -m tests.api`"


def test_it_has_everything() -> None:
    import smpmmu

    assert {entry.name for entry in api.exported()} == set(smpmmu.__all__)
    assert len(MODULES) > 20
    assert len(ENTRIES) > 300


@pytest.mark.parametrize("kind", ["exported", *api.PACKAGES])
def test_every_public_name_is_explained(kind: str) -> None:
    silent = [
        f"{entry.where}.{entry.name}"
        for entry in ENTRIES
        if not entry.doc and (kind == "exported" or entry.where.startswith(f"smpmmu.{kind}."))
    ]
    assert silent == []


def test_what_raises_says_so() -> None:
    """An error raised in a public function, its methods left out, is in its docstring by name."""
    unsaid = [
        f"{entry.where}.{entry.name}: {error}"
        for entry in ENTRIES
        if isinstance(entry.node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for error in raised(entry.node)
        if not ("Raises:" in entry.doc and f"{error}:" in entry.doc)
    ]
    assert unsaid == []


def raised(node: ast.AST) -> set[str]:
    return {
        each.exc.func.id
        for each in ast.walk(node)
        if isinstance(each, ast.Raise)
        and isinstance(each.exc, ast.Call)
        and isinstance(each.exc.func, ast.Name)
        and each.exc.func.id.endswith("Error")
    }


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("smpmmu.kernel.")])
def test_a_kernel_function_or_its_module_names_its_source(module: str) -> None:
    source = "Source:" in (ast.get_docstring(api.tree(module)) or "")
    named = [entry.doc for entry in api.public(module) if "C: " in entry.doc]
    assert source or named


def test_sections_become_lists() -> None:
    doc = "Do it.\n\nC: do_it\nRaises:\n    ModelError: it cannot\n        be done."
    assert api.rendered(doc) == (
        "Do it.\n\n- C: do_it\nRaises:\n\n- `ModelError`: it cannot\n  be done."
    )
