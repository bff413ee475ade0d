"""The benchmark model `defer` in plain Python: tuples and successors, for checkers that want those.

It must not know smpmmu, nor who searches it. Every function that moves is one atomic action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

State = tuple[int, ...]
Move = Callable[[State, int, int], "State | None"]

RW, A, D = 2, 4, 8
LOCK, READ, CLEAR, QUEUE, EARLY, DRAIN, INVLPG, WAIT, UNLOCK, LEAVE, WRITEBACK = range(11)
SEND = 16
"""The positions of a cleaner; SEND + i is before the interrupt to the i-th other CPU."""


class Defer:
    """The model at a size. A state is what `fields` names, and `broken` first of all."""

    def __init__(self, cpus: int, pages: int, iterations: int, variant: str = "locked") -> None:
        """Work out where things lie in a state."""
        self.cpus, self.pages, self.variant = cpus, pages, variant
        self.operations = iterations * pages
        self.roles = "CR" if cpus == 2 else "CWRCWRCW"[:cpus]
        self.fields: tuple[str, ...] = ("broken", "ptl")
        self.at_primary = self._place("primary", pages)
        self.at_shadow = self._place("shadow", pages)
        self.at_content = self._place("content", pages)
        self.at_disk = self._place("disk", pages)
        self.at_pc = self._place("pc", cpus)
        self.at_done = self._place("done", cpus)
        self.at_tlb = self._place("tlb", cpus)
        self.at_queue = self._place("queue", cpus)
        self.at_mail = self._place("mail", cpus)
        self.initial: State = (0, 0, *[15] * (2 * pages), *[1] * pages, *[0] * (pages + 5 * cpus))
        senders = [sender for sender in range(cpus) if self.roles[sender] == "C"]
        moves: list[tuple[str, Move, int, int]] = []
        for cpu in range(cpus):
            moves.append((f"cpu{cpu}", self.step, cpu, 0))
            moves += [
                (f"cpu{cpu}.from{sender}", self.interrupt, cpu, sender)
                for sender in senders
                if sender != cpu
            ]
        self.moves = tuple(moves)

    def _place(self, name: str, count: int) -> int:
        """Give `count` numbers of a state a name; return where they begin."""
        begin = len(self.fields)
        self.fields += tuple(f"{name}{number}" for number in range(count))
        return begin

    def successors(self, state: State) -> Iterator[tuple[str, State]]:
        """Yield (who moves, the state after it) for all who can; nothing follows what is broken."""
        if state[0]:
            return
        for name, move, cpu, sender in self.moves:
            after = move(state, cpu, sender)
            if after is not None:
                yield name, after

    def interrupt(self, state: State, cpu: int, sender: int) -> State | None:
        """Clear the pages that a sender names from the TLB, and acknowledge."""
        shift = cpu * self.pages
        pages = state[self.at_mail + sender] >> shift & (1 << self.pages) - 1
        if not pages:
            return None
        s = list(state)
        s[self.at_tlb + cpu] &= ~pages
        s[self.at_mail + sender] &= ~(pages << shift)
        return tuple(s)

    def step(self, state: State, cpu: int, _: int = 0) -> State | None:
        """Take a CPU's next action, if it can."""
        done = state[self.at_done + cpu]
        if done == self.operations:
            return None
        page, role = done % self.pages, self.roles[cpu]
        if role == "C":
            return self.cleaner(state, cpu, page)
        return self.writer(state, cpu, page) if role == "W" else self.reader(state, cpu, page)

    def in_sync(self, s: list[int]) -> bool:
        """Whether shadow and primary agree on all pages."""
        p = self.pages
        return s[2 : 2 + p] == s[2 + p : 2 + 2 * p]

    def end(self, s: list[int], cpu: int) -> None:
        """Go on with the next operation."""
        s[self.at_pc + cpu] = LOCK
        s[self.at_done + cpu] += 1

    def cleaner(self, state: State, cpu: int, page: int) -> State | None:  # noqa: PLR0912
        """Clear D, push the update, shoot the others down, unlock, write back."""
        s, pc, bit = list(state), state[self.at_pc + cpu], 1 << page
        following = pc + 1
        if pc == LOCK:
            if s[1]:
                return None
            s[1], s[0] = 1, int(not self.in_sync(s))
        elif pc == READ:
            following = CLEAR if s[self.at_primary + page] & D else LEAVE
        elif pc == CLEAR:
            s[self.at_primary + page] &= ~D
        elif pc == QUEUE:
            s[self.at_queue + cpu] |= bit
            following = EARLY if self.variant == "late" else DRAIN
        elif pc == EARLY:
            s[1] = 0
        elif pc == DRAIN:
            s[self.at_shadow + page] = s[self.at_primary + page]
            s[self.at_queue + cpu] &= ~bit
        elif pc == INVLPG:
            s[self.at_tlb + cpu] &= ~bit
            following = SEND
        elif pc >= SEND:
            sent = pc - SEND
            receiver = sent + (sent >= cpu)
            s[self.at_mail + cpu] |= bit << receiver * self.pages
            if sent == self.cpus - 2:
                following = WAIT if self.variant != "noack" else UNLOCK
        elif pc == WAIT:
            if s[self.at_mail + cpu]:
                return None
            following = WRITEBACK if self.variant == "late" else UNLOCK
        elif pc == UNLOCK:
            s[1], following = 0, WRITEBACK
        elif pc == LEAVE:
            s[1] = 0
        else:
            s[self.at_disk + page] = s[self.at_content + page]
        s[self.at_pc + cpu] = following
        if pc in {LEAVE, WRITEBACK}:
            self.end(s, cpu)
        return tuple(s)

    def writer(self, state: State, cpu: int, page: int) -> State:
        """Write through a dirty translation, or walk the shadow and be back before the write."""
        s, bit = list(state), 1 << page
        if s[self.at_tlb + cpu] & bit:
            s[self.at_content + page] += 1
            self.end(s, cpu)
        elif s[self.at_shadow + page] & RW:
            s[self.at_shadow + page] |= A | D
            s[self.at_primary + page] |= A | D
            s[self.at_tlb + cpu] |= bit
        else:
            self.end(s, cpu)
        return tuple(s)

    def reader(self, state: State, cpu: int, page: int) -> State | None:
        """Toggle RW under the lock, with an immediate update."""
        s, pc = list(state), state[self.at_pc + cpu]
        s[self.at_pc + cpu] = pc + 1
        if pc == 0:
            if s[1]:
                return None
            s[1], s[0] = 1, int(not self.in_sync(s))
        elif pc == 1:
            s[0] = int(s[self.at_shadow + page] != s[self.at_primary + page])
        elif pc == 2:
            s[self.at_primary + page] ^= RW
        elif pc == 3:
            s[self.at_shadow + page] = s[self.at_primary + page]
        else:
            s[1] = 0
            self.end(s, cpu)
        return tuple(s)

    def quiet(self, state: State) -> bool:
        """Whether all have finished and no mailbox is full."""
        at, n = self.at_done, self.cpus
        return state[at : at + n] == (self.operations,) * n and not any(state[self.at_mail :])

    def no_write_lost(self, state: State) -> bool:
        """At rest a page that differs from the disk is marked dirty."""
        for page in range(self.pages):
            changed = state[self.at_content + page] != state[self.at_disk + page]
            if changed and not state[self.at_primary + page] & D and self.quiet(state):
                return False
        return True
