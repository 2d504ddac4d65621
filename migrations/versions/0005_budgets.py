"""Budgets"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("tenants", sa.Column("budget_epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("runs", sa.Column("reserved_tokens", sa.BigInteger(), nullable=True))
    op.add_column("runs", sa.Column("reserved_cost", sa.Numeric(precision=20, scale=10), nullable=True))


def downgrade() -> None:
    op.drop_column("runs", "reserved_cost")
    op.drop_column("runs", "reserved_tokens")
    op.drop_column("tenants", "budget_epoch")
