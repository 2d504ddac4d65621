"""Real processes, and faults between and upon them drawn from a seed; afterwards each promise is held against what
Postgres, Redis, the provider and every client saw.

    uv run python -m tests.chaos --runs 10000 --seed 7        the long form, with a report
    uv run python -m tests.chaos.providers --calls 2000 --seed 7    faults of providers alone, of every kind
    uv run python -m tests.chaos.soak --minutes 60            memory, over time, without faults
"""
