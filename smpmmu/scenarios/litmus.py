"""Litmus tests of x86-TSO: which values loads can return, and what is in memory in the end.

    SB: cpu0      cpu1            MP: cpu0      cpu1
        x = 1     y = 1               x = 1     r0 = y
        r0 = y    r1 = x              y = 1     r1 = x

A test is a program of stores, loads, fences and exchanges for each CPU. Its variants list the
outcomes that there are: registers in order of name, then memory in order of name. Each is reached,
and none else. What the papers say of a test is one outcome of it, allowed or forbidden.
"""

from __future__ import annotations

from dataclasses import dataclass

from smpmmu.engine.expressions import Expr, all_of, any_of, finished, value
from smpmmu.engine.local import call
from smpmmu.engine.steps import Word, load, store, xchg
from smpmmu.machine.store_buffer import (
    StoreBuffer,
    buffered_load,
    buffered_store,
    drain_store,
    locked_xchg,
    mfence,
)
from smpmmu.scenario import Setup, Variant, holds, scenario, variant, violated

ONLY_LISTED = "only_the_listed_outcomes_are_reached"


@dataclass(frozen=True, slots=True)
class Store:
    """location = value."""

    location: str
    value: int


@dataclass(frozen=True, slots=True)
class Load:
    """register = location."""

    register: str
    location: str


@dataclass(frozen=True, slots=True)
class Xchg:
    """register = location; location = value: one locked instruction."""

    register: str
    location: str
    value: int


@dataclass(frozen=True, slots=True)
class Mfence:
    """MFENCE."""


Op = Store | Load | Xchg | Mfence
F = Mfence()


@dataclass(frozen=True, slots=True)
class Test:
    """A litmus test: a program for each CPU."""

    programs: tuple[tuple[Op, ...], ...]

    @property
    def locations(self) -> tuple[str, ...]:
        """Names of the words in memory, in order."""
        ops = [op for program in self.programs for op in program]
        return tuple(sorted({op.location for op in ops if not isinstance(op, Mfence)}))

    @property
    def registers(self) -> tuple[str, ...]:
        """Names of the registers, in order."""
        ops = [op for program in self.programs for op in program]
        return tuple(sorted(op.register for op in ops if isinstance(op, (Load, Xchg))))


def test(*programs: tuple[Op, ...]) -> Test:
    """Return a litmus test."""
    return Test(programs)


def w(location: str, value: int = 1) -> Store:
    """Return a store."""
    return Store(location, value)


def r(number: int, location: str) -> Load:
    """Return a load into register `number`."""
    return Load(f"r{number}", location)


def x(number: int, location: str, value: int = 1) -> Xchg:
    """Return an exchange."""
    return Xchg(f"r{number}", location, value)


def memory_word(location: str) -> Word:
    """Return a word of memory."""
    return Word(location, 2)


def register_word(name: str) -> Word:
    """Return a register, where what was loaded is kept to be looked at."""
    return Word(name, 2)


async def execute(buffer: StoreBuffer | None, program: tuple[Op, ...]) -> None:
    """Execute a program, through a store buffer or on sequentially consistent memory."""
    for op in program:
        if isinstance(op, Mfence):
            if buffer is not None:
                await mfence(buffer)
            continue
        word = memory_word(op.location)
        if isinstance(op, Store):
            await (store(word, op.value) if buffer is None else put(buffer, word, op.value))
        else:
            await store(register_word(op.register), await get(buffer, word, op))


async def put(buffer: StoreBuffer, word: Word, number: int) -> None:
    """Store through the buffer."""
    await buffered_store(buffer, word, number)


async def get(buffer: StoreBuffer | None, word: Word, op: Load | Xchg) -> int:
    """Load or exchange."""
    if isinstance(op, Xchg):
        if buffer is None:
            return await xchg(word, op.value)
        return await locked_xchg(buffer, word, op.value)
    return await load(word) if buffer is None else await buffered_load(buffer, word)


