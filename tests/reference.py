"""An independent explorer, as plain as can be: dictionaries, sets and the real coroutines.

It shares with smpmmu.engine only the vocabulary that modelled code speaks. Nothing is folded,
compiled or packed: every transition runs the coroutine again from everything its call has read.
One place in a program is told from another by what the interpreter itself would go on with: the
frames of the suspended coroutine, their instruction pointers and locals. So loops close, with no
notion of a routine's summary. (Values between two awaits of one statement are not seen: programs
explored here await once per statement, and their loops have an index.)
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import FunctionType
from typing import Any

from smpmmu.engine.program import Role
from smpmmu.engine.routines import Ask, Bug, Enter, Kind, Leave
from smpmmu.engine.steps import TAKEN, Step, Word
from smpmmu.engine.system import Scope, System

NO_DEADLOCK = "no_deadlock"
QUIESCENCE_STAYS_REACHABLE = "quiescence_stays_reachable"


class Overflow(Exception):
    """A sum did not fit its word."""


@dataclass(frozen=True)
class Local:
    """Where one context stands: its call, what was private when that began, all it has read."""

    call: int = 0
    irqs: bool = True
    held: frozenset[str] = frozenset()
    history: tuple[int, ...] = ()
    ended: bool = False


@dataclass(frozen=True)
class Place:
    """What running a local history again shows."""

    step: Step | None
    bug: str = ""
    irqs: bool = True
    held: frozenset[str] = frozenset()
    mid: bool = False
    open: bool = False
    key: object = None
    returned: bool = False
    ended: bool = False


@dataclass(frozen=True)
class State:
    """A machine: the words that differ from their start, and every context's history."""

    words: dict[str, int]
    locals: tuple[Local, ...]
    places: tuple[Place, ...]

    @property
    def key(self) -> object:
        return frozenset(self.words.items()), tuple(p.key for p in self.places)

    @property
    def bug(self) -> str:
        return next((p.bug for p in self.places if p.bug), "")


@dataclass
class Graph:
    """Everything reachable, breadth first: state 0 is the start."""

    states: list[State] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    edges: list[list[tuple[int, int]]] = field(default_factory=list)


