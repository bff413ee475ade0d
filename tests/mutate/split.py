"""Locked instructions done wrongly: a load, and then a store, between which others may move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.steps import load, store

if TYPE_CHECKING:
    from smpmmu.engine.steps import Word
    from smpmmu.machine.cpu import Cpu


async def split_clear_bit(cpu: Cpu, nr: int, addr: int) -> None:
    word = cpu.memory.at(addr)
    await store(word, await load(word) & ~(1 << nr))


async def split_test_and_clear_bit(cpu: Cpu, nr: int, addr: int) -> bool:
    word = cpu.memory.at(addr)
    old = await load(word)
    await store(word, old & ~(1 << nr))
    return old >> nr & 1 != 0


async def split_xchg(word: Word, value: int) -> int:
    old = await load(word)
    await store(word, value)
    return old


async def split_fetch_or(word: Word, bits: int, returns: int = 0) -> int:
    old = await load(word)
    await store(word, old | bits)
    return old & returns


async def split_fetch_and(word: Word, bits: int, returns: int = 0) -> int:
    old = await load(word)
    await store(word, old & bits)
    return old & returns


async def split_fetch_add(word: Word, amount: int, returns: int = 0) -> int:
    old = await load(word)
    await store(word, (old + amount) & word.mask)
    return old & returns
