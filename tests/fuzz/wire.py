"""A request as bytes, whatever they are, and what came back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import monotonic

import h11

STREAM = "text/event-stream"
_CHUNK = 2**16


@dataclass(frozen=True)
class Ask:
    """`operation` is what it began as. Of a request that is `broken` nobody knows what it says, if anything.

    An answer takes up to `waits` seconds longer, as was asked for. A stream is left after `reads` seconds.
    """

    operation: str
    token: str
    headers: list[tuple[str, str]]
    sent: bytes
    method: str = "GET"
    target: str = "/"
    waits: float = 0
    reads: float = 0
    broken: bool = False
    spoilt: bool = False
    """Its address or its method is not the operation's."""
    names: str | None = None
    """The id of what the address names last, where it is one."""

    def __str__(self) -> str:
        return f"{self.operation}: {self.sent[:1500]!r}"


@dataclass
class Answer:
    """`whole` says whether it came to its end."""

    began: float
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith(STREAM)


def head(method: str, target: str, headers: list[tuple[str, str]]) -> bytes:
    """In Latin-1, as servers read it; what does not fit in is sent as UTF-8."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return b"\r\n".join(_encoded(line) for line in lines) + b"\r\n\r\n"


def _encoded(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")


async def ask(port: int, request: Ask, *, deadline: float) -> Answer | None:
    """None where there was no answer. Raises TimeoutError after `deadline` seconds without the whole of one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(deadline + request.waits):
            return await _asked(reader, writer, request)
    finally:
        writer.transport.abort()


async def _asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Ask) -> Answer | None:
    began = monotonic()
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=request.method if request.method == "HEAD" else "GET", target="/", headers=_ANY))
    parser.send(h11.EndOfMessage())
    answer: Answer | None = None
    try:
        writer.write(request.sent)
        if request.broken:
            writer.write_eof()
        while True:
            match parser.next_event():
                case h11.Response() as response:
                    headers = {name.decode(): value.decode("latin-1") for name, value in response.headers}
                    answer = Answer(began, response.status_code, headers)
                case h11.Data() as data:
                    assert answer is not None
                    answer.body += bytes(data.data)
                case h11.EndOfMessage():
                    assert answer is not None
                    answer.whole = True
                    return answer
                case h11.NEED_DATA:
                    if answer is not None and answer.is_stream and monotonic() - began > request.reads:
                        return answer
                    received = await _read(reader, request.reads if answer is not None and answer.is_stream else None)
                    if received is None:
                        return answer
                    parser.receive_data(received)
                    if not received and answer is None:
                        return None
                case h11.ConnectionClosed():
                    return answer
    except (ConnectionError, h11.RemoteProtocolError):
        return answer


async def _read(reader: asyncio.StreamReader, seconds: float | None) -> bytes | None:
    """None where nothing came for so long."""
    try:
        async with asyncio.timeout(seconds):
            return await reader.read(_CHUNK)
    except TimeoutError:
        if seconds is None:
            raise
        return None


_ANY = [("Host", "any"), ("Connection", "close")]
