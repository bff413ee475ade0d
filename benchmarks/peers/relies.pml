/* Who sees a page read-only under the lock, shoots it down, and takes it for final. `to` as in flush_tlb_page. */

inline rely_on_protection(cpu, to)
{
	d_step { RUNS(cpu) && !ptl -> ptl = 1 };
	if
	:: RUNS(cpu) && primary & RW
	:: RUNS(cpu) && !(primary & RW);
		flush_tlb_page(cpu, to);
		d_step { RUNS(cpu) -> frozen = 1 }
	fi;
	d_step { RUNS(cpu) -> ptl = 0 }
}
