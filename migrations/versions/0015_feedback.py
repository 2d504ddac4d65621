"""What became of runs' answers"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

_NOW = sa.text("now()")


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "feedback",
        sa.Column("run_id", sa.String(40), sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.Column("feature", sa.String(64), nullable=False),
        sa.Column("prompt_version", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("shown_at", time),
        sa.Column("verdict", sa.String(16)),
        sa.Column("text", sa.Text()),
        sa.Column("rating", sa.SmallInteger()),
        sa.Column("comment", sa.Text()),
        sa.Column("created_at", time, server_default=_NOW, nullable=False),
        sa.Column("changed_at", time, server_default=_NOW, nullable=False),
        sa.CheckConstraint("verdict in ('accepted','edited','discarded')", name="verdict"),
        sa.CheckConstraint("shown_at is not null or verdict is not null", name="told"),
        sa.CheckConstraint("rating between -1 and 1", name="rating"),
    )
    op.create_index("ix_feedback_tenant_created_at", "feedback", ["tenant", "created_at"])
    op.add_column("runs", sa.Column("feedback", sa.String(16)))


def downgrade() -> None:
    op.drop_column("runs", "feedback")
    op.drop_table("feedback")
