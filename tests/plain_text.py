"""Looks through a whole database for texts, whatever they are in."""

from __future__ import annotations

from collections.abc import Collection

import asyncpg

_COLUMNS = """
    select table_name, column_name, data_type from information_schema.columns
    where table_schema = current_schema() order by 1, 2
"""


async def found(database: asyncpg.Connection, texts: Collection[str]) -> set[tuple[str, str, str]]:
    """Table, column and text, for each text that any row has there: as text, or as bytes, plain or in hexadecimal."""
    there = set()
    for table, column, type_ in await database.fetch(_COLUMNS):
        shown = f"encode({column}, 'escape') || ' ' || {column}::text" if type_ == "bytea" else f"{column}::text"
        for text in texts:
            forms = [f"%{text}%", f"%{text.encode().hex()}%"]
            query = f"select exists (select from {table} where {shown} like any ($1))"
            if await database.fetchval(query, forms):
                there.add((table, column, text))
    return there
