"""Counter-based numbers: the only source of choice in random runs, and of fingerprint keys.

SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014):
number i of stream s is `mix64(s + (i + 1) * GAMMA)`, all modulo 2^64. It depends on nothing but s
and i, so that a seed decides everything on any machine, in any process, with any numpy.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from smpmmu.engine.steps import Column

GAMMA = 0x9E3779B97F4A7C15
M64 = (1 << 64) - 1


def mix64(z: int) -> int:
    """Return the finalizer of SplitMix64 on one integer."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & M64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & M64
    return z ^ z >> 31


def number(stream: int, index: int) -> int:
    """Return number `index` of `stream`, 64 bits."""
    return mix64(stream + (index + 1) * GAMMA & M64)


def mix64_column(z: Column) -> Column:
    """Return `mix64` of every element of a (n,) uint64 column."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9
    z = (z ^ z >> 27) * 0x94D049BB133111EB
    mixed: Column = z ^ z >> 31
    return mixed


def seed_stream(seed: int) -> int:
    """Return the stream of a run's seed; neighbouring seeds get unrelated streams."""
    return mix64(mix64(seed & M64) ^ GAMMA)


def pick(stream: int, index: int, among: int) -> int:
    """Return choice `index` of a run among `among` agents, each with equal probability.

    The bias of taking the high part of a product is below `among` / 2^32.
    """
    return (number(stream, index) >> 32) * among >> 32


def pick_column(streams: Column, index: int, among: Column) -> Column:
    """Return `pick` for every run of a (runs,) column at once."""
    return scaled(number_column(streams, index), among)


def scaled(numbers: Column, among: int | Column) -> Column:
    """Return numbers of 64 bits as numbers below `among`, which is at most 2^32."""
    picked: Column = (numbers >> 32) * among >> 32
    return picked


def number_column(streams: Column, index: int | Column) -> Column:
    """Return `number` for every run at once; `index` is one for all, or a column or matrix."""
    if isinstance(index, int):
        step = np.uint64((index + 1) * GAMMA & M64)
        return mix64_column(streams + step)
    return mix64_column(streams + (index + np.uint64(1)) * np.uint64(GAMMA))


def named_stream(name: str) -> int:
    """Return a stream that depends on a name alone."""
    return int.from_bytes(
        hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


@functools.lru_cache(maxsize=256)  # the systems of a catalogue have most words in common
def key_table(name: str, size: int) -> Column:
    """Return (size,) uint64 keys for the fingerprints of the thing called `name`, read-only."""
    stream = np.uint64(named_stream(name))
    steps = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(GAMMA)
    keys = mix64_column(stream + steps)
    keys.flags.writeable = False
    return keys


def narrow(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return numbers that are not negative in as few bytes as they need: 1, 4 or 8 each."""
    most = int(numbers.max()) if numbers.size else 0
    return numbers.astype(np.uint8 if most < 1 << 8 else np.uint32 if most < 1 << 32 else np.uint64)
