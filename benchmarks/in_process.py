"""One exploration without what comes before and after it: `python in_process.py QUESTION`.

QUESTION is `defer.N.P.K` or the name of a twin. Nothing is reduced, one core
searches, no live run is made. Prints as JSON the counts, the seconds of the search, and those
from the start of Python to it.
"""

import time

STARTED = time.time()

import json  # noqa: E402
import sys  # noqa: E402

from defer_model import defer  # noqa: E402
from kernel_models import twin  # noqa: E402

from smpmmu.engine.answer import answer  # noqa: E402
from smpmmu.engine.verdict import Budget  # noqa: E402


def main(question: str) -> dict[str, object]:
    """Return counts and seconds."""
    name, *numbers = question.split(".")
    if name == "defer":
        n, p, k = map(int, numbers)
        system = defer(n, p, k)
    else:
        system = twin.system(twin.variant(question))
    begun, before = time.perf_counter(), time.time()
    found = answer(system, Budget(cores=1))
    return {
        "states": found.states,
        "transitions": found.transitions,
        "verdict": found.verdict.value.lower(),
        "seconds": time.perf_counter() - begun,
        "start": before - STARTED,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
