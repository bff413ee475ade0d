"""The contract of the hooks, clause by clause, against what the modelled kernel does with them.

`python -m tests.contract` writes `docs/contract.md`. Seeded random runs of the catalogue's variants
with VMI's hooks and the kernel as it was merged are watched: every call of pte_update and
pte_update_defer, what it was about, and which flush came after it. Nothing of the table is written
by hand, but for what its clauses are called.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, fields
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING, Any

import smpmmu.kernel
from smpmmu.engine.local import Activation
from smpmmu.engine.numbers import pick, seed_stream
from smpmmu.engine.vcpus import Machine
from smpmmu.hypervisor.vmi import vmi
from smpmmu.kernel.paravirt import Linux
from smpmmu.machine.entries import PAGE_PRESENT
from smpmmu.targets import catalogue, one
from tests.shell import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType

    from smpmmu.engine.steps import Step
    from smpmmu.engine.system import System

FILE = ROOT / "docs/contract.md"
SEEDS = range(4)
LONGEST = 3_000
HOOKS = {"vmi_update_pte": "pte_update", "vmi_update_pte_defer": "pte_update_defer"}
FLUSHES = {"flush_tlb_page", "flush_tlb_mm", "flush_tlb_all", "vmi_flush_tlb_single", "flush_tlb"}
AS_MERGED_MAY_DIFFER = {
    "test_and_clear_deferred", "page_hooks", "frames", "online", "short", "pgds", "listed",
    "gather",
}  # fmt: skip
"""Knobs of the kernel that are no mutants of what stands around pte_update."""
CLAUSES = ("user entry", "stays present", "flush follows", "under the lock")


@dataclass(slots=True)
class Notice:
    """One call of a hook, and what came of it; `cut` if the run ended before its caller did."""

    hook: str
    caller: str
    path: str
    broken: set[str] = field(default_factory=set)
    lock: str = ""
    flushed: bool = False
    cut: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is a case of."""
        return self.hook, self.caller, self.path


def modelled() -> dict[str, Callable[..., Any]]:
    """Return the modelled functions of the kernel that stand for one of the C, by name."""
    modules = pkgutil.iter_modules(smpmmu.kernel.__path__)
    named = (vars(import_module(f"smpmmu.kernel.{module.name}")).items() for module in modules)
    return {
        name: value
        for name, value in chain.from_iterable(named)
        if inspect.isfunction(value) and "C: " in (value.__doc__ or "")
    }


MODELLED: dict[str, Callable[..., Any]] = modelled()


class Watch:
    """Looks at every routine that is entered and every lock that is given back, in one machine."""

    def __init__(self, machine: Machine) -> None:
        """Watch `machine`, whose runs are made by `run`."""
        self.machine = machine
        self.notices: list[Notice] = []
        self._open: dict[int, list[Notice]] = defaultdict(list)
        self._present: dict[tuple[int, str], bool] = {}
        self._alive: dict[int, Activation] = {}
        self.before: dict[str, int] = {}

    def entered(self, activation: Activation, name: str) -> None:
        """See a routine begin."""
        key = id(activation)
        self._alive[key] = activation  # so that no other one can have its id
        if name in FLUSHES:
            for notice in self._open.pop(key, []):
                notice.flushed = True
        frames = awaited(activation._coro)
        self._note_entry(key, name, frames[-1])
        if name in HOOKS:
            self._note_call(key, HOOKS[name], frames)

    def unlocked(self, activation: Activation, lock: str) -> None:
        """See a lock given back: updates deferred under it, and not flushed, are late."""
        for notice in self._open[id(activation)]:
            if notice.lock == lock:
                notice.broken.add("under the lock")

    def end(self) -> None:
        """See the run end: what is not over might still have been flushed."""
        for activation in self._alive.values():
            if activation.step is not None or activation.bug:
                for notice in self._open[id(activation)]:
                    notice.cut = True

    def _note_entry(self, key: int, name: str, frame: FrameType) -> None:
        local = frame.f_locals  # of the wrapper that every routine has
        bound = inspect.signature(local["fn"]).bind(*local["args"], **local["kwargs"]).arguments
        if isinstance(bound.get("ptep"), int):
            present = self.machine.read(bound["cpu"].memory.at(bound["ptep"])) & PAGE_PRESENT
            self._present[key, name] = bool(present)

    def _note_call(self, key: int, hook: str, frames: list[FrameType]) -> None:
        cpu, mm, addr, ptep = frames[-1].f_locals["args"]
        kernel = [
            f.f_code.co_name for f in reversed(frames) if "smpmmu/kernel/" in f.f_code.co_filename
        ]
        callers = [name for name in kernel if name in MODELLED]
        path = callers[1] if len(callers) > 1 else ""
        # Scenarios call macros too, and flush where it pleases them.
        if cpu.pv is not vmi or mutated(cpu.linux) or (callers[0].startswith("ptep_") and not path):
            return
        notice = Notice(hook, callers[0], path)
        word = cpu.memory.at(ptep)
        before = self._present.get((key, callers[0]), self.before.get(word.name, word.initial) & 1)
        if mm.is_init:
            notice.broken.add("user entry")
        else:
            notice.lock = mm.pte_lockptr(addr).name
        if before and not self.machine.read(word) & PAGE_PRESENT:
            notice.broken.add("stays present")
        self.notices.append(notice)
        self._open[key].append(notice)


