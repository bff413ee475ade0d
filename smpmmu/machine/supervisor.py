"""The kernel's own accesses through the tables: supervisor mode with CR0.WP set.

They are translated as a user's are, but for the right to be there. A page of the kernel has no
owner to be checked. It must not know Linux.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smpmmu.engine.routines import AGAIN, Again, bug_on, instruction, retry
from smpmmu.engine.steps import Step
from smpmmu.machine.memory import PAGE_FROZEN, VERSION_SHIFT
from smpmmu.machine.walker import NO_WRITE_AFTER_PROMISE, Access, translate

if TYPE_CHECKING:
    from smpmmu.machine.cpu import Cpu


async def kernel_read(cpu: Cpu, addr: int) -> Access:
    """Read at `addr`; FAULT if Linux is given a page fault."""
    return await retry(kernel_access, cpu, addr, write=False)


async def kernel_write(cpu: Cpu, addr: int) -> Access:
    """Write at `addr`, otherwise as `kernel_read`."""
    return await retry(kernel_access, cpu, addr, write=True)


@instruction
async def kernel_access(cpu: Cpu, addr: int, *, write: bool) -> Access | Again:
    """Execute one load or store; AGAIN after a hidden fault."""
    pfn = await translate(cpu, addr, write=write, user=False)
    if pfn is None:
        again = await cpu.pv.page_fault(cpu, addr, write=write, user=False)
        return AGAIN if again else Access.FAULT
    if isinstance(pfn, Access):
        return pfn
    page = cpu.memory.page(pfn)
    if write:
        changed = 1 << VERSION_SHIFT
        ghosts = await Step(f"write {page.name}", page, add=changed, returns=PAGE_FROZEN)
        bug_on(ghosts, NO_WRITE_AFTER_PROMISE)
    else:
        await Step(f"read {page.name}", page)
    return Access.DONE
