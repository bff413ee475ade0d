"""The strategies once more, one run at a time in plain Python, from the papers' own words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.numbers import mix64, named_stream, number, pick, seed_stream

if TYPE_CHECKING:
    from smpmmu.engine.strategies import Profile
    from smpmmu.engine.vcpus import Machine

Access = tuple[str, bool] | None
"""Word and whether it may be written."""


def below(drawn: int, among: int) -> int:
    return (drawn >> 32) * among >> 32


class Uniform:
    """A random walk."""

    def __init__(self, seed: int, contexts: int, profile: Profile) -> None:
        self.stream, self.contexts, self.profile = seed_stream(seed), contexts, profile

    def choose(self, action: int, able: list[int], pending: list[Access]) -> int:
        return able[pick(self.stream, action, len(able))]


class _Named(Uniform):
    name = ""

    def __init__(self, seed: int, contexts: int, profile: Profile) -> None:
        super().__init__(seed, contexts, profile)
        self.own = mix64(self.stream ^ named_stream(f"strategy {self.name}"))
        self.priority = {n: number(self.own, n) | 1 for n in range(contexts)}

    def again(self, action: int, context: int) -> None:
        index = (action + 1) * self.contexts + context
        self.priority[context] = number(self.own, index) | 1

    def first(self, able: list[int]) -> int:
        return max(able, key=lambda n: (self.priority[n], -n))

    def choose(self, action: int, able: list[int], pending: list[Access]) -> int:
        if action >= 2 * self.profile.longest:
            return super().choose(action, able, pending)
        return self.decide(action, able, pending)


class Pct3(_Named):
    """ASPLOS 2010: strictly by priority; at the i-th change point the priority becomes i."""

    name = "pct:3"

    def __init__(self, seed: int, contexts: int, profile: Profile) -> None:
        super().__init__(seed, contexts, profile)
        for context in self.priority:
            self.priority[context] |= 1 << 63
        self.points = [below(number(self.own, contexts + i), profile.longest) for i in (0, 1)]

    def decide(self, action: int, able: list[int], pending: list[Access]) -> int:
        for value, point in enumerate(self.points, 1):
            if point == action:
                self.priority[self.first(able)] = value
        return self.first(able)


class Pos(_Named):
    """CAV 2018: the highest event goes; enabled events that race with it draw anew."""

    name = "pos"

    def decide(self, action: int, able: list[int], pending: list[Access]) -> int:
        chosen = self.first(able)
        mine = pending[chosen]
        for other in able:
            access = pending[other]
            both = other != chosen and mine is not None and access is not None
            if both and mine[0] == access[0] and (mine[1] or access[1]):
                self.again(action, other)
        self.again(action, chosen)
        return chosen


class Surw(_Named):
    """ASPLOS 2025: only the intended thread may take an interesting event."""

    name = "surw"

    def __init__(self, seed: int, contexts: int, profile: Profile) -> None:
        super().__init__(seed, contexts, profile)
        aside = mix64(self.own ^ named_stream("strategy surw: its word"))
        words = profile.words or (("", (0,) * contexts),)
        self.word, counts = words[below(number(aside, 0), len(words))]
        self.left = list(counts)
        self.next, self.anew = number(aside, 1), number(aside, 2)
        self.intended = self.weighted(self.next, 0, self.left)

    def weighted(self, stream: int, index: int, weights: list[int]) -> int:
        ticket = below(number(stream, index), sum(weights))
        for context, weight in enumerate(weights):
            ticket -= weight
            if ticket < 0:
                return context
        return -1

    def decide(self, action: int, able: list[int], pending: list[Access]) -> int:
        interesting = [access is not None and access[0] == self.word for access in pending]
        free = [n for n in able if not interesting[n] or n == self.intended]
        if not free:
            weights = [max(self.left[n], 1) if n in able else 0 for n in range(self.contexts)]
            self.intended = self.weighted(self.anew, action, weights)
            free = [self.intended]
        chosen = self.first(free)
        if interesting[chosen]:
            self.left[chosen] = max(self.left[chosen] - 1, 0)
            self.intended = self.weighted(self.next, action + 1, self.left)
        self.again(action, chosen)
        return chosen


class Paced(_Named):
    """By the mean number of actions of each; in half of the runs interrupts come first."""

    name = "paced"

    def decide(self, action: int, able: list[int], pending: list[Access]) -> int:
        if below(number(self.own, 0), 2):
            able = [n for n in able if self.profile.handlers[n]] or able
        ticket = below(
            number(self.own, action + 1), sum(self.profile.actions[context] for context in able)
        )
        for context in able:
            ticket -= self.profile.actions[context]
            if ticket < 0:
                return context
        raise AssertionError


STRATEGIES = {"uniform": Uniform, "pct:3": Pct3, "pos": Pos, "surw": Surw, "paced": Paced}


def accesses(machine: Machine) -> list[Access]:
    """Return what every context would access next."""
    steps = [machine.runner(n).step for n in range(len(machine.system.contexts))]
    return [(s.word.name, bool(s.writes)) if s and s.word else None for s in steps]
