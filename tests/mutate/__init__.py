"""Mutation testing of the modelled kernel: does the catalogue notice what is left out or moved?

`python -m tests.mutate` makes every mutant of `smpmmu/kernel`, explores the variants that reach
it, and writes results.json, docs/mutants.md and docs/coverage.md. It is no command of smpmmu: what
it judges is the catalogue of this source tree, and what it writes is committed here.
"""
