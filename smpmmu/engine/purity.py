"""Refuses programs that could carry values past what the engine remembers.

A call's history is all that is remembered of it. State that modelled code keeps elsewhere (a
global, a closure, a default argument, an attribute) would be merged away unseen, so code that
can reach mutable Python state is refused before it runs. It must not know what the code models.
"""

from __future__ import annotations

import builtins
import dis
import enum
import types
from dataclasses import fields
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from smpmmu.engine.errors import ModelError
from smpmmu.engine.routines import is_frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smpmmu.engine.local import Call

FROZEN = (int, float, complex, str, bytes, type(None), enum.Enum, range, type, types.ModuleType,
          types.BuiltinFunctionType, type(...))  # fmt: skip
REBINDING = {"STORE_GLOBAL": "global", "DELETE_GLOBAL": "global"}


def check_pure(entry: Call) -> None:
    """Refuse a call whose function or arguments reach mutable state.

    Raises:
        ModelError: naming the function and what it reaches.
    """
    name = entry.name
    for value in (*entry.args, *(value for _, value in entry.kwargs)):
        _check(value, f"an argument of {name}", frozenset())
    _check(entry.fn, name, frozenset())


def _check(value: object, what: str, seen: frozenset[int]) -> None:
    if isinstance(value, FROZEN) or id(value) in seen:
        return
    if isinstance(value, types.FunctionType):
        _check_function(value)
        return
    parts = _parts(value)
    if parts is None:
        if type(value).__module__.split(".")[0] in ("typing", "re", "__future__"):
            return
        msg = (
            f"{what} is a {type(value).__name__}, which can change: a program may reach only "
            "integers, strings, tuples, frozen dataclasses, words and functions, because what it "
            "remembers elsewhere would be lost between interleavings"
        )
        raise ModelError(msg)
    for name, part in parts:
        _check(part, what + name, seen | {id(value)})


def _parts(value: object) -> list[tuple[str, object]] | None:
    """Return what is inside a value that cannot change itself; None if it can."""
    if isinstance(value, (tuple, frozenset)):
        return [("[...]", item) for item in value]
    if isinstance(value, types.MappingProxyType):
        return [("[...]", item) for item in value.values()]
    if isinstance(value, types.MethodType):
        return [(".__self__", value.__self__), ("", value.__func__)]
    if isinstance(value, (staticmethod, classmethod)):
        return [("", value.__func__)]
    if isinstance(value, partial):
        return [("(...)", p) for p in (value.func, *value.args, *value.keywords.values())]
    if is_frozen(value):
        return [
            (f".{field.name}", getattr(value, field.name))
            for field in fields(value)  # type: ignore[arg-type]  # it is a dataclass
        ]
    return None


@lru_cache(maxsize=4096)
def _check_function(function: types.FunctionType) -> None:
    """Check a function's own code, what it closes over, its defaults and its globals."""
    if function.__module__.startswith("smpmmu.engine."):
        return
    name = function.__qualname__
    if function.__dict__.keys() - {"__wrapped__", "__type_params__"}:
        msg = f"{name} has attributes, which would survive from call to call"
        raise ModelError(msg)
    for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        _check(value, f"a default argument of {name}", frozenset())
    for code in _codes(function.__code__):
        _check_code(code, name)
    for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:
            continue
        if value is not function:
            _check(value, f"{free!r}, which {name} closes over,", frozenset({id(function)}))
    for code in _codes(function.__code__):
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                _check_global(function, str(instruction.argval))
    wrapped = getattr(function, "__wrapped__", None)
    if isinstance(wrapped, types.FunctionType):
        _check_function(wrapped)


def _check_global(function: types.FunctionType, wanted: str) -> None:
    if wanted not in function.__globals__:
        if hasattr(builtins, wanted):
            _check_builtin(function, wanted)
        return
    value = function.__globals__[wanted]
    if value is function:
        return
    if isinstance(value, types.FunctionType):
        if not _being_checked(value):
            _guarded(value)
        return
    _check(value, f"the global {wanted!r}, which {function.__qualname__} uses,", frozenset())


def _check_builtin(function: types.FunctionType, wanted: str) -> None:
    if wanted in ("open", "input", "globals", "setattr", "delattr", "exec", "eval", "print", "id"):
        msg = f"{function.__qualname__} uses {wanted}(), which reaches outside the model"
        raise ModelError(msg)


_CHECKING: set[int] = set()


def _being_checked(function: types.FunctionType) -> bool:
    return id(function) in _CHECKING


def _guarded(function: types.FunctionType) -> None:
    """Check a function that another one uses, once, even if they use each other."""
    _CHECKING.add(id(function))
    try:
        _check_function(function)
    finally:
        _CHECKING.discard(id(function))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _check_code(code: types.CodeType, name: str) -> None:
    for instruction in dis.get_instructions(code):
        if instruction.opname in REBINDING:
            msg = f"{name} rebinds the global {instruction.argval!r}"
            raise ModelError(msg)
        if instruction.opname == "STORE_DEREF" and instruction.argval in code.co_freevars:
            msg = f"{name} rebinds {instruction.argval!r} of the function around it (nonlocal)"
            raise ModelError(msg)
