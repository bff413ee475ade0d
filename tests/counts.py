"""Writes `counts.json` anew: `python -m tests.counts`, after a change of the model."""

from __future__ import annotations

import json

from tests.shell import ROOT, spawn


def main() -> None:
    """Explore the whole catalogue and write its counts."""
    done = spawn("explore", "all", "--format", "json", "--live-runs", "0")
    assert done.status == 0, done.err
    counts = {}
    for row in json.loads(done.out)["results"]:
        again = row["with_evictor"]
        numbers = [row["states"], row["transitions"], row["depth"]]
        counts[f"{row['scenario']}/{row['variant']}"] = [*numbers, again["states"] if again else 0]
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in counts.items())
    (ROOT / "tests/counts.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
