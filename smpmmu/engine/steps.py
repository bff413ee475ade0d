"""Steps as data: one guarded atomic access to one machine word.

A step is what one locked x86 instruction can do to one location, plus waiting. This module must
not know who takes a step, nor when; see `engine/automaton.py` for where steps come from and
`engine/batch.py` and `engine/live.py` for who applies them. `updated`, `enabled` and `taken` are
the one place where a step meets a value, for a single machine and for a column of them alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, overload

from smpmmu.engine.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    Column = NDArray[Any]  # (n,) uint64; the stubs would call every sum with an int signed
    Mask = NDArray[np.bool_]

ALL = (1 << 64) - 1
TAKEN = 1 << 64
"""Set in the result of a conditional step that was taken."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a word's value is printed: a frame number above `frame_shift`, then named flag bits."""

    flags: tuple[tuple[int, str], ...] = ()
    frame_shift: int = 0

    def show(self, value: int) -> str:
        """Return `value` as `frame flags`, or in decimal or hex where no flag is named."""
        if not self.flags or not value:
            return str(value) if value < 10 else hex(value)
        names = [name for bit, name in self.flags if value & bit]
        rest = value
        for bit, _ in self.flags:
            rest &= ~bit
        frame = f"{rest >> self.frame_shift:#x} " if rest or not names else ""
        return (frame + "-".join(names)).strip()


PLAIN = Format()


class Part(NamedTuple):
    """Where a report shows a word: a table, and a row and a column of it.

    Nothing that decides reads it. It says what the word is, so that nobody need guess from names.

    Attributes:
        table: what kind of word it is, as "TLB entries".
        row: which one, as the page of a TLB entry.
        column: whose, as the vCPU of a TLB entry.
        format: how a report shows values, if it can say more than a step does.
    """

    table: str
    row: str
    column: str = ""
    format: Format | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """A machine word: its name is its identity.

    Attributes:
        name: unique in a system; two words of one name must agree in everything else.
        width: bits, 1 to 64.
        initial: the value before the first step.
        owner: the vCPU that alone may touch the word ("" for shared memory).
        format: how values are printed.
        part: where a report shows it; None: among the other words.
    """

    name: str
    width: int = 32
    initial: int = 0
    owner: str = ""
    format: Format = PLAIN
    part: Part | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 64:
            msg = f"word {self.name!r}: a width of {self.width} bits, expected 1 to 64"
            raise ModelError(msg)
        _fits(self, self.initial, "its initial value")

    @property
    def mask(self) -> int:
        """All bits of the word."""
        return (1 << self.width) - 1


def _fits(word: Word, value: int, what: str) -> None:
    if not 0 <= value <= word.mask:
        msg = f"word {word.name!r} has {word.width} bits; {what} is {value:#x}, which does not fit"
        raise ModelError(msg)


@dataclass(frozen=True, slots=True)
class Wait:
    """The step is enabled only while `(value & mask) == value` (or `!=`, if not `equal`)."""

    mask: int
    value: int
    equal: bool = True


@dataclass(frozen=True, slots=True)
class When:
    """The step changes its word only if `(value & mask) == value`, as compare-and-exchange."""

    mask: int
    value: int


