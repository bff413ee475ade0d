"""Judges the mutants of the modelled kernel, and writes results.json and both documents.

After new code in the kernel `--new` is enough; after a change of what is modelled, or of the
catalogue, the others' results may be out of date: judge all again, which takes some minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from tests.mutate import coverage, report
from tests.mutate.judge import baselines, judged, kernel
from tests.mutate.results import read, reasons, survivors, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.mutate.judge import Result, Subject
    from tests.mutate.operators import Mutant


def chosen(
    options: argparse.Namespace, mutants: list[Mutant], known: dict[str, Result]
) -> list[Mutant]:
    """Return the mutants that are to be judged."""
    if options.report:
        return []
    if options.only:
        return [mutant for mutant in mutants if options.only in mutant.name]
    if options.survivors:
        left = set(survivors(known))
        return [mutant for mutant in mutants if mutant.name in left]
    return [mutant for mutant in mutants if not options.new or mutant.name not in known]


def judge_all(
    subject: Subject, wanted: list[Mutant], every: set[str], by: list[str]
) -> Iterator[Result]:
    """Judge mutants, telling of each on standard error."""
    began = time.monotonic()
    names = [name for name in subject.names if not by or name.split("/")[0] in by or name in by]
    unmutated = list(baselines(subject, names))
    print(f"{len(unmutated)} variants, {len(wanted)} mutants", file=sys.stderr)
    for result in judged(subject, wanted, unmutated, lambda mutant: mutant.name in every):
        fate = result.killed_by or "SURVIVES"
        seconds = time.monotonic() - began
        print(f"{seconds:6.0f} s  {result.mutant}  {fate}  {result.says}", file=sys.stderr)
        yield result


def main() -> None:
    """Judge mutants, all of them unless told otherwise, and write what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__)
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--new", action="store_true", help="judge only mutants without a result")
    some.add_argument("--survivors", action="store_true", help="judge the survivors again")
    some.add_argument("--only", metavar="TEXT", help="judge only mutants with TEXT in their names")
    some.add_argument("--report", action="store_true", help="write the documents from the results")
    by = "ask only these: of survivors new scenarios, of new mutants those concerned"
    parser.add_argument("--by", nargs="+", default=[], metavar="NAME[/VARIANT]", help=by)
    options = parser.parse_args()
    if options.by and not (options.survivors or options.new):
        parser.error("--by goes with --survivors or --new")
    subject = kernel()
    mutants = subject.mutants()
    known = read()
    wanted = chosen(options, mutants, known)
    if wanted:
        every = set() if options.by else coverage.acting(mutants)
        for result in judge_all(subject, wanted, every, options.by):
            name = result.mutant
            known[name] = known[name].further(result) if options.by and name in known else result
            write(known)
    results = {mutant.name: known[mutant.name] for mutant in mutants if mutant.name in known}
    missing = len(mutants) - len(results)
    write(results)
    if missing:
        sys.exit(f"{missing} mutants have no result yet: python -m tests.mutate --new")
    report.FILE.write_text(report.report(mutants, results, reasons()), encoding="utf-8")
    coverage.FILE.write_text(coverage.coverage(mutants, results), encoding="utf-8")
    print(f"{len(mutants)} mutants, {len(survivors(results))} survive", file=sys.stderr)


if __name__ == "__main__":
    main()
