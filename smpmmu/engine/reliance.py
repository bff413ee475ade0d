"""What a reduced search relied on so far, and whether what has been compiled since allows it.

A candidate was taken alone because it clashed with nothing where the others stood, and a word was
put back because nobody could read it from there. This module must not know how either is decided.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from smpmmu.engine.candidates import footprint
from smpmmu.engine.clashes import Guard
from smpmmu.engine.dead_words import members
from smpmmu.engine.steps import Wait

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smpmmu.engine.candidates import Hopes, Maker, Tables
    from smpmmu.engine.clashes import Candidate
    from smpmmu.engine.footprints import Taking
    from smpmmu.engine.layout import Lanes

    Places = list[int]  # for each context, a bit for each resting position


class Reliance:
    """What was relied on, by the tables that decided.

    Attributes:
        alone: (context, resting position, candidate) that may have been taken alone.
        clear: for each candidate, where it was taken not to clash with what may come.
        dead: for each word put back, by number, from where it was taken not to be read.
    """

    def __init__(self) -> None:
        """Rely on nothing."""
        self.alone: dict[tuple[int, int, Candidate], None] = {}
        self.clear: dict[Candidate, Places] = {}
        self.dead: dict[int, Places] = {}

    def note(self, alone: Iterable[tuple[int, int, int]], reset: int, tables: Tables) -> None:
        """Rely on candidates, given by their numbers in `tables`, and on words in `reset`."""
        for context, rest, number in alone:
            self.alone[context, rest, tables.candidates[number]] = None
        relied = {candidate for _, _, candidate in self.alone}
        for number, candidate in enumerate(tables.candidates):
            if candidate in relied:  # if not now, from memory, where these tables say so
                now = _clear(tables.clashes, number)
                self.clear[candidate] = _either(self.clear.get(candidate), now)
        for word in members(reset):
            self.dead[word] = _either(self.dead.get(word), _dead(tables.live, word))

    def renew(self, maker: Maker, actions: list[list[Taking | None]], bits: dict[str, int]) -> bool:
        """Bring candidates up to date: an action may have more branches than were known.

        Returns whether all still are candidates.
        """
        alone, clear = self.alone, self.clear
        self.alone, self.clear = {}, {}
        for context, rest, candidate in alone:
            action = actions[context][rest]
            if action is None or not action.known or not maker.eligible(context, rest, action):
                return False
            new = replace(candidate, footprint=footprint(action, bits))
            self.alone[context, rest, new] = None
            self.clear[new] = _either(self.clear.get(new), clear[candidate])
        return True

    def stands(self, tables: Tables, now: Tables | Hopes) -> bool:
        """Whether `now` allows all that was relied on; candidates are numbered as in `tables`."""
        numbers = {candidate: number for number, candidate in enumerate(tables.candidates)}
        for candidate, places in self.clear.items():
            if not _within(places, _clear(now.clashes, numbers[candidate])):
                return False
        return all(_within(places, _dead(now.live, word)) for word, places in self.dead.items())

    def kept(self, maker: Maker) -> dict[str, Any]:
        """Return all that another one needs to rely on the same."""
        return {
            "alone": [
                [context, rest, [_plainly(guard) for guard in candidate.guards],
                 _hex(self.clear[candidate])]
                for context, rest, candidate in self.alone
            ],
            "dead": [[maker.words[word].name, _hex(places)] for word, places in self.dead.items()],
        }  # fmt: skip

    def go_on(self, kept: dict[str, Any], maker: Maker, tables: Tables) -> None:
        """Rely on what another one kept, in a kernel that has grown as that one's had."""
        for context, rest, guards, places in kept["alone"]:
            found = tuple(
                Guard(maker.kernel.known(name), Wait(mask, value, equal), bits)
                for name, bits, mask, value, equal in guards
            )
            like = tables.candidates[int(tables.choices[context][rest])]
            candidate = replace(like, guards=found)
            self.alone[context, rest, candidate] = None
            self.clear[candidate] = [int(each, 16) for each in places]
        for name, places in kept["dead"]:
            self.dead[maker.numbers[name]] = [int(each, 16) for each in places]


def _clear(clashes: list[Lanes], number: int) -> Places:
    """Return where a candidate clashes with nothing that may come."""
    shift, found = np.uint64(number & 63), []
    for table in clashes:
        column = table[number >> 6, :-1] >> shift & np.uint64(1)
        found.append(
            int.from_bytes(np.packbits(column == 0, bitorder="little").tobytes(), "little")
        )
    return found


def _dead(live: list[list[int]], word: int) -> Places:
    """Return from where a word is read no more."""
    return [sum((not bits >> word & 1) << rest for rest, bits in enumerate(each)) for each in live]


def _either(some: Places | None, more: Places) -> Places:
    return more if some is None else [a | b for a, b in zip(some, more, strict=True)]


def _within(places: Places, others: Places) -> bool:
    return not any(a & ~b for a, b in zip(places, others, strict=True))


def _hex(places: Places) -> list[str]:
    """Return them as text: Python refuses to write long numbers in decimal."""
    return [f"{each:x}" for each in places]


def _plainly(guard: Guard) -> list[Any]:
    wait = guard.wait
    return [guard.word.name, guard.bits, wait.mask, wait.value, wait.equal]
