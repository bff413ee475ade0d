"""`list`: the catalogue, without exploring anything."""

from __future__ import annotations

import click

from smpmmu.cli.printing import out


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
        lines += [family, f"    A family: {', '.join(names)}."]
    out("\n".join(lines) + "\n")
