"""Answers given again"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("ledger", sa.Column("cached", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("ledger", sa.Column("saved_cost", sa.Numeric(precision=20, scale=10), nullable=True))
    op.add_column("attempts", sa.Column("shared", sa.Boolean(), server_default=sa.text("false"), nullable=False))


def downgrade() -> None:
    op.drop_column("attempts", "shared")
    op.drop_column("ledger", "saved_cost")
    op.drop_column("ledger", "cached")
