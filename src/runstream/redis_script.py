"""One connection that calls one script, over and over."""

import asyncio
from collections.abc import Sequence
from hashlib import sha1
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection


class ScriptConnection:
    """Calls a script at less than half of what a call through the client's pool costs: calls are made for every token.

    The connection is opened by the first call, and after any failure anew by the next one, which loads the script.
    """

    def __init__(self, redis: Redis, source: str, *, timeout: float) -> None:
        """`timeout`, in seconds, bounds a call, connecting and its turn included, in the place of `redis`' own."""
        self._redis = redis
        self._source = source
        self._sha = sha1(source.encode()).hexdigest()  # noqa: S324 - the name that Redis gives a script
        self._timeout = timeout
        self._turn = asyncio.Lock()
        self._connection: AbstractConnection | None = None

    async def __call__(self, keys: Sequence[str], arguments: Sequence[bytes | str | int]) -> Any:
        """The script's answer. Raises TimeoutError or redis' errors; whether it took effect is then not known."""
        return (await self.each([(keys, arguments)]))[0]

    async def each(self, calls: Sequence[tuple[Sequence[str], Sequence[bytes | str | int]]]) -> list[Any]:
        """As many calls, sent together. Where it raises, any number of them took effect."""
        async with asyncio.timeout(self._timeout), self._turn:
            connection, self._connection = self._connection, None
            if connection is None:
                connection = await self._connect()
            try:
                commands: list[tuple[Any, ...]] = [
                    ("EVALSHA", self._sha, len(keys), *keys, *arguments) for keys, arguments in calls
                ]
                packed = b"".join(hiredis.pack_command(command) for command in commands)
                await connection.send_packed_command(packed, check_health=False)
                answers = [await connection.read_response() for _ in calls]
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            self._connection = connection
            return answers

    async def _connect(self) -> AbstractConnection:
        connection: AbstractConnection = self._redis.connection_pool.make_connection()
        try:
            await connection.connect()
            connection.socket_timeout = None  # redis-py makes a task of every write to bound it; `each` bounds them all
            await _call(connection, "SCRIPT", "LOAD", self._source)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def aclose(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect()


async def _call(connection: AbstractConnection, *command: Any) -> Any:
    await connection.send_packed_command(hiredis.pack_command(command), check_health=False)
    return await connection.read_response()
