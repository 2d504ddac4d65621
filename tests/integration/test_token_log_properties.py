"""A run's events come exactly, whatever is lost: two writers, two API processes and their readers on a real Valkey.

Hypothesis draws what happens in which order; nothing here knows how the product keeps its promise. A reader holds a
cursor and the letters that it was told; the two must belong together at every moment.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from letters import Letters, event_of, held_letters, letters_of
from runstream.api.events import frame
from runstream.domain.cursor import Cursor
from runstream.domain.errors import Unavailable
from runstream.domain.events import COMPLETED, DELTA, REASONING, RESTARTED, STARTED, TERMINAL, TOOL_CALL, Event
from runstream.domain.transcript import Transcript
from runstream.redis_script import Scripts
from runstream.stream.hub import Hub
from runstream.stream.log import Append, Appended, Entry, Outcome, TokenLog, key
from runstream.stream.reader import Reader
from runstream.stream.writer import WriteLoop, Writer

DEADLINE = 10
HEARTBEAT = 0.05
TINY = 120
"""Bytes: two events or so fill a reader's buffer."""
READERS = 3
PAUSES = (0.001, 0.01)
OPENING = {1: STARTED, 2: RESTARTED}

texts = st.text("aé🙂\u0301𝒳", min_size=1, max_size=6)
indices = st.integers(0, 1)
said = st.one_of(
    texts.map(lambda text: (DELTA, {"text": text})),
    texts.map(lambda text: (DELTA, {"text": text})),
    texts.map(lambda text: (REASONING, {"text": text})),
    indices.map(lambda index: (TOOL_CALL, {"index": index, "id": "a", "name": "b"})),
    st.builds(lambda index, text: (TOOL_CALL, {"index": index, "arguments": text}), indices, texts),
)
real = settings(
    derandomize=True,
    deadline=None,
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
run_ids = (f"run_{number}" for number in itertools.count())


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Runner]:
    """A loop of the test's own, in which the product does not wait longer than it must before it tries again."""
    monkeypatch.setattr("runstream.stream.writer._PAUSE", PAUSES)
    monkeypatch.setattr("runstream.stream.hub._PAUSE", PAUSES)
    monkeypatch.setattr("runstream.stream.reader._RETRY", PAUSES[0])
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        yield runner


# What the log does with one call


@st.composite
def calls(draw: st.DrawFn) -> list[tuple[int, int, list[int]]]:
    """Attempt, start, and where each event of the call ends: in order or not, late, early, or twice."""
    made: list[tuple[int, int, list[int]]] = []
    reached = {1: 0, 2: 0, 3: 0}
    for _ in range(draw(st.integers(1, 10))):
        if made and draw(st.integers(0, 4)) == 0:
            made.append(draw(st.sampled_from(made)))
            continue
        attempt = draw(st.sampled_from([1, 1, 2, 2, 3]))
        start = draw(st.sampled_from([reached[attempt], reached[attempt], 0, draw(st.integers(0, 9))]))
        ends = sorted(draw(st.sets(st.integers(start + 1, start + 6), min_size=1, max_size=3)))
        reached[attempt] = ends[-1]
        made.append((attempt, start, ends))
    return made


class Expected:
    """The log as its contract has it: the newest attempt's letters from its first one on, or nothing."""

    def __init__(self) -> None:
        self.attempt = 0
        self.entries: list[tuple[int, int]] = []

    @property
    def end(self) -> int:
        return self.entries[-1][1] if self.entries else 0

    def append(self, attempt: int, start: int, ends: list[int]) -> Appended:
        if attempt < self.attempt:
            return Appended(Outcome.FENCED, self.end)
        if attempt > self.attempt and start == 0:
            self.attempt, self.entries = attempt, []
        held = self.end if attempt == self.attempt else 0
        if held < start:
            return Appended(Outcome.LOST, held)
        if held > start:
            return Appended(Outcome.AHEAD, held)
        self.entries += itertools.pairwise([start, *ends])
        return Appended(Outcome.APPENDED, ends[-1])


@pytest.mark.promise("P2", "P3")
@real
@given(made=st.lists(calls(), min_size=1, max_size=3), emptied=st.sets(st.integers(0, 9), max_size=2))
def test_a_log_takes_only_what_follows_and_only_from_the_newest_attempt(
    redis_url: str, runner: asyncio.Runner, made: list[list[tuple[int, int, list[int]]]], emptied: set[int]
) -> None:
    runner.run(_check_calls(redis_url, made, emptied))


