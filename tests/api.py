"""Writes the reference of the public API, docs/api.md, from the docstrings: `python -m tests.api`.

Public is what `smpmmu` exports, and what the modules of the machine, the kernel, the hypervisor and
the properties define without an underscore.
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass

from tests.shell import ROOT

PACKAGES = ("machine", "kernel", "hypervisor", "properties")
SECTIONS = ("Args:", "Attributes:", "Raises:")
TAGS = ("C:", "Holds:", "Model:", "Instruction:", "Source:")
HEAD = """\
# The public API

Written from the docstrings by `python -m tests.api`; do not edit. `smpmmu` has what every scenario
needs, the other modules what models of page tables need. What is `async` is awaited, and so is a
`Step`. Words have a width in bits; addresses are in bytes; frames are numbers of pages of 4 KiB.
"""
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Entry:
    """A public name: where it is, its signature, its docstring."""

    where: str
    name: str
    signature: str
    doc: str
    node: ast.stmt


def tree(module: str) -> ast.Module:
    path = ROOT / (module.replace(".", "/") + ".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def signature(node: Definition) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}" + (f"({bases})" if bases else "")
    kind = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{kind}{node.name}({ast.unparse(node.args)}){returns}"


def defined(module: str) -> dict[str, Entry]:
    """Return the names that a module defines, in its order; values only if a text explains them."""
    body = tree(module).body
    found = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, Definition):
            doc = ast.get_docstring(node) or ""
            found[node.name] = Entry(module, node.name, signature(node), doc, node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            explains = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            doc = inspect.cleandoc(str(after.value.value)) if explains else ""
            for target in targets:
                name = ast.unparse(target)
                found[name] = Entry(module, name, name, doc, node)
    return found


def exported() -> list[Entry]:
    """Return what `smpmmu` exports, by the module it comes from."""
    import smpmmu

    homes = {
        alias.name: node.module or ""
        for node in ast.walk(tree("smpmmu/__init__"))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("smpmmu.")
        for alias in node.names
    }
    order = sorted(smpmmu.__all__, key=lambda name: (homes[name], name))
    return [defined(homes[name])[name] for name in order]


def modules(package: str) -> list[str]:
    files = sorted((ROOT / "smpmmu" / package).glob("*.py"))
    return [f"smpmmu.{package}.{f.stem}" for f in files if f.stem != "__init__"]


def public(module: str) -> list[Entry]:
    """Return a module's public names: definitions, and values that are explained."""
    return [
        entry
        for name, entry in defined(module).items()
        if not name.startswith("_") and (entry.doc or isinstance(entry.node, Definition))
    ]


def rendered(doc: str) -> str:
    """Return a docstring as Markdown: its sections as lists, its tags on lines of their own."""
    lines = []
    for line in doc.splitlines():
        text = line.strip()
        if text in SECTIONS:
            lines += [f"{text}", ""]
        elif line.startswith("    ") and re.match(r"    [\w, *]+: ", line):
            name, _, rest = text.partition(": ")
            lines.append(f"- `{name}`: {rest}")
        elif line.startswith("     ") and lines and lines[-1].startswith("- "):
            lines.append(f"  {text}")
        elif text.startswith(TAGS):
            lines.append(f"- {text}")
        else:
            lines.append(text)
    return "\n".join(lines).strip()


def methods(entry: Entry) -> list[str]:
    if not isinstance(entry.node, ast.ClassDef):
        return []
    lines = []
    for node in entry.node.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            is_property = any("property" in ast.unparse(d) for d in node.decorator_list)
            said = node.name if is_property else signature(node).replace("(self, ", "(")
            text = " ".join((ast.get_docstring(node) or "").split())
            lines.append(f"- `{said.replace('(self)', '()')}`: {text}")
    return [*lines, ""] if lines else []


def section(entry: Entry) -> list[str]:
    return [f"**`{entry.signature}`**", "", rendered(entry.doc), "", *methods(entry)]


def page() -> str:
    """Return the reference."""
    parts = [HEAD, "## smpmmu", ""]
    for entry in exported():
        parts += section(entry)
    for package in PACKAGES:
        for module in modules(package):
            parts += [f"## {module}", "", rendered(ast.get_docstring(tree(module)) or ""), ""]
            for entry in public(module):
                parts += section(entry)
    return "\n".join(parts).rstrip() + "\n"


def main() -> None:
    """Write docs/api.md."""
    (ROOT / "docs/api.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
