/*
 * The scenario `unmap_free`: CPU 0 write-protects a page, CPU 1 unmaps it and frees it, CPU 2 writes to it and reads
 * it.
 */

#define N 3
#define MM N
#define MOST 2
/* First the write, then the read. */
#define NEEDS(done) (done == 0 -> WRITE_NEEDS : P)
#define SETS(done) (done == 0 -> WRITE_SETS : A)
#define ACCESS(done) if :: done == 0 -> WRITE :: else fi

#include "shootdown.pml"
#include "write_protect.pml"

active proctype Unmap()
{
	byte to, pte;

	d_step { RUNS(1) && !ptl -> ptl = 1 };
	if
	:: RUNS(1) && !(primary & P)
	:: RUNS(1) && primary & P;
		/* ptep_clear_flush returns the entry, which its caller keeps. */
		d_step { RUNS(1) -> pte = primary; primary = 0 };
#ifndef NATIVE
		pte_update(1);
#endif
		flush_tlb_page(1, to);
		d_step { RUNS(1) -> owned = 0; frozen = 0 }
	fi;
	d_step { RUNS(1) -> ptl = 0; pte = 0 };
end:	false
}

active proctype User()
{
	byte done, pte;

end_again:
	user_access(2, done, pte)
}
