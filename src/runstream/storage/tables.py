"""The tables, as the migrations leave them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Date,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Table,
    Text,
    func,
    literal,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_NOW = func.now()


def _time(name: str, *, required: bool = False) -> Column[object]:
    """Times are written by the database's clock, but for `first_token_at`, which is the worker's."""
    return Column(name, DateTime(timezone=True), nullable=not required, server_default=_NOW if required else None)


tenants = Table(
    "tenants",
    metadata,
    Column("id", String(64), primary_key=True),
    # Reservations of limits are good for rows that are written in the epoch that they were made in.
    Column("budget_epoch", BigInteger, nullable=False, server_default=text("0")),
    # The last day, of UTC, whose spend was warned of.
    Column("spend_warned_on", Date),
    _time("created_at", required=True),
    _time("suspended_at"),
    # What runs is to be cancelled, as long as the tenant is suspended.
    Column("cancel_running", Boolean, nullable=False, server_default=text("false")),
    _time("removal_requested_at"),
    Column("plan", String(64), ForeignKey("plans.name")),
    # What holds for it in the place of what its plan says.
    Column("overrides", JSONB(none_as_null=True)),
    # The version of terms in which its plan or its overrides became others.
    Column("changed_in", BigInteger),
    CheckConstraint(
        "suspended_at is not null or (removal_requested_at is null and not cancel_running)", name="suspended"
    ),
    Index("ix_tenants_suspended", "id", postgresql_where=text("suspended_at is not null")),
    Index(None, "plan", postgresql_where=text("plan is not null")),
)

flags = Table(
    "flags",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("rule", JSONB, nullable=False),
    Column("changed_in", BigInteger, nullable=False),
    _time("created_at", required=True),
    _time("changed_at", required=True),
)

plans = Table(
    "plans",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("allowance", JSONB, nullable=False),
    Column("changed_in", BigInteger, nullable=False),
    _time("created_at", required=True),
    _time("changed_at", required=True),
)

# One row, which counts the changes of what every process keeps in memory: who raises it commits before the next does.
terms = Table(
    "terms",
    metadata,
    Column("one", Boolean, primary_key=True, server_default=text("true")),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("one", name="one"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("tenant", String(64), ForeignKey("tenants.id")),
    Column("user_id", String(128)),
    Column("scopes", ARRAY(String(32)), nullable=False),
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("hint", String(16), nullable=False),
    # The key that it was rotated to.
    Column("replaced_by", String(40)),
    _time("created_at", required=True),
    _time("expires_at"),
    _time("revoked_at"),
    _time("last_used_at"),
    # When what it may do was changed last: API processes look for these every second.
    _time("changed_at"),
    CheckConstraint(
        "case kind when 'user' then tenant is not null and user_id is not null when 'server' then tenant is not null "
        "when 'operator' then tenant is null and user_id is null else false end",
        name="kind",
    ),
    Index("ix_api_keys_tenant_id", "tenant", text("id DESC")),
    Index(None, "changed_at", postgresql_where=text("changed_at is not null")),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("host", Text, nullable=False),
    _time("started_at", required=True),
    _time("lease_until", required=True),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("user_id", String(128), nullable=False),
    Column("feature", String(64), nullable=False),
    Column("prompt_version", String(64), nullable=False),
    Column("subject_type", String(128)),
    Column("subject_id", String(256)),
    Column("input", JSONB, nullable=False),
    Column("policy", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("model", String(256), nullable=False),
    # As the application declared it; null where it did not.
    Column("complexity", String(16)),
    Column("provider", String(64)),
    Column("provider_model", String(256)),
    Column("provider_request_id", Text),
    Column("queue", String(64), nullable=False),
    Column("priority", SmallInteger, nullable=False, server_default=text("0")),
    Column("status", String(16), nullable=False),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("max_attempts", Integer, nullable=False),
    Column("worker", String(40)),
    Column("restart_reason", String(64)),
    Column("idempotency_key", String(255)),
    Column("idempotency_hash", LargeBinary),
    Column("output", Text),
    Column("reasoning", Text),
    Column("tool_calls", JSONB(none_as_null=True)),
    Column("transcript", JSONB(none_as_null=True)),
    Column("error", JSONB(none_as_null=True)),
    Column("finish_reason", String(64)),
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("usage_estimated", Boolean, nullable=False, server_default=text("false")),
    Column("cost", Numeric(20, 10)),
    Column("cached", Boolean, nullable=False, server_default=text("false")),
    # What guards found, and whether any of it says something of the content.
    Column("findings", JSONB(none_as_null=True)),
    Column("flagged", Boolean, nullable=False, server_default=text("false")),
    # Where its feedback stands.
    Column("feedback", String(16)),
    # The last attempt whose end was taken back, so that the run could be tried again.
    Column("retried_attempt", Integer),
    # What was reserved of its limits; null where nothing bounded what it spent.
    Column("reserved_tokens", BigInteger),
    Column("reserved_cost", Numeric(20, 10)),
    _time("created_at", required=True),
    _time("available_at", required=True),
    _time("enqueued_at"),
    _time("started_at"),
    _time("first_token_at"),
    _time("cancel_requested_at"),
    _time("finished_at"),
    # What is not kept any more, and since when: see statements/content.py.
    _time("input_removed_at"),
    _time("output_removed_at"),
    _time("transcript_removed_at"),
    CheckConstraint("status in ('queued','running','completed','failed','cancelled')", name="status"),
    CheckConstraint("(finished_at is null) = (status in ('queued','running'))", name="finished"),
    CheckConstraint("(worker is not null) = (status = 'running')", name="worker"),
    # A page of a tenant's runs, newest first: ids are ordered by the time they were made at.
    Index("ix_runs_tenant_id", "tenant", text("id DESC")),
    Index("ix_runs_tenant_status_id", "tenant", "status", text("id DESC")),
    Index("ix_runs_tenant_user_id", "tenant", "user_id", text("id DESC")),
    Index(
        "ix_runs_tenant_subject",
        "tenant",
        "subject_type",
        "subject_id",
        text("id DESC"),
        postgresql_where=text("subject_id is not null"),
    ),
    Index(
        "uq_runs_idempotency_key",
        "tenant",
        "user_id",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key is not null"),
    ),
    # What of a tenant's ended longest ago, to remove what is not to be kept any longer.
    Index("ix_runs_ended", "tenant", "finished_at", "id", postgresql_where=text("finished_at is not null")),
    # What the sweep looks at stays as small as what is under way, however many runs have ended.
    Index("ix_runs_queued", "tenant", "priority", "available_at", postgresql_where=text("status = 'queued'")),
    Index("ix_runs_running", "worker", postgresql_where=text("status = 'running'")),
)

attempts = Table(
    "attempts",
    metadata,
    Column("run_id", String(40), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("worker", String(40), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("provider", String(64)),
    Column("provider_model", String(256)),
    Column("provider_request_id", Text),
    Column("error", JSONB(none_as_null=True)),
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("usage_estimated", Boolean, nullable=False, server_default=text("false")),
    Column("cost", Numeric(20, 10)),
    # What the provider calls an answer that it goes on with by itself. It stands with one attempt of a run: the one
    # that reads it, or the last one that did. What is still there when nobody will take it up is to be stopped.
    Column("response_id", Text),
    # Its answer is of a call that another run began, and pays for.
    Column("shared", Boolean, nullable=False, server_default=text("false")),
    # An entry of the ledger, by estimate: entered where the run ends before another attempt reads that answer.
    Column("owed", JSONB(none_as_null=True)),
    _time("started_at", required=True),
    _time("first_token_at"),
    _time("ended_at"),
    CheckConstraint(
        "outcome in ('running','completed','failed','cancelled','retried','handed_back','lapsed')", name="outcome"
    ),
    CheckConstraint("(ended_at is null) = (outcome = 'running')", name="ended"),
    Index(
        "ix_attempts_left",
        "run_id",
        "attempt",
        postgresql_where=text("response_id is not null and outcome <> 'running'"),
    ),
)


# One row for each call to a provider, and for each that was not made because its answer was there: that one is
# `cached`, and took nothing. It outlives its run: what was spent stays spent.
ledger = Table(
    "ledger",
    metadata,
    Column("run_id", String(40), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("call", Integer, primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("user_id", String(128), nullable=False),
    Column("feature", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    Column("provider", String(64), nullable=False),
    Column("provider_model", String(256), nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("cost", Numeric(20, 10)),
    Column("price_version", String(64)),
    Column("cached", Boolean, nullable=False, server_default=text("false")),
    Column("saved_cost", Numeric(20, 10)),
    _time("made_at", required=True),
    Index("ix_ledger_tenant_made_at", "tenant", "made_at"),
    Index("ix_ledger_tenant_user_id", "tenant", "user_id", "made_at"),
)


# The ledger's cost by quarter of an hour, of the last days, where spend is watched.
spend_quarters = Table(
    "spend_quarters",
    metadata,
    Column("quarter", DateTime(timezone=True), primary_key=True),
    Column("tenant", String(64), primary_key=True),
    Column("cost", Numeric(20, 10), nullable=False),
)


webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(64), ForeignKey("tenants.id"), nullable=False),
    Column("url", Text, nullable=False),
    Column("events", ARRAY(String(64)), nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("include_output", Boolean, nullable=False, server_default=text("false")),
    # Written and read as a whole, in one place, where what is at rest can be encrypted.
    Column("secrets", JSONB, nullable=False),
    _time("failing_since"),
    # A receiver that is slow, or asks for it, is left alone until then.
    _time("resting_until"),
    _time("disabled_at"),
    Column("disabled_reason", String(16)),
    _time("created_at", required=True),
    CheckConstraint("(disabled_at is null) = (disabled_reason is null)", name="disabled"),
    Index(None, "tenant"),
)


# What run tokens are signed with, the newest that has no end; those that are signed with one that has not ended are
# good. It is nobody's in particular.
token_secrets = Table(
    "token_secrets",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("secret", LargeBinary, nullable=False),
    _time("until"),
    _time("created_at", required=True),
)


# One row for each event and webhook. It goes with its run, and what is in it of the run.
webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("webhook_id", String(40), ForeignKey("webhooks.id", ondelete="CASCADE"), primary_key=True),
    Column("id", String(40), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("event", String(64), nullable=False),
    Column("run_id", String(40), ForeignKey("runs.id", ondelete="CASCADE")),
    Column("data", JSONB, nullable=False),
    Column("status", String(16), nullable=False, server_default="pending"),
    # Attempts begun since it was due first, or was asked for again.
    Column("tries", Integer, nullable=False, server_default=text("0")),
    # What attempts came to, the last ones.
    Column("attempts", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    # Who attempts it moves this on by more than that may take: where nothing is heard of it, it is due again.
    _time("due_at", required=True),
    _time("created_at", required=True),
    _time("ended_at"),
    CheckConstraint("status in ('pending','delivered','failed')", name="status"),
    CheckConstraint("(ended_at is null) = (status = 'pending')", name="ended"),
    Index("ix_webhook_deliveries_pending", "webhook_id", "due_at", postgresql_where=text("status = 'pending'")),
    Index("ix_webhook_deliveries_failed", "webhook_id", text("id DESC"), postgresql_where=text("status = 'failed'")),
    Index(None, "run_id"),
)


# What was told of a run's answer, one row for each run. `text` and `comment` are its user's content; the rest, but for
# the user, is the run's own, so that it can be added up without it.
feedback = Table(
    "feedback",
    metadata,
    Column("run_id", String(40), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("user_id", String(128), nullable=False),
    Column("feature", String(64), nullable=False),
    Column("prompt_version", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    _time("shown_at"),
    Column("verdict", String(16)),
    Column("text", Text),
    Column("rating", SmallInteger),
    Column("comment", Text),
    # When something was told first, and last.
    _time("created_at", required=True),
    _time("changed_at", required=True),
    CheckConstraint("verdict in ('accepted','edited','discarded')", name="verdict"),
    CheckConstraint("shown_at is not null or verdict is not null", name="told"),
    CheckConstraint("rating between -1 and 1", name="rating"),
    Index(None, "tenant", "created_at"),
)


# Appended to alone: a trigger refuses to change an entry, and to remove one otherwise than by `remove_audit`. It names
# tenants, keys and runs that may be gone.
audit = Table(
    "audit",
    metadata,
    Column("id", String(40), primary_key=True),
    # When the id was made, by the clock of who made it.
    Column("at", DateTime(timezone=True), nullable=False),
    Column("tenant", String(64)),
    Column("principal_kind", String(16), nullable=False),
    Column("principal_id", String(256), nullable=False),
    Column("principal_user", String(128)),
    Column("action", String(64), nullable=False),
    Column("target_type", String(32), nullable=False),
    Column("target_id", String(256)),
    Column("address", String(64)),
    Column("user_agent", String(256)),
    Column("request_id", String(64), nullable=False),
    Column("details", JSONB, nullable=False),
    CheckConstraint("octet_length(details::text) <= 4096", name="details"),
    Index("ix_audit_tenant_id", "tenant", text("id DESC")),
    # A page of what is asked for. These have the id in the collation "C", and so an order of their own: with the one
    # above, Postgres would walk past all that is not asked for, where it takes what is rare for frequent.
    Index("ix_audit_target_id", "target_id", text("id DESC")),
    Index("ix_audit_action_id", "action", text("id DESC")),
    Index("ix_audit_principal_id", "principal_id", text("id DESC")),
    Index("ix_audit_tenant_action_id", "tenant", "action", text("id DESC")),
    Index("ix_audit_tenant_principal_id", "tenant", "principal_id", text("id DESC")),
)


# What content is encrypted with, itself encrypted with a key of the environment's. Without its data keys, a tenant's
# encrypted content is nothing any more.
data_keys = Table(
    "data_keys",
    metadata,
    Column("tenant", String(64), ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True),
    Column("id", String(40), primary_key=True),
    # Which of the environment's keys wrapped it.
    Column("master", String(40), nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    _time("made_at", required=True),
    # Since when all content of the tenant's is encrypted with it, as far as is known.
    _time("complete_at"),
)


# One row for each run that is to be deleted, or was not long ago: what Redis has of it goes after its row. It says of
# the run what the ledger needs of it, for a call that went on, and limits, for it was asked for.
deletions = Table(
    "deletions",
    metadata,
    Column("run_id", String(40), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("user_id", String(128), nullable=False),
    Column("feature", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    _time("created_at", required=True),
    # The run's last one; null while its row is there.
    Column("attempt", Integer),
    _time("asked_at", required=True),
    _time("deleted_at"),
    _time("cleared_at"),
    CheckConstraint("(attempt is null) = (deleted_at is null)", name="deleted"),
    Index("ix_deletions_open", "run_id", postgresql_where=text("cleared_at is null")),
    Index(None, "cleared_at", postgresql_where=text("cleared_at is not null")),
    Index("ix_deletions_tenant_user_id", "tenant", "user_id"),
)


# Users who are to be erased, or were: of these, nothing but that it was done.
erasures = Table(
    "erasures",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("user_id", String(128)),
    # How many were deleted.
    Column("runs", Integer, nullable=False, server_default=text("0")),
    _time("asked_at", required=True),
    _time("done_at"),
    CheckConstraint("(user_id is null) = (done_at is not null)", name="done"),
    Index("uq_erasures_open", "tenant", "user_id", unique=True, postgresql_where=text("done_at is null")),
)


# The last run, by its end, from which a tenant's content of a kind was removed for its age.
retention_marks = Table(
    "retention_marks",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("kind", String(16), primary_key=True),
    _time("finished_at"),
    Column("run_id", String(40), nullable=False, server_default=""),
)


def runs_are(status: str) -> ColumnElement[bool]:
    """The status stands in the statement itself: a plan for any status could not use a partial index."""
    return runs.c.status == literal(status, literal_execute=True)
