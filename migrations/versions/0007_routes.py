"""Declared complexity, and spend by quarter of an hour"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("runs", sa.Column("complexity", sa.String(length=16), nullable=True))
    op.add_column("tenants", sa.Column("spend_warned_on", sa.Date(), nullable=True))
    op.create_table(
        "spend_quarters",
        sa.Column("quarter", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("cost", sa.Numeric(precision=20, scale=10), nullable=False),
        sa.PrimaryKeyConstraint("quarter", "tenant", name=op.f("pk_spend_quarters")),
    )


def downgrade() -> None:
    op.drop_table("spend_quarters")
    op.drop_column("tenants", "spend_warned_on")
    op.drop_column("runs", "complexity")
