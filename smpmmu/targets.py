"""From what a user types to scenarios: names of the catalogue, or files of their own.

It must not know what is done with them.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from smpmmu.engine.errors import ModelError, SmpmmuError, UsageError
from smpmmu.engine.reduced import without as left_out
from smpmmu.scenario import Scenario, Variant
from smpmmu.scenarios import FAMILIES, NAMES, scenario

if TYPE_CHECKING:
    from types import ModuleType

    from smpmmu.engine.system import System


EVICTOR = "+evictor"
"""What the name of a variant ends with when its evictors are meant to be there."""
CPUS = "cpus"
"""What a number of vCPUs before that ends with, as in `NAME/VARIANT+8cpus`."""


@dataclass(frozen=True, slots=True)
class Target:
    """A variant of a scenario, and where the scenario comes from ("" for the catalogue).

    With `evictor` it is the variant with its evictors; `without` are the programs and calls of it
    that are left out; `cpus` is the number of vCPUs if it is not the scenario's own.
    """

    scenario: Scenario
    variant: Variant
    file: str = ""
    evictor: bool = False
    without: tuple[str, ...] = ()
    cpus: int | None = None

    def __post_init__(self) -> None:
        if self.cpus is not None:
            self.scenario.scaled(self.variant, self.cpus)

    @property
    def name(self) -> str:
        """What the user would type to mean it."""
        name = f"{self.scenario.name}/{self.sized}{EVICTOR if self.evictor else ''}"
        return f"{self.file}:{name}" if self.file else name

    @property
    def sized(self) -> str:
        """The variant's name, with the number of vCPUs if that is not the scenario's own."""
        return self.variant.name + ("" if self.cpus is None else f"+{self.cpus}{CPUS}")

    def system(self) -> System:
        """Build the system.

        Raises:
            ModelError: the scenario's function raised, or its programs break a rule.
        """
        return self.systems()[0]

    def systems(self) -> tuple[System, System | None]:
        """Build the system, and the same with evictors if it leaves any out.

        Raises:
            ModelError: as for `system`.
        """
        try:
            sized = self.variant
            if self.cpus is not None:
                sized = self.scenario.scaled(sized, self.cpus)
            without, evicted = self.scenario.systems(sized)
            if self.without:
                without = left_out(without, self.without)
                evicted = left_out(evicted, self.without) if evicted is not None else None
        except SmpmmuError as error:
            msg = f"{self.name}: {error}"
            raise type(error)(msg) from error
        except (Exception, SystemExit) as error:
            raise _users_error(self.file or self.name, error) from error
        return (evicted or without, None) if self.evictor else (without, evicted)


def catalogue() -> list[Target]:
    """Return every variant of the catalogue, in order."""
    return [target for name in NAMES for target in find(name)]


def find(text: str) -> list[Target]:
    """Return what `NAME[/VARIANT[+Ncpus][+evictor]]`, `FAMILY` or `FILE.py[:NAME[/VARIANT]]` means.

    Raises:
        UsageError: there is no such thing; with the nearest that there is.
        ModelError: the user's file raises.
    """
    file, name = _split(text)
    if not file and name in FAMILIES:
        return [target for each in FAMILIES[name] for target in find(each)]
    known = _from_file(file) if file else dict.fromkeys(NAMES)
    wanted, _, variant = name.partition("/")
    evictor = variant.endswith(EVICTOR)
    variant, cpus = _size(variant.removesuffix(EVICTOR))
    if not file and not wanted:
        msg = f"{text!r} names no scenario; there are: {', '.join(known)}"
        raise UsageError(msg)
    if not file and wanted in FAMILIES:
        members = ", ".join(FAMILIES[wanted])
        msg = f"{wanted} is a family, whose scenarios have the variants: {members}"
        raise UsageError(msg)
    if wanted and wanted not in known:
        msg = "scenario"
        raise _unknown(msg, wanted, list(known), file)
    chosen = [wanted] if wanted else list(known)
    targets = []
    for each in chosen:
        found = known[each] or scenario(each)
        variants = found.variants
        if variant:
            names = [v.name for v in variants]
            if variant not in names:
                msg = f"variant of {each}"
                raise _unknown(msg, variant, names, file)
            variants = (found.variant(variant),)
        targets += [Target(found, v, file, evictor, cpus=cpus) for v in variants]
    return targets


def scaled(targets: list[Target], cpus: int | None) -> list[Target]:
    """Return targets with a number of vCPUs, if one is given.

    Raises:
        UsageError: a scenario does not take so many.
    """
    return targets if cpus is None else [replace(target, cpus=cpus) for target in targets]


def _size(variant: str) -> tuple[str, int | None]:
    """Return the name of a variant without the number of vCPUs behind it, and that."""
    name, plus, size = variant.rpartition("+")
    number = size.removesuffix(CPUS)
    if plus and number != size and number.isascii() and number.isdecimal() and len(number) < 4:
        return name, int(number)
    return variant, None


def one(text: str | Target) -> Target:
    """Return the one variant that `text` means, or that it is.

    Raises:
        UsageError: it means several, or none.
    """
    if isinstance(text, Target):
        return text
    targets = find(text)
    if len(targets) != 1:
        choices = ", ".join(t.name for t in targets)
        msg = f"{text} has several variants; name one: {choices}"
        raise UsageError(msg)
    return targets[0]


def _split(text: str) -> tuple[str, str]:
    """Return (file, name) of what the user typed; the file is "" for the catalogue."""
    if text.endswith(".py"):
        return text, ""
    head, separator, tail = text.rpartition(".py:")
    return (f"{head}.py", tail) if separator else ("", text)


def _unknown(kind: str, name: str, known: list[str], file: str) -> UsageError:
    names = known if file or kind != "scenario" else [*known, *FAMILIES]
    near = difflib.get_close_matches(name, names, 1, 0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
    where = f" in {file}" if file else ""
    return UsageError(f"no {kind} is called {name!r}{where}; {hint}")


def _from_file(file: str) -> dict[str, Scenario | None]:
    """Run a user's file and return the scenarios it defines."""
    module = _load(Path(file))
    found: dict[str, Scenario | None] = {}
    for value in vars(module).values():
        if isinstance(value, Scenario) and found.setdefault(value.name, value) is not value:
            msg = f"{file} has two scenarios called {value.name!r}; give their functions two names"
            raise ModelError(msg)
    if not found:
        msg = f"{file} defines no scenario: decorate a function with @scenario()"
        raise ModelError(msg)
    return found


