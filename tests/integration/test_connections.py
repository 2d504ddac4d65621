"""The clients that the composition roots open, on the loop that they run on."""

import asyncio

import pytest
import uvloop
from redis.exceptions import ConnectionError

from runstream.connections import redis_client
from runstream.settings import Settings
from stack import outside_the_loop


def test_writing_to_a_redis_connection_that_was_closed_fails_as_redis_errors_do(redis_url: str) -> None:
    async def write() -> None:
        async with redis_client(Settings(redis_url=redis_url)) as redis:
            connection = redis.connection_pool.make_connection()
            await connection.connect()
            connection._writer.transport.abort()
            await asyncio.sleep(0)
            await connection.send_packed_command(connection.pack_command("PING"), check_health=False)

    with pytest.raises(ConnectionError):
        outside_the_loop(lambda: uvloop.run(write()))
