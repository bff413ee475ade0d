"""One Python checker on the model `defer`: `python python_search.py TOOL N P K VARIANT`.

Prints as JSON what it found, and the seconds that the search alone took. TOOL is `minicheck`,
`musil`, or `plain`: twenty lines of breadth-first search, which is what Python itself costs.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque

from defer_python import Defer, Move, State

MOST_STATES = 100_000_000


def plain(model: Defer) -> dict[str, object]:
    """Search breadth-first with a set and a queue; stop at the first violation."""
    depths = {model.initial: 0}
    waiting = deque([model.initial])
    transitions = 0
    violated_at = None
    while waiting and violated_at is None:
        state = waiting.popleft()
        moved = False
        for _, after in model.successors(state):
            moved = True
            transitions += 1
            if after in depths:
                continue
            depths[after] = depths[state] + 1
            waiting.append(after)
            if after[0] or not model.no_write_lost(after):
                violated_at = depths[after]
                break
        if not moved and not state[0] and not model.quiet(state):
            violated_at = depths[state]
    return said(len(depths), transitions, violated_at)


def minicheck(model: Defer) -> dict[str, object]:
    """Let minicheck search; it goes on after a violation."""
    from minicheck import Protocol, check_safety

    transitions = 0

    def successors(state: State) -> list[tuple[str, State]]:
        nonlocal transitions
        found = list(model.successors(state))
        transitions += len(found)
        return found

    protocol = Protocol(
        name="defer",
        candidate=False,
        fields=model.fields,
        initial=model.initial,
        transitions=successors,
        invariants={
            "in_sync": lambda d: not d["broken"],
            "no_write_lost": lambda d: model.no_write_lost(tuple(d.values())),
        },
    )
    result = check_safety(protocol, max_states=MOST_STATES)
    found = [p["counterexample"] for p in result["properties"].values() if not p["holds"]]
    shortest = min((len(trace) - 1 for trace in found), default=None)
    return said(result["reachable_states"], transitions, shortest)


def musil(model: Defer) -> dict[str, object]:
    """Let musil search; an action is asked whether it is enabled and then for its effect."""
    from musil import Action, Model, check

    transitions = 0

    def action(name: str, move: Move, cpu: int, sender: int) -> object:
        def enabled(state: State) -> bool:
            return not state[0] and move(state, cpu, sender) is not None

        def apply(state: State) -> State:
            nonlocal transitions
            transitions += 1
            after = move(state, cpu, sender)
            assert after is not None
            return after

        return Action(name, enabled, apply)

    asked = Model(
        init=[model.initial],
        actions=[action(*move) for move in model.moves],
        invariants={
            "in_sync": lambda s: not s[0],
            "no_write_lost": model.no_write_lost,
        },
        terminal=lambda s: bool(s[0]) or model.quiet(s),
    )
    result = check(asked, max_states=MOST_STATES)
    violated_at = None if result.ok else len(result.action_names)
    return said(result.states_explored, transitions, violated_at)


def said(states: int, transitions: int, violated_at: int | None) -> dict[str, object]:
    """Return what is printed."""
    verdict = "holds" if violated_at is None else "violated"
    found = {"states": states, "transitions": transitions, "verdict": verdict}
    return found if violated_at is None else {**found, "trace_length": violated_at}


if __name__ == "__main__":
    search = {"plain": plain, "minicheck": minicheck, "musil": musil}[sys.argv[1]]
    n, p, k = map(int, sys.argv[2:5])
    size = Defer(n, p, k, sys.argv[5])
    start = time.perf_counter()
    found = search(size)
    print(json.dumps({**found, "seconds": time.perf_counter() - start}))
