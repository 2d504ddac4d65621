"""Answers that providers keep"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("response_id", sa.Text(), nullable=True))
    op.add_column("attempts", sa.Column("owed", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.create_index(
        "ix_attempts_left",
        "attempts",
        ["run_id", "attempt"],
        postgresql_where=sa.text("response_id is not null and outcome <> 'running'"),
    )


def downgrade() -> None:
    op.drop_index("ix_attempts_left", table_name="attempts")
    op.drop_column("attempts", "owed")
    op.drop_column("attempts", "response_id")
