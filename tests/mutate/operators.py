"""Mutants of modelled code, made on the syntax tree: statements removed, moved, split in two.

It must not know how a mutant is judged. What is mutated is every statement that awaits and does
nothing else: accesses, locks, flushes, hooks, calls of other modelled functions. A statement is
moved across the nearest one before or after it in its block that takes a step or leaves the block,
unless one of the two needs a name that the other sets. A lock is also left out altogether: where a
function takes it, and where it gives it back.
"""

from __future__ import annotations

import ast
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPLIT = {
    "clear_bit": "split_clear_bit",
    "test_and_clear_bit": "split_test_and_clear_bit",
    "xchg": "split_xchg",
    "fetch_or": "split_fetch_or",
    "fetch_and": "split_fetch_and",
    "fetch_add": "split_fetch_add",
}
"""Locked instructions, and what loads and then stores instead (`tests/mutate/split.py`)."""

ACCESSES = {"store", "load", "send_ipi", "Step", *SPLIT}
TAKE = ("spin_lock", "read_lock", "write_lock")
GIVE = ("spin_unlock", "read_unlock", "write_unlock")
LEAVES = (ast.Return, ast.Continue, ast.Break, ast.Raise)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one statement.

    Attributes:
        file: the module's file, in its package.
        function: the modelled function.
        text: the statement, or its first line.
        mutation: what is done to it.
        kind: what the statement is: hook, lock, flush, wait, interrupts, access or call.
        line: where the statement begins.
        lines: whoever executes none of these lines cannot tell.
    """

    file: str
    function: str
    text: str
    mutation: str
    kind: str
    line: int
    lines: tuple[int, ...]

    @property
    def name(self) -> str:
        """What it is called in the results and in the table of survivors."""
        return f"{self.file} {self.function}: {self.text}: {self.mutation}"


def mutants(source: str, file: str) -> list[Mutant]:
    """Return every mutant of a module."""
    return [mutant for mutant, _ in _sites(ast.parse(source), file)]


def mutated(source: str, file: str, name: str) -> ast.Module:
    """Return the module's tree with one mutant made; lines keep their numbers.

    Raises:
        LookupError: there is no mutant of that name.
    """
    tree = ast.parse(source)
    for mutant, apply in _sites(tree, file):
        if mutant.name == name:
            apply()
            return ast.fix_missing_locations(tree)
    raise LookupError(name)


Site = tuple[Mutant, "Callable[[], None]"]


def _sites(tree: ast.Module, file: str) -> Iterator[Site]:
    """Yield every mutant in the order of the source, with what makes it."""
    for function in tree.body:
        if not isinstance(function, ast.AsyncFunctionDef):
            continue
        found = sorted(_in_function(tree, function), key=lambda site: site[0].line)
        alike: dict[str, list[int]] = {}
        for mutant, apply in found:
            lines = alike.setdefault(mutant.text, [])
            if mutant.line not in lines:
                lines.append(mutant.line)
            number = lines.index(mutant.line) + 1
            text = f"{mutant.text} #{number}" if number > 1 else mutant.text
            yield replace(mutant, file=file, function=function.name, text=text), apply


def _in_function(tree: ast.Module, function: ast.AsyncFunctionDef) -> Iterator[Site]:
    for block in _blocks(function):
        for place, statement in enumerate(block):
            if _mutable(statement):
                yield _removed(block, place)
                yield from _moved_down(block, place)
                yield from _moved_up(block, place)
            for call in _calls(statement):
                if isinstance(call.func, ast.Name) and call.func.id in SPLIT:
                    yield _split(tree, statement, call, call.func)
    yield from _unlocked(function)


def _unlocked(function: ast.AsyncFunctionDef) -> Iterator[Site]:
    """Leave out each lock that the function both takes and gives back."""
    places: dict[str, list[tuple[list[ast.stmt], int, bool]]] = {}
    for block in _blocks(function):
        for place, statement in enumerate(block):
            if _mutable(statement) and _kind(statement) == "lock":
                (call,) = _calls(statement)
                takes = ast.unparse(call.func).startswith(TAKE)
                places.setdefault(ast.unparse(call.args[0]), []).append((block, place, takes))
    for lock, found in places.items():
        if {takes for _, _, takes in found} == {True, False}:
            yield _without(lock, found)


def _without(lock: str, found: list[tuple[list[ast.stmt], int, bool]]) -> Site:
    statements = [block[place] for block, place, _ in found]
    first = min((s for s, f in zip(statements, found, strict=True) if f[2]), key=lambda s: s.lineno)

    def apply() -> None:
        for block, place, _ in found:
            _removed(block, place)[1]()

    return _mutant(first, f"{lock} not taken here at all", statements), apply


def _removed(block: list[ast.stmt], place: int) -> Site:
    statement = block[place]

    def apply() -> None:
        instead: ast.stmt = ast.Pass()
        if isinstance(statement, ast.Assign):
            instead = ast.Assign(statement.targets, ast.Constant(value=False))
        block[place] = ast.copy_location(instead, statement)

    return _mutant(statement, "removed", [statement]), apply


def _moved_down(block: list[ast.stmt], place: int) -> Iterator[Site]:
    statement = block[place]
    after = next((n for n in range(place + 1, len(block)) if _steps(block[n])), None)
    if after is None or isinstance(block[after], LEAVES):
        return
    crossed = block[place + 1 : after + 1]
    if _independent(statement, crossed):
        mutation = f"moved after `{_head(block[after])}`"
        yield (
            _mutant(statement, mutation, [statement, *crossed]),
            lambda: _swap(block, place, crossed, [*crossed, statement]),
        )


def _moved_up(block: list[ast.stmt], place: int) -> Iterator[Site]:
    statement = block[place]
    before = next((n for n in reversed(range(place)) if _steps(block[n])), None)
    if before is None:
        return
    crossed = block[before:place]
    # Where the other one can be moved down instead, that is the same mutant.
    same = _mutable(block[before]) and _independent(block[before], block[before + 1 : place + 1])
    if not same and _independent(statement, crossed):
        mutation = f"moved before `{_head(block[before])}`"
        yield (
            _mutant(statement, mutation, [statement, *crossed]),
            lambda: _swap(block, before, crossed, [statement, *crossed]),
        )


def _swap(block: list[ast.stmt], first: int, crossed: list[ast.stmt], new: list[ast.stmt]) -> None:
    block[first : first + len(crossed) + 1] = new


def _split(tree: ast.Module, statement: ast.stmt, call: ast.Call, name: ast.Name) -> Site:
    def apply() -> None:
        helper = SPLIT[name.id]
        call.func = ast.copy_location(ast.Name(helper, ast.Load()), name)
        names = [ast.alias(helper)]
        imported = ast.ImportFrom("tests.mutate.split", names, 0)
        # After the docstring and the import of `annotations`, which must stand first.
        tree.body.insert(2, ast.copy_location(imported, tree.body[1]))

    return _mutant(statement, f"{name.id} split in two", [statement]), apply


def _mutant(statement: ast.stmt, mutation: str, touched: list[ast.stmt]) -> Mutant:
    lines = sorted(set(itertools.chain.from_iterable(map(_lines, touched))))
    kind, line = _kind(statement), statement.lineno
    return Mutant("", "", _head(statement), mutation, kind, line, tuple(lines))


def _head(statement: ast.stmt) -> str:
    return ast.unparse(statement).split("\n")[0]


def _lines(statement: ast.stmt) -> range:
    """Return the lines of a statement; of one that holds others, those of its head."""
    body: list[ast.stmt] = getattr(statement, "body", [])
    end = body[0].lineno - 1 if body else statement.end_lineno or statement.lineno
    return range(statement.lineno, max(end, statement.lineno) + 1)


def _blocks(statement: ast.AST) -> Iterator[list[ast.stmt]]:
    for field in ("body", "orelse"):
        block: list[ast.stmt] = getattr(statement, field, [])
        if block:
            yield block
        for each in block:
            yield from _blocks(each)


def _calls(statement: ast.stmt) -> list[ast.Call]:
    """Return the awaited calls of a statement itself, not of the statements in it."""
    inside = [child for child in ast.iter_child_nodes(statement) if not isinstance(child, ast.stmt)]
    return [
        node.value
        for child in inside
        for node in ast.walk(child)
        if isinstance(node, ast.Await)
        and isinstance(node.value, ast.Call)
        and not ast.unparse(node.value.func).endswith("_held")  # an assertion takes no step
    ]


def _mutable(statement: ast.stmt) -> bool:
    """Whether a statement awaits and does nothing else; saving the interrupt flag is allowed."""
    calls = _calls(statement)
    alone = isinstance(statement, (ast.Expr, ast.Assign)) and isinstance(statement.value, ast.Await)
    if not alone or len(calls) != 1:
        return False
    return isinstance(statement, ast.Expr) or ast.unparse(calls[0].func) == "spin_lock_irqsave"


def _kind(statement: ast.stmt) -> str:
    calls = _calls(statement)
    name = ast.unparse(calls[0].func) if calls else ""
    if name.startswith("cpu.pv."):
        return "hook"
    if name.startswith(TAKE + GIVE):
        return "lock"
    if "flush" in name or name in ("invlpg", "leave_mm", "load_cr3"):
        return "flush"
    if name == "wait_until":
        return "wait"
    if name.startswith("local_irq_"):
        return "interrupts"
    return "access" if name in ACCESSES else "call"


def _steps(statement: ast.stmt) -> bool:
    """Whether a statement, or one in it, takes a step or leaves the block."""
    return any(
        isinstance(node, LEAVES) or (isinstance(node, ast.stmt) and bool(_calls(node)))
        for node in ast.walk(statement)
    )


def _independent(statement: ast.stmt, others: list[ast.stmt]) -> bool:
    sets, uses = _names(statement)
    for other in others:
        their_sets, their_uses = _names(other)
        if sets & (their_sets | their_uses) or their_sets & uses:
            return False
    return True


def _names(statement: ast.stmt) -> tuple[set[str], set[str]]:
    names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
    sets = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return sets, {node.id for node in names} - sets
