"""What must hold: one family of invariants per file, as expressions over words."""
