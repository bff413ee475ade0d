"""A user's own scenario in a file of their own: used from the shell, and wrong in every way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.shell import ROOT, Shell, python, spawn

Users = Callable[[str, str], str]

# A fast path that looks at a flag without the lock: three vCPUs, two of them racing to make it.
OWN = '''\
"""Lazily made: whoever finds nothing makes it, under the lock or not."""

from smpmmu import (
    Word, bug_on, call, fetch_add, holds, load, scenario, spin_lock, spin_unlock, spinlock,
    store, value, variant, violated,
)

lock = spinlock("lock")
made, copies = Word("made", 1), Word("copies", 2)


async def get(locked):
    """Make it if nobody has."""
    if await load(made):
        return
    if locked:
        await spin_lock(lock)
    if not await load(made):
        await fetch_add(copies, 1)
        await store(made, 1)
    if locked:
        await spin_unlock(lock)


async def use():
    if await load(made):
        bug_on(await load(copies) == 0, "made_means_made")


@scenario(
    variant("locked", holds("checked again under the lock"), locked=True),
    variant("unlocked", violated("made_once", "checked and made are two steps"), locked=False),
)
def lazily_made(setup, *, locked):
    """Two make the same thing, a third uses it."""
    setup.cpu(0, call(get, locked))
    setup.cpu(1, call(get, locked))
    setup.cpu(2, call(use))
    setup.always("made_once", value(copies) <= 1)
    setup.sometimes("it is made", value(made) == 1)
'''


@pytest.fixture
def own(users: Users) -> str:
    return users("lazily.py", OWN)


def test_it_is_short() -> None:
    assert len([line for line in OWN.splitlines() if line.strip()]) < 40


def test_explored_by_path(own: str, shell: Shell) -> None:
    done = shell("explore", own)
    assert (done.status, done.err) == (1, "")
    assert "lazily.py:lazily_made/locked  HOLDS\n" in done.out
    assert "lazily.py:lazily_made/unlocked  VIOLATED  made_once\n" in done.out
    assert "as expected: VIOLATED made_once, from: checked and made are two steps" in done.out
    assert shell("explore", own, "--expected").status == 0


@pytest.mark.parametrize(
    ("tail", "variants", "status"),
    [
        (":", ["locked", "unlocked"], 1),
        (":lazily_made", ["locked", "unlocked"], 1),
        (":lazily_made/locked", ["locked"], 0),
        (":lazily_made/unlocked", ["unlocked"], 1),
    ],
)
def test_explored_by_path_and_name(
    tail: str, variants: list[str], status: int, own: str, shell: Shell
) -> None:
    for path in (own, f"./{own}", str(Path(own).resolve())):
        done = shell("explore", path + tail, "--format", "json")
        assert done.status == status
        rows = json.loads(done.out)["results"]
        assert [(r["scenario"], r["variant"]) for r in rows] == [
            ("lazily_made", v) for v in variants
        ]


def test_the_shortest_schedule_is_told_with_the_fewest_switches(own: str, shell: Shell) -> None:
    done = shell("explore", f"{own}:lazily_made/unlocked", "--format", "json")
    (row,) = json.loads(done.out)["results"]
    (violation,) = row["violations"]
    # Each looks twice and adds: three steps. One stops before it tells that it is made.
    assert (violation["choices"], violation["switches"]) == (6, 1)
    assert [s["text"] for s in violation["story"]].count("add 1 to copies") == 2
    assert {s["context"] for s in violation["story"]} == {"cpu0", "cpu1"}


def test_every_engine_and_stress_take_it(own: str, shell: Shell) -> None:
    assert shell("explore", f"{own}:lazily_made/locked", "--engine", "live").status == 0
    assert shell("explore", f"{own}:lazily_made/unlocked", "--engine", "live").status == 1
    assert shell("stress", f"{own}:lazily_made/locked", "--seeds", "0:300").status == 0
    assert shell("stress", f"{own}:lazily_made/unlocked", "--seeds", "0:300").status == 1


def test_saved_and_replayed_from_another_directory(
    own: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell("explore", own, "--save", "kept/here").status == 1
    saved = tmp_path / "kept/here/lazily_made.unlocked.schedule"
    assert saved.read_text(encoding="utf-8").splitlines()[1] == (
        "scenario ../../lazily.py:lazily_made/unlocked"
    )
    elsewhere = tmp_path / "else/where"
    elsewhere.mkdir(parents=True)
    for directory, path in (
        (tmp_path, "kept/here/lazily_made.unlocked.schedule"),
        (elsewhere, "../../kept/here/lazily_made.unlocked.schedule"),
        (saved.parent, saved.name),
        (Path("/"), str(saved)),
    ):
        monkeypatch.chdir(directory)
        done = shell("replay", path)
        assert (done.status, done.err) == (0, ""), directory
        assert done.out.endswith("confirmed: made_once is violated after 6 choices\n")


def test_filled_in_elsewhere_it_still_finds_its_scenario(
    own: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("explore", own, "--save", "kept")
    saved = tmp_path / "kept/lazily_made.unlocked.schedule"
    whole = saved.read_text(encoding="utf-8")
    monkeypatch.chdir("/")
    assert shell("replay", str(saved), "--fill").status == 0
    assert saved.read_text(encoding="utf-8") == whole


def test_saved_beside_each_other_two_files_do_not_mix(own: str, users: Users, shell: Shell) -> None:
    """Both have a scenario of one name; each schedule names its own file."""
    Path("sub").mkdir()
    other = users("sub/lazily.py", OWN.replace("made_once", "only_one"))
    shell("explore", own, "--save", "a")
    shell("explore", other, "--save", "b")
    told = [shell("replay", f"{d}/lazily_made.unlocked.schedule").out for d in "ab"]
    assert "confirmed: made_once is violated" in told[0]
    assert "confirmed: only_one is violated" in told[1]


def test_it_may_import_what_lies_beside_it(own: str, users: Users) -> None:
    """As a program that Python runs may, from wherever it is run."""
    users("uses.py", "import lazily\n\nlazily_made = lazily.lazily_made\n")
    there = Path.cwd()
    done = spawn("explore", f"{there}/uses.py:lazily_made/locked")
    assert (done.status, done.err) == (0, "")


def test_a_module_of_a_package_is_imported_as_one(own: str, users: Users) -> None:
    for folder in ("models", "models/deep"):
        Path(folder).mkdir()
        users(f"{folder}/__init__.py", "")
    users("models/lazily.py", OWN)
    users("models/deep/uses.py", "from ..lazily import lazily_made\n")
    there = Path.cwd()
    done = spawn("explore", f"{there}/models/deep/uses.py:lazily_made/locked")
    assert (done.status, done.err) == (0, "")


# Wrong files.

HEAD = """\
from smpmmu import Word, call, fetch_add, load, scenario, store, value, variant

