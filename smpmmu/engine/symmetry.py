"""Symmetry: states that differ only in which of several interchangeable vCPUs did what are one.

A state is known by the least fingerprint of all its images under products of verified exchanges
(`engine/exchange.py`). Whatever is compiled later is verified before it is used. This module must
not know about frontiers or verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from smpmmu.engine.exchange import Exchange
from smpmmu.engine.reading import Block
from smpmmu.engine.renaming import NARROW, SAME, Change, Refused
from smpmmu.engine.visited import first_of_each

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.moves import Successors
    from smpmmu.engine.steps import Column, Word
    from smpmmu.engine.system import Interchangeable

    Renamed = tuple[Word, Change]

MOST_IMAGES = 24
"""Images of a state that are compared: four vCPUs in any order."""


@dataclass(slots=True)
class Image:
    """A product of exchanges: what it makes of contexts, words and positions.

    Attributes:
        last: the exchange that is made after `before` (None: nothing is exchanged).
        items: the numbers of the columns to exclusive-or into a fingerprint.
    """

    last: int = 0
    before: Image | None = None
    contexts: list[int] = field(default_factory=list)
    words: dict[str, Renamed] = field(default_factory=dict)
    positions: list[NDArray[np.int64]] = field(default_factory=list)
    items: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Item:
    """What changes in a fingerprint where something is looked at as something else.

    Attributes:
        source: a word, or the number of a context.
        target: what stands for it.
        change: of a word what becomes of its values; of a context (positions,) uint64, what
            changes in the fingerprint.
    """

    source: Word | int
    target: Word | int
    change: Change | Column


class Symmetry:
    """All that a system declares to be interchangeable, if that is wanted, and so.

    Attributes:
        on: it is used.
        refused: why it is not although it is declared, or "".
    """

    def __init__(self, kernel: Kernel, *, wanted: bool = True) -> None:
        """Verify what is compiled of `kernel`."""
        self.kernel = kernel
        declared = kernel.system.interchangeable
        self.on, self.refused = wanted and bool(declared), ""
        self._exchanges: list[Exchange] = []
        self._images: list[Image] = []
        self._items: list[Item] = []
        if not self.on:
            return
        try:
            self._exchanges = [
                Exchange(kernel, each, first)
                for each in declared
                for first in range(len(each.members) - 1)
            ]
            self._images = self._products(declared)
        except Refused as refused:
            self._refuse(refused)
        self.extend()
        if self.on:
            self._make()

    def _refuse(self, refused: Refused) -> None:
        self.on, self.refused = False, str(refused)

    def _products(self, declared: tuple[Interchangeable, ...]) -> list[Image]:
        """Return an image for every arrangement of the members."""
        places = [(n, m) for n, each in enumerate(declared) for m in range(len(each.members) - 1)]
        images = [Image()]
        arrangements = [tuple(tuple(range(len(each.members))) for each in declared)]
        found = set(arrangements)
        for image, arrangement in zip(images, arrangements, strict=False):  # both grow meanwhile
            for last, (number, member) in enumerate(places):
                turned = {member: member + 1, member + 1: member}
                new = list(arrangement)
                new[number] = tuple(turned.get(m, m) for m in new[number])
                if tuple(new) not in found:
                    found.add(tuple(new))
                    arrangements.append(tuple(new))
                    images.append(Image(last, image))
            if len(images) > MOST_IMAGES:
                msg = f"there are more than {MOST_IMAGES} ways to exchange what is declared"
                raise Refused(msg)
        return images

    def extend(self) -> None:
        """Verify what was compiled since; what is not as declared is not used any more."""
        new = False
        try:
            while self.on and any(each.extend() for each in self._exchanges):
                new = True  # what one compiles is new to the others
        except Refused as refused:
            self._refuse(refused)
        if new and self.on:
            self._make()

    def closed(self, reached: dict[str, bool]) -> dict[str, bool]:
        """Return what is reached, where what one state has its images have, too."""
        reached = reached.copy()
        for _ in reached.copy():
            for exchange in self._exchanges:
                for name, image in exchange.properties.items():
                    if name in reached:
                        reached[image] |= reached[name]
        return reached

    def keys(self, block: Block) -> Column:
        """Return for every machine the least fingerprint of its images, (n,) uint64."""
        if not self.on:
            return block.fps
        columns = [self._column(block, item) for item in self._items]
        least = block.fps.copy()
        for image in self._images[1:]:
            fps = block.fps.copy()
            for number in image.items:
                fps ^= columns[number]
            np.minimum(least, fps, out=least)
        return least

    def images(self, block: Block, successors: Successors) -> Column | None:
        """Return the keys of the successors of a block; None if these are their fingerprints."""
        self.extend()
        if not self.on or not len(successors):
            return None
        order, distinct = first_of_each(successors.fps)
        rising = np.sort(order)
        made = Block(successors.made(block.lanes, rising), successors.fps.take(rising))
        keys = np.empty(len(distinct), dtype=np.uint64)
        keys[np.searchsorted(distinct, made.fps)] = self.keys(made)
        found: Column = keys.take(np.searchsorted(distinct, successors.fps))
        return found

    def _column(self, block: Block, item: Item) -> Column | np.uint64:
        """Return what changes in the fingerprints of a block."""
        if isinstance(item.source, int):
            rests = self.kernel.rests(block, item.source)
            table = item.change
            assert not isinstance(table, Change)
            keys: Column | np.uint64
            keys = table[0] if rests is None else table.take(rests.view(np.int64))
            return keys
        values = self.kernel.word(block, item.source)
        if isinstance(values, int):
            return np.uint64(0)  # nobody ever wrote it, nor what stands for it
        if not isinstance(item.change, Change):
            return item.change.take(values.view(np.int64))
        assert not isinstance(item.target, int)
        keys = self.kernel.keys.word(item.source, values)
        return keys ^ self.kernel.keys.word(item.target, item.change.column(values))

    # Making the images anew, when more is known.

    def _make(self) -> None:
        automata = self.kernel.automata
        first = self._images[0]
        first.contexts = list(range(len(automata)))
        first.words = {n: (self.kernel.known(n), SAME) for n in self._exchanges[0].words}
        first.positions = [np.arange(len(a.positions)) for a in automata]
        for image in self._images[1:]:
            before, exchange = image.before, self._exchanges[image.last]
            assert before is not None
            maps = [np.array(positions) for positions in exchange.positions]
            image.contexts = [exchange.contexts[c] for c in before.contexts]
            image.positions = [
                maps[c].take(positions)
                for c, positions in zip(before.contexts, before.positions, strict=True)
            ]
            image.words = {}
            for name, (word, change) in before.words.items():
                to, after = exchange.words[word.name]
                image.words[name] = (to, change.then(after))
        self._itemise(self._images[1:])

    def _itemise(self, images: list[Image]) -> None:
        """Give every image the numbers of what differs in it; images share most of that."""
        numbers: dict[object, int] = {}
        self._items = []
        for image in images:
            image.items = []
            for key, source, target, change in self._differences(image):
                number = numbers.setdefault(key, len(self._items))
                if number == len(self._items):
                    self._items.append(self._item(source, target, change))
                image.items.append(number)

    def _differences(self, image: Image) -> Iterator[tuple[object, Any, Any, Any]]:
        """Yield (key, source, target, change) of all that is something else in an image."""
        for name, (to, change) in image.words.items():
            if name != to.name or change.moved:
                yield (name, to.name, change), self.kernel.known(name), to, change
        for context, (partner, positions) in enumerate(
            zip(image.contexts, image.positions, strict=True)
        ):
            if context != partner or (positions != np.arange(positions.size)).any():
                yield (context, partner, positions.tobytes()), context, partner, positions

    def _item(self, source: Any, target: Any, change: Any) -> Item:  # noqa: ANN401
        keys, automata = self.kernel.keys, self.kernel.automata
        if isinstance(source, int):
            there = automata[target].positions
            moves = [
                keys.move(source, 0, rest) ^ keys.move(target, 0, there[change[index]].rest)
                for rest, index in enumerate(automata[source].resting)
            ]
            return Item(source, target, np.array(moves, dtype=np.uint64))
        if source.width > NARROW:
            return Item(source, target, change)
        values = np.arange(1 << source.width, dtype=np.uint64)
        table = keys.word(source, values) ^ keys.word(target, change.column(values))
        return Item(source, target, table)
