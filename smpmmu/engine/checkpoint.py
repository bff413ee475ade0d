"""Files that an exploration goes on from.

    smpmmu checkpoint 1        the form of the file
    {"held": ..., "arrays":    a line of JSON: numbers, text and records of them, and which arrays
    ...                        the arrays, one after the other
    SHA-256 of all before it

Nothing in a file is ever executed. It is written whole or not at all, and what does not have the
right checksum is refused before anything is made of it. This module must not know how searching
works; `engine/keeper.py` says what is kept, and when.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from smpmmu.engine.errors import CheckpointError
from smpmmu.engine.explore import Found
from smpmmu.engine.frontier import Frontier
from smpmmu.engine.growth import Growth
from smpmmu.engine.liveness import Stuck
from smpmmu.engine.verdict import Exploration, Verdict

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    Arrays = list[NDArray[Any]]

FORM = b"smpmmu checkpoint 1\n"
RECORDS: dict[str, Any] = {c.__name__: c for c in (Found, Frontier, Stuck, Growth, Exploration)}
CHECKSUM = hashlib.sha256().digest_size
PIECE = 1 << 22
"""Bytes read at once."""


def write(path: Path, held: object) -> None:
    """Write numbers, text, arrays, and lists, dictionaries and records of these.

    Raises:
        OSError: that cannot be done; the file is as it was before.
    """
    arrays: Arrays = []
    flat = _flat(held, arrays)
    head = {"held": flat, "arrays": [[array.dtype.str, array.shape] for array in arrays]}
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            total = hashlib.sha256()
            _put(file, total, FORM)
            _put(file, total, json.dumps(head, separators=(",", ":")).encode() + b"\n")
            for array in arrays:
                if array.size:
                    _put(file, total, np.ascontiguousarray(array).data.cast("B"))
            file.write(total.digest())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    _settle(path.parent)


def _put(file: BinaryIO, total: Any, data: bytes | memoryview) -> None:  # noqa: ANN401  a hash
    file.write(data)
    total.update(data)


def _settle(folder: Path) -> None:
    """See to it that the name of a new file is on the disk, too."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def read(path: Path) -> Any:  # noqa: ANN401  what was written
    """Return what was written to a file.

    Raises:
        CheckpointError: it is no checkpoint, it is damaged, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = _checked(path, file)
            return _loaded(file, size)
    except OSError as error:
        msg = f"cannot read the checkpoint {path}: {error.strerror}"
        raise CheckpointError(msg) from error
    except UNFIT as error:
        raise damaged(path) from error


UNFIT = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)
"""What is raised where a file has the right checksum and is still not what was written."""


def damaged(path: Path) -> CheckpointError:
    """Return the error for a file that is not whole."""
    return CheckpointError(
        f"{path}: this checkpoint is damaged or cut off; delete the file to begin anew"
    )


def _checked(path: Path, file: BinaryIO) -> int:
    """Compare the checksum, and return how many bytes it is of."""
    form = file.read(len(FORM))
    if form != FORM:
        known = form[: len(FORM) - 2] == FORM[:-2]
        what = "another form of checkpoint" if known else "no checkpoint"
        msg = f"{path}: expected {FORM.decode().strip()!r}, found {what}"
        raise CheckpointError(msg)
    size = os.fstat(file.fileno()).st_size - CHECKSUM
    total, left = hashlib.sha256(form), size - len(FORM)
    while left > 0 and (piece := file.read(min(PIECE, left))):
        total.update(piece)
        left -= len(piece)
    if file.read(CHECKSUM) != total.digest():
        raise damaged(path)
    return size


def _loaded(file: BinaryIO, size: int) -> Any:  # noqa: ANN401  what was written
    file.seek(len(FORM))
    head = json.loads(file.readline())
    arrays = [_array(file, size, *each) for each in head["arrays"]]
    return _whole(head["held"], arrays)


def _array(file: BinaryIO, size: int, kind: str, shape: list[int]) -> NDArray[Any]:
    dtype, count = np.dtype(kind), math.prod(shape)
    if dtype.kind not in "biu" or min(shape, default=0) < 0:
        msg = f"an array of {kind} {shape}"
        raise ValueError(msg)
    if count * dtype.itemsize > size - file.tell():
        msg = "an array goes beyond the end"
        raise ValueError(msg)
    return np.fromfile(file, dtype, count).reshape(shape)


def _flat(value: object, arrays: Arrays) -> object:
    """Return what JSON can say of a value, its arrays put aside."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, Verdict):
        return {"verdict": value.value}
    if is_dataclass(value):
        data = {f.name: _flat(getattr(value, f.name), arrays) for f in fields(value)}
        return {"record": type(value).__name__, "of": data}
    if isinstance(value, dict):
        return {"dict": {key: _flat(each, arrays) for key, each in value.items()}}
    if isinstance(value, list):
        return [_flat(each, arrays) for each in value]
    if isinstance(value, tuple):
        return {"tuple": [_flat(each, arrays) for each in value]}
    if isinstance(value, np.integer):
        return int(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    msg = f"a checkpoint cannot hold {type(value).__name__}"
    raise TypeError(msg)


def _whole(flat: Any, arrays: Arrays) -> Any:  # noqa: ANN401  whatever was written
    """Return the value that `_flat` was given."""
    if isinstance(flat, list):
        return [_whole(each, arrays) for each in flat]
    if not isinstance(flat, dict):
        return flat
    if "array" in flat:
        return arrays[flat["array"]]
    if "verdict" in flat:
        return Verdict(flat["verdict"])
    if "record" in flat:
        of = {name: _whole(each, arrays) for name, each in flat["of"].items()}
        return RECORDS[flat["record"]](**of)
    if "tuple" in flat:
        return tuple(_whole(each, arrays) for each in flat["tuple"])
    return {key: _whole(each, arrays) for key, each in flat["dict"].items()}
