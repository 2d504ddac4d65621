"""Find what is to be encrypted anew, and write it; and the keys for it. All of it is of all tenants."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import DateTime, LargeBinary, String, TextClause, TextualSelect, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from runstream.sealing.data_key import prefix
from runstream.storage.content import ATTEMPTS, FEEDBACK, RUNS, WEBHOOKS, Part

_WINDOW = 500
"""Rows that one statement looks at, so that none takes long, however many there are."""
_NEWEST = """
    newest AS (SELECT DISTINCT ON (tenant) * FROM data_keys ORDER BY tenant, made_at DESC, id DESC)
"""
_SEALED_BY = f"'{prefix('KEY')}'".replace("KEY", "' || coalesce(newest.id, 'none') || '")


class SealedTable(NamedTuple):
    """A table that holds content, which was sealed for the columns of `part`.

    `key` are the names of its primary key, and `first` is a key that comes before all. `LOOK` answers the keys of the
    next rows, and whether each is `wanted`; `READ` answers rows, the id of their tenant's newest data key, and their
    `version`; `WRITE` writes those that still are of that version and that nobody else has.
    """

    name: str
    key: tuple[str, ...]
    first: Mapping[str, Any]
    part: Part
    LOOK: TextClause
    READ: TextualSelect
    WRITE: TextClause


def _sealed_table(
    name: str,
    key: Mapping[str, str],
    first: tuple[Any, ...],
    part: Part,
    *,
    row: str,
    within: str | None = None,
) -> SealedTable:
    """`key` has columns with their types, and `row` is what the part calls a row, in SQL. Where the content is `within`
    a column of JSON objects, it has the part's columns as its members."""
    columns = {column: f"one.{within} -> '{column}'" if within else f"one.{column}" for column in part.columns}
    names = ", ".join(key)
    ours, after = ", ".join(f"one.{each}" for each in key), ", ".join(f":after_{each}" for each in key)
    given_key = ", ".join(f"{each} {type_}" for each, type_ in key.items())
    given = ", ".join(f"{column} {_type(part, column)}" for column in columns)
    same = " AND ".join(f"one.{each} = given.{each}" for each in key)
    shown = ", ".join(f"{read} AS {column}" for column, read in columns.items())
    wanted = " OR ".join(_wanted(part, column, read) for column, read in columns.items())
    members = ", ".join(f"'{column}', coalesce(given.{column}, one.{within} -> '{column}')" for column in columns)
    written = (
        f"{within} = one.{within} || jsonb_build_object({members})"
        if within
        else ", ".join(f"{column} = coalesce(given.{column}, one.{column})" for column in columns)
    )
    there = f"one.{within} <> '{{}}'" if within else "true"
    look = f"""
        WITH {_NEWEST}
        SELECT {ours}, coalesce({there} AND ({wanted}), false) AS wanted
        FROM (SELECT * FROM {name} WHERE ({names}) > ({after}) ORDER BY {names} LIMIT {_WINDOW}) AS one
        LEFT JOIN newest ON newest.tenant = one.tenant
        ORDER BY {ours}
    """  # noqa: S608 - the text is all ours
    read = f"""
        WITH {_NEWEST}
        SELECT {ours}, one.tenant, {row} AS row, newest.id AS data_key, CAST(one.xmin AS text) AS version, {shown}
        FROM jsonb_to_recordset(:keys) AS given({given_key}) JOIN {name} AS one ON {same}
        LEFT JOIN newest ON newest.tenant = one.tenant
    """  # noqa: S608 - the text is all ours
    write = f"""
        WITH given AS (SELECT * FROM jsonb_to_recordset(:rows) AS given({given_key}, version text, {given})),
        held AS (
            SELECT {ours} FROM {name} AS one JOIN given ON {same} AND CAST(one.xmin AS text) = given.version
            FOR NO KEY UPDATE OF one SKIP LOCKED
        )
        UPDATE {name} AS one SET {written} FROM given JOIN held USING ({names})
        WHERE {same} RETURNING {ours}
    """  # noqa: S608 - the text is all ours
    return SealedTable(
        name,
        tuple(key),
        dict(zip(key, first, strict=True)),
        part,
        text(look),
        text(read).bindparams(bindparam("keys", type_=JSONB)).columns(**part.types()),
        text(write).bindparams(bindparam("rows", type_=JSONB)),
    )


