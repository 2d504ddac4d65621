"""Plans of tenants, and what holds for some in their place"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    now = sa.text("now()")
    op.create_table(
        "plans",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("allowance", postgresql.JSONB(), nullable=False),
        sa.Column("changed_in", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_plans")),
    )
    op.add_column("tenants", sa.Column("plan", sa.String(length=64), nullable=True))
    op.add_column("tenants", sa.Column("overrides", postgresql.JSONB(none_as_null=True), nullable=True))
    op.add_column("tenants", sa.Column("changed_in", sa.BigInteger(), nullable=True))
    op.create_foreign_key(op.f("fk_tenants_plan"), "tenants", "plans", ["plan"], ["name"])
    op.create_index(op.f("ix_tenants_plan"), "tenants", ["plan"], postgresql_where=sa.text("plan is not null"))


def downgrade() -> None:
    op.drop_index(op.f("ix_tenants_plan"), table_name="tenants")
    op.drop_constraint(op.f("fk_tenants_plan"), "tenants", type_="foreignkey")
    for name in ("changed_in", "overrides", "plan"):
        op.drop_column("tenants", name)
    op.drop_table("plans")
