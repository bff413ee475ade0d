"""The states of a depth that are still to expand, in blocks; what finds no room lies on the disk.

A block is closed as soon as it is large enough, so that it can be expanded while others of its
depth are still being found. Files have no name, so that nothing is left of them however a process
ends. This module must not know what is done with a block.
"""

from __future__ import annotations

import tempfile
import weakref
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np

from smpmmu.engine.errors import InternalError, UsageError
from smpmmu.engine.reading import Block

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from smpmmu.engine.layout import Field, Lanes, Layout
    from smpmmu.engine.steps import Column

    Fields = dict[str, Field]

ROWS = 1 << 17
"""Machines expanded at once: large enough to hide numpy's overhead, small enough for the cache."""


@dataclass(slots=True)
class Frontier:
    """Some states to expand: lanes (lanes, n), fps (n,), ids (n,)."""

    lanes: Lanes
    fps: Column
    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def block(self) -> Block:
        """The states without their numbers."""
        return Block(self.lanes, self.fps)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.lanes.nbytes + self.fps.nbytes + self.ids.nbytes

    def cut(self, begin: int, end: int) -> Frontier:
        """Return the states from `begin` up to `end`."""
        return Frontier(self.lanes[:, begin:end], self.fps[begin:end], self.ids[begin:end])


class Room:
    """How many bytes blocks may take in memory, all depths together; None: any number.

    Attributes:
        held: how many they take.
    """

    def __init__(self, most: int | None) -> None:
        """Begin with nothing held."""
        self.most = most
        self.held = 0

    def fits(self, more: int) -> bool:
        """Whether `more` bytes still find room."""
        return self.most is None or self.held + more <= self.most


@dataclass(slots=True)
class _Closed:
    """A block, in memory or at a place in a file, in the layout of its time."""

    part: Frontier | None
    begin: int
    states: int
    fields: Fields
    lanes: int


class Level:
    """The states of one depth, in the order found, with their numbers in the search."""

    def __init__(self, layout: Layout, room: Room) -> None:
        """Begin with none; `layout` is how machines lie now, and it may grow."""
        self._layout = layout
        self._room = room
        self._closed: list[_Closed] = []
        self._open: list[tuple[Frontier, Fields]] = []
        self._opened = 0  # states not in a closed block
        self._file: IO[bytes] | None = None
        self._written = 0

    def __len__(self) -> int:
        """Return how many blocks are closed."""
        return len(self._closed)

    @property
    def spilled(self) -> int:
        """Bytes written to the disk."""
        return self._written

    def put(self, part: Frontier) -> None:
        """Add states, laid out as of now.

        Raises:
            UsageError: there is no room in memory, and none on the disk.
        """
        for begin in range(0, part.ids.size, ROWS):
            some = part.cut(begin, begin + ROWS) if part.ids.size > ROWS else part
            self._open.append((some, self._layout.fields))
            self._opened += some.ids.size
            self._room.held += some.nbytes
            if 2 * self._opened >= ROWS:
                self.close()

    def close(self) -> None:
        """Make a block of what is not in one yet."""
        if not self._opened:
            return
        self._room.held -= sum(part.nbytes for part, _ in self._open)
        whole = joined(self.open())
        self._open, self._opened = [], 0
        self.add([whole])

    def add(self, blocks: list[Frontier]) -> None:
        """Add closed blocks, laid out as of now; raises as `put`."""
        for whole in blocks:
            lanes = whole.lanes.shape[0]
            block = _Closed(whole, 0, len(whole), self._layout.fields, lanes)
            self._closed.append(block)
            if self._room.fits(whole.nbytes):
                self._room.held += whole.nbytes
            else:
                self._write(block, whole)

    def block(self, number: int) -> Frontier:
        """Return a closed block as it is laid out now."""
        block = self._closed[number]
        part = self._read(block) if block.part is None else block.part
        today = self._today(part, block.fields)
        if block.part is not None and today is not part:
            self._room.held += today.nbytes - part.nbytes
            block.part, block.fields = today, self._layout.fields
        return today

    def drop(self, number: int) -> int:
        """Forget the states of a closed block; return how many they were."""
        block = self._closed[number]
        states, block.states = block.states, 0
        if block.part is not None:
            self._room.held -= block.part.nbytes
            block.part = block.part.cut(0, 0)
        return states

    def fps(self) -> list[Column]:
        """Return the fingerprints of all closed blocks."""
        return [self._fps(block) for block in self._closed]

    def closed(self) -> list[Frontier]:
        """Return the closed blocks that are left, as they are laid out now."""
        return [self.block(n) for n, block in enumerate(self._closed) if block.states]

    def open(self) -> list[Frontier]:
        """Return what is not in a block yet, as it is laid out now."""
        return [self._today(part, fields) for part, fields in self._open]

    def end(self) -> None:
        """Forget everything."""
        for number in range(len(self._closed)):
            self.drop(number)
        self._room.held -= sum(part.nbytes for part, _ in self._open)
        self._open = []
        if self._file is not None:
            self._file.close()

    def _today(self, part: Frontier, fields: Fields) -> Frontier:
        if fields is self._layout.fields:
            return part
        return Frontier(self._layout.repack(fields, part.lanes), part.fps, part.ids)

    def _write(self, block: _Closed, part: Frontier) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="smpmmu")  # noqa: SIM115  until `end`
                weakref.finalize(self, self._file.close)
            self._file.seek(self._written)
            for array in (part.lanes, part.fps, part.ids):
                self._file.write(np.ascontiguousarray(array).data.cast("B"))
            self._file.flush()
        except OSError as error:
            where = tempfile.gettempdir()
            msg = (
                f"the frontier has outgrown memory, and {where} cannot take it: "
                f"{error.strerror}; set TMPDIR to a folder with room, or --frontier-memory"
            )
            raise UsageError(msg) from error
        block.part, block.begin = None, self._written
        self._written += part.nbytes

    def _read(self, block: _Closed) -> Frontier:
        many = block.states
        lanes = self._array(block.begin, block.lanes * many, np.uint64).reshape(-1, many)
        at = block.begin + lanes.nbytes
        ids = self._array(at + 8 * many, many, np.int64)
        return Frontier(lanes, self._array(at, many, np.uint64), ids)

    def _fps(self, block: _Closed) -> Column:
        if block.part is not None:
            return block.part.fps
        return self._array(block.begin + 8 * block.lanes * block.states, block.states, np.uint64)

    def _array(self, begin: int, size: int, dtype: type[np.integer[Any]]) -> NDArray[Any]:
        assert self._file is not None
        self._file.seek(begin)
        array = np.frombuffer(self._file.read(8 * size), dtype=dtype)
        if array.size != size:
            msg = "the file of the frontier is cut off"
            raise InternalError(msg)
        return array


def joined(parts: list[Frontier]) -> Frontier:
    """Return all of the parts as one, laid out alike."""
    if len(parts) == 1:
        return parts[0]
    return Frontier(
        np.concatenate([p.lanes for p in parts], axis=1),
        np.concatenate([p.fps for p in parts]),
        np.concatenate([p.ids for p in parts]),
    )
