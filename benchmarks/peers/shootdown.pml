/*
 * What the kernel-level models have in common: i386's TLB shootdown, a shadow page table, a user's access.
 *
 * Written from the C that the scenarios quote, for one page. Every access to memory is one transition: a statement,
 * or a d_step where a hypervisor changes several words at once. An interrupt is a process beside its CPU, which
 * stands still meanwhile; it lands between two instructions only, so a user's access and a call of the hypervisor
 * are closed to it from their first access to their last.
 *
 * -DNATIVE, -DIMMEDIATE or -DDEFERRED says how a change is told to the hypervisor, -DLATE that the flush comes after
 * the unlock, -DUNTOUCHED that the page was not used yet. N is the number of CPUs, MM of those that run the address space.
 */

#define P 1
#define RW 2
#define A 4
#define D 8
#define WALKING 16

#ifdef UNTOUCHED
#define FIRST (P | RW)
#else
#define FIRST (P | RW | A | D)
#endif

#define SHADOW_OF(e) (((e) & (P | A)) == (P | A) -> ((e) & D -> (e) : (e) & ~RW) : 0)
#define ALLOWS(e, need) (((e) & (need)) == (need))

/* What a CPU is inside of. */
#define NOTHING 0
#define INSTRUCTION 1
#define HANDLER 2
#define RUNS(cpu) (inside[cpu] != HANDLER)
#define RUNS_AS(cpu, at) ((inside[cpu] == HANDLER) == (at == HANDLER))

byte inside[N];
bool irr[N];
byte tlb[N];
/* A bit for each of the two slots of a queue of deferred updates. */
byte queue[N];

byte directory = P | RW | A | D;
byte primary = FIRST;
#ifdef NATIVE
#define WALKED primary
#else
byte shadow = SHADOW_OF(FIRST);
#define WALKED shadow
#endif

bool ptl, tlbstate_lock, flush_mm, flush_va;
byte flush_cpumask;
byte cpu_vm_mask = (1 << MM) - 1;

/* The page: how often it was written to, whether it was promised to stay, whether it belongs to the address space. */
byte version;
bool frozen;
bool owned = 1;

/* Apply and empty the queue, oldest first. The second slot is looked at only if there was a record in the first. */
inline drain(cpu, at)
{
	if
	:: d_step { RUNS_AS(cpu, at) && !(queue[cpu] & 1) -> inside[cpu] = at }
	:: d_step { RUNS_AS(cpu, at) && queue[cpu] & 1 -> queue[cpu] = queue[cpu] & ~1; inside[cpu] = at };
		d_step { shadow = SHADOW_OF(primary) };
		!(queue[cpu] & 2)
	fi
}

inline flush_here(cpu, at, after)
{
#ifndef NATIVE
	drain(cpu, at);
#endif
	d_step { RUNS_AS(cpu, at) -> tlb[cpu] = 0; inside[cpu] = after }
}

/* `to` is a local of the caller, 0 before and after. FLUSHED is what a model does beside the last access. */
#ifndef FLUSHED
#define FLUSHED
#endif
inline flush_tlb_page(cpu, to)
{
	RUNS(cpu) && cpu_vm_mask;
	flush_here(cpu, INSTRUCTION, NOTHING);
	d_step { RUNS(cpu) && !tlbstate_lock -> tlbstate_lock = 1 };
	d_step { RUNS(cpu) -> flush_mm = 1 };
	d_step { RUNS(cpu) -> flush_va = 1 };
	d_step { RUNS(cpu) -> flush_cpumask = flush_cpumask | (cpu_vm_mask & ~(1 << cpu)) };
	do
	:: d_step { RUNS(cpu) && to < MM - 2 -> irr[to + (to >= cpu)] = 1; to++ }
	:: d_step { RUNS(cpu) && to == MM - 2 -> irr[to + (to >= cpu)] = 1; to = 0 }; break
	od;
	RUNS(cpu) && flush_cpumask == 0;
	d_step { RUNS(cpu) -> flush_mm = 0 };
	d_step { RUNS(cpu) -> flush_va = 0 };
	d_step { RUNS(cpu) -> tlbstate_lock = 0 FLUSHED }
}

