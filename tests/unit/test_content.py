"""Where a run, or a user, is named: of each table that there is, it is known what becomes of it when they go.

Who adds a table finds here what to decide. Runs are deleted with what refers to them by a foreign key; a user's name
gives way to a pseudonym where `storage/statements/erasing.py` says so.
"""

from sqlalchemy import Table

from runstream.storage.tables import metadata, runs

STAYS = {"ledger", "deletions", "retention_marks"}
"""Tables that name runs, and say nothing of what was asked and answered."""
GOES_WITH_RUNS, PSEUDONYMISED, FORGOTTEN_WHEN_DONE = (
    {"runs", "feedback"},
    {"ledger", "deletions", "api_keys"},
    {"erasures"},
)
"""What becomes of the users that a table names."""


def goes_with_its_run(table: Table) -> bool:
    return any(key.column is runs.c.id and key.ondelete == "CASCADE" for key in table.c.run_id.foreign_keys)


def test_what_is_of_a_run_goes_with_it_unless_it_is_known_to_stay() -> None:
    of_runs = [table for table in metadata.sorted_tables if "run_id" in table.c]
    assert {table.name for table in of_runs if not goes_with_its_run(table)} == STAYS


def test_of_each_table_that_names_users_it_is_known_what_becomes_of_them() -> None:
    naming = {table.name for table in metadata.sorted_tables if "user_id" in table.c}
    assert naming == GOES_WITH_RUNS | PSEUDONYMISED | FORGOTTEN_WHEN_DONE
