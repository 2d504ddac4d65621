"""Runs that are deleted, users that are erased, and content that is kept for a time"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"

_NOW = sa.text("now()")
_REMOVED = ("input_removed_at", "output_removed_at", "transcript_removed_at")


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    for name in _REMOVED:
        op.add_column("runs", sa.Column(name, time))
    op.create_index(
        "ix_runs_ended",
        "runs",
        ["tenant", "finished_at", "id"],
        postgresql_where=sa.text("finished_at is not null"),
    )
    op.create_index("ix_ledger_tenant_user_id", "ledger", ["tenant", "user_id", "made_at"])
    op.create_table(
        "deletions",
        sa.Column("run_id", sa.String(40), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.Column("feature", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("created_at", time, server_default=_NOW, nullable=False),
        sa.Column("attempt", sa.Integer()),
        sa.Column("asked_at", time, server_default=_NOW, nullable=False),
        sa.Column("deleted_at", time),
        sa.Column("cleared_at", time),
        sa.CheckConstraint("(attempt is null) = (deleted_at is null)", name="deleted"),
    )
    op.create_index("ix_deletions_open", "deletions", ["run_id"], postgresql_where=sa.text("cleared_at is null"))
    op.create_index(
        "ix_deletions_cleared_at", "deletions", ["cleared_at"], postgresql_where=sa.text("cleared_at is not null")
    )
    op.create_index("ix_deletions_tenant_user_id", "deletions", ["tenant", "user_id"])
    op.create_table(
        "erasures",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(128)),
        sa.Column("runs", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("asked_at", time, server_default=_NOW, nullable=False),
        sa.Column("done_at", time),
        sa.CheckConstraint("(user_id is null) = (done_at is not null)", name="done"),
    )
    op.create_index(
        "uq_erasures_open",
        "erasures",
        ["tenant", "user_id"],
        unique=True,
        postgresql_where=sa.text("done_at is null"),
    )
    op.create_table(
        "retention_marks",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("finished_at", time),
        sa.Column("run_id", sa.String(40), server_default="", nullable=False),
    )


def downgrade() -> None:
    """What was removed stays so, and is not said any more."""
    for table in ("retention_marks", "erasures", "deletions"):
        op.drop_table(table)
    op.drop_index("ix_ledger_tenant_user_id", table_name="ledger")
    op.drop_index("ix_runs_ended", table_name="runs")
    for name in _REMOVED:
        op.drop_column("runs", name)
