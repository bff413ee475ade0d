/*
 * The scenario `reliant_flusher`: CPU 0 write-protects a page, CPU 1 sees that and relies on its own shootdown, the
 * others write to the page.
 */

#ifndef N
#define N 3
#endif
#define MM N
#define MOST 2
#define NEEDS(done) WRITE_NEEDS
#define SETS(done) WRITE_SETS
#define ACCESS(done) WRITE

#include "shootdown.pml"
#include "write_protect.pml"
#include "relies.pml"

active proctype Relies()
{
	byte to;

	rely_on_protection(1, to);
end:	false
}

#define ME (_pid - MM)
active [N - 2] proctype Writer()
{
	byte done, pte;

end_again:
	user_access(ME, done, pte)
}
