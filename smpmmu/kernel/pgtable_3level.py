"""Entries of two words: how the bare machine's hooks write them in PAE.

A walker reads both words at once, and may do so between any two stores here; the order of the
stores decides what it can see. Memory is sequentially consistent, so each wmb() of the C is
nothing. It must not know any hypervisor, nor who calls it. Source:
include/asm-i386/pgtable-3level.h, Linux 2.6.21.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.steps import load, store
from smpmmu.machine.entries import HIGH
from smpmmu.machine.memory import store_high, store_low, xchg_low

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu


async def set_pte(cpu: Cpu, ptep: int, pteval: int) -> None:
    """Write an entry that is absent, or that no walker can come across.

    C: native_set_pte
    """
    word = cpu.memory.at(ptep)
    await store_high(word, pteval)
    # Only now P: a walker that finds it finds the new frame.
    await store_low(word, pteval)


async def set_pte_present(cpu: Cpu, ptep: int, pteval: int) -> None:
    """Replace an entry that may be present; for a moment it is not.

    C: native_set_pte_present
    """
    word = cpu.memory.at(ptep)
    await store_low(word, 0)
    # A walker finds nothing here: Linux is given a fault, which waits for the ptl.
    await store_high(word, pteval)
    await store_low(word, pteval)


async def set_pte_atomic(cpu: Cpu, ptep: int, pteval: int) -> None:
    """Replace an entry at once, with cmpxchg8b.

    C: native_set_pte_atomic, set_64bit
    Model: the loop of set_64bit until nothing came in between is one store.
    """
    await store(cpu.memory.at(ptep), pteval)


async def pte_clear(cpu: Cpu, ptep: int) -> None:
    """Empty an entry.

    C: native_pte_clear, native_pmd_clear
    """
    word = cpu.memory.at(ptep)
    # P first: 6e5882cfa24. The other way a speculative walk finds it with another frame.
    await store_low(word, 0)
    await store_high(word, 0)


async def ptep_get_and_clear(cpu: Cpu, ptep: int) -> int:
    """Empty an entry and return it, with what walkers have marked in it until then.

    C: native_ptep_get_and_clear
    """
    word = cpu.memory.at(ptep)
    # A walker may set A and D until the very exchange, and leaves the entry alone after it.
    low = await xchg_low(word, 0)
    high = await load(word, HIGH)
    await store_high(word, 0)
    return low | high
