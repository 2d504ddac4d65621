"""The audit log, which is only appended to"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.String(64)),
        sa.Column("principal_kind", sa.String(16), nullable=False),
        sa.Column("principal_id", sa.String(256), nullable=False),
        sa.Column("principal_user", sa.String(128)),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("target_type", sa.String(32), nullable=False),
        sa.Column("target_id", sa.String(256)),
        sa.Column("address", sa.String(64)),
        sa.Column("user_agent", sa.String(256)),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("details", postgresql.JSONB(), nullable=False),
        sa.CheckConstraint("octet_length(details::text) <= 4096", name="details"),
    )
    op.create_index("ix_audit_tenant_id", "audit", ["tenant", sa.text("id DESC")])
    newest = sa.text('id COLLATE "C" DESC')
    op.create_index("ix_audit_target_id", "audit", ["target_id", newest])
    op.create_index("ix_audit_action_id", "audit", ["action", newest])
    op.create_index("ix_audit_principal_id", "audit", ["principal_id", newest])
    op.create_index("ix_audit_tenant_action_id", "audit", ["tenant", "action", newest])
    op.create_index("ix_audit_tenant_principal_id", "audit", ["tenant", "principal_id", newest])
    # The owner of the tables alone, and only within the function below: who can set the setting is not the owner, and
    # what the owner does by hand has not set it.
    op.execute("""
        CREATE FUNCTION keep_audit() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'DELETE' AND current_setting('runstream.removes_audit', true) = 'on'
                AND current_user = (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = TG_RELID)
            THEN RETURN NULL;
            END IF;
            RAISE EXCEPTION 'the audit log is only appended to; remove_audit removes what is to be kept no longer'
                USING ERRCODE = 'insufficient_privilege';
        END $$
    """)
    op.execute("""
        CREATE TRIGGER keep BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
        FOR EACH STATEMENT EXECUTE FUNCTION keep_audit()
    """)
    # Of a tenant, or of all where it is null; its rights are the owner's, and it may be called by whom those are
    # granted to. The setting ends with the call.
    op.execute("""
        DO $do$ BEGIN EXECUTE format($f$
            CREATE FUNCTION remove_audit(of_tenant text, made_before timestamptz) RETURNS bigint
            LANGUAGE plpgsql SECURITY DEFINER
            SET search_path = %I, pg_temp AS $$
            DECLARE removed bigint;
            BEGIN
                PERFORM set_config('runstream.removes_audit', 'on', true);
                DELETE FROM audit WHERE (of_tenant IS NULL OR tenant = of_tenant) AND at < made_before;
                GET DIAGNOSTICS removed = ROW_COUNT;
                PERFORM set_config('runstream.removes_audit', 'off', true);
                RETURN removed;
            END $$
        $f$, current_schema()); END $do$
    """)
    op.execute("REVOKE ALL ON FUNCTION remove_audit FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION remove_audit")
    op.drop_table("audit")
    op.execute("DROP FUNCTION keep_audit")
