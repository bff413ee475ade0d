"""Users' files on their way to workers that may not have them.

A scenario's file goes as text, with the modules beside it that it imports. This module must not
know what is done with the scenario.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from smpmmu.engine.errors import SmpmmuError
from smpmmu.targets import one

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smpmmu.targets import Target

OURS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Shipped:
    """A variant of a user's file, with everything that it needs.

    Attributes:
        name: what the user typed to mean it.
        file: the file as it was typed; "" for the catalogue, which workers have.
        main: the file, below a folder of its own.
        texts: (path below that folder, text) of it and what it imports.
        root: that folder where the user is.
    """

    name: str
    file: str = ""
    main: str = ""
    texts: tuple[tuple[str, str], ...] = ()
    root: str = ""

    @property
    def digest(self) -> str:
        """What tells these texts from others."""
        return hashlib.sha256(repr(self.texts).encode()).hexdigest()[:32]


def shipped(target: Target) -> Shipped:
    """Return a variant as it goes to a worker."""
    if not target.file:
        return Shipped(target.name)
    main = Path(target.file).resolve()
    root = main.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    paths = {main, *(path for path in _loaded() if path.is_relative_to(root))}
    texts = ((str(p.relative_to(root).as_posix()), p.read_text("utf-8")) for p in sorted(paths))
    name = str(main.relative_to(root).as_posix())
    return Shipped(target.name, target.file, name, tuple(texts), str(root))


def _loaded() -> list[Path]:
    """Return the files of modules that are neither installed nor ours."""
    files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    paths = [Path(file).resolve() for file in files if file.endswith(".py")]
    prefixes = [Path(prefix).resolve() for prefix in {sys.prefix, sys.base_prefix}]
    return [
        path
        for path in paths
        if not path.is_relative_to(OURS)
        and "site-packages" not in path.parts
        and not any(path.is_relative_to(prefix) for prefix in prefixes)
        and path.is_file()
    ]


_FOLDERS: dict[str, Path] = {}


def unpacked(what: Shipped) -> Target:
    """Return the variant, on a worker; it is called as the user called it.

    Raises:
        SmpmmuError: as `targets.one`, with the user's name for the file.
    """
    if not what.file:
        return one(what.name)
    folder = _FOLDERS.get(what.digest)
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="smpmmu-"))
        for name, text in what.texts:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        _FOLDERS[what.digest] = folder
    path = folder / what.main
    variant = what.name.removeprefix(f"{what.file}:")
    before = list(sys.path)
    try:
        return replace(one(f"{path}:{variant}"), file=what.file)
    except SmpmmuError as error:
        raise type(error)(str(error).replace(str(path), what.file)) from error
    finally:
        sys.path[:] = before
        _forget(folder)


@contextlib.contextmanager
def at_home(what: Shipped) -> Iterator[None]:
    """Let errors name files as they are called where the user is."""
    try:
        yield
    except SmpmmuError as error:
        folder = _FOLDERS.get(what.digest)
        if folder is None:
            raise
        raise type(error)(str(error).replace(str(folder), what.root)) from None


def _forget(folder: Path) -> None:
    """Forget modules of a folder, so that others of the same name can be loaded from another."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if file.startswith(str(folder) + os.sep) and not name.startswith("smpmmu_user_"):
            del sys.modules[name]
