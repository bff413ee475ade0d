"""Whatever folding would lose is refused, or does no harm.

A program hides what it has read where folding does not look, and uses it later. The race is a
rare one, so that the random runs behind a HOLDS do not meet it by luck: if the hiding place is
not refused, what is explored must still be VIOLATED.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.shell import Shell, spawn

Users = Callable[[str, str], str]


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take away what the programs here hide in modules of this process."""
    monkeypatch.setenv("SMPMMU_TEST_SEEN", "")
    yield
    for module in (sys, types):
        vars(module).pop("smpmmu_test_seen", None)


RACE = """\
{imports}
from smpmmu import AGAIN, Word, call, fetch_add, load, retry, routine, scenario, store, value

FLAG, MARK, STEP, COUNT = Word("flag", 1), Word("mark", 1), Word("step", 1), Word("count", 5)

{state}


@routine
async def look({takes}):
    seen = await load(FLAG)
    {put}


async def reader({parameter}):
    {first}
    {hidden}
    await store(STEP, 1)
    if {get}:
        await store(MARK, 1)


async def writer():
    for _ in range(14):
        await fetch_add(COUNT, 1)
    await store(FLAG, 1)


@scenario()
def leak(setup):
    setup.cpu(0, call(reader{argument}))
    setup.cpu(1, call(writer))
    setup.always("mark_stays_clear", value(MARK) == 0)
"""


@dataclass(frozen=True)
class Hiding:
    """Where what was read is put, and how it is got back."""

    put: str
    get: str
    state: str = ""
    imports: str = ""
    refused: str = ""
    takes: str = ""
    parameter: str = ""
    argument: str = ""
    first: str = "pass"
    hidden: str = "await look()"

    def text(self) -> str:
        return RACE.format(**{f: getattr(self, f) for f in self.__dataclass_fields__})


BOX = "class Box:\n    seen = 0"
RECORD = "@dataclass(frozen=True)\nclass Record:\n    seen: int = 0\n\n\nSTASH = Record()"
DATACLASS = "from dataclasses import dataclass"
PUT_AND_GET = "def put(v):\n    STASH[0] = v\n\n\ndef get():\n    return STASH[0]"

HELD = "@dataclass(frozen=True)\nclass Held:\n    {}\n\n\nSTASH = Held()"

