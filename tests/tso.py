"""The outcomes that the axiomatic model of TSO allows, by trying every memory order.

Written apart from smpmmu: no store buffers, no steps. There is a total order of all loads and
stores (a locked exchange is both, at once) in which program order is kept, but for a store before
a load with no fence in between; and a load has the last store to its word among those before it in
that order or in its own program (Sindhu, Frailong, Cekleov 1992; for x86 Owens, Sarkar, Sewell
2009, which has memory order over stores alone, and shows the operational model to be equivalent).
"""

from __future__ import annotations

from itertools import permutations

from smpmmu.scenarios.litmus import Load, Mfence, Store, Test, Xchg


def outcomes(test: Test, *, buffered: bool = True) -> set[tuple[int, ...]]:
    """Return every outcome: the registers in order of name, then memory in order of name.

    Not `buffered` it is sequential consistency: program order is kept whole.
    """
    events = [
        (cpu, place, op)
        for cpu, program in enumerate(test.programs)
        for place, op in enumerate(program)
        if not isinstance(op, Mfence)
    ]
    return {
        outcome(test, order)
        for order in permutations(events)
        if all(
            keeps(test, a, b, buffered=buffered)
            for i, b in enumerate(order)
            for a in order[i + 1 :]
            if a[0] == b[0] and a[1] < b[1]
        )
    }


def keeps(test: Test, first: tuple, second: tuple, *, buffered: bool) -> bool:
    """Whether two events of a program may stand the other way round in memory order."""
    between = test.programs[first[0]][first[1] + 1 : second[1]]
    relaxed = isinstance(first[2], Store) and isinstance(second[2], Load)
    return buffered and relaxed and not any(isinstance(op, (Mfence, Xchg)) for op in between)


def outcome(test: Test, order: tuple[tuple, ...]) -> tuple[int, ...]:
    """Return the outcome of one memory order."""
    registers = {}
    memory = dict.fromkeys(test.locations, 0)
    for index, (cpu, place, op) in enumerate(order):
        if isinstance(op, (Load, Xchg)):
            seen = [
                (i, other.value)
                for i, (c, p, other) in enumerate(order)
                if isinstance(other, (Store, Xchg)) and other.location == op.location
                if i < index or (c == cpu and p < place)
            ]
            registers[op.register] = max(seen)[1] if seen else 0
        if isinstance(op, (Store, Xchg)):
            memory[op.location] = op.value
    return tuple(v for _, v in (*sorted(registers.items()), *sorted(memory.items())))
