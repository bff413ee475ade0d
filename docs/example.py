"""cpu0 moves a page to a new frame and frees the old one; cpu1 and cpu2 are using it."""

import smpmmu as s

OLD, NEW = 1, 2
ptl, pte, freed = s.spinlock("ptl"), s.Word("pte", 2, OLD), s.Word("freed", 2)
ipi = s.Word("ipi", 3)  # a bit for each CPU that must still drop what it cached


async def move(*, wait: bool) -> None:
    await s.spin_lock(ptl)
    await s.store(pte, NEW)
    await s.fetch_or(ipi, 0b110)
    if wait:
        await s.wait_until(ipi, 0)
    await s.store(freed, OLD)
    await s.spin_unlock(ptl)


@s.instruction  # an interrupt lands before it or after it, never inside
async def touch() -> None:
    frame = await s.load(pte)
    gone = await s.load(freed)
    s.bug_on(gone == frame, "nobody_touches_a_freed_frame")


async def answer(cpu: int) -> None:
    await s.wait_until(ipi, 0, mask=1 << cpu, equal=False)
    await s.fetch_and(ipi, ipi.mask & ~(1 << cpu))


@s.scenario(s.variant("waiting", wait=True), s.variant("not_waiting", wait=False))
def move_page(setup: s.Setup, *, wait: bool) -> None:
    setup.cpu(0, s.call(move, wait=wait))
    for cpu in (1, 2):
        setup.cpu(cpu, s.call(touch))
        setup.irq(cpu, "invalidate", s.call(answer, cpu))
    setup.sometimes("the old frame was freed", s.value(freed) == OLD)
