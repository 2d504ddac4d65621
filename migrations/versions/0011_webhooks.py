"""Webhooks"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"

_NOW = sa.text("now()")


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("tenant", sa.String(64), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.String(64)), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("include_output", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("secrets", postgresql.JSONB(), nullable=False),
        sa.Column("failing_since", time),
        sa.Column("resting_until", time),
        sa.Column("disabled_at", time),
        sa.Column("disabled_reason", sa.String(16)),
        sa.Column("created_at", time, server_default=_NOW, nullable=False),
        sa.CheckConstraint("(disabled_at is null) = (disabled_reason is null)", name="disabled"),
    )
    op.create_index("ix_webhooks_tenant", "webhooks", ["tenant"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("webhook_id", sa.String(40), sa.ForeignKey("webhooks.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("run_id", sa.String(40), sa.ForeignKey("runs.id", ondelete="CASCADE")),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.Column("status", sa.String(16), server_default="pending", nullable=False),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("due_at", time, server_default=_NOW, nullable=False),
        sa.Column("created_at", time, server_default=_NOW, nullable=False),
        sa.Column("ended_at", time),
        sa.CheckConstraint("status in ('pending','delivered','failed')", name="status"),
        sa.CheckConstraint("(ended_at is null) = (status = 'pending')", name="ended"),
    )
    op.create_index(
        "ix_webhook_deliveries_pending",
        "webhook_deliveries",
        ["webhook_id", "due_at"],
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "ix_webhook_deliveries_failed",
        "webhook_deliveries",
        ["webhook_id", sa.text("id DESC")],
        postgresql_where=sa.text("status = 'failed'"),
    )
    op.create_index("ix_webhook_deliveries_run_id", "webhook_deliveries", ["run_id"])


def downgrade() -> None:
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")
