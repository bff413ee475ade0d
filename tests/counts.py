"""Writes `counts.json` anew: `python -m tests.counts [NAME...]`, after a change of the model.

With names of scenarios or families only those are explored, and the rest stays as it was written.
"""

from __future__ import annotations

import json
import sys

from smpmmu.targets import catalogue
from tests.shell import ROOT, spawn


def main() -> None:
    """Explore the whole catalogue, or what is named, and write the counts in order."""
    path = ROOT / "tests/counts.json"
    wanted = sys.argv[1:] or ["all"]
    done = spawn("explore", *wanted, "--format", "json", "--live-runs", "0", "--expected",
                 "--no-reduction")  # fmt: skip
    assert done.status == 0, done.err
    counts = json.loads(path.read_text(encoding="utf-8")) if sys.argv[1:] else {}
    for row in json.loads(done.out)["results"]:
        again = row["with_evictor"]
        numbers = [row["states"], row["transitions"], row["depth"]]
        counts[f"{row['scenario']}/{row['variant']}"] = [*numbers, again["states"] if again else 0]
    names = [target.name for target in catalogue()]
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(counts[k])}" for k in names)
    path.write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
