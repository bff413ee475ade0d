/*
 * The benchmark model `defer` for SPIN: a shadow page table kept up to date by deferred updates.
 *
 * Sizes are given as -DN=cpus -DP=pages -DK=iterations, the variant as -DLATE or -DNOACK (neither: locked).
 * One step of the model is one statement, or one d_step where several words change at once, so that the moments
 * inside a step are no states. Translate with `spin -a`, compile with -DNOREDUCE, and the states stored are exactly
 * the states of the model.
 */

#ifndef N
#define N 3
#endif
#ifndef P
#define P 1
#endif
#ifndef K
#define K 1
#endif

#if N > 8 || N < 2
#error "N must be 2 to 8"
#endif
#if P > 3 || P < 1 || N * P > 31
#error "P must be 1 to 3, and N * P at most 31"
#endif

/* The roles go round as C W R, so the k-th cleaner is CPU 3k; two CPUs are a cleaner and a reader. */
#define CLEANERS ((N + 2) / 3)
#if N == 2
#define WRITERS 0
#define READERS 1
#define FIRST_READER 1
#else
#define WRITERS ((N + 1) / 3)
#define READERS (N / 3)
#define FIRST_READER 2
#endif

/* The processes are numbered in the order they are declared in: cleaners, writers, readers. */
#define CLEANER (3 * _pid)
#define WRITER (3 * (_pid - CLEANERS) + 1)
#define READER (3 * (_pid - CLEANERS - WRITERS) + FIRST_READER)

#define RW 2
#define A 4
#define D 8

#define OPERATIONS (K * P)
#define PAGE(cpu) (done[cpu] % P)
#define BIT(cpu) (1 << PAGE(cpu))
#define ALL_PAGES ((1 << P) - 1)

/* An expression over all pages has to be spelled out: a guard cannot contain a loop. */
#if P == 1
#define IN_SYNC (shadow[0] == primary[0])
#define LOST LOST_PAGE(0)
#elif P == 2
#define IN_SYNC (shadow[0] == primary[0] && shadow[1] == primary[1])
#define LOST (LOST_PAGE(0) || LOST_PAGE(1))
#else
#define IN_SYNC (shadow[0] == primary[0] && shadow[1] == primary[1] && shadow[2] == primary[2])
#define LOST (LOST_PAGE(0) || LOST_PAGE(1) || LOST_PAGE(2))
#endif
#define LOST_PAGE(p) (content[p] != disk[p] && !(primary[p] & D))

#if CLEANERS == 1
#define QUIET (mail[0] == 0)
#elif CLEANERS == 2
#define QUIET (mail[0] == 0 && mail[1] == 0)
#else
#define QUIET (mail[0] == 0 && mail[1] == 0 && mail[2] == 0)
#endif

byte primary[P] = 15;
byte shadow[P] = 15;
byte content[P] = 1;
byte disk[P];
bool ptl;

/* Per CPU: operations completed, pages with a dirty TLB entry, and pages queued for a deferred update. */
byte done[N];
byte tlb[N];
byte queue[N];

/* mail[k] holds all mailboxes of the k-th cleaner, P bits for each receiver, so that "all acknowledged" is one
   comparison. Only cleaners send. */
int mail[CLEANERS];
#define MAILBOX(k, cpu) ((mail[k] >> ((cpu) * P)) & ALL_PAGES)

/* Operations left on all CPUs. It follows from `done`, adds no state, and makes "all finished" cheap to ask. */
byte left = N * OPERATIONS;

inline next_operation(cpu)
{
	done[cpu]++;
	left--
}

/* Interrupts go to the other CPUs in ascending order; `sent` counts those that went before. */
inline send(sent)
{
	mail[_pid] = mail[_pid] | (BIT(CLEANER) << ((sent + (sent >= CLEANER)) * P))
}

/* A CPU that has finished blocks before its next operation rather than terminate, for SPIN would count the
   termination as a step of its own. Those positions are end states; `Judge` looks for a deadlock there. */

