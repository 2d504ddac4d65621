"""Real API and worker processes, and providers of every kind that fail in every way they can; afterwards each run is
held against the table of outcomes, each answer against the call that it is of, and the ledger against the providers'
own records.

    uv run python -m tests.chaos.providers --calls 2000 --seed 7
"""
