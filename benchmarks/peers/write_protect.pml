/* CPU 0 takes the right to write away, tells the hypervisor and flushes, under the lock or after it. */

active proctype WriteProtect()
{
	byte to;

	d_step { RUNS(0) && !ptl -> ptl = 1 };
	d_step { RUNS(0) -> primary = primary & ~RW };
#ifdef IMMEDIATE
	pte_update(0);
#endif
#ifdef DEFERRED
	pte_update_defer(0);
#endif
#ifdef LATE
	d_step { RUNS(0) -> ptl = 0 };
	flush_tlb_page(0, to);
#else
	flush_tlb_page(0, to);
	d_step { RUNS(0) -> ptl = 0 };
#endif
end:	false
}