def _type(part: Part, column: str) -> str:
    return "jsonb" if part.is_json(column) else "bytea" if part.is_bytes(column) else "text"


def _wanted(part: Part, column: str, read: str) -> str:
    """Whether it holds anything that the newest key has not sealed."""
    if part.is_error(column):
        return f"NOT starts_with({read} ->> 'message', {_SEALED_BY})"
    if part.is_json(column):
        return f"""
            CASE jsonb_typeof({read}) WHEN 'null' THEN false
                WHEN 'string' THEN NOT starts_with({read} #>> '{{}}', {_SEALED_BY})
                ELSE {read} <> '{{}}' AND {read} <> '[]' END
        """
    if part.is_bytes(column):
        return f"substr({read}, 1, length({_SEALED_BY})) <> convert_to({_SEALED_BY}, 'UTF8')"
    return f"({read} <> '' AND NOT starts_with({read}, {_SEALED_BY}))"


_ID: Final = {"id": "text"}
SEALED: Final = (
    _sealed_table("runs", _ID, ("",), RUNS, row="one.id"),
    _sealed_table(
        "attempts",
        {"run_id": "text", "attempt": "integer"},
        ("", 0),
        ATTEMPTS,
        row="one.run_id || '/' || one.attempt",
    ),
    _sealed_table("feedback", {"run_id": "text"}, ("",), FEEDBACK, row="one.run_id"),
    _sealed_table("webhooks", _ID, ("",), WEBHOOKS, row="one.id"),
    _sealed_table(
        "webhook_deliveries",
        {"webhook_id": "text", "id": "text"},
        ("", ""),
        Part(RUNS.table, ("metadata", "error")),  # as its run has them
        row="one.run_id",
        within="data",
    ),
)
"""All content that there is."""

_MADE = (bindparam("new_id", type_=String), bindparam("new_master", type_=String))
MAKE = text("""
    INSERT INTO data_keys (tenant, id, master, wrapped) VALUES (:of, :new_id, :new_master, :new_wrapped) RETURNING id
""").bindparams(*_MADE, bindparam("new_wrapped", type_=LargeBinary))
USES = text("SELECT master, count(*) AS data_keys FROM data_keys GROUP BY master ORDER BY master")
WRAPPED_BY_OTHERS = text("""
    SELECT tenant, id, master, wrapped FROM data_keys WHERE master <> :used ORDER BY tenant, id LIMIT 500
""")
REWRAP = text("""
    UPDATE data_keys SET master = :used, wrapped = :rewrapped
    WHERE tenant = :of AND id = :key_id AND master = :was RETURNING id
""").bindparams(bindparam("rewrapped", type_=LargeBinary))
NOW = text("SELECT now() AS now")
COMPLETE = text(f"WITH {_NEWEST} SELECT tenant FROM newest WHERE complete_at IS NOT NULL ORDER BY tenant")  # noqa: S608
"""Tenants all of whose content is sealed by the newest key."""
DROP_OLDER = text(f"""
    WITH {_NEWEST}
    DELETE FROM data_keys AS old USING newest
    WHERE newest.tenant = old.tenant AND newest.id <> old.id AND newest.made_at < :before AND old.tenant <> ALL (:but)
    RETURNING old.id
""").bindparams(bindparam("before", type_=DateTime(timezone=True)), bindparam("but", type_=ARRAY(String)))  # noqa: S608
COMPLETED = text("""
    UPDATE data_keys AS one SET complete_at = now()
    WHERE complete_at IS NULL AND tenant <> ALL (:but)
        AND NOT EXISTS (SELECT FROM data_keys AS other WHERE other.tenant = one.tenant AND other.id <> one.id)
    RETURNING id
""").bindparams(bindparam("but", type_=ARRAY(String)))
KEPT = text(f"""
    WITH {_NEWEST}
    SELECT count(*) AS tenants, max(made_at) AS made_at FROM newest
    WHERE EXISTS (SELECT FROM data_keys AS old WHERE old.tenant = newest.tenant AND old.id <> newest.id)
""")  # noqa: S608 - the text is all ours
"""Tenants that have older keys, and when the last of their newest ones was made."""