class Reference:
    """A system, explored the slow way."""

    def __init__(self, system: System, dropped: frozenset[str] = frozenset()) -> None:
        self.system = system
        self.contexts = system.contexts
        self.dropped = dropped
        self.initial: dict[str, int] = {}

    # One context.

    def run(self, number: int, local: Local) -> Place:
        """Run the coroutine of `local` from the start of its call through all it has read."""
        if local.ended:
            return Place(None, open=True, ended=True, key="ended")
        call = self.contexts[number].calls[local.call]
        coro = call.fn(*call.args, **dict(call.kwargs))
        irqs, held, answers = local.irqs, local.held, deque(local.history)
        frames: list[list[Any]] = []
        send: object = None
        try:
            while True:
                event = coro.send(send)
                send = None
                if isinstance(event, Enter):
                    kind = event.kind
                    if event.why in self.dropped:
                        kind = Kind.ROUTINE
                    frames.append([kind, False])
                elif isinstance(event, Leave):
                    frames.pop()
                elif isinstance(event, Ask):
                    send = irqs if event.lock is None else event.lock.name in held
                elif not answers:
                    break
                else:
                    send = answers.popleft()
                    frames = [[kind, True] for kind, _ in frames]
                    irqs, held = _privately(event, irqs=irqs, held=held)
        except StopIteration:
            return Place(None, irqs=irqs, held=held, returned=True)
        except Bug as bug:
            return Place(None, bug=str(bug), key=f"bug {bug}")
        else:
            stepped = {kind for kind, any_step in frames if any_step}
            mid = Kind.INDIVISIBLE in stepped
            open_ = irqs and not stepped & {Kind.INDIVISIBLE, Kind.INSTRUCTION}
            key = (local.call, irqs, held, mid, open_, _suspended(coro))
            return Place(event, "", irqs, held, mid, open_, key)
        finally:
            coro.close()

    def settle(self, number: int, local: Local) -> tuple[Local, Place]:
        """Go on to the next call for as long as one returns without another step."""
        context = self.contexts[number]
        while (place := self.run(number, local)).returned:
            irqs, held, call = place.irqs, place.held, local.call + 1
            if call == len(context.calls):
                if held:
                    return local, Place(None, "no_lock_held_at_end", key="bug no_lock_held_at_end")
                if context.role is Role.MAIN and not irqs:
                    bug = "interrupts_on_at_end"
                    return local, Place(None, bug, key="bug " + bug)
                if context.role is Role.MAIN and not context.cyclic:
                    local = Local(ended=True)
                    continue
                call, irqs = 0, context.role is not Role.IRQ
            local = Local(call, irqs, held)
        return local, place

    # The machine.

    def start(self) -> State:
        """Return the state in which nothing has happened yet."""
        pairs = [
            self.settle(n, Local(irqs=c.role is not Role.IRQ)) for n, c in enumerate(self.contexts)
        ]
        return State({}, tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))

    def value(self, words: dict[str, int], word: Word) -> int:
        return words.get(word.name, word.initial)

    def moves(self, state: State) -> list[tuple[int, State]]:
        """Return every context that can take its next action, and where it leads."""
        if state.bug:
            return []
        result = []
        for number in range(len(self.contexts)):
            step = state.places[number].step
            if step is not None and self.may_run(state, number) and self.enabled(state, step):
                result.append((number, self.act(state, number)))
        return result

    def idle(self, state: State, number: int) -> bool:
        """Say whether an interrupt context is not in its handler."""
        local = state.locals[number]
        return local.call == 0 and not local.history and not state.places[number].bug

    def may_run(self, state: State, number: int) -> bool:
        """Say whether its vCPU lets a context run: who runs there now, and may this one land?"""
        context = self.contexts[number]
        if context.role is Role.DAEMON:
            return True
        running, level = None, -1
        for other, mate in enumerate(self.contexts):
            if mate.cpu != context.cpu:
                continue
            if mate.role is Role.MAIN and running is None:
                running = other
            if mate.role is Role.IRQ and not self.idle(state, other) and mate.priority > level:
                running, level = other, mate.priority
        if running == number:
            return True
        if context.role is Role.MAIN or not self.idle(state, number):
            return False
        if running is None:  # a vCPU without a program idles with interrupts on
            return True
        return state.places[running].open and context.priority > level

    def enabled(self, state: State, step: Step) -> bool:
        if step.wait is None:
            return True
        assert step.word is not None
        matches = self.value(state.words, step.word) & step.wait.mask == step.wait.value
        return matches == step.wait.equal

    def act(self, state: State, number: int) -> State:
        """Take one whole action of a context."""
        words, local, place = dict(state.words), state.locals[number], state.places[number]
        while True:
            assert place.step is not None
            local = replace(local, history=(*local.history, self.take(words, place.step)))
            local, place = self.settle(number, local)
            if not place.mid:
                break
        locals_, places = list(state.locals), list(state.places)
        locals_[number], places[number] = local, place
        return State(words, tuple(locals_), tuple(places))

    def take(self, words: dict[str, int], step: Step) -> int:
        """Change the words by one step and return its result."""
        word = step.word
        if word is None:
            return 0
        old = self.value(words, word)
        result = old & step.returns
        if step.when is None or old & step.when.mask == step.when.value:
            new = ((old & step.and_mask) ^ step.xor_mask) + step.add
            if not 0 <= new < 1 << word.width:
                raise Overflow(step.label)
            words[word.name] = new
            if new == word.initial:
                del words[word.name]
            if step.when is not None:
                result += TAKEN
        return result

    def explore(self, most: int = 100_000) -> Graph:
        """Return all reachable states.

        Raises:
            Overflow: as `take` does.
            OverflowError: there are more than `most`.
        """
        graph = Graph([self.start()], [0])
        known = {graph.states[0].key: 0}
        while len(graph.edges) < len(graph.states):
            here = len(graph.edges)
            graph.edges.append([])
            for number, state in self.moves(graph.states[here]):
                there = known.setdefault(state.key, len(known))
                if there == len(graph.states):
                    graph.states.append(state)
                    graph.depths.append(graph.depths[here] + 1)
                graph.edges[here].append((number, there))
            if len(graph.states) > most:
                raise OverflowError
        return graph

    def replay(self, choices: tuple[str, ...]) -> State:
        """Return the state after taking an action of each of the named contexts in turn."""
        state = self.start()
        for name in choices:
            after = {self.contexts[n].name: s for n, s in self.moves(state)}
            state = after[name]
        return state

    # Judging.

    def quiescent(self, state: State) -> bool:
        for number, context in enumerate(self.contexts):
            place = state.places[number]
            if context.role is Role.MAIN and not place.ended:
                return False
            if context.role is Role.IRQ and (
                not self.idle(state, number) or self.enabled(state, place.step)
            ):
                return False
        return True

    def true(self, state: State, truth: Any) -> bool:
        return bool(truth.evaluate(_Reader(self, state)))

    def broken(self, graph: Graph) -> dict[str, set[int]]:
        """Return the states that break each property which a state alone can break."""
        result: dict[str, set[int]] = {}
        for number, state in enumerate(graph.states):
            rest = self.quiescent(state)
            names = [state.bug] if state.bug else []
            names += [
                p.name
                for p in self.system.properties
                if (p.scope is Scope.ALWAYS or (p.scope is Scope.QUIESCENCE and rest))
                and not self.true(state, p.truth)
            ]
            for name in names:
                result.setdefault(name, set()).add(number)
        return result

    def sometimes(self, graph: Graph) -> dict[str, bool]:
        """Return which `sometimes` are reached, and rest if every program can end."""
        result = {
            p.name: any(self.true(s, p.truth) for s in graph.states)
            for p in self.system.properties
            if p.scope is Scope.SOMETIMES
        }
        if self.ends:
            result["quiescence"] = any(map(self.quiescent, graph.states))
        return result

    @property
    def ends(self) -> bool:
        return not any(c.cyclic for c in self.contexts if c.role is Role.MAIN)

    @property
    def has_daemons(self) -> bool:
        return any(c.role is Role.DAEMON for c in self.contexts)

    def hopeless(self, graph: Graph) -> set[int]:
        """Return the states from which neither rest nor a bug can be reached."""
        ends = self.ends
        good = {n for n, s in enumerate(graph.states) if s.bug or (ends and self.quiescent(s))}
        return set(range(len(graph.states))) - _reaching(graph, good)

    def deadlocked(self, graph: Graph) -> set[int]:
        """Return the hopeless states from which nothing obligatory can ever move."""
        moving = {
            here
            for here, edges in enumerate(graph.edges)
            if any(self.contexts[n].role is not Role.DAEMON for n, _ in edges)
        }
        return self.hopeless(graph) - _reaching(graph, moving)

    def endless(self, graph: Graph) -> tuple[set[int], set[int]]:
        """Return the hopeless states from which obligatory moves (must, can) go on for ever."""
        dead, hopeless = self.deadlocked(graph), self.hopeless(graph)
        must = hopeless - _reaching(graph, dead)
        can: set[int] = set()
        shrinking = hopeless
        while shrinking != can:
            can = shrinking
            moving = {
                here
                for here in can
                for number, there in graph.edges[here]
                if there in can and self.contexts[number].role is not Role.DAEMON
            }
            shrinking = can & _reaching(graph, moving)
        return must, can

    def best(self, graph: Graph, targets: set[int]) -> tuple[str, ...]:
        """Return the schedule to a target: shortest, then fewest switches, then first in order."""
        depth = min(graph.depths[t] for t in targets)
        best: dict[tuple[int, int], tuple[int, tuple[int, ...]]] = {(0, -1): (0, ())}
        for _ in range(depth):
            after: dict[tuple[int, int], tuple[int, tuple[int, ...]]] = {}
            for (here, last), (switches, choices) in best.items():
                for number, there in graph.edges[here]:
                    cost = (switches + (last not in (-1, number)), (*choices, number))
                    if (there, number) not in after or cost < after[there, number]:
                        after[there, number] = cost
            best = after
        choices = min(cost for (there, _), cost in best.items() if there in targets)[1]
        return tuple(self.contexts[n].name for n in choices)


