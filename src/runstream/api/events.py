"""Server-sent events: a reader's frames, on the wire."""

import asyncio
import random
from collections.abc import Iterable, Mapping
from contextlib import aclosing

from fastapi import Response
from starlette.types import Receive, Scope, Send

from runstream.api.context import server_send
from runstream.domain.events import Event
from runstream.metrics import RELAYED_EVENTS
from runstream.stream.log import Entry, encode
from runstream.stream.reader import Reader

MEDIA_TYPE = "text/event-stream"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_HEARTBEAT = b": keep-alive\n\n"


def frame(entry: Entry) -> bytes:
    """An entry as one event. Its JSON has no line breaks, so neither has its data line."""
    return b"id: %d-%d\nevent: %b\ndata: %b\n\n" % (entry.attempt, entry.end, entry.type.encode(), entry.data)


def replay(events: Iterable[Event], headers: Mapping[str, str] | None = None) -> Response:
    """The rest of a run that has ended: one body, at once."""
    body = b"".join(frame(encode(event)) for event in events)
    return Response(body, headers={**_HEADERS, **(headers or {})}, media_type=MEDIA_TYPE)


class EventStream(Response):
    """Sends what the reader has, all that is waiting at once.

    Ends after the run's end. Where it ends before, it says how many milliseconds, drawn anew for each reader, to
    wait before coming back, so that they do not come back in one wave.
    """

    def __init__(self, reader: Reader, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers={**_HEADERS, **(headers or {})}, media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # The pump has a task of its own: waking it for a token goes through no frame of what stands around a request.
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pump(server_send(scope)))
            await _over(receive)
            self._reader.stop()

    async def _pump(self, send: Send) -> None:
        async with aclosing(self._reader.frames()) as batches:
            async for frames in batches:
                ended, body = False, _HEARTBEAT
                if frames:
                    body = b"".join([frame.encoded for frame in frames])
                    ended = frames[-1].entry.terminal
                    RELAYED_EVENTS.count += len(frames)
                await send({"type": "http.response.body", "body": body, "more_body": not ended})
                if ended:
                    return
        body = b"retry: %d\n\n" % random.randint(100, 1500)  # noqa: S311
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def _over(receive: Receive) -> None:
    """Until the client is gone or has been sent everything."""
    while (await receive())["type"] != "http.disconnect":
        pass