@dataclass(frozen=True, slots=True)
class Step:
    """One guarded atomic access; awaiting it in modelled code takes it and gives its result.

        enabled   <=>  wait is None, or (value & wait.mask) ==|!= wait.value
        taken     <=>  when is None, or (value & when.mask) == when.value
        new value =    ((value & and_mask) ^ xor_mask) + add    if taken, else value
        result    =    value & returns, and TAKEN for a conditional step that was taken

    Attributes:
        label: what the story prints.
        word: the word accessed; None for a private instruction (cli, sti).
        irqs: the context's interrupt flag from here on, if the step changes it.
        lock: +1 if the step acquires its word as a lock (where it is taken), -1 if it releases it.

    Raises:
        ModelError: a mask or value does not fit the word.
    """

    label: str
    word: Word | None = None
    wait: Wait | None = None
    when: When | None = None
    and_mask: int = ALL
    xor_mask: int = 0
    add: int = 0
    returns: int = 0
    irqs: bool | None = None
    lock: int = 0

    def __post_init__(self) -> None:
        word = self.word
        if word is None:
            if self.wait or self.when or self.returns or self.lock:
                msg = f"{self.label!r} has no word to wait for, to test, to return or to lock"
                raise ModelError(msg)
            return
        # Masks may be written as complements, which are negative in Python.
        object.__setattr__(self, "and_mask", self.and_mask & ALL)
        object.__setattr__(self, "returns", self.returns & word.mask)
        _fits(word, self.xor_mask, f"the value of {self.label!r}")
        if abs(self.add) > word.mask:
            msg = f"word {word.name!r} has {word.width} bits; {self.label!r} adds {self.add}"
            raise ModelError(msg)
        if self.add and word.width == 64:
            msg = f"word {word.name!r}: a 64-bit word has no room to notice an overflow of `add`"
            raise ModelError(msg)
        for guard in (self.wait, self.when):
            if guard is not None:
                _fits(word, guard.mask, f"the mask tested by {self.label!r}")
                if guard.value & ~guard.mask:
                    msg = (
                        f"{self.label!r} tests for {guard.value:#x} under the mask "
                        f"{guard.mask:#x}: no value can ever match"
                    )
                    raise ModelError(msg)

    def __await__(self) -> Generator[Step, int, int]:
        return (yield self)

    @property
    def writes(self) -> int:
        """Bits of the word that the step may change."""
        if self.word is None:
            return 0
        return self.word.mask if self.add else (~self.and_mask | self.xor_mask) & self.word.mask

    @property
    def reads(self) -> int:
        """Bits of the word that what the step does, or whether it can be taken, depends on."""
        if self.word is None:
            return 0
        bits = self.returns | (self.word.mask if self.add else self.xor_mask & self.and_mask)
        for guard in (self.wait, self.when):
            bits |= guard.mask if guard is not None else 0
        return bits & self.word.mask


@overload
def enabled(step: Step, value: int) -> bool: ...
@overload
def enabled(step: Step, value: Column) -> Mask: ...
def enabled(step: Step, value: int | Column) -> bool | Mask:
    """Say whether a step with a `wait` can be taken at `value` (an int, or (states,) uint64)."""
    wait = step.wait
    assert wait is not None
    return value & wait.mask == wait.value if wait.equal else value & wait.mask != wait.value


@overload
def taken(step: Step, value: int) -> bool: ...
@overload
def taken(step: Step, value: Column) -> Mask: ...
def taken(step: Step, value: int | Column) -> bool | Mask:
    """Say whether a step with a `when` changes its word at `value` (as for `enabled`)."""
    when = step.when
    assert when is not None
    return value & when.mask == when.value


@overload
def updated(step: Step, value: int) -> int: ...
@overload
def updated(step: Step, value: Column) -> Column: ...
def updated(step: Step, value: int | Column) -> int | Column:
    """Return the new value of the word where the step is taken (as for `enabled`).

    An overflow of `add` shows as bits above the word's width; the caller must look.
    """
    new = value & step.and_mask ^ step.xor_mask
    if step.add:
        new = new + (step.add & ALL) & ALL
    return new


def overflow(step: Step, value: int) -> ModelError:
    """Return the error for a sum that does not fit the step's word."""
    word = step.word
    assert word is not None
    return ModelError(
        f"word {word.name!r} has {word.width} bits; {step.label!r} adds {step.add} to {value:#x}, "
        "which does not fit"
    )


# Constructors. Everything modelled code does to memory is one of these.


def load(word: Word, mask: int = ALL) -> Step:
    """Read `word & mask`; ask only for the bits that are looked at, lest states multiply."""
    return Step(f"load {word.name}", word, returns=mask & word.mask)


