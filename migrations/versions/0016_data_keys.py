"""Data keys, which content can be encrypted with"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "data_keys",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("master", sa.String(length=40), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("complete_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_data_keys_tenant"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tenant", "id", name=op.f("pk_data_keys")),
    )


def downgrade() -> None:
    """Only where there are none: what is encrypted could never be read again."""
    op.execute(
        "DO $$ BEGIN IF EXISTS (SELECT FROM data_keys) THEN "
        "RAISE EXCEPTION 'There are data keys, without which encrypted content is lost'; END IF; END $$"
    )
    op.drop_table("data_keys")