def mutated(linux: Linux) -> bool:
    """Whether the kernel is otherwise than merged, where it matters here."""
    merged = Linux()
    return any(
        getattr(linux, f.name) != getattr(merged, f.name)
        for f in fields(Linux)
        if f.name not in AS_MERGED_MAY_DIFFER
    )


def awaited(coro: Any) -> list[FrameType]:
    """Return the frames of a suspended coroutine and of what it awaits, outermost first."""
    frames = []
    while inspect.iscoroutine(coro):
        if coro.cr_frame is not None:
            frames.append(coro.cr_frame)
        coro = coro.cr_await
    return frames


def run(system: System, seed: int) -> list[Notice]:
    """Run a system once, at random, and return the calls of hooks in it."""
    watch = Watch(Machine(system))
    enter, took = Activation._enter, Activation._took

    def watched_enter(self: Activation, event: Any, replay: Any) -> Any:
        watch.entered(self, event.name)
        return enter(self, event, replay)

    def watched_took(self: Activation, step: Step, result: int) -> bool:
        if step.lock < 0 and step.word is not None:
            watch.unlocked(self, step.word.name)
        return took(self, step, result)

    Activation._enter, Activation._took = watched_enter, watched_took  # type: ignore[method-assign]
    machine, stream = watch.machine, seed_stream(seed)
    try:
        for cpu in dict.fromkeys(c.cpu for c in system.contexts):
            machine.power_on(cpu)
        for number in range(LONGEST):
            able = machine.runnable()
            if not able or machine.violated() or machine.quiescent():
                break
            watch.before = dict(machine.values())
            chosen = able[pick(stream, number, len(able))]
            machine.cpus[system.contexts[chosen].cpu].act(chosen, machine)
        watch.end()
    finally:
        Activation._enter, Activation._took = enter, took  # type: ignore[method-assign]
        machine.close()
    for notice in watch.notices:
        if not notice.flushed and not notice.cut:
            notice.broken.add("flush follows")
        if notice.hook == "pte_update" or not notice.lock:
            notice.broken.discard("under the lock")
    return watch.notices


Table = dict[tuple[str, str, str], Counter[str]]


def observe(names: Iterable[str]) -> Table:
    """Return how often each clause was broken, and calls under "", for each caller and path."""
    table: Table = {}
    for name in names:
        system = one(name).system()
        for seed in SEEDS:
            for notice in run(system, seed):
                counted = table.setdefault(notice.key, Counter())
                counted.update(["", *notice.broken])
                counted.update(f"{clause} in {name}" for clause in notice.broken)
    return dict(sorted(table.items()))


def cell(counted: Counter[str], clause: str, hook: str) -> str:
    """Return how often a clause is kept, in a word."""
    without_lock = counted["user entry"] == counted[""]
    if clause == "under the lock" and (hook == "pte_update" or without_lock):
        return "-"
    broken = counted[clause]
    return "yes" if not broken else "**no**" if broken == counted[""] else "**not always**"


def history(name: str) -> str:
    """Return the commits that a function's documentation names, or the first of its module's."""
    function = MODELLED[name]
    commit = r"\b[0-9a-f]{11}\b(?: \([^)]*\))?"
    if found := re.findall(commit, function.__doc__ or ""):
        return ", ".join(found)
    module = import_module(function.__module__)
    return str(re.findall(commit, module.__doc__ or "")[0])  # what the module is a model of


def rows(table: Table) -> list[str]:
    """Return the table's rows."""
    return [
        f"| {caller} | {hook} | {path or '(boot)'} | "
        + " | ".join(cell(counted, clause, hook) for clause in CLAUSES)
        + f" | {history(caller)} |"
        for (hook, caller, path), counted in table.items()
    ]


def exceptions(table: Table) -> list[str]:
    """Return where the clauses are broken that are kept elsewhere: the scenarios, by name."""
    found = []
    for (hook, caller, path), counted in table.items():
        for clause in CLAUSES:
            if cell(counted, clause, hook) == "**not always**":
                begin = f"{clause} in "
                names = {k.removeprefix(begin).split("/")[0] for k in counted if begin in k}
                where = ", ".join(sorted(names))
                found.append(f"- {caller}, called by {path}, {clause}: not in all of {where}")
    return found


HEAD = """# The contract of pte_update and pte_update_defer, and who keeps it

The comment above the hooks (789e6ac0a7c) says that they are for user entries, for changes that
leave an entry present, and that a flush follows; for the deferred form, while the same page-table
lock is held. It tells what its authors meant. Nothing here is judged by it: a caller that breaks a
clause need not do harm.

Written by `python -m tests.contract`, from seeded random runs of the catalogue with the kernel as
it was merged: for every caller, and the function that called that one, whether each clause was
kept. The flush is one by the same thread in the same program, of whatever CPUs. It may be missing
because a scenario has only a part of a system call, or lets its thread go on on another CPU, as
clear_refs may; below the table are their names. An entry of init_mm has no page-table lock. The
last column has the commits that brought the hook to the caller, or changed it.

"""


def main() -> None:
    """Watch the whole catalogue and write the table."""
    names = [t.name for t in catalogue() if not t.name.endswith("_pae")]
    head = f"| caller | hook | called by | {' | '.join(CLAUSES)} | commits |"
    line = "|---" * (4 + len(CLAUSES)) + "|"
    table = observe(names)
    text = HEAD + "\n".join([head, line, *rows(table), "", *exceptions(table)]) + "\n"
    FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
