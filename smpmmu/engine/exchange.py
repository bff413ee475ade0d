"""An exchange of two neighbours among what a scenario declares to be interchangeable, verified.

Positions are paired in lockstep, from the start: the step at a position must do to the words what
the step at its partner does to the words that stand for them. Which word stands for which follows
from the steps; which bits or values are exchanged is declared. This module must not know about
machines; `engine/symmetry.py` makes products of exchanges.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from smpmmu.engine.errors import ModelError
from smpmmu.engine.renaming import NARROW, SAME, Change, Itself, Refused, alike, answer_of, form

if TYPE_CHECKING:
    from smpmmu.engine.automaton import Position
    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.steps import Word
    from smpmmu.engine.system import Interchangeable, System

    Renamed = tuple[Word, Change]


class Exchange:
    """Two neighbours among interchangeable members change places.

    Attributes:
        contexts: number of the context that stands for each.
        words: the word that stands for each, and what becomes of values, by name.
        positions: for each context, for each of its positions, the partner's.
        properties: the property that stands for each, by name.
    """

    def __init__(self, kernel: Kernel, declared: Interchangeable, first: int) -> None:
        """Exchange member `first` and the next one; raises `Refused` if they are not alike."""
        self.kernel = kernel
        system = kernel.system
        one, two = declared.members[first : first + 2]
        self._names = dict(itertools.chain(zip(one, two, strict=True), zip(two, one, strict=True)))
        self._changes = {}
        for whole, named in ((False, declared.bits), (True, declared.values)):
            for word, items in named:
                if whole and word.width > NARROW:
                    msg = f"values of {word.name} cannot be exchanged: over {NARROW} bits"
                    raise Refused(msg)
                a, b = items[first : first + 2]
                pairs = itertools.chain(zip(a, b, strict=True), zip(b, a, strict=True))
                self._changes[word.name] = Change(tuple(sorted(pairs)), whole)
        self.contexts = self._partners(system)
        self.words: dict[str, Renamed] = {}
        self._taken: dict[str, str] = {}
        self.positions: list[list[int]] = [[] for _ in kernel.automata]
        self._owner: list[dict[int, int]] = [{} for _ in kernel.automata]
        self._done = [0] * len(kernel.automata)
        self.properties: dict[str, str] = {}
        for context in range(len(kernel.automata)):
            self._pair(context, 0, 0)

    def _renamed(self, name: str) -> str:
        cpu, dot, rest = name.partition(".")
        return self._names.get(name) or self._names.get(cpu, cpu) + dot + rest

    def _partners(self, system: System) -> list[int]:
        numbers = {c.name: n for n, c in enumerate(system.contexts)}
        partners = []
        for context in system.contexts:
            name = self._renamed(context.name)
            if name not in numbers:
                msg = f"{context.name} has no partner: there is no {name}"
                raise Refused(msg)
            other = system.contexts[numbers[name]]
            what = (self._renamed(context.cpu), context.role, context.cyclic, context.priority)
            if what != (other.cpu, other.role, other.cyclic, other.priority):
                msg = f"{context.name} and {name} are not of the same kind"
                raise Refused(msg)
            partners.append(numbers[name])
        return partners

    def extend(self) -> bool:
        """Verify what was compiled since; return whether that was anything.

        Raises:
            Refused: it does not fit.
        """
        words, new, behind = len(self.words), True, False
        while new:
            new = False
            for context, automaton in enumerate(self.kernel.automata):
                while self._done[context] < len(automaton.grown):
                    self._follow(context, *automaton.grown[self._done[context]])
                    self._done[context] += 1
                    new = behind = True
        if len(self.words) != words or (self.kernel.system.properties and not self.properties):
            self._match_properties()
        return behind

    def _follow(self, context: int, index: int, result: int) -> None:
        """Pair what follows a position with what follows its partner."""
        partner = self.kernel.automata[self.contexts[context]]
        position = self.kernel.automata[context].positions[index]
        at = self.positions[context][index]
        step, other = position.step, partner.positions[at].step
        assert step is not None
        assert other is not None
        change = SAME if step.word is None else self.words[step.word.name][1]
        answer = answer_of(step, other, change, result)
        try:
            after = self.kernel.follow(partner, at, answer)
        except ModelError as error:
            raise Refused(str(error)) from error
        self._pair(context, position.following[result], after)

    def _pair(self, context: int, index: int, partner: int) -> None:
        """Note that one position stands for another, if they are alike."""
        mine = self.kernel.automata[context].positions[index]
        other = self.kernel.automata[self.contexts[context]].positions[partner]
        known = self.positions[context]
        if index >= len(known):
            known += [-1] * (index + 1 - len(known))
        if known[index] == partner:
            return
        if (mine.step is None) != (other.step is None):
            raise self._differ(context, mine, other, "one has ended")
        if mine.step is not None and other.step is not None:
            if (mine.step.word is None) != (other.step.word is None):
                raise self._differ(context, mine, other, "other steps")
            change = SAME
            if mine.step.word is not None and other.step.word is not None:
                change = self._rename(mine.step.word, other.step.word)
            if not alike(mine.step, other.step, change):
                raise self._differ(context, mine, other, "other steps")
        for attribute in ("irqs", "mid", "open", "ended"):
            if getattr(mine, attribute) != getattr(other, attribute):
                raise self._differ(context, mine, other, f"not both are {attribute}")
        if {self.words[name][0].name for name in mine.held} != other.held:
            raise self._differ(context, mine, other, "other locks are held")
        if known[index] >= 0 or partner in self._owner[context]:
            raise self._differ(context, mine, other, "each must have a partner of its own")
        known[index] = partner
        self._owner[context][partner] = index

    def _differ(self, context: int, mine: Position, other: Position, why: str) -> Refused:
        contexts = self.kernel.system.contexts
        one, two = contexts[context].name, contexts[self.contexts[context]].name
        labels = [
            p.bug or "its end" if p.step is None else repr(p.step.label) for p in (mine, other)
        ]
        return Refused(f"{one} at {labels[0]} and {two} at {labels[1]}: {why}")

    def _rename(self, word: Word, to: Word) -> Change:
        """Let a word stand for another one, and return what becomes of its values."""
        known = self.words.get(word.name)
        change = self._changes.get(word.name, SAME)
        if known is None and to.name not in self._taken:
            owner = self._renamed(word.owner)
            if (word.width, owner, change.of(word.initial)) != (to.width, to.owner, to.initial):
                msg = f"{word.name} and {to.name} differ in width, owner or first value"
                raise Refused(msg)
            self.words[word.name] = (to, change)
            self._taken[to.name] = word.name
        elif known is None or known[0].name != to.name:
            both = known[0].name if known is not None else self._taken[to.name]
            msg = f"for {word.name} stands {to.name} and also {both}"
            raise Refused(msg)
        return change

    # Properties.

    def word(self, word: Word) -> Renamed | None:
        """Return what stands for a word; None as long as it is a constant: no step accesses it."""
        found = self.words.get(word.name)
        if found is None and word.name in self._changes and word.name not in self._taken:
            change = self._changes[word.name]
            found = (word, change) if change.of(word.initial) == word.initial else None
        return found

    def context(self, name: str) -> str:
        """Return what stands for a context."""
        return self._renamed(name)

    def _match_properties(self) -> None:
        itself = Itself(self)
        left = {(p.scope, form(p.truth, itself)): p.name for p in self.kernel.system.properties}
        for prop in self.kernel.system.properties:
            found = left.get((prop.scope, form(prop.truth, self)))
            if found is None:
                msg = f"no property is to {prop.name!r} what the members are to each other"
                raise Refused(msg)
            self.properties[prop.name] = found