_LOADED: dict[Path, ModuleType] = {}


def _load(path: Path) -> ModuleType:
    resolved = path.resolve()
    if resolved in _LOADED:
        return _LOADED[resolved]
    if not path.is_file():
        msg = f"there is no file {path}"
        raise UsageError(msg)
    try:
        module = _imported(resolved)
    except (Exception, SystemExit) as error:
        raise _users_error(str(path), error) from error
    _LOADED[resolved] = module
    return module


def _imported(path: Path) -> ModuleType:
    """Import a file as Python and pytest would: what lies beside it can be imported, too.

    In a package (a directory with an `__init__.py`) it is the package's module.
    """
    root, name = path.parent, f"smpmmu_user_{len(_LOADED)}_{path.stem}"
    if (root / "__init__.py").is_file():
        name = path.stem
        while (root / "__init__.py").is_file():
            root, name = root.parent, f"{root.name}.{name}"
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    if "." in name:
        importlib.import_module(name.rpartition(".")[0])
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # its name ends with .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _users_error(file: str, error: BaseException) -> ModelError:
    """Return an error that shows the user's own line, and nothing of ours."""
    if isinstance(error, SyntaxError):
        where = f"{file}:{error.lineno}" if error.lineno else file
        text = (error.text or "").strip()
        return ModelError(f"{where}: {error.msg}" + (f"\n  {text}" if text else ""))
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).name == Path(file).name]
    where = f"{file}:{own[-1].lineno}: " if own else f"{file}: "
    line = f"\n  {own[-1].line}" if own and own[-1].line else ""
    kind = "" if isinstance(error, SmpmmuError) else f"{type(error).__name__}: "
    return ModelError(f"{where}{kind}{error}{line}")
