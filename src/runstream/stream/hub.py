"""One pub/sub connection a process, fanned out to all its readers."""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from runstream.domain.errors import whereabouts
from runstream.metrics import DROPPED_BUFFERS, READERS
from runstream.stream.log import Entry, key, parse_message

_PING = 5.0
"""Seconds between pings of the connection; one that has been silent for two of them is dead."""
_PAUSE = (0.05, 2.0)

log = structlog.get_logger(__name__)


class Frame(NamedTuple):
    """An entry, and its form for readers, encoded once for all of them."""

    entry: Entry
    encoded: bytes


class Subscription:
    """One reader's place at the hub: what came and is not yet taken, and what else the reader must know."""

    __slots__ = (
        "_limit",
        "_loop",
        "_size",
        "_waiter",
        "active",
        "behind",
        "closing",
        "due",
        "expires",
        "frames",
        "heartbeat",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int, due: float, expires: float) -> None:
        self.frames: deque[Frame] = deque()
        self.behind = False
        """Something may have been missed: read on from history."""
        self.heartbeat = False
        """Nothing was sent for a while."""
        self.closing = False
        """Stop here; the reader resumes elsewhere."""
        self.active = False
        """Something came since the hub last looked."""
        self.due = due
        self.expires = expires
        self._loop = loop  # kept: Python 3.11 makes a system call to find it
        self._limit = limit
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None

    def put(self, frame: Frame) -> None:
        """Take a frame in. Where the buffer is full the reader loses it, not its place."""
        self._size += len(frame.encoded)
        if self._size > self._limit:
            DROPPED_BUFFERS.inc()
            self.miss()
        else:
            self.frames.append(frame)
            self.active = True
            self.wake()

    def miss(self) -> None:
        self.frames.clear()
        self._size = 0
        self.behind = True
        self.wake()

    def take(self) -> list[Frame]:
        frames = list(self.frames)
        self.frames.clear()
        self._size = 0
        return frames

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Return when there is something to do; the hub bounds the wait by its heartbeats."""
        if self.frames or self.behind or self.heartbeat or self.closing:
            return
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class _Topic:
    """The readers of one run."""

    __slots__ = ("confirmed", "readers")

    def __init__(self) -> None:
        self.confirmed = False
        self.readers: list[Subscription] = []


class Hub:
    """Subscribes to a run while it has readers here.

    A reader is told to read history when its subscription is confirmed, and again whenever the connection was lost
    and is back: nothing can fall between the two.
    """

    def __init__(
        self, redis: Redis, encode: Callable[[Entry], bytes], *, buffer: int, heartbeat: float, max_age: float
    ) -> None:
        """`redis` must be without a read timeout. `buffer` is in bytes a reader; the rest in seconds."""
        self._redis = redis
        self.encode = encode
        self._buffer = buffer
        self._heartbeat = heartbeat
        self._max_age = max_age
        self._topics: dict[bytes, _Topic] = {}
        self._outstanding: Counter[str | bytes] = Counter()
        self._commands: asyncio.Queue[tuple[str | bytes, ...]] | None = None
        self._heard = 0.0
        self._closing = False

    @contextmanager
    def subscribe(self, run_id: str) -> Iterator[Subscription]:
        """Receive the run's frames. The first thing that arrives is `behind`, once the subscription stands."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        lifetime = self._max_age * random.uniform(0.9, 1.0)  # noqa: S311 - so that readers do not come back in one wave
        subscription = Subscription(loop, self._buffer, now + self._heartbeat, now + lifetime)
        subscription.closing = self._closing
        channel = key(run_id).encode()
        topic = self._topics.get(channel)
        if topic is None:
            topic = self._topics[channel] = _Topic()
            self._command("SUBSCRIBE", channel)
        topic.readers.append(subscription)
        subscription.behind = topic.confirmed
        READERS.inc()
        try:
            yield subscription
        finally:
            READERS.dec()
            topic.readers.remove(subscription)
            if not topic.readers and self._topics.get(channel) is topic:
                del self._topics[channel]
                self._command("UNSUBSCRIBE", channel)

    def close(self) -> None:
        """Tell every reader, present and future, to go on elsewhere."""
        self._closing = True
        for subscription in self._subscriptions():
            subscription.closing = True
            subscription.wake()

    @property
    def connected(self) -> bool:
        return self._commands is not None and self._heard > 0

    async def run(self) -> None:
        """Keep the connection until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick())
            pause = _PAUSE[0]
            while True:
                try:
                    await self._connect()
                except* (RedisError, OSError, TimeoutError) as errors:
                    log.warning("subscription_lost", error=type(errors.exceptions[0]).__name__, runs=len(self._topics))
                except* Exception as errors:
                    log.error("relay_broke", **whereabouts(errors.exceptions[0]))  # noqa: TRY400 - without what it says
                pause = _PAUSE[0] if self._heard else min(pause * 2, _PAUSE[1])
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311

    async def _connect(self) -> None:
        connection = self._redis.connection_pool.make_connection()
        self._heard = 0.0
        self._commands = asyncio.Queue()
        self._outstanding.clear()
        try:
            async with asyncio.TaskGroup() as group:
                async with asyncio.timeout(_PING):
                    await connection.connect()
                # Its answer shows that the connection stands, though nobody reads yet.
                self._command("PING")
                for channel in self._topics:
                    self._command("SUBSCRIBE", channel)
                group.create_task(self._send(connection, self._commands))
                while True:
                    self._receive(await connection.read_response(disconnect_on_error=False, push_request=True))
        finally:
            self._commands = None
            for topic in self._topics.values():
                topic.confirmed = False
            await connection.disconnect(nowait=True)

    def _command(self, *command: str | bytes) -> None:
        """Send in order. While there is no connection nothing is sent: the next one begins with what is wanted then."""
        if self._commands is not None:
            self._commands.put_nowait(command)
            if command[0] == "SUBSCRIBE":
                self._outstanding[command[1]] += 1

    async def _send(self, connection: AbstractConnection, commands: asyncio.Queue[tuple[str | bytes, ...]]) -> None:
        began = time.monotonic()
        while True:
            batch = [await commands.get()]
            while not commands.empty():
                batch.append(commands.get_nowait())
            if time.monotonic() - max(self._heard, began) > 2 * _PING:
                raise TimeoutError
            async with asyncio.timeout(_PING):
                await connection.send_packed_command(connection.pack_commands(batch), check_health=False)

    def _receive(self, message: list[bytes] | bytes) -> None:
        match message:
            case [b"message", channel, payload]:
                self._deliver(channel, payload)
            case [b"subscribe", channel, _]:
                self._confirm(channel)
        self._heard = time.monotonic()

    def _deliver(self, channel: bytes, payload: bytes) -> None:
        topic = self._topics.get(channel)
        if topic is not None:
            entry = parse_message(payload)
            frame = Frame(entry, self.encode(entry))
            for subscription in topic.readers:
                subscription.put(frame)

    def _confirm(self, channel: bytes) -> None:
        # Confirmations come in the order of the commands: only the answer to the last one means that it stands.
        self._outstanding[channel] -= 1
        if self._outstanding[channel] > 0:
            return
        del self._outstanding[channel]
        topic = self._topics.get(channel)
        if topic is not None:
            topic.confirmed = True
            for subscription in topic.readers:
                subscription.miss()

    async def _tick(self) -> None:
        """Wake the readers that are due for a heartbeat or too old, and see that the connection lives."""
        loop = asyncio.get_running_loop()
        pinged = loop.time()
        while True:
            await asyncio.sleep(min(1.0, self._heartbeat / 4))
            now = loop.time()
            for subscription in self._subscriptions():
                if subscription.active:
                    subscription.active = False
                    subscription.due = now + self._heartbeat
                elif now >= subscription.due:
                    subscription.due = now + self._heartbeat
                    subscription.heartbeat = True
                    subscription.wake()
                if now >= subscription.expires:
                    subscription.closing = True
                    subscription.wake()
            if now - pinged >= _PING:
                pinged = now
                self._command("PING")

    def _subscriptions(self) -> list[Subscription]:
        return [subscription for topic in self._topics.values() for subscription in topic.readers]
