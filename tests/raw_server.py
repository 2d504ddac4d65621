"""A server whose answers are given byte for byte, and a call to it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from runstream.domain.prompt import Prompt
from runstream.providers.base import Call, Finished, Opened, Provider, TextDelta, Timeouts

PATIENT = Timeouts(connect=10, first_token=20, idle=20, total=30)
CALL = Call("m", Prompt([{"role": "user", "content": "Tell me something."}]))
Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Request:
    head: str
    body: dict[str, Any]
    connection: int


@dataclass
class RawServer:
    """Answers the n-th request with the n-th answer (the last one again after that), byte for byte."""

    answers: list[Answer]
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lengths = [line for line in head.lower().split("\r\n") if line.startswith("content-length:")]
                body = await reader.readexactly(int(lengths[0].split(":")[1])) if lengths else b"{}"
                self.requests.append(Request(head, json.loads(body), connection))
                answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
                if callable(answer):
                    await answer(writer)
                else:
                    writer.write(answer)
                await writer.drain()
                if isinstance(answer, bytes) and b"connection: close" in answer.lower():
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def raw_server(*answers: Answer) -> AsyncIterator[RawServer]:
    raw = RawServer(list(answers))
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
    raw.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield raw
    finally:
        server.close()


def answer(body: bytes, status: int = 200, content_type: str = "text/event-stream", *extra: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *extra]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def refusal(status: int, error: object, *extra: str) -> bytes:
    return answer(json.dumps(error).encode(), status, "application/json", *extra)


def events(*data: object, end: str = "\n\n", prefix: str = "data: ") -> bytes:
    texts = (item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in data)
    return "".join(f"{prefix}{text}{end}" for text in texts).encode()


async def generate(provider: Provider, call: Call = CALL, timeouts: Timeouts = PATIENT) -> tuple[str, Finished]:
    texts, finished = [], None
    async with asyncio.timeout(20), provider.stream(call, timeouts) as pieces:
        async for piece in pieces:
            match piece:
                case TextDelta(text):
                    texts.append(text)
                case Finished():
                    finished = piece
                case Opened():
                    assert not texts
    assert finished is not None
    return "".join(texts), finished