/* Tell the hypervisor that the entry was changed. */
inline pte_update(cpu)
{
#ifndef NATIVE
	d_step { RUNS(cpu) -> shadow = SHADOW_OF(primary) }
#else
	skip
#endif
}

inline pte_update_defer(cpu)
{
	d_step { RUNS(cpu) && !(queue[cpu] & 1) -> inside[cpu] = INSTRUCTION };
	d_step { queue[cpu] = queue[cpu] | 1; inside[cpu] = NOTHING }
}

/* What an access needs of an entry, sets in it, and does to the page; D is needed of the TLB, and set by the walk. */
#define WRITE_NEEDS (P | RW | D)
#define WRITE_SETS (A | D)
#define WRITE assert(!frozen); version++

/* An access by user code, begun anew after a hidden fault. `done` counts those that have ended, MOST is how many
   there are, `pte` is a local, 0 before and after. The caller labels the call `end_again`. An entry cached writable and clean, which a write would walk
   again, does not come to be in these models. */
inline end_access(cpu, done)
{
	inside[cpu] = NOTHING;
	done++
}

inline user_access(cpu, done, pte)
{
	if
	:: d_step { RUNS(cpu) && done < MOST && ALLOWS(tlb[cpu], NEEDS(done)) -> inside[cpu] = INSTRUCTION };
		goto access
	:: d_step { RUNS(cpu) && done < MOST && !(tlb[cpu] & P) -> inside[cpu] = INSTRUCTION }
	:: d_step { RUNS(cpu) && done < MOST && tlb[cpu] & P && !ALLOWS(tlb[cpu], NEEDS(done)) -> inside[cpu] = INSTRUCTION };
#ifdef NATIVE
		d_step { tlb[cpu] = tlb[cpu] & WALKING; end_access(cpu, done) };
		goto end_again
#else
		d_step { tlb[cpu] = tlb[cpu] & WALKING };
		goto fault
#endif
	fi;
walk:
	directory & P;
#ifdef NATIVE
	if
	:: d_step { ALLOWS(WALKED, NEEDS(done) & ~D) && ALLOWS(WALKED, SETS(done)) -> pte = WALKED }
	:: d_step { ALLOWS(WALKED, NEEDS(done) & ~D) && !ALLOWS(WALKED, SETS(done)) -> pte = WALKED };
		if
		:: d_step { WALKED == pte -> pte = pte | SETS(done); WALKED = pte }
		:: d_step { WALKED != pte -> pte = 0 }; goto walk
		fi
	:: d_step { !ALLOWS(WALKED, NEEDS(done) & ~D) -> end_access(cpu, done) }; goto end_again
	fi;
#else
	if
	:: d_step { ALLOWS(WALKED, NEEDS(done)) -> pte = WALKED }
	:: !ALLOWS(WALKED, NEEDS(done)); goto fault
	fi;
#endif
	d_step { tlb[cpu] = (tlb[cpu] & WALKING) | pte; pte = 0 };
access:
	if /* for SPIN has no jump to a d_step */
	:: d_step { assert(owned); ACCESS(done); end_access(cpu, done) }
	fi;
	goto end_again;
#ifndef NATIVE
fault:
	drain(cpu, INSTRUCTION);
	directory & P;
	if
	:: d_step { ALLOWS(primary, NEEDS(done) & ~D) ->
			primary = primary | SETS(done); shadow = SHADOW_OF(primary); inside[cpu] = NOTHING }
	:: d_step { !ALLOWS(primary, NEEDS(done) & ~D) -> end_access(cpu, done) }
	fi;
	goto end_again
#endif
}

/* smp_invalidate_interrupt, on the CPUs that run the address space; the processes are declared first, so that their
   numbers are those of their CPUs. */
active [MM] proctype Invalidate()
{
end:	do
	:: d_step { irr[_pid] && inside[_pid] == NOTHING -> irr[_pid] = 0; inside[_pid] = HANDLER };
		if
		:: d_step { !(flush_cpumask & (1 << _pid)) -> inside[_pid] = NOTHING }
		:: flush_cpumask & (1 << _pid);
			flush_mm;
			flush_va;
			flush_here(_pid, HANDLER, HANDLER);
			d_step { flush_cpumask = flush_cpumask & ~(1 << _pid); inside[_pid] = NOTHING }
		fi
	od
}