def _privately(step: Step, *, irqs: bool, held: frozenset[str]) -> tuple[bool, frozenset[str]]:
    """Return the interrupt flag and the locks held after a step."""
    irqs = irqs if step.irqs is None else step.irqs
    if step.word is None or not step.lock:
        return irqs, held
    name = {step.word.name}
    if step.lock > 0:
        return irqs, held | name
    if not held & name:
        bug = f"{step.word.name}_unlocked_only_by_its_holder"
        raise Bug(bug)
    return irqs, held - name


class _Reader:
    """Lets a property read a state."""

    def __init__(self, reference: Reference, state: State) -> None:
        self.reference, self.state = reference, state

    def word(self, word: Word) -> int:
        return self.reference.value(self.state.words, word)

    def finished(self, context: str) -> bool:
        names = [c.name for c in self.reference.contexts]
        return self.state.places[names.index(context)].ended


def _reaching(graph: Graph, goal: set[int]) -> set[int]:
    """Return the states from which some state of `goal` can be reached, these included."""
    before: list[list[int]] = [[] for _ in graph.states]
    for here, edges in enumerate(graph.edges):
        for _, there in edges:
            before[there].append(here)
    found, todo = set(goal), list(goal)
    while todo:
        for here in before[todo.pop()]:
            if here not in found:
                found.add(here)
                todo.append(here)
    return found


def _suspended(coro: Any) -> tuple[object, ...]:
    """Return the frames of a suspended coroutine, outermost first."""
    frames = []
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None)
        if frame is None:
            break
        local = tuple(sorted((name, _frozen(v)) for name, v in frame.f_locals.items()))
        frames.append((frame.f_code.co_qualname, frame.f_lasti, repr(local)))
        coro = getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None)
    return tuple(frames)


def _frozen(value: object) -> str:
    """Return a text that is equal for equal values, whatever object holds them."""
    if isinstance(value, (int, str, bytes, type(None), enum.Enum)):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(_frozen, value)) + ")"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_frozen(v)}" for k, v in value.items()) + "}"
    if isinstance(value, FunctionType):
        return value.__qualname__
    if is_dataclass(value) and not isinstance(value, type):
        inner = ", ".join(_frozen(getattr(value, f.name)) for f in fields(value))
        return f"{type(value).__name__}({inner})"
    msg = f"the reference cannot tell one {type(value).__name__} from another"
    raise TypeError(msg)
