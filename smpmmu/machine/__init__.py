"""The modelled machine: memory, entries, TLB, walker, interrupts, spinlocks."""