async def _check_calls(redis_url: str, made: list[list[tuple[int, int, list[int]]]], emptied: set[int]) -> None:
    """Several runs' calls go in together, one of each run; the published messages are the appended entries."""
    async with Redis.from_url(redis_url) as redis:
        token_log = TokenLog(redis, Scripts(redis, timeout=DEADLINE), ttl=60, ended_ttl=60)
        runs = [(next(run_ids), Expected(), run_calls) for run_calls in made]
        for step in range(max(map(len, made))):
            batch = [(run_id, expected, run[step]) for run_id, expected, run in runs if step < len(run)]
            if step in emptied:
                await redis.flushall()
                for _, expected, _ in runs:
                    expected.__init__()
            before = {run_id: (expected.attempt, len(expected.entries)) for run_id, expected, _ in batch}
            async with redis.pubsub(ignore_subscribe_messages=True) as heard:
                await heard.subscribe(*(key(run_id) for run_id, _, _ in batch))
                answers = await token_log.append([_append(run_id, *call) for run_id, _, call in batch])
                wanted = [expected.append(*call) for _, expected, call in batch]
                assert [(a.outcome, a.end) for a in answers] == [(w.outcome, w.end) for w in wanted]
                published = await _published(heard, redis)
            told: list[bytes] = []
            for run_id, expected, _ in batch:
                stored = await redis.xrange(key(run_id))
                assert stored == [(_id(expected.attempt, end), {b"e": _body(s, end)}) for s, end in expected.entries]
                known = before[run_id][1] if before[run_id][0] == expected.attempt else 0
                told += [_id(expected.attempt, end) + b" " + _body(s, end) for s, end in expected.entries[known:]]
            assert published == told


def _append(run_id: str, attempt: int, start: int, ends: list[int]) -> Append:
    events = [Event(attempt, s, end, DELTA, {"text": "x" * (end - s)}) for s, end in itertools.pairwise([start, *ends])]
    return Append(run_id, attempt, start, events)


def _id(attempt: int, end: int) -> bytes:
    return b"%d-%d" % (attempt, end)


def _body(start: int, end: int) -> bytes:
    return b'%d run.delta {"text":"%b"}' % (start, b"x" * (end - start))


async def _published(heard: Any, redis: Redis) -> list[bytes]:
    """The messages so far: one that is published now comes after all of them."""
    channel = next(iter(heard.channels))
    await redis.publish(channel, b"over")
    found: list[bytes] = []
    async with asyncio.timeout(DEADLINE):
        async for message in heard.listen():
            if message["data"] == b"over":
                return found
            found.append(message["data"])
    raise AssertionError("the subscription ended")


# Whole runs


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """What happens to one run, in order, up to its end."""
    reader = st.integers(0, READERS - 1)
    writer = st.sampled_from([1, 2])
    step = st.one_of(
        st.tuples(st.just("say"), writer, said),
        st.tuples(st.just("say"), writer, said),
        st.tuples(st.just("say"), writer, said),
        st.tuples(st.just("take over")),
        st.tuples(st.just("fault"), writer, st.just("answer")),
        st.tuples(st.just("fault"), writer, st.sampled_from(["request", "answer", "late"])),
        st.tuples(st.just("arrive late")),
        st.tuples(st.just("lose"), st.booleans()),
        st.tuples(st.just("open"), reader, st.integers(0, 1)),
        st.tuples(st.just("open"), reader, st.integers(0, 1)),
        st.tuples(st.just("gather"), st.integers(0, 1)),
        st.tuples(st.just("cut"), reader, st.integers(0, 5)),
        st.tuples(st.just("stall"), reader),
        st.tuples(st.just("history fails"), st.integers(0, 1)),
        st.tuples(st.just("disconnect hubs")),
        st.tuples(st.just("turn"), st.integers(1, 20)),
        st.tuples(st.just("settle")),
        st.tuples(st.just("settle")),
    )
    return [*draw(st.lists(step, min_size=8, max_size=50)), ("settle",)]


@pytest.mark.promise("P2", "P3", "P5")
@real
@given(story=stories(), turns=st.integers(0, 8), announced=st.booleans(), database_fails=st.integers(0, 2))
def test_every_reader_holds_a_prefix_of_the_transcript_at_every_moment_and_all_of_it_at_the_end(
    redis_url: str,
    runner: asyncio.Runner,
    story: list[tuple[Any, ...]],
    turns: int,
    announced: bool,
    database_fails: int,
) -> None:
    async def told() -> None:
        async with AsyncExitStack() as stack, asyncio.timeout(DEADLINE):
            world = World(redis_url, database_fails)
            await world.start(stack)
            for step in story:
                await world.do(*step)
                await world.do("turn", turns)
            await world.end(announced=announced)

    runner.run(told())


