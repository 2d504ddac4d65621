"""The provider that every system is measured against: OpenAI chat completions, streamed, at a set pace.

    python -m tests.bench.provider PORT

The model's name sets the work: `sim:TOKENS:PER_SECOND`. PER_SECOND 0 means as fast as the socket takes them;
`sim:TOKENS:PER_SECOND:hold` sends its tokens and then keeps the stream open without another byte.

A token is the sender's monotonic clock in microseconds and a space, so that a client on the same host can
tell how old each token is when it arrives. It is one process of bare protocols and timers, one HTTP chunk a
token, so that a system under test is the bottleneck and not what feeds it.
"""

import asyncio
import sys
import time
from typing import NamedTuple, cast

import httptools
import orjson
import uvloop

BURST = 32
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


class Work(NamedTuple):
    """What a model's name asks for."""

    tokens: int
    per_second: float
    hold: bool

    @classmethod
    def named(cls, model: str) -> "Work":
        kind, tokens, per_second, *rest = model.split(":")
        if kind != "sim" or rest not in ([], ["hold"]):
            raise ValueError(model)
        return cls(int(tokens), float(per_second), bool(rest))


class Generation:
    """One answer being streamed. `ended` is called when its last byte has been written."""

    def __init__(self, transport: asyncio.Transport, model: str, work: Work, ended: "asyncio.Future[None]") -> None:
        self.loop = asyncio.get_running_loop()
        self.transport, self.work, self.ended = transport, work, ended
        self.sent, self.blocked = 0, False
        self.timer: asyncio.Handle | None = None
        self.chunk = b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1,"model":"%b",' % (
            model.encode()
        )
        self.before = self.chunk + b'"choices":[{"index":0,"delta":{"content":"'
        self.after = b' "},"finish_reason":null}]}\n\n'
        self.fixed = len(self.before) + len(self.after)

    def start(self) -> None:
        self.transport.write(STREAM_HEAD)
        self.began = self.loop.time()
        if self.work.per_second:
            self.send_what_is_due()
        else:
            self.send_a_burst()

    def stop(self) -> None:
        if self.timer:
            self.timer.cancel()

    def resume(self) -> None:
        self.blocked = False
        if not self.work.per_second and not self.timer:
            self.send_a_burst()

    def send_what_is_due(self) -> None:
        """A generation that has fallen behind its pace catches up in one write."""
        due = int((self.loop.time() - self.began) * self.work.per_second) + 1
        self.send(max(due, self.sent + 1) - self.sent)
        if self.sent < self.work.tokens:
            self.timer = self.loop.call_at(self.began + self.sent / self.work.per_second, self.send_what_is_due)
        else:
            self.finish()

    def send_a_burst(self) -> None:
        self.timer = None
        self.send(BURST)
        if self.sent == self.work.tokens:
            self.finish()
        elif not self.blocked:
            self.timer = self.loop.call_soon(self.send_a_burst)

    def send(self, count: int) -> None:
        count = min(count, self.work.tokens - self.sent)
        self.sent += count
        self.transport.write(b"".join([self.token() for _ in range(count)]))

    def token(self) -> bytes:
        clock = b"%d" % (time.monotonic_ns() // 1000)
        return b"%x\r\n%b%b%b\r\n" % (self.fixed + len(clock), self.before, clock, self.after)

    def finish(self) -> None:
        if self.work.hold:
            return
        usage = orjson.dumps({"prompt_tokens": 11, "completion_tokens": self.sent, "total_tokens": self.sent + 11})
        tail = b"".join(
            (
                self.chunk + b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
                self.chunk + b'"choices":[],"usage":%b}\n\n' % usage,
                b"data: [DONE]\n\n",
            )
        )
        self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(tail), tail))
        self.ended.set_result(None)


class Connection(asyncio.Protocol):
    """One client's connection, kept alive between requests; requests are not pipelined."""

    transport: asyncio.Transport
    generation: Generation | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self.expect_request()

    def expect_request(self) -> None:
        self.body = b""
        self.parser = httptools.HttpRequestParser(self)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.keep_alive = self.parser.should_keep_alive()
        try:
            model = orjson.loads(self.body)["model"]
            work = Work.named(model)
        except (ValueError, KeyError):
            self.refuse()
            return
        ended = asyncio.get_running_loop().create_future()
        ended.add_done_callback(self.generation_ended)
        self.generation = Generation(self.transport, model, work, ended)
        self.generation.start()

    def refuse(self) -> None:
        body = b'{"error":{"message":"ask for a model sim:TOKENS:PER_SECOND"}}'
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()

    def generation_ended(self, _: "asyncio.Future[None]") -> None:
        self.generation = None
        if self.keep_alive:
            self.expect_request()
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def pause_writing(self) -> None:
        if self.generation:
            self.generation.blocked = True

    def resume_writing(self) -> None:
        if self.generation:
            self.generation.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.generation:
            self.generation.stop()


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
