"""Reasoning and tool calls"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("runs", sa.Column("reasoning", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("tool_calls", postgresql.JSONB(astext_type=sa.Text()), nullable=True))


def downgrade() -> None:
    op.drop_column("runs", "tool_calls")
    op.drop_column("runs", "reasoning")
