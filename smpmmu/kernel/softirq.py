"""A device's interrupt, and what it puts off: to a bottom half, or to a process.

It must not know what is put off. Source: kernel/softirq.c, kernel/workqueue.c and
arch/i386/kernel/irq.c, Linux 2.6.21.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from smpmmu.engine.local import call
from smpmmu.engine.steps import (
    Word,
    fetch_or,
    load,
    local_irq_disable,
    local_irq_enable,
    store,
    wait_until,
)
from smpmmu.machine.cpu import FIRST_DEVICE_VECTOR, Cpu, request_interrupt, take_interrupt

if TYPE_CHECKING:
    from smpmmu.scenario import Setup

Action = Callable[[Cpu], Awaitable[None]]

DEVICE_PRIORITY = -1
"""Below the IPIs, whose vectors are higher."""


def softirq_pending(cpu: Cpu) -> Word:
    """Return the word of this CPU's pending softirqs; here there is one."""
    return Word(f"{cpu.name}.softirq_pending", 1, owner=cpu.name)


def work_pending(cpu: Cpu) -> Word:
    """Return the bit that says that this CPU's keventd has work to do."""
    return Word(f"{cpu.name}.work_pending", 1)


async def do_irq(cpu: Cpu, action: Action) -> None:
    """Handle a device's interrupt whose handler leaves the rest, `action`, to a bottom half.

    C: do_IRQ
    """
    await take_interrupt(cpu, FIRST_DEVICE_VECTOR)
    await raise_softirq(cpu)
    await irq_exit(cpu, action)


async def raise_softirq(cpu: Cpu) -> None:
    """Ask for the bottom half to be run.

    C: raise_softirq_irqoff
    """
    await fetch_or(softirq_pending(cpu), 1)


async def irq_exit(cpu: Cpu, action: Action) -> None:
    """Run the bottom half on top of whatever was interrupted, if it has been asked for.

    C: irq_exit
    Model: in_interrupt() is false, since a device's interrupt interrupts main programs only.
    """
    if await load(softirq_pending(cpu)):
        await do_softirq(cpu, action)


async def do_softirq(cpu: Cpu, action: Action) -> None:
    """Run the bottom half: interrupts are on, and yet what was interrupted cannot go on.

    C: __do_softirq
    Model: the device's next interrupt waits until this one is over; in the C it lands here too,
    and asks for another round. It takes no lock, so that waiting hides no deadlock.
    """
    await store(softirq_pending(cpu), 0)
    await local_irq_enable()
    await action(cpu)
    await local_irq_disable()


async def schedule_work(cpu: Cpu) -> None:
    """Leave something to this CPU's keventd, a process.

    C: schedule_work
    """
    await fetch_or(work_pending(cpu), 1)


async def worker_thread(cpu: Cpu, action: Action) -> None:
    """Be keventd until it has done one piece of work.

    C: worker_thread, run_workqueue
    Model: it runs after the CPU's other program, not between its steps.
    """
    await wait_until(work_pending(cpu), 1)
    await store(work_pending(cpu), 0)
    await action(cpu)


def install_device(setup: Setup, cpu: Cpu, action: Action) -> None:
    """Give a vCPU a device that interrupts at any time, with a bottom half that does `action`."""
    there = replace(cpu, in_interrupt=True)
    setup.irq(cpu.number, "device", call(do_irq, there, action), priority=DEVICE_PRIORITY)
    setup.daemon(cpu.number, "device", call(request_interrupt, cpu, FIRST_DEVICE_VECTOR))
