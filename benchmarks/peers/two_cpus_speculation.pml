/*
 * The scenario `two_cpus_speculation`: CPU 0 write-protects a page; CPU 1 sees that, relies on its own shootdown and
 * writes to the page itself, while its walker fills the TLB unasked.
 */

#define N 2
#define MM N
#define MOST 1
#define NEEDS(done) WRITE_NEEDS
#define SETS(done) WRITE_SETS
#define ACCESS(done) WRITE

#include "shootdown.pml"
#include "write_protect.pml"
#include "relies.pml"

active proctype ReliesAndWrites()
{
	byte to, done, pte;

	rely_on_protection(1, to);
end_again:
	user_access(1, done, pte)
}

/* A daemon: it may move at any time, whatever its CPU is doing. A flush aborts its walk by clearing WALKING. Entries
   that it meets are absent or have A, which it would set otherwise. */
active proctype Walker()
{
	byte pte;

end:	do
	:: d_step { !(tlb[1] & P) -> tlb[1] = tlb[1] | WALKING };
		if
		:: !(tlb[1] & WALKING)
		:: tlb[1] & WALKING && directory & P;
			if
			:: !(tlb[1] & WALKING) || !(WALKED & P)
			:: d_step { tlb[1] & WALKING && WALKED & P -> assert(WALKED & A); pte = WALKED };
				d_step { tlb[1] = (tlb[1] & WALKING -> pte : tlb[1]); pte = 0 }
			fi
		fi
	od
}
