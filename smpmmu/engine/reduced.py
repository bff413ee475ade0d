"""A system with some of its programs, or calls of them, left out.

What is left out is named as `cpu1` (the whole program of that context; its vCPU then idles and
still answers interrupts) or `cpu1[2]` (its third call). It must not know why.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.errors import ModelError
from smpmmu.engine.program import Role
from smpmmu.engine.system import Scope, System

if TYPE_CHECKING:
    from collections.abc import Iterable


def without(system: System, parts: Iterable[str]) -> System:
    """Return `system` without some parts.

    Its `sometimes` go too: they say what the whole must reach.

    Raises:
        ModelError: there is no such part, or a property or a vCPU needs it.
    """
    left_out: dict[str, set[int]] = {}
    programs = {c.name: c for c in system.contexts}
    for part in parts:
        match = re.fullmatch(r"(.+?)(?:\[(\d+)\])?", part)
        context = programs.get(match[1]) if match else None
        if match is None or context is None:
            msg = f"there is no {part!r} to leave out; there are: {', '.join(programs)}"
            raise ModelError(msg)
        count = len(context.calls)
        wanted = range(count) if match[2] is None else (int(match[2]),)
        if wanted[-1] >= count:
            msg = f"{context.name} has {count} calls; there is no {part!r} to leave out"
            raise ModelError(msg)
        left_out.setdefault(context.name, set()).update(wanted)
    if not left_out:
        return system
    contexts = []
    for context in system.contexts:
        gone = left_out.get(context.name, set())
        calls = tuple(c for n, c in enumerate(context.calls) if n not in gone)
        if gone and calls and context.role is not Role.MAIN:
            msg = f"{context.name} is no main program; only all of it can be left out"
            raise ModelError(msg)
        if calls:
            contexts.append(context if not gone else replace(context, calls=calls))
    kept = tuple(p for p in system.properties if p.scope is not Scope.SOMETIMES)
    return System(tuple(contexts), kept, system.words)


def parts(system: System) -> list[str]:
    """Return what can be tried to leave out: whole main programs, then calls from the last."""
    mains = [c for c in system.contexts if c.role is Role.MAIN]
    whole = [c.name for c in mains] if len(mains) > 1 else []
    calls = [
        f"{c.name}[{number}]"
        for c in mains
        if len(c.calls) > 1 and not c.cyclic
        for number in reversed(range(len(c.calls)))
    ]
    return whole + calls
