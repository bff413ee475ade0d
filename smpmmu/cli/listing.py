"""`list`: the catalogue, without exploring anything."""

from __future__ import annotations

import textwrap

import click

from smpmmu.cli.printing import PIPED_WIDTH, out


@click.command("list")
def list_() -> None:
    """List the catalogue: scenarios, their variants, what is expected of each, and families."""
    from smpmmu.scenarios import FAMILIES, NAMES, scenario

    lines = []
    for name in NAMES:
        each = scenario(name)
        lines += [each.name, f"    {each.summary}"]
        width = max(len(v.name) for v in each.variants)
        for variant in each.variants:
            wanted = variant.expected
            text = f"{wanted.verdict.value} {wanted.name}".strip() if wanted else ""
            lines.append(f"  {variant.name:{width}}  {text}".rstrip())
    for family, names in FAMILIES.items():
        text = f"A family: {', '.join(names)}."
        indent = " " * 4
        lines.append(family)
        lines += textwrap.wrap(
            text, PIPED_WIDTH, initial_indent=indent, subsequent_indent=indent,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    out("\n".join(lines) + "\n")
