"""Refuses modelled code that could carry values past what the engine remembers.

A call's folded history is all that is remembered of it. State that modelled code keeps elsewhere
(a global, a closure, a default argument, an attribute) would be merged away unseen, so code that
can reach mutable Python state is refused: programs before they run, and functions and values that
pass in and out of routines while they do. It must not know what the code models.
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import inspect
import operator
import sys
import types
from collections import namedtuple
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from smpmmu.engine.errors import ModelError
from smpmmu.engine.unawaited import check_awaited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from smpmmu.engine.local import Call

PLAIN_TYPES = frozenset({int, bool, str, bytes, type(None)})
"""Values that are what they are; compared by type, since 1 == True in Python."""

FROZEN_TYPES = PLAIN_TYPES | {float, complex, range, type(...)}
"""What a program may reach beside; a float does not pass in or out of a routine."""

PURE_MODULES = frozenset({
    "__future__", "abc", "builtins", "collections", "dataclasses", "enum", "functools", "itertools",
    "math", "operator", "_operator", "string", "types", "typing", "smpmmu",
})  # fmt: skip
"""Modules of Python's library, and ours, that a program may use."""

OUTSIDE = frozenset({
    "open", "input", "print", "globals", "locals", "vars", "setattr", "delattr", "exec", "eval",
    "getattr", "compile", "id", "hash", "breakpoint", "__import__", "object", "memoryview", "set",
    "frozenset", "BaseException", "GeneratorExit", "KeyboardInterrupt", "SystemExit",
})  # fmt: skip
"""Builtins that reach outside the model, change what cannot be seen to change, give another order
in every process, or catch what ends a run."""

INSIDES = frozenset({"attrgetter", "methodcaller", "update_wrapper", "wraps", "keywords"})
"""Attributes through which what is frozen can be changed, beside those with underscores."""

CHANGERS = (operator.attrgetter, operator.methodcaller, operator.setitem, operator.delitem,
            functools.update_wrapper, functools.wraps)  # fmt: skip
"""The same, by whatever name a program has them."""

OUR_CODE = __file__.rpartition("engine")[0]
"""Where the code of this package lies."""

MOST_CHECKED = 10_000
_CHECKED: dict[int, object] = {}
"""Records and functions known to be good, kept alive so that no other object gets their id."""


def check_pure(entry: Call) -> None:
    """Refuse a call whose function or arguments reach mutable state.

    Raises:
        ModelError: naming the function and what it reaches.
    """
    for value in (*entry.args, *(value for _, value in entry.kwargs)):
        _check(value, f"an argument of {entry.name}", frozenset())
    _check(entry.fn, entry.name, frozenset())


def check_value(value: object, what: str) -> None:
    """Refuse a value through which one routine could change what another has read.

    Raises:
        ModelError: `value` is not an int, bool, str, bytes, None, enum member, class or pure
            function, nor a tuple, frozenset or frozen dataclass of such.
    """
    if type(value) in PLAIN_TYPES or id(value) in _CHECKED:
        return
    if isinstance(value, (tuple, frozenset)):
        for item in value:
            check_value(item, what)
        return
    if is_frozen(value):
        for field in fields(value):  # type: ignore[arg-type]  # it is a dataclass
            check_value(getattr(value, field.name), what)
        _remember(value)
        return
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type, enum.Enum)):
        _check(value, what, frozenset())
        return
    msg = (
        f"{what} is a {type(value).__name__}: only integers, strings, enums, tuples and frozen "
        "dataclasses may pass in and out of a routine, because its run is remembered by value"
    )
    raise ModelError(msg)


def check_function(function: object) -> None:
    """Refuse a function that reaches mutable state; quick for one that has been checked.

    Raises:
        ModelError: naming the function and what it reaches.
    """
    if id(function) not in _CHECKED:
        _check(function, getattr(function, "__qualname__", repr(function)), frozenset())


