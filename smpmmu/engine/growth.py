"""How far the automata of a kernel have grown, as plain data for another process.

Positions are numbered as they are met, and fingerprints depend on these numbers. So whatever
leaves a process (a checkpoint, a block for a worker) takes with it what was followed, in order;
the same system grown by that has the same numbers and the same layout. This module must not know
what a position stands for, nor how its data is written or sent.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smpmmu.engine.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smpmmu.engine.automaton import Automaton
    from smpmmu.engine.batch import Kernel
    from smpmmu.engine.system import System


class Differs(ModelError):
    """The system is not the one that has grown so: its modelled code is other code."""


@dataclass(frozen=True, slots=True)
class Growth:
    """What was followed in each automaton, and what the layout was asked for.

    Attributes:
        edges: for each context, every (position, result) in the order in which it was followed.
        wanted: every (name, bits, initial) of the layout, in order.
        digests: for each context, of all that its positions say.
    """

    edges: tuple[tuple[tuple[int, int], ...], ...]
    wanted: tuple[tuple[str, int, int], ...]
    digests: tuple[str, ...]


def growth(kernel: Kernel) -> Growth:
    """Return how far `kernel` has grown; its layout must be settled."""
    return Growth(
        tuple(tuple(automaton.grown) for automaton in kernel.automata),
        tuple(kernel.layout.wanted),
        tuple(digest(automaton) for automaton in kernel.automata),
    )


def grow(kernel: Kernel, to: Growth) -> None:
    """Let a new kernel of the same system grow as another one did.

    Raises:
        Differs: the modelled code does not lead where it led there.
    """
    if len(to.edges) != len(kernel.automata):
        msg = f"{len(kernel.automata)} contexts, expected {len(to.edges)}"
        raise Differs(msg)
    for automaton, edges, expected in zip(kernel.automata, to.edges, to.digests, strict=True):
        follow(kernel, automaton, edges)
        if digest(automaton) != expected:
            msg = f"{automaton.context.name} runs other code"
            raise Differs(msg)
    for name, bits, initial in to.wanted:
        kernel.layout.want(name, bits, initial)
    kernel.layout.grow()


def follow(kernel: Kernel, automaton: Automaton, edges: tuple[tuple[int, int], ...]) -> None:
    """Follow what was followed elsewhere.

    Raises:
        Differs: there is no such position, it has no step, or what follows breaks a rule.
    """
    for index, result in edges:
        if not 0 <= index < len(automaton.positions) or automaton.positions[index].step is None:
            msg = f"{automaton.context.name} runs other code: it has no step at position {index}"
            raise Differs(msg)
        try:
            kernel.follow(automaton, index, result)
        except ModelError as error:
            raise Differs(str(error)) from error


@dataclass(frozen=True, slots=True)
class Numbering:
    """How a kernel that grew by itself has numbered positions, so that another can follow.

    Attributes:
        edges: for each context, every (position, result, position after it), in order.
        resting: for each context, the position of each resting number.
    """

    edges: tuple[tuple[tuple[int, int, int], ...], ...]
    resting: tuple[tuple[int, ...], ...]


def numbering(kernel: Kernel) -> Numbering:
    """Return how `kernel` has numbered positions."""
    return Numbering(
        tuple(
            tuple((n, result, a.positions[n].following[result]) for n, result in a.grown)
            for a in kernel.automata
        ),
        tuple(tuple(a.resting) for a in kernel.automata),
    )


def renumbered(kernel: Kernel, theirs: Numbering) -> list[NDArray[np.int64]]:
    """Let `kernel` grow by what another one met; return, by context, our number of each of theirs.

    Both are of resting numbers. Positions are the same if what was followed to them is.
    """
    tables = []
    for automaton, edges, resting in zip(
        kernel.automata, theirs.edges, theirs.resting, strict=True
    ):
        ours = {0: 0}
        for index, result, after in edges:
            ours[after] = kernel.follow(automaton, ours[index], result)
        rests = [automaton.positions[ours[index]].rest for index in resting]
        tables.append(np.array(rests, dtype=np.int64))
    return tables


def digest(automaton: Automaton) -> str:
    """Return a digest of everything that the positions of an automaton say, numbers included."""
    total = hashlib.sha256()
    loops: dict[object, int] = {None: -1}
    for position in automaton.positions:
        held, edges = sorted(position.held), sorted(position.following.items())
        loop = loops.setdefault(position.loop, len(loops))
        flags = (position.irqs, position.mid, position.open, position.ended, position.rest, loop)
        total.update(repr((position.step, position.bug, held, flags, edges)).encode())
    return total.hexdigest()


def identity(system: System) -> str:
    """Return a digest of what a system says before anything runs: contexts, words, properties."""
    contexts = [
        (c.name, c.cpu, c.role.value, c.cyclic, c.priority, [call.name for call in c.calls])
        for c in system.contexts
    ]
    properties = [(p.name, p.scope.value, p.truth) for p in system.properties]
    said = (contexts, system.words, properties, system.interchangeable)
    return hashlib.sha256(repr(said).encode()).hexdigest()