W = Word("w", 2)


async def go():
    await store(W, 1)


"""
ONE = """\
@scenario()
def one(setup):
    setup.cpu(0, call({call}))
"""

WRONG = {
    "raises_when_loaded": (
        HEAD + "limit = 1 // 0\n",
        ("error: own.py:10: ZeroDivisionError: integer division or modulo by zero\n"
        "  limit = 1 // 0\n"),
    ),
    "raises_deep_inside": (
        HEAD + "def half(n):\n    return n / 0\n\n\nlimit = half(3)\n",
        "error: own.py:11: ZeroDivisionError: division by zero\n  return n / 0\n",
    ),
    "imports_what_is_not_there": (
        "import nothing_of_this_name\n",
        ("error: own.py:1: ModuleNotFoundError: No module named 'nothing_of_this_name'\n"
        "  import nothing_of_this_name\n"),
    ),
    "syntax_error": (
        HEAD + "def f(:\n    pass\n",
        "error: own.py:10: invalid syntax\n  def f(:\n",
    ),
    "indentation_error": (
        HEAD + "def f():\npass\n",
        ("error: own.py:11: expected an indented block after function definition on line 10\n"
        "  pass\n"),
    ),
    "no_scenario": (
        HEAD,
        "error: own.py defines no scenario: decorate a function with @scenario()\n",
    ),
    "bare_decorator": (
        HEAD + ONE.format(call="go").replace("@scenario()", "@scenario"),
        "error: own.py defines no scenario: decorate a function with @scenario()\n",
    ),
    "empty": ("", "error: own.py defines no scenario: decorate a function with @scenario()\n"),
    "two_variants_of_a_name": (
        HEAD + "@scenario(variant('a'), variant('a'))\ndef one(setup):\n    pass\n",
        "error: own.py:10: scenario one has two variants of one name\n",
    ),
    "two_scenarios_of_a_name": (
        HEAD + "def one(setup):\n    setup.cpu(0, call(go))\n\n\n"
        "first = scenario(variant('a'))(one)\nsecond = scenario(variant('b'))(one)\n",
        "error: own.py has two scenarios called 'one'; give their functions two names\n",
    ),
    "raises_when_built": (
        HEAD + ONE.format(call="go") + "    raise LookupError('not today')\n",
        "error: own.py:13: LookupError: not today\n  raise LookupError('not today')\n",
    ),
    "raises_when_run": (
        HEAD + "async def bad():\n    await go()\n    raise LookupError('not today')\n\n\n"
        + ONE.format(call="bad"),
        ("error: bad raised LookupError: not today\n  {here}/own.py:12: "
        "raise LookupError('not today')\n"),
    ),
    "initial_value_does_not_fit": (
        HEAD.replace('"w", 2', '"w", 2, 4'),
        "error: own.py:3: word 'w' has 2 bits; its initial value is 0x4, which does not fit\n",
    ),
    "value_of_no_type_we_have": (
        HEAD.replace("store(W, 1)", 'store(W, "1")') + ONE.format(call="go"),
        "error: go raised TypeError: ",
    ),
    "sum_does_not_fit": (
        HEAD + "async def bad():\n    for _ in range(4):\n        await fetch_add(W, 1)\n\n\n"
        + ONE.format(call="bad"),
        "error: word 'w' has 2 bits; 'add 1 to w' adds 1 to 0x3, which does not fit\n",
    ),
    "too_many_arguments": (
        HEAD + ONE.format(call="go, 1"),
        "error: go raised TypeError: go() takes 0 positional arguments but 1 was given\n",
    ),
    "not_async": (
        HEAD + "def plain():\n    return 3\n\n\n" + ONE.format(call="plain"),
        "error: plain is not an async function: it returned 3\n",
    ),
    "no_program": (
        HEAD + "@scenario()\ndef one(setup):\n    pass\n",
        "error: own.py:one/default: a system needs at least one vCPU with a program\n",
    ),
    "two_programs_of_a_cpu": (
        HEAD + ONE.format(call="go") + "    setup.cpu(0, call(go))\n",
        "error: own.py:one/default: two contexts or properties are named 'cpu0'\n",
    ),
    "property_that_is_no_truth": (
        HEAD + ONE.format(call="go") + "    setup.always('w', value(W))\n",
        "error: own.py:one/default: property 'w' is not a truth: compare a word with something\n",
    ),
    "property_that_compares_a_word": (
        HEAD + ONE.format(call="go") + "    setup.sometimes('w', W == 1)\n",
        ("error: own.py:one/default: property 'w' was decided by Python, to be False: write "
        "value(word) where a word is compared\n"),
    ),
    "handler_without_a_number": (
        HEAD + ONE.format(call="go") + "    setup.irq('timer', call(go))\n",
        "error: own.py:one/default: expected the number of a vCPU, found 'timer': setup.irq(",
    ),
    "handler_without_a_name": (
        HEAD + ONE.format(call="go") + "    setup.irq(0, call(go))\n",
        "error: own.py:one/default: expected a name, found a call: setup.irq(",
    ),
    "property_that_is_decided_at_once": (
        HEAD + ONE.format(call="go") + "    setup.always('w', value(W) == 1 and value(W) == 1)\n",
        "error: own.py:one/default: a property is an expression, not a value: ",
    ),
    "property_of_a_context_that_is_not_there": (
        HEAD.replace("import ", "import finished, ") + ONE.format(call="go")
        + "    setup.always('w', finished('cpu7'))\n",
        "error: own.py:one/default: property 'w' reads the end of 'cpu7'",
    ),
    "no_step_at_all": (
        HEAD + "async def nothing():\n    pass\n\n\n"
        + ONE.format(call="nothing").replace("))", "), cyclic=True)"),
        "error: the program of cpu0 never takes a step\n",
    ),
    "handler_that_does_not_wait": (
        HEAD + ONE.format(call="go") + "    setup.irq(0, 'timer', call(go))\n",
        ("error: cpu0.irq.timer must begin by waiting until its vector is pending; it begins with "
        "'store w = 1'\n"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_told_at_the_users_line(name: str, users: Users, shell: Shell) -> None:
    text, said = WRONG[name]
    done = shell("explore", users("own.py", text))
    assert (done.status, done.out) == (4, "")
    assert done.err.startswith(said.format(here=Path.cwd()))
    assert_only_theirs(done.err)


def assert_only_theirs(err: str) -> None:
    """Nothing of ours is shown: no traceback, no file, no line."""
    assert "Traceback" not in err
    assert "/smpmmu/" not in err
    assert "self." not in err
    assert "setup.py" not in err


@pytest.mark.parametrize("name", ["raises_when_run", "raises_when_built", "raises_when_loaded"])
@pytest.mark.parametrize("command", ["stress", "replay", "live"])
def test_other_commands_tell_the_same(name: str, command: str, users: Users, shell: Shell) -> None:
    text, said = WRONG[name]
    file = users("own.py", text)
    asked = {
        "stress": ("stress", file),
        "replay": ("replay", file, "--seed", "0"),
        "live": ("explore", file, "--engine", "live"),
    }[command]
    done = shell(*asked)
    assert (done.status, done.out) == (4, "")
    assert done.err.startswith(said.format(here=Path.cwd()))


def test_the_users_line_is_told_from_side_by_side_processes(users: Users) -> None:
    text, said = WRONG["raises_when_run"]
    users("own.py", text)
    users("two.py", text)
    done = spawn("explore", "own.py", "two.py", "--jobs", "2", cwd=Path.cwd())
    assert (done.status, done.out) == (4, "")
    assert done.err == said.format(here=Path.cwd())


# In a process of their own: exits, tracebacks, and what Python prints beside.

ALONE = {
    "value_does_not_fit": (
        HEAD.replace("store(W, 1)", "store(W, 4)") + ONE.format(call="go"),
        "{here}/own.py:7: await store(W, 4)",
    ),
    "knob_that_is_not_there": (
        HEAD + "@scenario(variant('a', knob=1))\ndef one(setup):\n    setup.cpu(0, call(go))\n",
        "unexpected keyword argument 'knob'",
    ),
    "plain_function_that_raises": (
        HEAD + "def plain():\n    raise LookupError('not today')\n\n\n" + ONE.format(call="plain"),
        "LookupError: not today",
    ),
    "exits_when_loaded": (HEAD + "raise SystemExit(0)\n", "own.py:10: "),
    "exits_when_built": (
        HEAD + ONE.format(call="go") + "    raise SystemExit(0)\n",
        "own.py:13: ",
    ),
    "exits_when_run": (
        HEAD
        + "async def bad():\n    await go()\n    raise SystemExit(0)\n\n\n"
        + ONE.format(call="bad"),
        "own.py",
    ),
    "function_instead_of_call": (
        HEAD + ONE.format(call="go").replace("call(go)", "go"),
        "call(go)",
    ),
    "null_byte": ("x = 1\0", "null bytes"),
}


@pytest.mark.parametrize("name", list(ALONE))
def test_a_wrong_file_ends_with_4_and_shows_nothing_of_ours(name: str, users: Users) -> None:
    text, said = ALONE[name]
    users("own.py", text)
    done = spawn("explore", "own.py", cwd=Path.cwd())
    assert (done.status, done.out) == (4, "")
    assert said.format(here=Path.cwd()) in done.err
    assert "None" not in done.err
    assert_only_theirs(done.err)


SHADOWED = """
import importlib, pkgutil, types
import smpmmu
for found in pkgutil.walk_packages(smpmmu.__path__, "smpmmu."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
print([n for n in smpmmu.__all__ if isinstance(getattr(smpmmu, n), types.ModuleType)])
"""


def test_no_module_takes_the_place_of_a_name_that_users_import() -> None:
    """Importing smpmmu.x binds x in the package, over whatever else is called so there."""
    done = python(SHADOWED)
    assert (done.out, done.err) == ("[]\n", "")


def test_a_name_that_we_do_not_have_is_told_as_python_does(users: Users, shell: Shell) -> None:
    done = shell("explore", users("own.py", "from smpmmu import spin_lick\n"))
    assert done.status == 4
    assert "error: own.py:1: ImportError: cannot import name 'spin_lick'" in done.err
    assert done.err.endswith("  from smpmmu import spin_lick\n")


def test_a_directory_or_nothing_is_no_file(users: Users, shell: Shell) -> None:
    users("own.py", "")
    Path("folder.py").mkdir()
    for name in ("folder.py", "nothing.py", ".py", "own.py/x.py"):
        done = shell("explore", name)
        assert (done.status, done.err) == (2, f"error: there is no file {name}\n")


LOADED = """\
from pathlib import Path

seen = Path("loaded").read_text() if Path("loaded").exists() else ""
Path("loaded").write_text(seen + "x")
"""


def test_a_file_is_loaded_once_however_often_it_is_named(users: Users, shell: Shell) -> None:
    file = users("own.py", LOADED + HEAD + ONE.format(call="go"))
    assert shell("explore", file, f"./{file}:one", str(Path(file).resolve())).status == 0
    assert Path("loaded").read_text(encoding="utf-8") == "x"


def test_what_a_file_prints_or_warns_does_not_disturb(users: Users, shell: Shell) -> None:
    file = users("own.py", HEAD + ONE.format(call="go") + "\n\nhello = 'world'\n")
    done = shell("explore", file, "--format", "json")
    assert json.loads(done.out)["results"][0]["verdict"] == "HOLDS"


def test_it_works_where_it_is_installed(tmp_path: Path) -> None:
    """Not only from a checkout: our own modelled functions then lie among the site packages.

    So does the code that `@instruction` puts around a user's function.
    """
    packages = tmp_path / "site-packages"
    shutil.copytree(ROOT / "smpmmu", packages / "smpmmu")
    own = ROOT / "docs/example.py"
    for name in ("lock_rule/deferred_under_ptl", f"{own}:move_page/waiting"):
        done = spawn("explore", name, cwd=tmp_path, PYTHONPATH=str(packages))
        assert (done.status, done.err) == (0, "")
        assert "HOLDS" in done.out


# A step that is not awaited does nothing, and would tell nobody.

UNAWAITED = {
    "thrown_away": "store(W, 1)",
    "function_thrown_away": "go()",
    "tested": "if load(W):\n        await store(W, 1)",
    "compared": "if 1 == load(W):\n        await store(W, 1)",
    "compared_with_a_word": "if load(W) == W.initial:\n        await store(W, 1)",
    "kept": "old = load(W)\n    if old == 1:\n        await store(W, old)",
    "negated": "while not load(W):\n        await store(W, 1)",
    "several_arguments": "fetch_add(\n        W,\n        max(1, len('a')),\n    )",
    "returned": "return load(W)",
    "inside_another": "async def deep():\n        load(W)\n    await deep()",
    "within_a_module": "smpmmu.store(W, 1)",
}


@pytest.mark.parametrize("name", UNAWAITED)
def test_what_is_not_awaited_is_told(name: str, users: Users, shell: Shell) -> None:
    body = f"import smpmmu\n\n\nasync def bad():\n    await go()\n    {UNAWAITED[name]}\n\n\n"
    done = shell("explore", users("own.py", HEAD + body + ONE.format(call="bad")))
    assert (done.status, done.out) == (4, "")
    assert "() without `await`, so that nothing happens\n  " in done.err
    line = done.err.rpartition("own.py:")[2].partition(":")[0]
    text = (HEAD + body).splitlines()[int(line) - 1]
    assert any(call in text for call in ("store(", "load(", "go()", "fetch_add("))


USELESS = {
    "an_old_value": ("old = await fetch_add(W, 1)", "which bits of the old value it returns"),
    "tested": ("if await fetch_add(W, 1):\n        await go()", "which bits of the old value"),
    "returned": ("return await store(W, 1)", "must be loaded"),
}


@pytest.mark.parametrize("name", USELESS)
def test_what_gives_nothing_and_is_used_is_told(name: str, users: Users, shell: Shell) -> None:
    text, hint = USELESS[name]
    body = f"async def bad():\n    {text}\n\n\n"
    done = shell("explore", users("own.py", HEAD + body + ONE.format(call="bad")))
    assert (done.status, done.out) == (4, "")
    assert "() gives, which is 0: " in done.err
    assert hint in done.err
    assert done.err.endswith(f"own.py:11: {text.splitlines()[0]}\n")


AWAITED = {
    "with_the_bits": "old = await fetch_add(W, 0, 1)\n    await fetch_add(W, old - 1)",
    "with_the_bits_by_name": "assert await fetch_add(W, 0, returns=1) == 1",
    "at_once": "assert await load(W) == 1",
    "later": "step = load(W)\n    assert await step == 1",
    "one_of_two": "assert await (load(W) if W.width else xchg(W, 0)) == 1",
    "passed_on": "await passed(load(W))",
    "in_a_list": "for step in (load(W), load(W)):\n        assert await step == 1",
    "not_a_step": "bug_on(False, 'never')",
}


@pytest.mark.parametrize("name", AWAITED)
def test_what_is_awaited_is_accepted(name: str, users: Users, shell: Shell) -> None:
    helper = (
        "from smpmmu import bug_on, xchg\n\n\nasync def passed(step):\n    return await step\n\n\n"
    )
    body = f"{helper}async def good():\n    await go()\n    {AWAITED[name]}\n\n\n"
    done = shell("explore", users("own.py", HEAD + body + ONE.format(call="good")))
    assert (done.status, done.err) == (0, "")


def test_a_loop_that_spins_is_told_what_to_do(users: Users, shell: Shell) -> None:
    body = "async def spin():\n    while await load(W) == 0:\n        pass\n\n\n"
    file = users("own.py", HEAD + body + ONE.format(call="spin"))
    done = shell("explore", file)
    assert done.status == 4
    assert "spin has taken 100 equal steps in a row in one call, the last 'load w'" in done.err
    assert "`await wait_until(word, value)`" in done.err
    assert done.err.endswith("own.py:11: while await load(W) == 0:\n")


def test_a_misspelt_name_is_told_at_the_users_line(users: Users, shell: Shell) -> None:
    body = "import smpmmu\n\n\nasync def bad():\n    await smpmmu.spin_lok(W)\n\n\n"
    done = shell("explore", users("own.py", HEAD + body + ONE.format(call="bad")))
    assert done.status == 4
    assert "has no attribute 'spin_lok'; did you mean 'spin_lock'?\n" in done.err
    assert done.err.endswith("own.py:14: await smpmmu.spin_lok(W)\n")


def test_a_variant_cannot_be_replayed_without_a_seed(users: Users, shell: Shell) -> None:
    file = users("own.py", HEAD + ONE.format(call="go"))
    done = shell("replay", f"{file}:one/default")
    assert done.status == 2
    assert done.err.endswith(
        "--seed N, or by the schedule written by\n"
        "  python -m smpmmu explore own.py:one/default --save DIR\n"
    )
