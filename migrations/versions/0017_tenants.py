"""Tenants that are suspended or removed, and the count of what processes keep of them"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    for name in ("suspended_at", "removal_requested_at"):
        op.add_column("tenants", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.add_column("tenants", sa.Column("cancel_running", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_check_constraint(
        op.f("ck_tenants_suspended"),
        "tenants",
        "suspended_at is not null or (removal_requested_at is null and not cancel_running)",
    )
    op.create_index("ix_tenants_suspended", "tenants", ["id"], postgresql_where=sa.text("suspended_at is not null"))
    op.create_table(
        "terms",
        sa.Column("one", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("one", name=op.f("ck_terms_one")),
        sa.PrimaryKeyConstraint("one", name=op.f("pk_terms")),
    )


def downgrade() -> None:
    op.drop_table("terms")
    op.drop_index("ix_tenants_suspended", table_name="tenants")
    op.drop_constraint(op.f("ck_tenants_suspended"), "tenants", type_="check")
    for name in ("cancel_running", "removal_requested_at", "suspended_at"):
        op.drop_column("tenants", name)
