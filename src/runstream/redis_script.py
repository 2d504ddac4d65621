"""Scripts that are called over and over: all of a process' over one connection."""

import asyncio
from collections.abc import Sequence
from hashlib import sha1
from typing import Any, NamedTuple

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

_TURNS = 3
"""Turns of the event loop for which a call waits for company: what other tasks have to say of one event goes along."""
_MOST = 256
"""Calls that are sent together."""

_Argument = bytes | str | int


class Scripts:
    """Sends all that is called while the last answers are awaited in one write, which is most of what a call costs.

    Calls take effect in their order. The connection is opened by the first one, and after any failure anew by the
    next one; nothing is sent twice, for it may have taken effect.
    """

    def __init__(self, redis: Redis, *, timeout: float) -> None:
        """`timeout`, in seconds, bounds a write and its answers, connecting included, in the place of `redis`' own."""
        self._redis = redis
        self.timeout = timeout
        self._connection: AbstractConnection | None = None
        self._loaded: set[str] = set()
        self._waiting: list[_Called] = []
        self._sending: asyncio.Task[None] | None = None

    def call(self, called: "_Called") -> None:
        self._waiting.append(called)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())

    async def aclose(self) -> None:
        """Close the connection; who still waits for an answer is cancelled."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
        if self._connection is not None:
            await self._connection.disconnect()

    async def _send_all(self) -> None:
        batch: list[_Called] = []
        try:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                try:
                    await self._send([called for called in batch if not called.answer.done()])
                except (RedisError, OSError, TimeoutError) as error:
                    for called in [*batch, *self._waiting]:  # who waited has waited for as long as anybody should
                        called.fail(error)
                    self._waiting = []
        finally:
            self._sending = None
            for called in [*batch, *self._waiting]:
                called.answer.cancel()

    async def _send(self, batch: Sequence["_Called"]) -> None:
        async with asyncio.timeout(self.timeout):
            connection, self._connection = self._connection, None
            if connection is None:
                connection = await self._connect()
            try:
                new = {called.script.name: called.script for called in batch if called.script.name not in self._loaded}
                loads = [_packed("SCRIPT", "LOAD", script.source) for script in new.values()]
                packed = b"".join([*loads, *(called.command for called in batch)])
                await connection.send_packed_command(packed, check_health=False)
                for name in new:
                    await connection.read_response()
                    self._loaded.add(name)
                sound = await _read(connection, batch)
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            if sound:
                self._connection = connection
            else:
                await connection.disconnect(nowait=True)

    async def _connect(self) -> AbstractConnection:
        connection: AbstractConnection = self._redis.connection_pool.make_connection()
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        connection.socket_timeout = None  # redis-py makes a task of every write to bound it; `_send` bounds them all
        self._loaded.clear()
        return connection


class Script:
    """One of them. All raise TimeoutError or redis' errors; whether it took effect is then not known."""

    def __init__(self, scripts: Scripts, source: str) -> None:
        self.source = source
        self.name = sha1(source.encode()).hexdigest()  # noqa: S324 - the name that Redis gives a script
        self._scripts = scripts

    async def __call__(self, keys: Sequence[str], arguments: Sequence[_Argument]) -> Any:
        """The script's answer."""
        return await self._called(keys, arguments)

    async def each(self, calls: Sequence[tuple[Sequence[str], Sequence[_Argument]]]) -> list[Any]:
        """As many calls, sent together."""
        return await asyncio.gather(*(self._called(keys, arguments) for keys, arguments in calls))

    def _called(self, keys: Sequence[str], arguments: Sequence[_Argument]) -> asyncio.Future[Any]:
        command = _packed("EVALSHA", self.name, len(keys), *keys, *arguments)
        called = _Called(self, command, asyncio.get_running_loop().create_future())
        self._scripts.call(called)
        return called.answer


class _Called(NamedTuple):
    script: Script
    command: bytes
    answer: asyncio.Future[Any]

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


def _packed(*command: _Argument) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed


async def _read(connection: AbstractConnection, batch: Sequence[_Called]) -> bool:
    """Give each its answer; whether none of them is an error, after which the server may be another one's replica."""
    sound = True
    for called in batch:
        try:
            answer = await connection.read_response()
        except ResponseError as error:
            sound = False
            called.fail(error)
        else:
            if not called.answer.done():
                called.answer.set_result(answer)
    return sound