def is_frozen(value: object) -> bool:
    """Whether `value` is an instance of a frozen dataclass that is equal by all of its fields."""
    kind = type(value)
    parameters = getattr(kind, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen or not parameters.eq:
        return False
    generated = getattr(kind.__eq__, "__code__", None)
    own = generated is None or generated.co_filename != "<string>"
    return not own and all(f.compare for f in fields(value))  # type: ignore[arg-type]


def _remember(value: object) -> None:
    if len(_CHECKED) < MOST_CHECKED:
        _CHECKED[id(value)] = value


def _check(value: object, what: str, seen: frozenset[int]) -> None:
    if type(value) in FROZEN_TYPES or id(value) in seen or id(value) in _CHECKED:
        return
    if _is_ours(value):
        return
    seen |= {id(value)}
    if isinstance(value, types.FunctionType) and _pythons_own(value):
        return
    if isinstance(value, types.FunctionType) and _is_modelled(value):
        _check_function(value, seen)
        return
    if isinstance(value, (types.FunctionType, types.ModuleType)) and not _parts(value):
        msg = (
            f"{what} is {value.__name__}, which is no part of the model: modelled code may await "
            "only steps and other modelled functions"
        )
        raise ModelError(msg)
    parts = _parts(value)
    if parts is None:
        msg = (
            f"{what} is a {type(value).__name__}, which can change or reaches outside the model: a "
            "program may use only integers, strings, tuples, frozen dataclasses, words and "
            "functions, because what it remembers elsewhere would be lost between interleavings"
        )
        raise ModelError(msg)
    for name, part in parts:
        _check(part, what + name, seen)


def _is_modelled(function: types.FunctionType) -> bool:
    """Whether a function may be part of a model: it is the user's, or ours, installed or not.

    What `@instruction` and its like make of a user's function has the user's name and our code.
    """
    ours = str(function.__module__).split(".", maxsplit=1)[0] == "smpmmu"
    file = function.__code__.co_filename
    return ours or "site-packages" not in file or file.startswith(OUR_CODE)


def _is_ours(value: object) -> bool:
    """Whether a class, function or module belongs to the engine or is known to be pure."""
    if _ends_runs(value) or any(value is changer for changer in CHANGERS):
        return False
    if isinstance(value, types.ModuleType):
        return value.__name__.split(".")[0] in PURE_MODULES
    if isinstance(value, (type, types.FunctionType)):
        module = str(value.__module__)
        return module.startswith("smpmmu.engine.") or (
            isinstance(value, type) and module.split(".", maxsplit=1)[0] in PURE_MODULES
        )
    if isinstance(value, types.BuiltinFunctionType):
        home = value.__self__
        if value.__name__ in OUTSIDE:
            return False
        if isinstance(home, type):  # such as int.__new__
            return home.__module__ == "builtins"
        return isinstance(home, types.ModuleType) and home.__name__.split(".")[0] in PURE_MODULES
    return type(value).__module__ in ("typing", "__future__") or type(value) is NAMED_FIELD


NAMED_FIELD = type(vars(namedtuple("_Named", "field"))["field"])
SLOTS = (
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GenericAlias,
)

PARTS: tuple[tuple[type | tuple[type, ...], Callable[[Any], list[tuple[str, object]]]], ...] = (
    (tuple, lambda v: [("[...]", item) for item in v] + [("", type(v))]),
    (enum.Enum, lambda v: [(".value", v.value), ("", type(v))]),
    (types.MappingProxyType, lambda v: [("[...]", item) for item in v.values()]),
    (types.MethodType, lambda v: [(".__self__", v.__self__), ("", v.__func__)]),
    ((staticmethod, classmethod), lambda v: [("", v.__func__)]),
    (property, lambda v: [("", f) for f in (v.fget, v.fset, v.fdel) if f is not None]),
    (functools.partial, lambda v: [("(...)", p) for p in (v.func, *v.args, *v.keywords.values())]),
    (SLOTS, lambda _: []),
)
"""What is inside a value that cannot change itself, by its type."""


def _parts(value: object) -> list[tuple[str, object]] | None:
    """Return what is inside a value that cannot change itself; None if it can."""
    for kind, inside in PARTS:
        if isinstance(value, kind):
            return inside(value)
    if isinstance(value, types.ModuleType) and value.__name__ not in sys.stdlib_module_names:
        return []  # what is taken from it is checked where it is taken
    if isinstance(value, frozenset) and not any(isinstance(v, (str, bytes)) for v in value):
        return [("[...]", item) for item in value]  # strings lie in another order every time
    if isinstance(value, type) and not _ends_runs(value):
        return _parts_of_class(value)
    if is_frozen(value):
        named = fields(value)  # type: ignore[arg-type]  # it is a dataclass
        return [(f".{f.name}", getattr(value, f.name)) for f in named] + [("", type(value))]
    return None


def _ends_runs(value: object) -> bool:
    """Whether a class is of exceptions that modelled code may neither raise nor catch."""
    return (
        isinstance(value, type)
        and issubclass(value, BaseException)
        and not issubclass(value, Exception)
    )


MACHINERY = frozenset({
    "__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__qualname__",
    "__dataclass_fields__", "__dataclass_params__", "__match_args__", "__slots__", "__parameters__",
    "__orig_bases__", "__abstractmethods__", "__static_attributes__", "__firstlineno__",
    "__classcell__", "_abc_impl", "_field_defaults",
})  # fmt: skip
"""Class attributes that Python makes and nobody uses to remember."""


def _pythons_own(function: types.FunctionType) -> bool:
    """Whether a function is what Python makes for dataclasses, enums and named tuples."""
    filename = function.__code__.co_filename
    if any(function is changer for changer in CHANGERS):
        return False
    if filename == "<string>":
        return function.__name__.startswith("__")
    files = {getattr(sys.modules.get(module), "__file__", None) for module in PURE_MODULES}
    return filename in files or filename.startswith("namedtuple_")


def _parts_of_class(kind: type) -> list[tuple[str, object]]:
    """Return what is inside a class: its attributes, its bases, and a metaclass of its own."""
    parts: list[tuple[str, object]] = [("", base) for base in kind.__bases__]
    if type(kind).__module__.split(".")[0] not in PURE_MODULES:
        parts.append(("", type(kind)))
    members = {m.name: m.value for m in kind} if issubclass(kind, enum.Enum) else {}
    for name, part in vars(kind).items():
        own = isinstance(part, types.FunctionType) or not (members and name.startswith("_"))
        if name in members:
            parts.append((f".{name}", members[name]))
        elif name not in MACHINERY and own:
            parts.append((f".{name}", part))
    return parts


def _check_function(function: types.FunctionType, seen: frozenset[int]) -> None:
    """Check a function's own code, what it closes over, its defaults and its globals."""
    name = function.__qualname__
    if function.__dict__.keys() - {"__wrapped__", "__type_params__", "__isabstractmethod__"}:
        msg = f"{name} has attributes, which would survive from call to call"
        raise ModelError(msg)
    for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        _check(value, f"a default argument of {name}", seen)
    for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not yet bound
            continue
        _check(value, f"{free!r}, which {name} closes over,", seen)
    taken, rebinding = _reaches(function.__code__)
    for path in taken:
        _check_global(function, path, seen)
    if rebinding:
        raise ModelError(rebinding)
    check_awaited(function, tuple(_codes(function.__code__)))
    wrapped = getattr(function, "__wrapped__", None)
    if isinstance(wrapped, types.FunctionType):
        _check(wrapped, name, seen)
    if function.__closure__ is None:  # what a closure holds may be rebound
        _remember(function)


def _check_global(
    function: types.FunctionType, path: tuple[str, ...], seen: frozenset[int]
) -> None:
    """Check a global that a function uses; of a module, the attribute that it takes from it."""
    name = path[0]
    if name not in function.__globals__:
        if hasattr(builtins, name) and name in OUTSIDE:
            msg = f"{function.__qualname__} uses {name}(), which reaches outside the model"
            raise ModelError(msg)
        return
    value: object = function.__globals__[name]
    text = name
    for attribute in path[1:]:
        if not isinstance(value, types.ModuleType) or not hasattr(value, attribute):
            break
        if value.__name__ in sys.stdlib_module_names and not _is_ours(value):
            break
        value, text = getattr(value, attribute), f"{text}.{attribute}"
    _check(value, f"the global {text!r}, which {function.__qualname__} uses,", seen)


@functools.lru_cache(maxsize=4096)
def _reaches(code: types.CodeType) -> tuple[tuple[tuple[str, ...], ...], str]:
    """Return what code reaches outside itself, what is nested in it included.

    First the globals that it reads, each with what it takes of it; then what it rebinds, in
    words, or "". No name begins with "@" but those that pytest puts into an `assert`, to explain
    one that failed, which ends the run.
    """
    found: list[tuple[str, ...]] = []
    rebinding = ""
    for part in _codes(code):
        path: tuple[str, ...] = ()
        previous = ""
        for instruction in dis.get_instructions(part):
            operation, operand = instruction.opname, instruction.argval
            rebinding = rebinding or _rebinding(code, part, operation, operand)
            if (previous, operation) == ("PUSH_EXC_INFO", "POP_TOP"):
                rebinding = f"{code.co_qualname} has a bare except, which could swallow a bug_on"
            previous = operation
            if operation in ("LOAD_GLOBAL", "LOAD_NAME") and not str(operand).startswith("@"):
                path = (str(operand),)
                found.append(path)
            elif operation in ("LOAD_ATTR", "LOAD_METHOD") and path:
                path = (*path, str(operand))
                found[-1] = path
            else:
                path = ()
    return tuple(dict.fromkeys(found)), rebinding


def _rebinding(code: types.CodeType, part: types.CodeType, operation: str, operand: object) -> str:
    """Return in words what an instruction changes outside its function, or ""."""
    what = ""
    if operation in ("STORE_GLOBAL", "DELETE_GLOBAL"):
        what = f"rebinds the global {operand!r}"
    elif operation == "STORE_DEREF" and operand in part.co_freevars:
        what = f"rebinds {operand!r} of the function around it (nonlocal)"
    elif operation in ("STORE_ATTR", "DELETE_ATTR"):
        what = f"sets the attribute {operand!r}"
    elif operation in ("LOAD_ATTR", "LOAD_METHOD") and _is_inside(str(operand)):
        what = f"uses {operand}"
    elif operation in ("BEFORE_WITH", "BEFORE_ASYNC_WITH"):
        return (
            f"{code.co_qualname} has a with statement, which could swallow a bug_on; take a lock "
            "as in C: `await spin_lock(lock)`, and `await spin_unlock(lock)` at the end"
        )
    elif part.co_flags & inspect.CO_ASYNC_GENERATOR:
        what = "is or holds an asynchronous generator"
    elif operation in ("BUILD_SET", "SET_ADD"):
        what = "builds a set, which has another order in every process"
    elif operation == "IMPORT_NAME" and str(operand).split(".")[0] not in PURE_MODULES:
        what = f"imports {operand!r}"
    return f"{code.co_qualname} {what}; what survives a call must lie in a word" if what else ""


def _is_inside(name: str) -> bool:
    """Whether an attribute belongs to Python's own workings, such as `__dict__`."""
    return name in INSIDES or name.startswith("__") or (name[0] == "_" == name[-1])


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
