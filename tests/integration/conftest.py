"""What is stored, for tests of it: a fresh database, and what asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from runstream.storage.database import connect
from runstream.storage.left_behind import LeftBehind
from runstream.storage.runs import RunStore
from runstream.storage.tenancy import Role

DEADLINE = 60


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """With the application's rights."""
    engine = connect(database_url, pool_size=8, timeout=DEADLINE, role=Role.APPLICATION)
    yield engine
    await engine.dispose()


@pytest.fixture
async def overall(database_url: str) -> AsyncIterator[AsyncEngine]:
    """With the sweep's rights."""
    engine = connect(database_url, pool_size=4, timeout=DEADLINE, role=Role.SWEEP)
    yield engine
    await engine.dispose()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection without the product between."""
    connection = await asyncpg.connect(database_url, timeout=DEADLINE, command_timeout=DEADLINE)
    yield connection
    await connection.close()


@pytest.fixture
def store(engine: AsyncEngine) -> RunStore:
    return RunStore(engine)


@pytest.fixture
def behind(overall: AsyncEngine) -> LeftBehind:
    return LeftBehind(overall)
