"""How each system is spoken to: starting a run, reading it, and joining one that somebody else started."""

from collections.abc import Mapping
from itertools import count
from types import MappingProxyType
from typing import Any, Protocol

import orjson
from tests.bench.load import Address, Exchange, ExchangeFailed, Frames, Reader

NUMBERS = count(1)


def messages() -> list[dict[str, str]]:
    """A prompt that was never sent before, so that no cache has its answer."""
    return [{"role": "user", "content": f"go {next(NUMBERS)}"}]


class Client(Protocol):
    async def run(self, model: str, reader: Reader) -> None:
        """Start a run and read it to its end."""

    async def begin(self, model: str) -> str:
        """Start a run that goes on by itself, and answer what `join` knows it by."""

    async def join(self, run: str) -> Exchange:
        """Open one more reader of a run; returns once the answer has begun."""


class DirectClient:
    """The provider itself, or what speaks as it does."""

    def __init__(self, address: Address) -> None:
        self.address = address

    async def run(self, model: str, reader: Reader) -> None:
        def frame(event: bytes, data: bytes) -> None:
            if data == b"[DONE]":
                reader.ended = True
                return
            choices = orjson.loads(data)["choices"]
            if choices:
                reader.read(choices[0]["delta"].get("content") or "")

        body = orjson.dumps({"model": model, "stream": True, "messages": messages()})
        await streamed(self.address, "POST", "/v1/chat/completions", body, Frames(frame))

    async def begin(self, model: str) -> str:
        raise NotImplementedError("a provider's answer has one reader")

    async def join(self, run: str) -> Exchange:
        raise NotImplementedError("a provider's answer has one reader")


class ResumableClient:
    """resumable-stream: the POST is the first reader, a GET joins."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.first_readers: list[Exchange] = []

    async def run(self, model: str, reader: Reader) -> None:
        def frame(event: bytes, data: bytes) -> None:
            if data == b"[DONE]":
                reader.ended = True
            else:
                reader.read(orjson.loads(data)["delta"])

        await streamed(self.address, "POST", "/streams", orjson.dumps({"model": model}), Frames(frame))

    async def begin(self, model: str) -> str:
        exchange = await opened(self.address, "POST", "/streams", orjson.dumps({"model": model}))
        self.first_readers.append(exchange)
        return exchange.headers[b"x-stream-id"].decode()

    async def join(self, run: str) -> Exchange:
        return await opened(self.address, "GET", f"/streams/{run}")


class NaiveClient:
    def __init__(self, address: Address) -> None:
        self.address = address

    async def run(self, model: str, reader: Reader) -> None:
        def frame(event: bytes, data: bytes) -> None:
            if event == b"end":
                reader.ended = True
            else:
                reader.read(data.decode())

        await streamed(self.address, "GET", self.stream_of(await self.begin(model)), None, Frames(frame))

    async def begin(self, model: str) -> str:
        return await created(self.address, "/generations", {"prompt": "go", "model": model}, 200)

    async def join(self, run: str) -> Exchange:
        return await opened(self.address, "GET", self.stream_of(run))

    def stream_of(self, run: str) -> str:
        return f"/generations/{run}/stream"


class RunstreamClient:
    """The POST is the first reader, as with resumable-stream; a GET joins. `asked` goes with every request."""

    def __init__(self, address: Address, asked: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.address, self.asked = address, asked

    async def run(self, model: str, reader: Reader) -> None:
        def frame(event: bytes, data: bytes) -> None:
            if event == b"run.delta":
                reader.read(orjson.loads(data)["text"])
            elif event == b"run.completed":
                reader.ended = True

        body = orjson.dumps(self.request(model))
        await streamed(self.address, "POST", "/v1/runs", body, Frames(frame), accept="text/event-stream")

    async def begin(self, model: str) -> str:
        return await created(self.address, "/v1/runs", self.request(model), 202)

    def request(self, model: str) -> dict[str, object]:
        return {"feature": "chat", "model": model, "input": {"messages": messages()}, **self.asked}

    async def join(self, run: str) -> Exchange:
        return await opened(self.address, "GET", self.events_of(run))

    def events_of(self, run: str) -> str:
        return f"/v1/runs/{run}/events"


async def created(address: Address, path: str, body: dict[str, object], expected: int) -> str:
    answer = bytearray()
    exchange = await Exchange.open(address, "POST", path, orjson.dumps(body), answer.extend)
    await exchange.finish()
    status = exchange.opened.result()
    if status != expected:
        raise ExchangeFailed(f"POST {path} answered {status}: {answer[:200].decode(errors='replace')}")
    run = orjson.loads(answer)["id"]
    assert isinstance(run, str)
    return run


async def streamed(
    address: Address, method: str, path: str, body: bytes | None, frames: Frames, accept: str | None = None
) -> None:
    exchange = await Exchange.open(address, method, path, body, frames.feed, accept)
    expect_ok(exchange, f"{method} {path}")
    await exchange.finish()


async def opened(address: Address, method: str, path: str, body: bytes | None = None) -> Exchange:
    exchange = await Exchange.open(address, method, path, body, discard)
    expect_ok(exchange, f"{method} {path}")
    return exchange


def expect_ok(exchange: Exchange, asked: str) -> None:
    status = exchange.opened.result()
    if status != 200:
        exchange.abandon()
        raise ExchangeFailed(f"{asked} answered {status}")


def discard(piece: bytes) -> None:
    return None