SB = test((w("x"), r(0, "y")), (w("y"), r(1, "x")))
SB_MFENCE = test((w("x"), F, r(0, "y")), (w("y"), F, r(1, "x")))
SB_ONE_MFENCE = test((w("x"), F, r(0, "y")), (w("y"), r(1, "x")))
SB_LOCKED = test((x(2, "x"), r(0, "y")), (x(3, "y"), r(1, "x")))
LB = test((r(0, "x"), w("y")), (r(1, "y"), w("x")))
LB_MFENCE = test((r(0, "x"), F, w("y")), (r(1, "y"), F, w("x")))
LB_LOCKED = test((r(0, "x"), x(2, "y")), (r(1, "y"), x(3, "x")))
MP = test((w("x"), w("y")), (r(0, "y"), r(1, "x")))
MP_MFENCE = test((w("x"), F, w("y")), (r(0, "y"), F, r(1, "x")))
MP_LOCKED = test((x(2, "x"), x(3, "y")), (r(0, "y"), r(1, "x")))
S = test((w("x", 2), w("y")), (r(0, "y"), w("x")))
S_MFENCE = test((w("x", 2), F, w("y")), (r(0, "y"), F, w("x")))
S_LOCKED = test((x(1, "x", 2), x(2, "y")), (r(0, "y"), x(3, "x")))
R = test((w("x"), w("y")), (w("y", 2), r(0, "x")))
R_MFENCE = test((w("x"), w("y")), (w("y", 2), F, r(0, "x")))
R_LOCKED = test((w("x"), w("y")), (x(1, "y", 2), r(0, "x")))
TWO_TWO_W = test((w("x"), w("y", 2)), (w("y"), w("x", 2)))
TWO_TWO_W_MFENCE = test((w("x"), F, w("y", 2)), (w("y"), F, w("x", 2)))
TWO_TWO_W_LOCKED = test((x(0, "x"), w("y", 2)), (x(1, "y"), w("x", 2)))
IRIW = test((w("x"),), (w("y"),), (r(0, "x"), r(1, "y")), (r(2, "y"), r(3, "x")))
IRIW_MFENCE = test((w("x"),), (w("y"),), (r(0, "x"), F, r(1, "y")), (r(2, "y"), F, r(3, "x")))
IRIW_LOCKED = test((x(4, "x"),), (x(5, "y"),), (r(0, "x"), r(1, "y")), (r(2, "y"), r(3, "x")))
CO_RR = test((w("x"),), (r(0, "x"), r(1, "x")))
CO_RR_MFENCE = test((w("x"),), (r(0, "x"), F, r(1, "x")))
CO_RR_LOCKED = test((x(2, "x"),), (r(0, "x"), r(1, "x")))
N6 = test((w("x"), r(0, "x"), r(1, "y")), (w("y", 2), w("x", 2)))
N6_MFENCE = test((w("x"), F, r(0, "x"), r(1, "y")), (w("y", 2), w("x", 2)))
N6_LOCKED = test((x(2, "x"), r(0, "x"), r(1, "y")), (w("y", 2), w("x", 2)))
N5 = test((w("x"), r(0, "x")), (w("x", 2), r(1, "x")))
WRC = test((w("x"),), (r(0, "x"), w("y")), (r(1, "y"), r(2, "x")))


OWENS = "Owens, Sarkar, Sewell 2009"
PAPERS = "Sewell et al., CACM 2010, and Owens, Sarkar, Sewell 2009"
NONE_TO_LOSE = (
    f"{PAPERS}: a fence or a locked instruction takes outcomes away that sequentially consistent "
    "memory lacks, and here there are none"
)
SEQUENTIAL = "Lamport 1979: on sequentially consistent memory"


def allowed(name: str, of: Test, outcomes: str, source: str, *, tso: bool = True) -> Variant:
    """Return the variant in which exactly these outcomes are reached."""
    return variant(name, holds(source), of=of, outcomes=outcomes, tso=tso)


