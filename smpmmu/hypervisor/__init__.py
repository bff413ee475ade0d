"""The shadow and its hooks; it meets the kernel in `kernel/paravirt.py` alone."""
