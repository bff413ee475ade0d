/*
 * The scenario `dirty_writeback`: CPU 0 moves the dirty mark from the entry to the page, CPU 1 writes to the page,
 * CPU 2, which does not run the address space, writes it to disk.
 */

#define N 2
#define MM N
#define MOST 2
#define NEEDS(done) WRITE_NEEDS
#define SETS(done) WRITE_SETS
#define ACCESS(done) WRITE


/* CPUs that have ended, the writer apart: it follows from where they are, and makes rest cheap to ask for. */
byte ended;
#ifdef LATE
#define FLUSHED ; ended++
#endif

#include "shootdown.pml"

bool dirty;
byte disk, written;

active proctype Clean()
{
	byte to;

	d_step { RUNS(0) && !ptl -> ptl = 1 };
	if
	:: RUNS(0) && !(primary & D)
	:: RUNS(0) && primary & D;
		d_step { RUNS(0) -> primary = primary & ~D };
#ifdef IMMEDIATE
		pte_update(0);
#endif
#ifdef DEFERRED
		pte_update_defer(0);
#endif
#ifndef LATE
		flush_tlb_page(0, to);
#endif
		d_step { RUNS(0) -> dirty = 1 }
#ifdef LATE
		;
		d_step { RUNS(0) -> ptl = 0 };
		flush_tlb_page(0, to);
		goto end
#endif
	fi;
	d_step { RUNS(0) -> ptl = 0; ended++ };
end:	false
}

active proctype Writer()
{
	byte pte;

end_again:
	user_access(1, written, pte)
}

active proctype WriteBack()
{
	byte copied;

	if
	:: d_step { dirty -> dirty = 0 };
		copied = version;
		d_step { disk = copied; copied = 0; ended++ }
	:: d_step { !dirty -> ended++ }
	fi;
end:	false
}

/* It can move only where a write is lost, so it adds nothing to a model that holds. */
#define LOST (version != disk && !(primary & D) && !dirty)
active proctype Judge()
{
end:	d_step { ended == 2 && written == MOST && !irr[0] && !irr[1] && inside[0] == NOTHING && inside[1] == NOTHING && LOST ->
			assert(!LOST) }
}
