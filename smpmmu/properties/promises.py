"""Promises: what a user of memory loses when a flush comes too late, by name.

A promise is an explicit event; a stale entry is legal until one is made. Where it is broken by a
single access the machine itself notices (`machine/walker.py`); the rest are expressions. It must
not know who breaks them. Source: `docs/model.md`, "Two kinds of property".
"""

from __future__ import annotations

NO_WRITE_LOST = "no_write_lost_at_rest"
"""A page that differs from the disk is marked somewhere as to be written."""
