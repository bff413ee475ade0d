"""A general checker for async programs over words; it knows nothing of page tables."""
