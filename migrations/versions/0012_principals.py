"""Kinds of principals, and what their keys may do and until when"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    # A key that names a user was given to that user: it sees that one's runs from now on.
    op.add_column("api_keys", sa.Column("kind", sa.String(length=16), server_default="user", nullable=False))
    op.add_column(
        "api_keys",
        sa.Column(
            "scopes",
            postgresql.ARRAY(sa.String(length=32)),
            server_default=sa.text("'{runs:write,runs:read,usage:read}'"),
            nullable=False,
        ),
    )
    for name in ("kind", "scopes"):
        op.alter_column("api_keys", name, server_default=None)
    for name in ("expires_at", "last_used_at", "changed_at"):
        op.add_column("api_keys", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("replaced_by", sa.String(length=40), nullable=True))
    for name in ("tenant", "user_id"):
        op.alter_column("api_keys", name, nullable=True)
    op.create_check_constraint(
        op.f("ck_api_keys_kind"),
        "api_keys",
        "case kind when 'user' then tenant is not null and user_id is not null when 'server' then tenant is not null "
        "when 'operator' then tenant is null and user_id is null else false end",
    )
    op.drop_index(op.f("ix_api_keys_tenant"), table_name="api_keys")
    op.create_index("ix_api_keys_tenant_id", "api_keys", ["tenant", sa.text("id DESC")])
    op.create_index(
        op.f("ix_api_keys_changed_at"),
        "api_keys",
        ["changed_at"],
        postgresql_where=sa.text("changed_at is not null"),
    )


def downgrade() -> None:
    """Keys of servers and operators go: there was none but a user's."""
    op.execute("DELETE FROM api_keys WHERE kind <> 'user'")
    op.drop_index(op.f("ix_api_keys_changed_at"), table_name="api_keys")
    op.drop_index("ix_api_keys_tenant_id", table_name="api_keys")
    op.create_index(op.f("ix_api_keys_tenant"), "api_keys", ["tenant"])
    op.drop_constraint(op.f("ck_api_keys_kind"), "api_keys", type_="check")
    for name in ("tenant", "user_id"):
        op.alter_column("api_keys", name, nullable=False)
    for name in ("replaced_by", "changed_at", "last_used_at", "expires_at", "scopes", "kind"):
        op.drop_column("api_keys", name)
