"""Queued runs by their tenants' turns"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    _index("tenant", "priority", "available_at")


def downgrade() -> None:
    _index("available_at")


def _index(*columns: str) -> None:
    op.drop_index("ix_runs_queued", table_name="runs")
    op.create_index("ix_runs_queued", "runs", list(columns), postgresql_where=sa.text("status = 'queued'"))
