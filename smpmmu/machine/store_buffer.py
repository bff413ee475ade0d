"""The store buffers of x86-TSO: a CPU's stores wait in order, and reach memory when they do.

A buffer is a word, which its own CPU fills and an agent of its own drains: hardware that must move
in the end, not a part of the engine. Loads see the newest store of their own CPU first; a fence and
a locked instruction wait until the buffer is empty. Only words that a buffer names are stored
through it. It must not know who uses it. Source: Owens, Sarkar, Sewell, "A Better x86 Memory
Model: x86-TSO" (TPHOLs 2009); Sewell et al., "x86-TSO" (CACM 53(7), 2010), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from smpmmu.engine.errors import ModelError
from smpmmu.engine.routines import indivisible, instruction
from smpmmu.engine.steps import Step, Wait, Word, load, store, wait_until, xchg

TSO_TRANSITION = (
    "a store enters its CPU's buffer, the oldest leaves it for memory, and a locked instruction "
    "acts on memory while its buffer is empty, each in one transition of the x86-TSO machine"
)


@dataclass(frozen=True, slots=True)
class StoreBuffer:
    """The store buffer of a CPU.

    Attributes:
        number: of the CPU.
        words: what can be stored through it.
        depth: stores that it has room for; if it never fills, it is as good as unbounded.
    """

    number: int
    words: tuple[Word, ...]
    depth: int

    @property
    def value_bits(self) -> int:
        """Bits for the value of a store."""
        return max(word.width for word in self.words)

    @property
    def entry_bits(self) -> int:
        """Bits of a store: its value, and above it which word, counted from 1."""
        return self.value_bits + len(self.words).bit_length()

    @property
    def word(self) -> Word:
        """The buffer, its oldest store lowest; 0 if it is empty.

        Raises:
            ModelError: it does not fit.
        """
        width = self.entry_bits * self.depth
        if width > 64:
            msg = f"cpu{self.number}: a store buffer of {width} bits, expected at most 64"
            raise ModelError(msg)
        return Word(f"cpu{self.number}.store_buffer", width)

    def entries(self, held: int) -> tuple[tuple[Word, int], ...]:
        """Return what the buffer holds as (word, value), the oldest first."""
        mask, result = (1 << self.entry_bits) - 1, []
        while held:
            index, value = divmod(held & mask, 1 << self.value_bits)
            result.append((self.words[index - 1], value))
            held >>= self.entry_bits
        return tuple(result)

    def entry(self, word: Word, value: int) -> int:
        """Return a store as the buffer holds it."""
        return self.words.index(word) + 1 << self.value_bits | value


@indivisible(TSO_TRANSITION)
async def buffered_store(buffer: StoreBuffer, word: Word, value: int) -> None:
    """Store `value`: it is in the buffer from now on, and in memory some time later.

    Waits while the buffer is full.
    """
    last = buffer.entry_bits * (buffer.depth - 1)
    full = (1 << buffer.entry_bits) - 1 << last
    room = Wait(full, 0)
    label = f"buffer {word.name} = {word.format.show(value)}"
    held = await Step(label, buffer.word, wait=room, returns=buffer.word.mask)
    position = len(buffer.entries(held)) * buffer.entry_bits
    await store(buffer.word, held | buffer.entry(word, value) << position)


@instruction
async def buffered_load(buffer: StoreBuffer, word: Word) -> int:
    """Load from the newest store to `word` in the own buffer, or else from memory.

    Only its own CPU could put one in between the two steps, and no handler of it lands there.
    """
    own = [value for each, value in buffer.entries(await load(buffer.word)) if each == word]
    return own[-1] if own else await load(word)


async def mfence(buffer: StoreBuffer) -> None:
    """Wait until the buffer is empty.

    Instruction: MFENCE
    """
    await wait_until(buffer.word, 0)


@indivisible(TSO_TRANSITION)
async def locked_xchg(buffer: StoreBuffer, word: Word, value: int) -> int:
    """Exchange with memory, once the buffer is empty.

    Instruction: XCHG
    """
    await mfence(buffer)
    return await xchg(word, value)


@indivisible(TSO_TRANSITION)
async def drain_store(buffer: StoreBuffer) -> None:
    """Let the oldest store reach memory: what the buffer does by itself, again and again."""
    some = Wait(buffer.word.mask, 0, equal=False)
    held = await Step("drain", buffer.word, wait=some, returns=buffer.word.mask)
    word, value = buffer.entries(held)[0]
    await store(word, value)
    await store(buffer.word, held >> buffer.entry_bits)