active [CLEANERS] proctype Cleaner()
{
	byte sent;

end:	do
	:: d_step { done[CLEANER] < OPERATIONS && !ptl -> ptl = 1; assert(IN_SYNC) };
		/* What was read is remembered as the position, so nothing is left over for later operations. */
		if
		:: !(primary[PAGE(CLEANER)] & D);
			d_step { ptl = 0; next_operation(CLEANER) }
		:: primary[PAGE(CLEANER)] & D;
			primary[PAGE(CLEANER)] = primary[PAGE(CLEANER)] & ~D;
			queue[CLEANER] = queue[CLEANER] | BIT(CLEANER);
#ifdef LATE
			ptl = 0;
#endif
			d_step { shadow[PAGE(CLEANER)] = primary[PAGE(CLEANER)]; queue[CLEANER] = queue[CLEANER] & ~BIT(CLEANER) };
			tlb[CLEANER] = tlb[CLEANER] & ~BIT(CLEANER);
			do
			:: d_step { sent < N - 2 -> send(sent); sent++ }
			:: d_step { sent == N - 2 -> send(sent); sent = 0 }; break
			od;
#ifndef NOACK
			mail[_pid] == 0;
#endif
#ifndef LATE
			ptl = 0;
#endif
			d_step { disk[PAGE(CLEANER)] = content[PAGE(CLEANER)]; next_operation(CLEANER) }
		fi
	od
}

#if WRITERS > 0
active [WRITERS] proctype Writer()
{
end:	do
	:: d_step { done[WRITER] < OPERATIONS && (tlb[WRITER] & BIT(WRITER)) ->
			content[PAGE(WRITER)]++;
			next_operation(WRITER) }
	:: d_step { done[WRITER] < OPERATIONS && !(tlb[WRITER] & BIT(WRITER)) && (shadow[PAGE(WRITER)] & RW) ->
			shadow[PAGE(WRITER)] = shadow[PAGE(WRITER)] | D | A;
			primary[PAGE(WRITER)] = primary[PAGE(WRITER)] | D | A;
			tlb[WRITER] = tlb[WRITER] | BIT(WRITER) }
	:: d_step { done[WRITER] < OPERATIONS && !(tlb[WRITER] & BIT(WRITER)) && !(shadow[PAGE(WRITER)] & RW) ->
			next_operation(WRITER) }
	od
}
#endif

active [READERS] proctype Reader()
{
end:	do
	:: d_step { done[READER] < OPERATIONS && !ptl -> ptl = 1; assert(IN_SYNC) };
		assert(shadow[PAGE(READER)] == primary[PAGE(READER)]);
		primary[PAGE(READER)] = primary[PAGE(READER)] ^ RW;
		shadow[PAGE(READER)] = primary[PAGE(READER)];
		d_step { ptl = 0; next_operation(READER) }
	od
}

/* Interrupts are a process beside the CPUs, so that one may land between any two steps of its CPU. One process takes
   those of all CPUs: it keeps nothing between two of them, and fewer processes make a smaller state vector. */

#define INTERRUPT(k, cpu) d_step { MAILBOX(k, cpu) -> \
			tlb[cpu] = tlb[cpu] & ~MAILBOX(k, cpu); \
			mail[k] = mail[k] & ~(ALL_PAGES << ((cpu) * P)) }

#if CLEANERS == 1
#define INTERRUPTS(cpu) INTERRUPT(0, cpu)
#elif CLEANERS == 2
#define INTERRUPTS(cpu) INTERRUPT(0, cpu) :: INTERRUPT(1, cpu)
#else
#define INTERRUPTS(cpu) INTERRUPT(0, cpu) :: INTERRUPT(1, cpu) :: INTERRUPT(2, cpu)
#endif

active proctype Interrupts()
{
end:	do
	:: INTERRUPTS(0)
	:: INTERRUPTS(1)
#if N > 2
	:: INTERRUPTS(2)
#endif
#if N > 3
	:: INTERRUPTS(3)
#endif
#if N > 4
	:: INTERRUPTS(4)
#endif
#if N > 5
	:: INTERRUPTS(5)
#endif
#if N > 6
	:: INTERRUPTS(6)
#endif
#if N > 7
	:: INTERRUPTS(7)
#endif
	od
}

/* The judge can move only where a write is lost or the CPUs are in a deadlock, so it adds neither states nor
   transitions to a model that holds. Its move is one more than the counterexample has actions. */

active proctype Judge()
{
end:	if
	:: d_step { left == 0 && QUIET && LOST -> assert(!LOST) }
	:: d_step { timeout && left > 0 -> assert(left == 0) }
	fi
}
