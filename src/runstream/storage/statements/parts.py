"""What statements about runs share: the columns that are shown, and what is given."""

from sqlalchemy import BindParameter, Interval, bindparam

from runstream.storage.tables import runs

_HEAVY = {"transcript", "policy", "idempotency_hash", "reserved_tokens", "reserved_cost"}
SHOWN = [column for column in runs.c if column.name not in _HEAVY]
LISTED = [column for column in SHOWN if column.name not in {"input", "output", "reasoning", "tool_calls"}]

ID: BindParameter[str] = bindparam("run_id")
CHANGED: BindParameter[str] = bindparam("changed_run")
"""A parameter named as a column of an UPDATE would be taken for its new value."""
WAS: BindParameter[str] = bindparam("was")
EXPECTED: BindParameter[int] = bindparam("expected_attempt")
SECONDS = bindparam("seconds", type_=Interval)
RESERVED = ("reserved_tokens", "reserved_cost")
CALLED = (
    "call",
    "provider",
    "provider_model",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "estimated",
    "cost",
    "price_version",
)
"""What the ledger has of any call."""
