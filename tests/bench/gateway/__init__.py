"""What the gateway's decisions cost, beside LiteLLM's proxy: `uv run python -m tests.bench.gateway`."""
