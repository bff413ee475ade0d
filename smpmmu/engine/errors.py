"""What can go wrong when someone asks for what cannot be done.

It must not know what is modelled. An *error* is bad input or a broken model; a wrong result of
modelled code is a *violation* and is a value, never an exception (see `engine/verdict.py`).

    SmpmmuError
    +-- UsageError       the command or call names something that does not exist      (exit 2)
    |   +-- CheckpointError   a file to go on from is damaged, or of something else   (exit 2)
    |   +-- ClusterError      the other machines cannot be reached or used            (exit 2)
    +-- ModelError       modelled code or a scenario breaks the rules of a model      (exit 4)
    +-- ScheduleError    a schedule file is truncated, edited or outdated             (exit 4)
    +-- InternalError    two of our own engines disagree                              (exit 70)
"""

from __future__ import annotations


class SmpmmuError(Exception):
    """The root of every error this package raises on purpose."""


class UsageError(SmpmmuError):
    """The command or call names something that does not exist."""


class CheckpointError(UsageError):
    """A checkpoint is damaged, of something else, or cannot be read or written."""


class ClusterError(UsageError):
    """A cluster that was named cannot be reached, or its workers cannot be used."""


class ModelError(SmpmmuError):
    """Modelled code or a scenario breaks the rules that exploring rests on."""


class ScheduleError(SmpmmuError):
    """A schedule is not one, or no longer fits the modelled code."""


class InternalError(SmpmmuError):
    """Two engines gave different answers to the same question; a defect of ours."""
