"""Finds a step or a modelled function that is called and not awaited, and a result that is none.

Nothing happens then, and nothing tells: a step that is not awaited is a value that is thrown away,
and `if load(word):` is always true. What a step returns that returns no bits is 0, whatever was
there. It reads bytecode, as `purity.py` does, and passes over what it cannot follow. It must not
know what the code models.
"""

from __future__ import annotations

import dis
import functools
import inspect
import itertools
import linecache
from typing import TYPE_CHECKING

from smpmmu.engine.errors import ModelError
from smpmmu.engine.steps import (
    Step,
    fetch_add,
    fetch_and,
    fetch_or,
    fetch_xor,
    store,
    wait_until,
)

if TYPE_CHECKING:
    import types

CALLS = {"CALL": 2, "CALL_KW": 3}
"""What a call has on the stack beside its arguments."""
PUSHES = frozenset({
    "LOAD_CONST", "LOAD_FAST", "LOAD_GLOBAL", "LOAD_DEREF", "LOAD_SMALL_INT", "LOAD_ATTR",
})  # fmt: skip
COMBINES = frozenset({"COMPARE_OP", "BINARY_OP", "IS_OP", "CONTAINS_OP"})
USES = COMBINES | {"POP_TOP", "RETURN_VALUE", "TO_BOOL", "UNARY_NOT", "UNARY_INVERT"}
"""What nobody does with a step on purpose, but for tests, whose names begin as `TESTS`."""
TESTS = ("POP_JUMP", "JUMP_IF")

Path = tuple[str, ...]


def check_awaited(function: types.FunctionType, codes: tuple[types.CodeType, ...]) -> None:
    """Refuse a modelled function, of which `codes` is the code, that does not await what it calls.

    Raises:
        ModelError: naming the function, what it calls, and the line.
    """
    for code in codes:
        for path, line in _left(code):
            if _must_be_awaited(_resolved(function, path)):
                text = linecache.getline(code.co_filename, line).strip()
                msg = (
                    f"{function.__qualname__} calls {'.'.join(path)}() without `await`, so that "
                    f"nothing happens\n  {code.co_filename}:{line}: {text}"
                )
                raise ModelError(msg)
        for path, line in _used(code):
            hint = RETURN_NOTHING.get(_resolved(function, path))
            if hint is not None:
                text = linecache.getline(code.co_filename, line).strip()
                msg = (
                    f"{function.__qualname__} uses what {'.'.join(path)}() gives, which is 0: "
                    f"{hint}\n  {code.co_filename}:{line}: {text}"
                )
                raise ModelError(msg)


OLD = "say which bits of the old value it returns, as in `fetch_add(word, 1, word.mask)`"
READ = "what is in the word afterwards must be loaded"
RETURN_NOTHING: dict[object, str] = {
    fetch_add: OLD, fetch_and: OLD, fetch_or: OLD, fetch_xor: OLD, store: READ, wait_until: READ,
}  # fmt: skip
"""What returns no bits if it is called without a third argument, and what to do instead."""


@functools.lru_cache(maxsize=4096)
def _used(code: types.CodeType) -> tuple[tuple[Path, int], ...]:
    """Return the globals that are called with two arguments, awaited, and used for a value."""
    listing = _listing(code)
    places = {instruction.offset: index for index, instruction in enumerate(listing)}
    found = []
    for index, instruction in enumerate(listing):
        after = listing[index + 1 : index + 4]
        awaited = [i.opname for i in after] == ["GET_AWAITABLE", "LOAD_CONST", "SEND"]
        if instruction.opname != "CALL" or not awaited or instruction.arg != 2:
            continue
        end = places[after[-1].argval]
        end += listing[end].opname == "END_SEND"
        named = any(i.opname == "KW_NAMES" for i in listing[index - 2 : index])
        if listing[end].opname != "POP_TOP" and not named:
            found.append((_called(listing, index), _line(instruction, code)))
    return tuple((path, line) for path, line in found if path)


def _listing(code: types.CodeType) -> list[dis.Instruction]:
    return [i for i in dis.get_instructions(code) if i.opname != "EXTENDED_ARG"]


def _line(instruction: dis.Instruction, code: types.CodeType) -> int:
    line = instruction.positions.lineno if instruction.positions else None
    return line or code.co_firstlineno


@functools.lru_cache(maxsize=4096)
def _left(code: types.CodeType) -> tuple[tuple[Path, int], ...]:
    """Return the globals that async code calls and does not await, each with its line."""
    if not code.co_flags & inspect.CO_COROUTINE:
        return ()
    listing = _listing(code)
    found = [
        (_called(listing, index), _line(instruction, code))
        for index, instruction in enumerate(listing)
        if instruction.opname in CALLS and _is_left(listing, index)
    ]
    return tuple((path, line) for path, line in found if path)


def _is_left(listing: list[dis.Instruction], index: int) -> bool:
    """Whether what a call gives is used as a value, or thrown away."""
    after = listing[index + 1]
    if after.opname == "STORE_FAST":
        pairs = itertools.pairwise(listing)
        return not any(
            (a.opname, a.argval, b.opname) == ("LOAD_FAST", after.argval, "GET_AWAITABLE")
            for a, b in pairs
        )
    if after.opname in USES or after.opname.startswith(TESTS):
        return True
    pushed = 0
    for instruction in listing[index + 1 :]:
        if instruction.opname not in PUSHES or pushed > 1:
            return pushed == 1 and instruction.opname in COMBINES
        pushed += dis.stack_effect(instruction.opcode, instruction.arg)
    return False


def _called(listing: list[dis.Instruction], index: int) -> Path:
    """Return what a call calls, as a global and what is taken of it; () if it is no such thing."""
    call = listing[index]
    wanted = (call.arg or 0) + CALLS[call.opname]
    first = index
    if listing[first - 1].opname == "PRECALL":  # Python 3.11 has a call in two
        first -= 1
    depth = 0
    while depth != wanted:
        first -= 1
        if first < 0 or listing[first].opname.startswith(("JUMP", "POP_JUMP", "SEND", "FOR_ITER")):
            return ()
        argument = listing[first].arg if listing[first].opcode >= dis.HAVE_ARGUMENT else None
        depth += dis.stack_effect(listing[first].opcode, argument, jump=False)
    if listing[first].opname == "PUSH_NULL":
        first += 1
    if listing[first].opname not in ("LOAD_GLOBAL", "LOAD_NAME"):
        return ()
    path = [str(listing[first].argval)]
    for instruction in listing[first + 1 :]:
        if instruction.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            break
        path.append(str(instruction.argval))
    return tuple(path)


def _resolved(function: types.FunctionType, path: Path) -> object:
    value: object = function.__globals__.get(path[0])
    for name in path[1:]:
        value = getattr(value, name, None) if inspect.ismodule(value) else None
    return value


def _must_be_awaited(value: object) -> bool:
    """Whether calling `value` gives a step, or something else that only happens when awaited."""
    if value is Step or inspect.iscoroutinefunction(value):
        return True
    gives = getattr(value, "__annotations__", {}).get("return") if callable(value) else None
    return gives is Step or str(gives).rpartition(".")[2] == "Step"
