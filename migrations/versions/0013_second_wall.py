"""The second wall

Statements say by a parameter of this domain whose rows they are for: its check notes it for the policies, which each
migration to the newest revision puts up where they are missing.
"""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.execute("""
        CREATE DOMAIN runstream_tenants AS text[]
        CHECK (set_config('runstream.tenants', VALUE::text, true) IS NOT NULL)
    """)


def downgrade() -> None:
    op.execute("""
        DO $$ DECLARE policy record; role text;
        BEGIN
            FOR policy IN SELECT policyname AS name, tablename AS of_table FROM pg_policies
                WHERE schemaname = current_schema() AND policyname IN ('application', 'sweep', 'others')
            LOOP
                EXECUTE format('DROP POLICY %I ON %I', policy.name, policy.of_table);
                EXECUTE format('ALTER TABLE %I DISABLE ROW LEVEL SECURITY', policy.of_table);
            END LOOP;
            FOR role IN SELECT rolname FROM pg_roles WHERE rolname IN ('runstream_app', 'runstream_sweep') LOOP
                EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', current_schema(), role);
            END LOOP;
        END $$
    """)
    op.execute("DROP DOMAIN runstream_tenants")