class FaultyLog(TokenLog):
    """A token log on a bad line: calls that do not arrive, arrive late, or whose answer is lost."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis, Scripts(redis, timeout=DEADLINE), ttl=60, ended_ttl=60)
        self.faults: deque[str] = deque()
        self.late: list[Sequence[Append]] = []
        self.failing_reads = 0
        self.whole = False
        """Something was appended since the log was last lost: so all that came before it is there as well."""
        self._losses = 0

    @asynccontextmanager
    async def lost(self) -> AsyncIterator[None]:
        """While the log is being lost; a call that overlaps with it may have come before it."""
        self._losses += 1
        yield
        self._losses += 1
        self.whole = False

    async def append(self, batch: Sequence[Append]) -> list[Appended]:
        fault = self.faults.popleft() if self.faults else None
        if fault == "late":
            self.late.append(batch)
        if fault in {"late", "request"}:
            raise RedisConnectionError
        losses = self._losses
        answers = await super().append(batch)
        if fault == "answer":
            raise RedisConnectionError
        self.whole = self.whole or (answers[0].outcome is Outcome.APPENDED and losses == self._losses)
        return answers

    async def arrive_late(self) -> None:
        while self.late:
            await super().append(self.late.pop())

    async def read(self, *asked: Any) -> tuple[list[Entry], bool]:
        if self.failing_reads:
            self.failing_reads -= 1
            raise RedisConnectionError
        return await super().read(*asked)


class World:
    """One run, its two attempts' workers, two API processes, and the clients that read."""

    def __init__(self, redis_url: str, database_fails: int) -> None:
        self._url = redis_url
        self._run_id = next(run_ids)
        self._said: dict[int, Letters] = {1: [], 2: []}
        self._attempt = 1
        self._stored: str | None = None
        self._database_fails = database_fails
        self._clients = [Client(self) for _ in range(READERS)]

    async def start(self, stack: AsyncExitStack) -> None:
        self.redis = await stack.enter_async_context(Redis.from_url(self._url))
        self.logs = [FaultyLog(self.redis), FaultyLog(self.redis)]
        self._worker_logs = {1: FaultyLog(self.redis), 2: FaultyLog(self.redis)}
        tasks: list[asyncio.Task[None]] = []
        stack.push_async_callback(_stop, tasks)
        self.hubs = [
            Hub(self.redis, frame, buffer=buffer, heartbeat=HEARTBEAT, max_age=60) for buffer in (TINY, 1_000_000)
        ]
        tasks += [asyncio.create_task(hub.run()) for hub in self.hubs]
        while not all(hub.connected for hub in self.hubs):
            await asyncio.sleep(PAUSES[0])
        self._writers: dict[int, Writer] = {}
        for attempt, token_log in self._worker_logs.items():
            loop = WriteLoop(token_log)
            tasks.append(asyncio.create_task(loop.run()))
            self._writers[attempt] = loop.open(self._run_id, attempt, lambda: None)
        self._append(1, STARTED, {"attempt": 1})
        for client in self._clients:
            stack.push_async_callback(client.close)

    async def do(self, what: str, *arguments: Any) -> None:
        await getattr(self, f"_{what.replace(' ', '_')}")(*arguments)
        for client in self._clients:
            client.check()

    async def end(self, *, announced: bool) -> None:
        """The row first, the announcement second or never; then every client comes to the end."""
        attempt = self._attempt
        letters = self._said[attempt]
        ending = (COMPLETED, {"status": "completed"})
        events = [event_of(letter) for letter in letters]
        self._stored = json.dumps([*events, ending])
        if announced:
            self._append(attempt, *ending)
        else:
            letters += letters_of(*ending)
        for client in self._clients:
            if not client.open:
                await client.start(0)
        for client in self._clients:
            await client.ended()
            assert (client.attempt, client.letters) == (attempt, letters)
        await self._replay()

    def letters(self, attempt: int) -> Letters:
        return self._said[attempt]

    async def rest(self, after: Cursor) -> Sequence[Event] | None:
        if self._database_fails:
            self._database_fails -= 1
            raise Unavailable
        return self._transcript().after(after) if self._stored is not None else None

    def reader(self, after: Cursor, process: int) -> Reader:
        return Reader(self._run_id, after, hub=self.hubs[process], token_log=self.logs[process], rest=self.rest)

    def _transcript(self) -> Transcript:
        assert self._stored is not None
        return Transcript.load(self._attempt, json.loads(self._stored))

    async def _replay(self) -> None:
        """From the stored transcript, at every cursor; the ids name the places that they named before."""
        transcript, letters = self._transcript(), self._said[self._attempt]
        for position in range(len(letters)):
            client = Client(self)
            client.attempt, client.letters = self._attempt, letters[:position]
            client.take_all(transcript.after(Cursor(self._attempt, position)))
            assert client.letters == letters
        for client in self._clients:
            for attempt, position, before in client.ids:
                at = transcript.after(Cursor(attempt, position))
                assert at[0].start == (position if attempt == self._attempt else 0) if at else position == len(letters)
                assert before == self._said[attempt][:position]

    def _append(self, attempt: int, type_: str, data: dict[str, Any]) -> None:
        self._said[attempt] += letters_of(type_, data)
        self._writers[attempt].append(type_, data)

    async def _say(self, attempt: int, said: tuple[str, dict[str, Any]]) -> None:
        if attempt <= self._attempt:
            self._append(attempt, *said)

    async def _take_over(self) -> None:
        if self._attempt == 1:
            self._attempt = 2
            self._append(2, RESTARTED, {"attempt": 2})

    async def _fault(self, attempt: int, kind: str) -> None:
        self._worker_logs[attempt].faults.append(kind)

    async def _arrive_late(self) -> None:
        for token_log in self._worker_logs.values():
            await token_log.arrive_late()

    async def _lose(self, everything: bool) -> None:
        async with self._worker_logs[1].lost(), self._worker_logs[2].lost():
            await (self.redis.flushall() if everything else self.redis.delete(key(self._run_id)))

    async def _open(self, number: int, process: int) -> None:
        client = self._clients[number]
        await client.close()
        await client.start(process)

    async def _gather(self, process: int) -> None:
        """Everybody comes to one process, each when the one before has caught up."""
        for number in range(READERS):
            await self._open(number, process)
            await self._settle()

    async def _cut(self, number: int, back: int) -> None:
        """The client goes, and what it took in last did not all stay with it."""
        client = self._clients[number]
        await client.close()
        client.letters = client.letters[: max(0, len(client.letters) - back)]

    async def _stall(self, number: int) -> None:
        self._clients[number].stall_or_go_on()

    async def _history_fails(self, process: int) -> None:
        self.logs[process].failing_reads += 1

    async def _disconnect_hubs(self) -> None:
        await self.redis.client_kill_filter(_type="pubsub")

    async def _turn(self, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(0)

    async def _settle(self) -> None:
        """Wait until the newest attempt is in the log; then the log holds it, and nothing of an older one (P3).

        And everybody who reads comes to hold it, without the end's help.
        """
        assert await self._writers[self._attempt].flush(DEADLINE)
        attempt, held = await held_letters(self.redis, self._run_id) or (0, Letters())
        if self._worker_logs[self._attempt].whole:
            assert attempt == self._attempt
            assert held == self._said[attempt]
            for client in self._clients:
                await client.caught_up(attempt, held)
        elif attempt:
            assert held == self._said[attempt][: len(held)]


class Client:
    """What somebody's browser holds: what it was told, by whichever process, put together."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.attempt = 0
        self.letters: Letters = []
        self.ids: list[tuple[int, int, Letters]] = []
        self._told = asyncio.Event()
        self._going = asyncio.Event()
        self._going.set()
        self._task: asyncio.Task[None] | None = None
        self._over = False

    @property
    def open(self) -> bool:
        return self._task is not None and not self._task.done()

    async def start(self, process: int) -> None:
        if not self._over:
            self._task = asyncio.create_task(self._follow(process))

    async def close(self) -> None:
        if self._task is not None:
            await _stop([self._task])
            self._task = None

    def check(self) -> None:
        """Raise what went wrong in the meantime."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    async def caught_up(self, attempt: int, letters: Letters) -> None:
        while self.open and self._going.is_set() and (self.attempt, self.letters) != (attempt, letters):
            self._told.clear()
            await self._told.wait()

    def stall_or_go_on(self) -> None:
        if self._going.is_set():
            self._going.clear()
        else:
            self._going.set()

    async def ended(self) -> None:
        self._going.set()
        if self._task is not None:
            await self._task
        assert self._over

    def take_all(self, events: Sequence[Event]) -> None:
        for event in events:
            self.take(frame(Entry(event.attempt, event.start, event.end, event.type, json.dumps(event.data).encode())))

    def take(self, told: bytes) -> None:
        """Take in one server-sent event. Nothing is repeated, skipped, or of an attempt that is over."""
        fields = re.fullmatch(r"id: (\d+)-(\d+)\nevent: (\S+)\ndata: (.*)\n\n", told.decode())
        assert fields, told
        attempt, position, type_ = int(fields[1]), int(fields[2]), fields[3]
        assert attempt >= self.attempt, "an older attempt came back"
        if attempt > self.attempt:
            assert type_ == OPENING[attempt], "a new attempt begins with saying so"
            self.attempt, self.letters = attempt, []
        self.letters = self.letters + letters_of(type_, json.loads(fields[4]))
        assert len(self.letters) == position, "the id is not the place"
        assert self.letters == self._world.letters(attempt)[:position]
        self.ids.append((attempt, position, self.letters))
        self._over = type_ in TERMINAL

    async def _follow(self, process: int) -> None:
        reader = self._world.reader(Cursor(self.attempt, len(self.letters)), process)
        async with aclosing(reader.frames()) as batches:
            async for frames in batches:
                for told in frames:
                    self.take(told.encoded)
                self._told.set()
                await self._going.wait()


async def _stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