REFUSED = {
    "mutable_argument": Hiding(
        "", "box[0]", parameter="box", argument=", [0]", hidden="box[0] = await load(FLAG)",
        refused="an argument of reader is a list",
    ),
    "keyword_argument": Hiding(
        "", "box", parameter="box", argument=", box={}", refused="an argument of reader is a dict"
    ),
    "argument_within_a_tuple": Hiding(
        "", "box[0][0]", parameter="box", argument=", ([0],)",
        refused="an argument of reader[...] is a list",
    ),
    "list_in_a_closure": Hiding(
        "put(seen)", "get()",
        "def make():\n    box = [0]\n    return (lambda v: box.append(v)), (lambda: box[-1])\n\n\n"
        "put, get = make()",
        refused="'box', which make.<locals>.<lambda> closes over, is a list",
    ),
    "nonlocal": Hiding(
        "put(seen)", "get()",
        "def make():\n    box = 0\n\n    def put(v):\n        nonlocal box\n        box = v\n\n"
        "    return put, lambda: box\n\n\nput, get = make()",
        refused="make.<locals>.put rebinds 'box' of the function around it (nonlocal)",
    ),
    "local_nonlocal": Hiding(
        "", "box", first="box = 0\n\n    @routine\n    async def hide():\n        nonlocal box\n"
        "        box = await load(FLAG)\n",
        hidden="await hide()", refused="reader rebinds 'box' of the function around it (nonlocal)",
    ),
    "global_rebinding": Hiding(
        "global STASH; STASH = seen", "STASH", "STASH = 0",
        refused="look rebinds the global 'STASH'",
    ),
    "global_deletion": Hiding(
        "global STASH; del STASH", "STASH", "STASH = 0",
        refused="look rebinds the global 'STASH'",
    ),
    "global_list": Hiding(
        "STASH[0] = seen", "STASH[0]", "STASH = [0]",
        refused="the global 'STASH', which look uses, is a list",
    ),
    "global_dict": Hiding(
        "STASH['x'] = seen", "STASH.get('x')", "STASH = {}",
        refused="the global 'STASH', which look uses, is a dict",
    ),
    "global_set": Hiding(
        "STASH.add(seen)", "1 in STASH", "STASH = set()",
        refused="the global 'STASH', which look uses, is a set",
    ),
    "global_bytearray": Hiding(
        "STASH[0] = seen", "STASH[0]", "STASH = bytearray(1)",
        refused="the global 'STASH', which look uses, is a bytearray",
    ),
    "global_deque": Hiding(
        "STASH.append(seen)", "STASH[-1]", "STASH = collections.deque([0])", "import collections",
        refused="the global 'STASH', which look uses, is a deque",
    ),
    "global_counter": Hiding(
        "STASH['x'] = seen", "STASH['x']", "STASH = collections.Counter()", "import collections",
        refused="the global 'STASH', which look uses, is a Counter",
    ),
    "array": Hiding(
        "STASH[0] = seen", "STASH[0]", "STASH = array.array('i', [0])", "import array",
        refused="the global 'STASH', which look uses, is a array",
    ),
    "list_reached_by_a_helper_of_a_helper": Hiding(
        "outer(seen)", "STASH[0]",
        "STASH = [0]\n\n\ndef inner(v):\n    STASH[0] = v\n\n\ndef outer(v):\n    inner(v)",
        refused="the global 'STASH', which inner uses, is a list",
    ),
    "helpers_that_call_each_other": Hiding(
        "even(seen)", "STASH[0]",
        "STASH = [0]\n\n\ndef even(v):\n    return odd(v) if v < 0 else None\n\n\ndef odd(v):\n"
        "    STASH[0] = v\n    return even(-v)",
        refused="the global 'STASH', which odd uses, is a list",
    ),
    "mutable_default": Hiding(
        "put(seen)", "put(None)",
        "def put(v, box=[0]):\n    if v is not None:\n        box[0] = v\n    return box[0]",
        refused="a default argument of put is a list",
    ),
    "mutable_keyword_default": Hiding(
        "put(seen)", "put(None)",
        "def put(v, *, box=[0]):\n    if v is not None:\n        box[0] = v\n    return box[0]",
        refused="a default argument of put is a list",
    ),
    "lambda_with_mutable_default": Hiding(
        "put(seen)", "put.__defaults__[0][0]", "put = lambda v, box=[0]: box.__setitem__(0, v)",
        refused="a default argument of <lambda> is a list",
    ),
    "partial_with_mutable_state": Hiding(
        "put(seen)", "put.args[0][0]",
        "put = functools.partial(lambda box, v: box.__setitem__(0, v), [0])", "import functools",
        refused="uses __setitem__",
    ),
    "function_attribute": Hiding(
        "stash.seen = seen", "stash.seen", "def stash():\n    pass\n\n\nstash.seen = 0",
        refused="stash has attributes",
    ),
    "instance": Hiding(
        "STASH.seen = seen", "STASH.seen", f"{BOX}\n\n\nSTASH = Box()",
        refused="the global 'STASH', which look uses, is a Box",
    ),
    "callable_instance": Hiding(
        "put(seen)", "put.seen",
        "class Put:\n    seen = 0\n\n    def __call__(self, v):\n        self.seen = v\n\n\n"
        "put = Put()",
        refused="the global 'put', which look uses, is a Put",
    ),
    "bound_method": Hiding(
        "put(seen)", "put.__self__.seen",
        f"{BOX}\n\n    def put(self, v):\n        self.seen = v\n\n\nput = Box().put",
        refused="the global 'put', which look uses,.__self__ is a Box",
    ),
    "thawed_dataclass": Hiding(
        "STASH.seen = seen", "STASH.seen", RECORD.replace("(frozen=True)", ""), DATACLASS,
        refused="the global 'STASH', which look uses, is a Record",
    ),
    "frozen_dataclass_with_a_list": Hiding(
        "STASH.seen[0] = seen", "STASH.seen[0]",
        RECORD.replace("int = 0", "list").replace("Record()", "Record([0])"), DATACLASS,
        refused="the global 'STASH', which look uses,.seen is a list",
    ),
    "namespace": Hiding(
        "STASH.seen = seen", "STASH.seen", "STASH = types.SimpleNamespace(seen=0)", "import types",
        refused="",
    ),
    "generator": Hiding(
        "STASH.send(seen)", "next(STASH)",
        "def remember():\n    kept = 0\n    while True:\n        got = yield kept\n"
        "        kept = kept if got is None else got\n\n\nSTASH = remember()\nnext(STASH)",
        refused="the global 'STASH', which look uses, is a generator",
    ),
    "iterator": Hiding(
        "next(STASH) if seen else None", "next(STASH) > 1", "STASH = iter((1, 2, 3))",
        refused="the global 'STASH', which look uses, is a tuple_iterator",
    ),
    "counter_of_itertools": Hiding(
        "next(STASH) if seen else None", "next(STASH)", "STASH = itertools.count()",
        "import itertools", refused="the global 'STASH', which look uses, is a count",
    ),
    "functools_cache": Hiding(
        "box()[0] = seen", "box()[0]", "@functools.cache\ndef box():\n    return [0]",
        "import functools", refused="the global 'box', which look uses, is a _lru_cache_wrapper",
    ),
    "context_variable": Hiding(
        "STASH.set(seen)", "STASH.get()", "STASH = contextvars.ContextVar('s', default=0)",
        "import contextvars", refused="the global 'STASH', which look uses, is a ContextVar",
    ),
    "thread_local": Hiding(
        "STASH.seen = seen", "STASH.seen", "STASH = threading.local()\nSTASH.seen = 0",
        "import threading", refused="the global 'STASH', which look uses, is a _local",
    ),
    "random_generator": Hiding(
        "STASH.seed(seen)", "STASH.random() < 0.2", "STASH = random.Random(0)", "import random",
        refused="the global 'STASH', which look uses, is a Random",
    ),
    "coroutine_cached_outside": Hiding(
        "STASH.send(None)", "STASH.cr_frame is None",
        "async def later():\n    pass\n\n\nSTASH = later()\nSTASH.close()",
        refused="the global 'STASH', which look uses, is a coroutine",
    ),
    "coroutine_as_argument": Hiding(
        "", "0", parameter="coroutine", argument=", CACHED", hidden="await coroutine",
        state="async def later():\n    return await load(FLAG)\n\n\nCACHED = later()\n"
        "CACHED.close()",
        refused="an argument of reader is a coroutine",
    ),
    "list_passed_to_a_routine": Hiding(
        "box[0] = seen", "box[0]", takes="box", first="box = [0]", hidden="await look(box)",
        refused="an argument of look is a list",
    ),
    "class_attribute": Hiding(
        "Box.seen = seen", "Box.seen", BOX,
        refused="sets the attribute 'seen'",
    ),
    "list_in_a_class": Hiding(
        "Box.seen[0] = seen", "Box.seen[0]", BOX.replace("0", "[0]"),
        refused="'Box', which look uses,.seen is a list",
    ),
    "own_attribute_set_on_the_way": Hiding(
        "look.seen = seen", "look.seen",
        refused="sets the attribute 'seen'",
    ),
    "attribute_of_a_helper_set_on_the_way": Hiding(
        "stash.seen = seen", "getattr(stash, 'seen', 0)", "def stash():\n    pass",
        refused="sets the attribute 'seen'",
    ),
    "code_of_a_helper": Hiding(
        "stash.__code__ = (one if seen else zero).__code__", "stash()",
        "def stash():\n    return 0\n\n\ndef one():\n    return 1\n\n\ndef zero():\n    return 0",
        refused="__code__",
    ),
    "defaults_of_a_helper": Hiding(
        "stash.__defaults__ = (seen,)", "stash()", "def stash(v=0):\n    return v",
        refused="sets the attribute '__defaults__'",
    ),
    "object_setattr_on_a_frozen_record": Hiding(
        "object.__setattr__(STASH, 'seen', seen)", "STASH.seen", RECORD, DATACLASS,
        refused="look uses object()",
    ),
    "dict_of_a_frozen_record": Hiding(
        "STASH.__dict__['seen'] = seen", "STASH.seen", RECORD, DATACLASS,
        refused="look uses __dict__",
    ),
    "method_of_a_frozen_record_that_reaches_a_list": Hiding(
        "STASH.put(seen)", "STASH.get()",
        "BOX = [0]\n\n\n@dataclass(frozen=True)\nclass Record:\n    def put(self, v):\n"
        "        BOX[0] = v\n\n    def get(self):\n        return BOX[0]\n\n\nSTASH = Record()",
        DATACLASS,
        refused="the global 'BOX', which Record.put uses, is a list",
    ),
    "static_method_that_reaches_a_list": Hiding(
        "Box.put(seen)", "Box.get()",
        "BOX = [0]\n\n\nclass Box:\n    @staticmethod\n    def put(v):\n        BOX[0] = v\n\n"
        "    @staticmethod\n    def get():\n        return BOX[0]",
        refused="the global 'BOX', which Box.put uses, is a list",
    ),
    "enum_member": Hiding(
        "Kind.A.seen = seen", "Kind.A.seen",
        "class Kind(enum.Enum):\n    A = 1\n\n\nKind.A.seen = 0", "import enum",
    ),
    "subclass_of_int": Hiding(
        "STASH.seen = seen", "STASH.seen",
        "class Tagged(int):\n    seen = 0\n\n\nSTASH = Tagged(1)",
        refused="the global 'STASH', which look uses, is a Tagged",
    ),
    "subclass_of_tuple": Hiding(
        "STASH.seen = seen", "STASH.seen",
        "class Tagged(tuple):\n    seen = 0\n\n\nSTASH = Tagged()",
        refused="sets the attribute 'seen'",
    ),
    "module_attribute": Hiding(
        "STASH.seen = seen", "STASH.seen", "STASH = types.ModuleType('stash')\nSTASH.seen = 0",
        "import types",
        refused="'STASH'",
    ),
    "attribute_of_an_imported_module": Hiding(
        "sys.smpmmu_test_seen = seen", "sys.smpmmu_test_seen", "sys.smpmmu_test_seen = 0",
        "import sys",
        refused="the global 'sys', which look uses",
    ),
    "environment": Hiding(
        "os.environ['SMPMMU_TEST_SEEN'] = str(seen)", "os.environ['SMPMMU_TEST_SEEN'] == '1'",
        "os.environ['SMPMMU_TEST_SEEN'] = '0'", "import os",
        refused="the global 'os",
    ),
    "bound_builtin_methods": Hiding(
        "put(seen)", "top(-1)", "STASH = [0]\nput, top = STASH.append, STASH.__getitem__",
        refused="the global 'put', which look uses, is a builtin",
    ),
    "context_variable_of_a_class": Hiding(
        "Box.seen.set(seen)", "Box.seen.get()",
        "class Box:\n    seen = contextvars.ContextVar('s', default=0)", "import contextvars",
        refused="'Box', which look uses,.seen is a ContextVar",
    ),
    "attribute_of_a_partial": Hiding(
        "STASH.seen = seen", "getattr(STASH, 'seen', 0)", "STASH = functools.partial(int)",
        "import functools",
        refused="sets the attribute 'seen'",
    ),
    "import_inside": Hiding(
        "import types; types.smpmmu_test_seen = seen", "stash()",
        "def stash():\n    import types\n\n    return getattr(types, 'smpmmu_test_seen', 0)",
    ),
    "globals_of_a_function": Hiding(
        "look.__globals__['SEEN'] = seen", "look.__globals__.get('SEEN', 0)",
        refused="__globals__",
    ),
    "local_list_written_by_a_local_routine": Hiding(
        "", "box[0]",
        first="box = [0]\n\n    @routine\n    async def hide():\n"
        "        box[0] = await load(FLAG)\n",
        hidden="await hide()",
        refused="'box', which reader.<locals>.hide closes over, is a list",
    ),
    "local_list_written_by_a_local_round_of_retry": Hiding(
        "", "box[0]",
        first="box = [0]\n\n    async def hide():\n        box[0] = await load(FLAG)\n",
        hidden="await retry(hide)",
        refused="'box', which reader.<locals>.hide closes over, is a list",
    ),
    "method_of_a_local_list_passed_to_a_routine": Hiding(
        "put(seen)", "box[-1]", takes="put", first="box = [0]", hidden="await look(box.append)",
        refused="an argument of look is a builtin",
    ),
    "lambda_over_a_local_list_passed_to_a_routine": Hiding(
        "put(seen)", "box[-1]", takes="put", first="box = [0]",
        hidden="await look(lambda v: box.append(v))",
        refused="'box', which reader.<locals>.<lambda> closes over, is a list",
    ),
    "returned_function_over_a_list": Hiding(
        "put(seen)", "get()",
        "@routine\nasync def make():\n    await load(STEP)\n    box = [0]\n"
        "    return box.append, (lambda: box[-1])",
        takes="put", first="put, get = await make()", hidden="await look(put)",
        refused="the return value of make is a builtin",
    ),
    "reading_the_environment": Hiding(
        "return seen", "kept", imports="import os",
        hidden="kept = await look() if os.environ.get('PATH', '') is not None else 0",
        refused="the global 'os",
    ),
    "dict_of_a_record_by_getattr": Hiding(
        "getattr(STASH, '__dict__')['seen'] = seen", "STASH.seen", RECORD, DATACLASS
    ),
    "dict_of_a_record_by_attrgetter": Hiding(
        "operator.attrgetter('__dict__')(STASH)['seen'] = seen", "STASH.seen", RECORD,
        DATACLASS + "\nimport operator",
    ),
    "operators_of_a_record_that_reach_a_list": Hiding(
        "STASH(seen)", "len(STASH)",
        "BOX = [0]\n\n\n"
        + HELD.format(
            "def __call__(self, v):\n        BOX[0] = v\n\n"
            "    def __len__(self):\n        return BOX[0]"
        ),
        DATACLASS,
    ),
    "making_a_record_that_reaches_a_list": Hiding(
        "Held(seen)", "len(Held(None))",
        "BOX = [0]\n\n\n"
        + HELD.format(
            "v: int | None = None\n\n    def __post_init__(self):\n"
            "        BOX.append(BOX[-1] if self.v is None else self.v)\n\n"
            "    def __len__(self):\n        return BOX[-1]"
        ),
        DATACLASS,
    ),
    "local_object_whose_method_is_retried": Hiding(
        "", "box.seen[-1]",
        "class Box:\n    def __init__(self):\n        self.seen = [0]\n\n"
        "    async def hide(self):\n        self.seen.append(await load(FLAG))",
        first="box = Box()", hidden="await retry(box.hide)",
    ),
    "list_in_a_namespace": Hiding(
        "STASH.seen[0] = seen", "STASH.seen[0]", "STASH = types.SimpleNamespace(seen=[0])",
        "import types",
    ),
    "method_of_an_enum_member": Hiding(
        "A.put(seen)", "A.get()",
        "BOX = [0]\n\n\nclass Kind(enum.Enum):\n    A = 1\n\n    def put(self, v):\n"
        "        BOX[0] = v\n\n    def get(self):\n        return BOX[0]\n\n\nA = Kind.A",
        "import enum",
    ),
    "method_of_a_metaclass": Hiding(
        "Box.put(seen)", "Box.get()",
        "BOX = [0]\n\n\nclass Meta(type):\n    def put(cls, v):\n        BOX[0] = v\n\n"
        "    def get(cls):\n        return BOX[0]\n\n\nclass Box(metaclass=Meta):\n    pass",
    ),
    "another_name_of_setattr": Hiding(
        "put(look, 'seen', seen)", "getattr(look, 'seen', 0)", "put = setattr"
    ),
    "setattr_of_builtins": Hiding(
        "builtins.setattr(look, 'seen', seen)", "getattr(look, 'seen', 0)",
        imports="import builtins",
    ),
    "list_in_a_class_under_a_special_name": Hiding(
        "Box.__box__[0] = seen", "Box.__box__[0]", "class Box:\n    __box__ = [0]"
    ),
    "list_in_a_class_under_a_name_of_abc": Hiding(
        "Box._abc_box[0] = seen", "Box._abc_box[0]", "class Box:\n    _abc_box = [0]"
    ),
    "file": Hiding(
        "STASH.write('x')", "0", "STASH = open('stash', 'w+')\nSTASH.close()",
        refused="the global 'STASH', which look uses, is a TextIOWrapper",
    ),
    **{
        f"builtin_{name}": Hiding(f"{text} if seen else None", "0", "STASH = 0",
                                  refused=f"look uses {name}()")
        for name, text in {
            "id": "id(STASH)",
            "open": "open('stash', 'w')",
            "print": "print(seen)",
            "input": "input()",
            "setattr": "setattr(look, 'seen', seen)",
            "delattr": "delattr(look, 'seen')",
            "globals": "globals().update(STASH=seen)",
            "exec": "exec('STASH = 1')",
            "eval": "eval('STASH')",
        }.items()
    },
    **{
        f"returned_{kind}": Hiding(f"return {text}", "0",
                                   refused=f"return value of look is a {kind}")
        for kind, text in {
            "list": "[seen]",
            "dict": "{0: seen}",
            "float": "seen / 2",
            "complex": "seen * 1j",
            "bytearray": "bytearray([seen])",
            "range": "range(seen)",
            "generator": "(n for n in (seen,))",
        }.items()
    },
    "returned_subclass_of_int": Hiding(
        "kept = Tagged(1); kept.seen = seen; return kept", "kept.seen",
        "class Tagged(int):\n    seen = 0", hidden="kept = await look()",
        refused="",
    ),
    "returned_list_in_a_tuple": Hiding(
        "return (seen, [seen])", "0", refused="the return value of look is a list"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_hiding_places_that_are_refused(name: str, users: Users, shell: Shell) -> None:
    hiding = REFUSED[name]
    done = shell("explore", users("leak.py", hiding.text()))
    assert (done.status, done.out) == (4, "")
    assert done.err.startswith("error: ")
    assert hiding.refused in done.err
    assert "Traceback" not in done.err


# What does no harm: the race is found although the program keeps what it read.

HARMLESS = {
    "a_local_variable": Hiding("return seen", "kept", hidden="kept = await look()"),
    "a_local_list": Hiding(
        "return seen", "box[0]", first="box = []", hidden="box.append(await look())"
    ),
    "a_list_passed_to_a_plain_function": Hiding(
        "", "box[0]", "async def fill(box):\n    box.append(await load(FLAG))", first="box = []",
        hidden="await fill(box)",
    ),
    "a_frozen_record": Hiding(
        "return Record(seen)", "kept.seen", RECORD, DATACLASS, hidden="kept = await look()"
    ),
    "true_is_not_one": Hiding(
        "return True if seen else 1", "kept is True", hidden="kept = await look()"
    ),
    "false_is_not_zero_in_a_tuple": Hiding(
        "return (False if seen else 0,)", "kept[0] is False", hidden="kept = await look()"
    ),
    "members_of_the_users_own_enum": Hiding(
        "return Kind.A if seen else Kind.B", "kept is Kind.A",
        "class Kind(enum.Enum):\n    A = 1\n    B = 2", "import enum", hidden="kept = await look()",
    ),
    "one_is_not_its_enum": Hiding(
        "return One.ONE if seen else 1", "isinstance(kept, One)",
        "class One(enum.IntEnum):\n    ONE = 1", "import enum", hidden="kept = await look()",
    ),
    "a_named_tuple": Hiding(
        "return Pair(seen, 0)", "kept.first",
        "class Pair(typing.NamedTuple):\n    first: int\n    second: int", "import typing",
        hidden="kept = await look()",
    ),
    "an_exception_around_a_routine": Hiding(
        "if seen: raise LookupError", "kept", first="kept = 0",
        hidden="try:\n        await look()\n    except LookupError:\n        kept = 1",
    ),
    "an_exception_with_a_payload": Hiding(
        "raise LookupError(seen)", "kept", first="kept = 0",
        hidden="try:\n        await look()\n    except LookupError as error:\n"
        "        kept = error.args[0]",
    ),
    "an_exception_through_a_routine": Hiding(
        "raise LookupError(seen)", "kept",
        "@routine\nasync def outer():\n    try:\n        await look()\n"
        "    except LookupError as error:\n        return error.args[0]",
        hidden="kept = await outer()",
    ),
    "finally_without_steps": Hiding(
        "return seen", "kept", first="kept = other = 0",
        hidden="try:\n        kept = await look()\n    finally:\n        other = 1",
    ),
    "a_nested_function": Hiding(
        "return seen", "again() > 0", first="def again():\n        return kept\n",
        hidden="kept = await look()",
    ),
    "a_lambda_made_on_the_way": Hiding(
        "return seen", "again()", hidden="kept = await look()\n    again = lambda: kept"
    ),
    "a_partial_of_plain_values": Hiding(
        "return least(seen)", "kept", "least = functools.partial(max, 0)",
        "import functools", hidden="kept = await look()",
    ),
    "a_constant_frozenset": Hiding(
        "return seen", "kept in ONES", "ONES = frozenset({1})", hidden="kept = await look()"
    ),
    "a_local_record_that_can_change": Hiding(
        "return seen", "kept.seen", RECORD.replace("(frozen=True)", "").split("\n\n\n")[0],
        DATACLASS, hidden="kept = Record(await look())",
    ),
    "a_record_with_a_property": Hiding(
        "return Record(seen)", "kept.twice",
        RECORD.split("\n\n\n", maxsplit=1)[0]
        + "\n\n    @property\n    def twice(self):\n        return 2 * self.seen",
        DATACLASS, hidden="kept = await look()",
    ),
    "a_record_that_inherits": Hiding(
        "return More(seen)", "kept.get()",
        RECORD.split("\n\n\n", maxsplit=1)[0]
        + "\n\n    def get(self):\n        return self.seen\n\n\n@dataclass(frozen=True)\n"
        "class More(Record):\n    def get(self):\n        return super().get()",
        DATACLASS, hidden="kept = await look()",
    ),
    "a_flag": Hiding(
        "return Kind(seen)", "kept & Kind.A", "class Kind(enum.IntFlag):\n    A = 1\n    B = 2",
        "import enum", hidden="kept = await look()",
    ),
    "a_dictionary_made_on_the_way": Hiding(
        "return seen", "kept[0]",
        hidden="found = await look()\n    kept = {n: found for n in (0, 1)}",
    ),
    "arithmetic_of_pythons_library": Hiding(
        "return seen", "math.gcd(kept, 0)", imports="import math", hidden="kept = await look()"
    ),
    "a_function_that_is_returned": Hiding(
        "return lambda: seen", "kept()", hidden="kept = await look()"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_no_harm_is_allowed(name: str, users: Users, shell: Shell) -> None:
    done = shell("explore", users("leak.py", HARMLESS[name].text()))
    assert (done.status, done.err) == (1, "")
    assert done.out.startswith("leak.py:leak/default  VIOLATED  mark_stays_clear\n")
    assert " 18 choices, 1 context switch" in done.out


def test_the_race_is_there_and_random_runs_do_not_meet_it(users: Users, shell: Shell) -> None:
    """So a hiding place that is not seen makes a HOLDS, twenty agreeing live runs and all."""
    file = users("leak.py", HARMLESS["a_local_variable"].text())
    assert shell("stress", file, "--seeds", "0:200").status == 0
    choices = "\n".join(["cpu1"] * 15 + ["cpu0"] * 3)
    header = f"smpmmu schedule 1\nscenario {file}:leak/default\nexpect VIOLATED mark_stays_clear"
    users("it.schedule", f"{header}\n\n{choices}\n")
    assert shell("replay", "it.schedule").status == 0


# What is not seen today.

SLOTS = RECORD.replace("frozen=True", "frozen=True, slots=True")
KIND = "class Kind(enum.Enum):\n    A = 1\n\n    {}"

REMOTE = {
    "annotations_of_a_function": Hiding(
        "look.__annotations__['seen'] = seen", "look.__annotations__.get('seen', 0)"
    ),
    "annotations_of_a_class": Hiding(
        "Box.__annotations__['seen'] = seen", "Box.__annotations__['seen']",
        "class Box:\n    seen: 0",
    ),
    "docstring_of_a_class_that_is_a_list": Hiding(
        "Box.__doc__[0] = seen", "Box.__doc__[0]", "class Box:\n    __doc__ = [0]"
    ),
    "slots_of_a_class_in_a_list": Hiding(
        "Box.__slots__[0] = seen", "Box.__slots__[0] == 1", "class Box:\n    __slots__ = ['a']"
    ),
    "list_as_value_of_an_enum_member": Hiding(
        "Kind.A.value[0] = seen", "Kind.A.value[0]", "class Kind(enum.Enum):\n    A = [0]",
        "import enum",
    ),
    "property_of_an_enum": Hiding(
        "Kind.A.seen.append(seen)", "Kind.A.seen[-1]",
        "BOX = [0]\n\n\n"
        + KIND.format("@property\n    def seen(self):\n        return BOX"),
        "import enum",
    ),
    "static_method_of_an_enum": Hiding(
        "Kind.box().append(seen)", "Kind.box()[-1]",
        "BOX = [0]\n\n\n" + KIND.format("@staticmethod\n    def box():\n        return BOX"),
        "import enum",
    ),
    "members_of_an_enum": Hiding(
        "Kind._member_map_['SEEN'] = seen", "Kind._member_map_.get('SEEN')", KIND.format(""),
        "import enum",
    ),
    "evaluated_lambda": Hiding(
        "put(seen)", "get()",
        "BOX = [0]\nput, get = eval('lambda v: BOX.append(v)'), eval('lambda: BOX[-1]')",
    ),
    "attrgetter_by_its_own_name": Hiding(
        "attrgetter('__dict__')(STASH)['seen'] = seen", "STASH.seen", RECORD,
        DATACLASS + "\nfrom operator import attrgetter",
    ),
    "name_of_a_function_wrapped_anew": Hiding(
        "functools.update_wrapper(stash, one if seen else zero)", "stash.__name__ == 'one'",
        "def stash():\n    pass\n\n\ndef one():\n    pass\n\n\ndef zero():\n    pass",
        "import functools",
    ),
    "keywords_of_a_partial": Hiding(
        "STASH.keywords['key'] = seen", "STASH.keywords['key']",
        "STASH = functools.partial(max, key=0)", "import functools",
    ),
    "slot_of_a_frozen_record": Hiding(
        "Record.seen.__set__(STASH, seen)", "STASH.seen", SLOTS, DATACLASS
    ),
    "frozen_record_made_again": Hiding("STASH.__init__(seen)", "STASH.seen", RECORD, DATACLASS),
    "state_of_a_frozen_record": Hiding(
        "STASH.__setstate__([seen])", "STASH.seen", SLOTS, DATACLASS
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REMOTE)
def test_remote_hiding_places_are_refused_or_harmless(
    name: str, users: Users, shell: Shell
) -> None:
    done = shell("explore", users("leak.py", REMOTE[name].text()))
    assert done.status in (1, 4)
    assert "Traceback" not in done.err


# Clocks, chance, and order.

DRAWS = """\
{imports}
from smpmmu import Word, call, scenario, store, value

X = Word("x", 16)


async def draw():
    for _ in range(4):
        await store(X, {number} & 0xffff)


@scenario()
def drawn(setup):
    setup.cpu(0, call(draw))
    setup.always("small", value(X) < 0x8000)
"""


@pytest.mark.parametrize(
    ("imports", "number"),
    [
        ("import time", "time.monotonic_ns()"),
        ("import time", "int(time.time() / 1e6)"),  # too slow to be seen to tick
        ("from time import perf_counter_ns", "perf_counter_ns()"),
        ("import datetime", "datetime.datetime.now().microsecond"),
        ("import random", "random.getrandbits(16)"),
        ("from random import getrandbits", "getrandbits(16)"),
        ("import os", "int.from_bytes(os.urandom(2), 'little')"),
        ("import os", "os.getpid()"),
        ("import uuid", "uuid.uuid4().int"),
        ("import sys", "sys.getrefcount(X)"),
        ("import itertools\nclass Box:\n    numbers = itertools.count()", "next(Box.numbers)"),
        ("", "id(X)"),
        ("", "hash('abc')"),
        ("", "list({'a', 'b', 'c'}).index('a')"),
        ("", "list(set('abcdefghijklmnop')).index('c')"),
        ("", "list(frozenset('abcdefghijklmnop')).index('c')"),
    ],
)
def test_what_differs_from_run_to_run_is_refused(
    imports: str, number: str, users: Users, shell: Shell
) -> None:
    file = users("draw.py", DRAWS.format(imports=imports, number=number))
    done = shell("explore", file)
    assert (done.status, done.out) == (4, "")
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err


ORDERS = {
    "frozenset_of_strings": (
        "NAMES = frozenset('abcdefghijklmnop')",
        "[n for n in NAMES].index('c')",
    ),
    "constant_set_of_strings": (
        "",
        "[n for n in ('c', *{'a', 'b', 'd', 'e', 'f', 'g', 'h'}) if n != 'c'].index('a')",
    ),
    "another_name_of_hash": ("digest = hash", "digest('abc')"),
}


@pytest.mark.parametrize("name", ORDERS)
def test_another_process_says_the_same_or_it_is_refused(name: str, users: Users) -> None:
    imports, number = ORDERS[name]
    file = users("draw.py", DRAWS.format(imports=imports, number=number))
    done = [
        spawn("replay", f"{file}:drawn/default", "--seed", "0", cwd=Path.cwd(), PYTHONHASHSEED=seed)
        for seed in ("1", "2")
    ]
    assert done[0] == done[1]


# What is awaited, and what is caught.

AWAITS = """\
{imports}
from smpmmu import Word, bug_on, call, indivisible, load, routine, scenario, store, value

X, Y, SEEN = Word("x", 1), Word("y", 1), Word("seen", 1)


{body}


async def look():
    if await load(Y):
        await store(SEEN, 1)


@scenario()
def awaits(setup):
    setup.cpu(0, call(go))
    setup.cpu(1, call(look))
    setup.always("y_is_not_seen", value(SEEN) == 0)
"""

AWAITED_WRONGLY = {
    "steps_in_finally": (
        "",
        (
            "async def go():\n    try:\n        await store(X, 1)\n    finally:\n"
            "        await store(X, 0)"
        ),
        "go takes a step while it is being closed (try/finally?)",
    ),
    "steps_after_catching_everything": (
        "",
        (
            "async def go():\n    try:\n        await store(X, 1)\n    except BaseException:\n"
            "        await store(X, 0)"
        ),
        "go uses BaseException()",
    ),
    "trio_checkpoint": (
        "import trio",
        "async def go():\n    await store(X, 1)\n    await trio.lowlevel.checkpoint()",
        "modelled code may await only steps and other modelled functions",
    ),
    "asyncio_sleep": (
        "import asyncio",
        "async def go():\n    await store(X, 1)\n    await asyncio.sleep(0)",
        "modelled code may await only steps",
    ),
    "another_awaitable": (
        "class Other:\n    def __await__(self):\n        yield 42\n",
        "async def go():\n    await Other()",
        "go awaited 'int'; modelled code may await only steps and other modelled functions",
    ),
    "no_step_awaited": (
        "",
        "async def go():\n    await store(X, 1)\n    await load",
        "go raised TypeError: object function can't be used in 'await' expression",
    ),
}


@pytest.mark.parametrize("name", AWAITED_WRONGLY)
def test_what_may_not_be_awaited_is_refused(name: str, users: Users, shell: Shell) -> None:
    imports, body, said = AWAITED_WRONGLY[name]
    done = shell("explore", users("awaits.py", AWAITS.format(imports=imports, body=body)))
    assert (done.status, done.out) == (4, "")
    assert said in done.err
    assert "Traceback" not in done.err


def alone(users: Users, imports: str, body: str) -> tuple[int, str, str]:
    """Explore in a process of its own: trio's own state may be harmed."""
    file = users("awaits.py", AWAITS.format(imports=imports, body=body))
    done = spawn("explore", file, cwd=Path.cwd())
    return done.status, done.out, done.err


def test_trio_sleep_is_refused(users: Users) -> None:
    status, out, err = alone(users, "import trio", "async def go():\n    await trio.sleep(1)")
    assert (status, out) == (4, "")
    assert "modelled code may await only steps and other modelled functions" in err


def test_trio_sleep_is_refused_without_noise(users: Users) -> None:
    body = "async def go():\n    await store(X, 1)\n    await trio.sleep(1)"
    status, _, err = alone(users, "import trio", body)
    assert status == 4
    assert "Traceback" not in err


def test_a_nursery_is_refused(users: Users) -> None:
    body = "async def go():\n    async with trio.open_nursery() as n:\n        n.start_soon(look)"
    status, _, err = alone(users, "import trio", body)
    assert status == 4
    assert "Traceback" not in err


def test_an_asynchronous_generator_is_refused_or_harmless(users: Users) -> None:
    body = (
        "async def found():\n    yield await load(X)\n\n\n"
        "async def go():\n    async for _ in found():\n        await store(Y, 1)"
    )
    status, _, err = alone(users, "", body)
    assert status in (1, 4)
    assert status == 4 or err == ""
    assert "Exception ignored" not in err


SWALLOWED = """\
class Stop({base}):
    pass


@{kind}
async def pair():
    await store(X, 1)
    raise Stop


async def go():
    try:
        await pair()
    except Stop:
        pass
    await store(Y, 1)
    await store(Y, 0)
"""


@pytest.mark.parametrize("kind", ["routine", 'indivisible("a test")'])
@pytest.mark.parametrize("base", ["Exception", "ValueError"])
def test_a_routine_may_be_left_by_an_exception(
    base: str, kind: str, users: Users, shell: Shell
) -> None:
    body = SWALLOWED.format(base=base, kind=kind)
    done = shell("explore", users("awaits.py", AWAITS.format(imports="", body=body)))
    assert (done.status, done.err) == (1, "")
    assert "VIOLATED  y_is_not_seen" in done.out


@pytest.mark.parametrize("base", ["BaseException", "KeyboardInterrupt", "GeneratorExit"])
def test_a_routine_left_by_a_base_exception_is_refused_or_closed(
    base: str, users: Users, shell: Shell
) -> None:
    body = SWALLOWED.format(base=base, kind='indivisible("a test")')
    done = shell("explore", users("awaits.py", AWAITS.format(imports="", body=body)))
    assert done.status in (1, 4)


CAUGHT = """\
async def go():
    await store(X, 1)
    try:
        bug_on(True, "never_here")
    except {what}:
        pass
    await store(X, 0)
"""


def test_a_bug_is_not_caught_with_exceptions(users: Users, shell: Shell) -> None:
    body = CAUGHT.format(what="Exception")
    done = shell("explore", users("awaits.py", AWAITS.format(imports="", body=body)))
    assert done.status == 1
    assert "VIOLATED  never_here" in done.out


SWALLOWING = {
    "base_exception": CAUGHT.format(what="BaseException"),
    "bare": CAUGHT.format(what="").replace("except :", "except:"),
    "among_others": CAUGHT.format(what="(ValueError, BaseException)"),
    "another_name": "Everything = BaseException\n\n\n" + CAUGHT.format(what="Everything"),
    "of_a_tuple": "ALL = (BaseException,)\n\n\n" + CAUGHT.format(what="ALL"),
    "finally_that_returns": "async def go():\n    await store(X, 1)\n    try:\n"
    '        bug_on(True, "never_here")\n    finally:\n        return\n',
    "finally_that_continues": "async def go():\n    for _ in range(2):\n"
    "        await store(X, 1)\n        try:\n"
    '            bug_on(True, "never_here")\n        finally:\n            continue\n',
    "a_context_manager": "@dataclass(frozen=True)\nclass Quiet:\n    def __enter__(self):\n"
    "        return self\n\n    def __exit__(self, *_):\n        return True\n\n\n"
    "async def go():\n    await store(X, 1)\n    with Quiet():\n"
    '        bug_on(True, "never_here")\n    await store(X, 0)\n',
}


@pytest.mark.parametrize("name", SWALLOWING)
def test_a_bug_that_is_caught_is_a_violation_or_refused(
    name: str, users: Users, shell: Shell
) -> None:
    text = AWAITS.format(imports=DATACLASS, body=SWALLOWING[name])
    done = shell("explore", users("awaits.py", text))
    assert done.status in (1, 4)
    assert done.status == 4 or "VIOLATED  never_here" in done.out
