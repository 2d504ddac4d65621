"""What statements about runs share: the columns that are shown, and what is given."""

from sqlalchemy import BindParameter, ColumnElement, Interval, bindparam, select

from runstream.storage.tables import runs, tenants

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


def served(tenant: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether it is not suspended: by an index of those alone that are."""
    return ~select(tenants.c.id).where(tenants.c.id == tenant, tenants.c.suspended_at.is_not(None)).exists()


def has_terms(tenant: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether limits of its own were ever said of it: then some may hold that did not when its run was made."""
    return select(tenants.c.id).where(tenants.c.id == tenant, tenants.c.changed_in.is_not(None)).exists()
