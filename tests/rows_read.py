"""How much of its tables Postgres reads for an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncEngine

_READ = text("SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_user_tables WHERE relname IN :tables").bindparams(
    bindparam("tables", expanding=True)
)


async def rows_read(engine: AsyncEngine, question: Callable[[], Awaitable[Any]], *tables: str) -> int:
    """The rows of these tables; `engine` has one connection alone, on which the question is asked too."""
    before = await _so_far(engine, tables)
    await question()
    return await _so_far(engine, tables) - before


async def _so_far(engine: AsyncEngine, tables: tuple[str, ...]) -> int:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT pg_stat_force_next_flush()"))
        return int((await connection.execute(_READ, {"tables": tables})).scalar_one())
