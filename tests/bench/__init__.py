"""Runstream beside its peers under the same load: `uv run python -m tests.bench`."""
