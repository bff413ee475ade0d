"""Work on other machines, by Dask: variants, seeds, and blocks of one big exploration.

Whatever dies on the way, the answer is the one that this process would have given alone.
`connection.py` talks to a scheduler, `tasks.py` is what workers run, `files.py` takes users' files
there, `spread.py`, `seeds.py` and `blocks.py` split and put together. It must not print.
"""