VARIANTS = (
    allowed("sb", SB, "0011 0111 1011 1111", f"{PAPERS}: SB allows r0 = r1 = 0"),
    allowed("sb_one_mfence", SB_ONE_MFENCE, "0011 0111 1011 1111", f"{PAPERS}: both need a fence"),
    allowed("sb_mfence", SB_MFENCE, "0111 1011 1111", f"{PAPERS}: MFENCE forbids r0 = r1 = 0"),
    allowed("sb_locked", SB_LOCKED, "010011 100011 110011",
            f"{PAPERS}: a locked instruction waits for the buffer"),
    allowed("lb", LB, "0011 0111 1011", f"{PAPERS}: loads are not held back"),
    allowed("mp", MP, "0011 0111 1111", f"{PAPERS}: stores stay in order, and so do loads"),
    allowed("s", S, "011 021 111", f"{PAPERS}: a store does not overtake a load"),
    allowed("r", R, "011 012 111 112", f"{PAPERS}: R allows r0 = 0 with y = 2 in the end"),
    allowed("r_mfence", R_MFENCE, "011 111 112", f"{PAPERS}: MFENCE forbids it"),
    allowed("r_locked", R_LOCKED, "0011 1011 1112", f"{PAPERS}: a locked instruction forbids it"),
    allowed("two_two_w", TWO_TWO_W, "12 21 22", f"{PAPERS}: stores stay in order"),
    allowed("iriw", IRIW,
            "000011 000111 001011 001111 010011 010111 011011 011111 100011 100111 101111 110011 "
            "110111 111011 111111",
            f"{PAPERS}: all see the stores in one order: not r0 = 1, r1 = 0, r2 = 1, r3 = 0"),
    allowed("wrc", WRC, "00011 00111 01011 01111 10011 10111 11111",
            f"{PAPERS}: what one has seen, all see: not r0 = 1, r1 = 1, r2 = 0"),
    allowed("co_rr", CO_RR, "001 011 111", f"{PAPERS}: a word does not go back"),
    allowed("n5", N5, "111 121 122 222", f"{OWENS}: n5 forbids r0 = 2 with r1 = 1"),
    allowed("n6", N6, "1012 1022 1212 1222 2222", f"{OWENS}: n6 allows r0 = 1, r1 = 0, x = 1"),
    allowed("n6_mfence", N6_MFENCE, "1022 1212 1222 2222", f"{PAPERS}: MFENCE forbids it"),
    allowed("n6_locked", N6_LOCKED, "10022 12022 12212 22022",
            f"{PAPERS}: a locked instruction forbids it"),
    allowed("lb_mfence", LB_MFENCE, "0011 0111 1011", NONE_TO_LOSE),
    allowed("lb_locked", LB_LOCKED, "000011 010011 100011", NONE_TO_LOSE),
    allowed("mp_mfence", MP_MFENCE, "0011 0111 1111", NONE_TO_LOSE),
    allowed("mp_locked", MP_LOCKED, "000011 010011 110011", NONE_TO_LOSE),
    allowed("s_mfence", S_MFENCE, "011 021 111", NONE_TO_LOSE),
    allowed("s_locked", S_LOCKED, "000211 010021 100211", NONE_TO_LOSE),
    allowed("two_two_w_mfence", TWO_TWO_W_MFENCE, "12 21 22", NONE_TO_LOSE),
    allowed("two_two_w_locked", TWO_TWO_W_LOCKED, "0022 0221 2012", NONE_TO_LOSE),
    allowed("iriw_mfence", IRIW_MFENCE,
            "000011 000111 001011 001111 010011 010111 011011 011111 100011 100111 101111 110011 "
            "110111 111011 111111", NONE_TO_LOSE),
    allowed("iriw_locked", IRIW_LOCKED,
            "00000011 00010011 00100011 00110011 01000011 01010011 01100011 01110011 10000011 "
            "10010011 10110011 11000011 11010011 11100011 11110011", NONE_TO_LOSE),
    allowed("co_rr_mfence", CO_RR_MFENCE, "001 011 111", NONE_TO_LOSE),
    allowed("co_rr_locked", CO_RR_LOCKED, "0001 0101 1101", NONE_TO_LOSE),
    allowed("sb_sequential", SB, "0111 1011 1111", SEQUENTIAL, tso=False),
    allowed("r_sequential", R, "011 111 112", SEQUENTIAL, tso=False),
    allowed("n6_sequential", N6, "1022 1212 1222 2222", SEQUENTIAL, tso=False),
    variant("sb_is_not_sequential",
            violated(ONLY_LISTED, f"{PAPERS}: SB, on a machine that has buffers"),
            of=SB, outcomes="0111 1011 1111"),
    variant("n6_is_not_sequential", violated(ONLY_LISTED, f"{OWENS}: n6, the same"),
            of=N6, outcomes="1022 1212 1222 2222"),
)  # fmt: skip


@scenario(*VARIANTS)
def litmus(setup: Setup, *, of: Test, outcomes: str, tso: bool = True) -> None:
    """Small programs on store buffers: exactly the outcomes that x86-TSO allows are reached."""
    memory = tuple(memory_word(name) for name in of.locations)
    words = (*(register_word(name) for name in of.registers), *memory)
    at_rest = []
    for number, program in enumerate(of.programs):
        depth = max(1, sum(isinstance(op, Store) for op in program))
        buffer = StoreBuffer(number, memory, depth) if tso else None
        setup.cpu(number, call(execute, buffer, program))
        at_rest.append(finished(f"cpu{number}"))
        if buffer is not None and any(isinstance(op, Store) for op in program):
            setup.hardware(number, "drain", call(drain_store, buffer))
            at_rest.append(value(buffer.word) == 0)

    def ended(text: str) -> Expr:
        pairs = zip(words, text, strict=True)
        return all_of(*at_rest, *(value(word) == int(digit) for word, digit in pairs))

    listed = {text: ended(text) for text in outcomes.split()}
    setup.at_quiescence(ONLY_LISTED, any_of(*listed.values()))
    for text, truth in listed.items():
        setup.sometimes(f"outcome {text}", truth)
