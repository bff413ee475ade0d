"""i386 Linux as it reads in C: one function per C function, one await per access."""