def store(word: Word, value: int) -> Step:
    """Write `value`; returns 0.

    Raises:
        ModelError: the value does not fit the word.
    """
    label = f"store {word.name} = {word.format.show(value)}"
    return Step(label, word, and_mask=0, xor_mask=value)


def xchg(word: Word, value: int) -> Step:
    """Write `value`, return the old one, in one locked instruction.

    Raises:
        ModelError: the value does not fit the word.
    """
    label = f"xchg {word.name} = {word.format.show(value)}"
    return Step(label, word, and_mask=0, xor_mask=value, returns=word.mask)


def cmpxchg(word: Word, old: int, new: int, mask: int = ALL) -> Step:
    """Write `new` over the bits of `mask` if they are `old`, in one locked instruction.

    Returns the old bits of `mask`, and `TAKEN` beside them if it wrote; so it is tested by
    `if await cmpxchg(...) & TAKEN`.

    Raises:
        ModelError: `old` or `new` has bits outside the mask, or does not fit the word.
    """
    mask &= word.mask
    label = f"cmpxchg {word.name} {word.format.show(old)} -> {word.format.show(new)}"
    step = Step(label, word, when=When(mask, old), and_mask=ALL & ~mask, xor_mask=new, returns=mask)
    if new & ~mask:
        msg = f"{label!r} would write bits outside its mask {mask:#x}"
        raise ModelError(msg)
    return step


def fetch_or(word: Word, bits: int, returns: int = 0) -> Step:
    """Set `bits` in one locked instruction; return the old value's bits of `returns`, else 0.

    Raises:
        ModelError: `bits` do not fit the word.
    """
    label = f"set {word.format.show(bits)} in {word.name}"
    return Step(label, word, and_mask=ALL & ~bits, xor_mask=bits, returns=returns)


def fetch_and(word: Word, bits: int, returns: int = 0) -> Step:
    """Keep only `bits`, as `~bit` to clear one; the rest is as for `fetch_or`."""
    label = f"clear {word.format.show(~bits & word.mask)} in {word.name}"
    return Step(label, word, and_mask=bits, returns=returns)


def fetch_xor(word: Word, bits: int, returns: int = 0) -> Step:
    """Toggle `bits`; the rest is as for `fetch_or`."""
    label = f"toggle {word.format.show(bits)} in {word.name}"
    return Step(label, word, xor_mask=bits, returns=returns)


def fetch_add(word: Word, amount: int, returns: int = 0) -> Step:
    """Add `amount`, which may be negative; the rest is as for `fetch_or`.

    Raises:
        ModelError: the amount does not fit the word, now or, when it is run, the sum does not.
    """
    return Step(f"add {amount} to {word.name}", word, add=amount, returns=returns)


def wait_until(word: Word, value: int, mask: int = ALL, *, equal: bool = True) -> Step:
    """Wait until `word & mask` is `value` (or, if not `equal`, is not); stands for a busy-wait.

    It returns 0. Interrupts that are on land while it waits. If nobody ever makes it so, that is a
    deadlock.

    Raises:
        ModelError: no value can ever match.
    """
    relation = "is" if equal else "is not"
    label = f"wait until {word.name} {relation} {word.format.show(value)}"
    return Step(label, word, wait=Wait(mask & word.mask, value, equal))


def acquire(lock: Word) -> Step:
    """Take a lock word, waiting while it is held."""
    return Step(f"lock {lock.name}", lock, wait=Wait(1, 0), xor_mask=1, lock=1)


def try_acquire(lock: Word) -> Step:
    """Take a lock word if it is free; the result has TAKEN if it was."""
    return Step(f"try to lock {lock.name}", lock, when=When(1, 0), xor_mask=1, lock=1)


def release(lock: Word) -> Step:
    """Give a lock word back; a violation if this context does not hold it."""
    return Step(f"unlock {lock.name}", lock, and_mask=0, lock=-1)


def local_irq_disable() -> Step:
    """Switch interrupts off on this vCPU."""
    return Step("cli", irqs=False)


def local_irq_enable() -> Step:
    """Switch interrupts on on this vCPU."""
    return Step("sti", irqs=True)
