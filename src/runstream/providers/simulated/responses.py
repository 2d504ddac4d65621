"""The Responses protocol: an answer in its events, and the answers that are kept to be read again."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from runstream.providers.simulated.answer import Answer, chunked
from runstream.providers.simulated.calls import Call

_FIELDS = frozenset(
    {"model", "input", "stream", "store", "background", "temperature", "max_output_tokens"}
    | {"tools", "tool_choice", "text", "reasoning"}
)
_PARTS = frozenset({"input_text", "input_image", "input_file", "output_text", "refusal"})
_CREATED = 1_700_000_000
_KEPT = 10_000
_BURST = 64
"""Events made between two looks at the loop when there is no pace to keep."""


class ResponsesAnswer(Answer):
    id_prefix = "resp_sim"
    field = "input"

    @staticmethod
    def asked(body: dict[str, Any]) -> dict[str, Any]:
        """As strict as the real server about what it takes, as far as a client may go wrong there."""
        _check(body)
        return {
            "model": body.get("model"),
            "messages": [{"role": item.get("role", "tool"), "content": _text(item)} for item in body["input"]],
            "max_tokens": body.get("max_output_tokens"),
            "stream": body.get("stream"),
            "background": body.get("background"),
        }

    def __init__(self, script: Any, body: Mapping[str, Any], number: int) -> None:
        super().__init__(script, body, number)
        self.events: list[bytes] = []
        """In the background, what was said so far: an event's place is its number."""
        self.in_background = bool(body.get("background"))
        self._number = 0
        self._kind = ""
        self._output: list[dict[str, Any]] = []
        self._said: list[str] = []

    def begin(self) -> bytes:
        response = self.response("queued" if self.in_background else "in_progress")
        names = ("response.created", "response.in_progress")
        return chunked(b"".join(self._event(name, response=response) for name in names))

    def chunks(self) -> Iterator[bytes]:
        for token in self.tokens():
            yield chunked(b"".join(self._events(token)))

    def tail(self) -> bytes:
        ended = b"".join(self._end_item())
        status = "incomplete" if self.reason == "length" else "completed"
        return ended + self._event(f"response.{status}", response=self.response(status))

    def failed(self) -> bytes:
        return self._event("response.failed", response=self.response("failed"))

    def malformed(self) -> bytes:
        return b'event: response.output_text.delta\ndata: {"type":"response.output_text.del\n\n'

    def whole(self) -> dict[str, Any]:
        for _ in self.chunks():
            pass
        self.tail()
        return self.response("incomplete" if self.reason == "length" else "completed")

    def usage(self) -> dict[str, Any]:
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": self.sent,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.input_tokens + self.sent,
        }

    def response(self, status: str) -> dict[str, Any]:
        ended = status not in {"queued", "in_progress"}
        return {
            "id": self.id,
            "object": "response",
            "created_at": _CREATED,
            "model": self.model,
            "background": self.in_background,
            "status": status,
            "error": {"code": "server_error", "message": "simulated error"} if status == "failed" else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": self._output if ended else [],
            "usage": self.usage() if ended else None,
        }

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = orjson.dumps({"type": kind, "sequence_number": self._number, **fields})
        event = b"event: %s\ndata: %s\n\n" % (kind.encode(), data)
        self._number += 1
        if self.in_background:
            self.events.append(event)
        return event

    def _events(self, token: str | Mapping[str, Any]) -> Iterator[bytes]:
        """One token's, with the end of the item before it and the beginning of its own where it begins one."""
        if isinstance(token, str):
            yield from self._begin_item("message", {"role": "assistant", "content": []})
            yield self._delta("output_text", token, content_index=0)
        elif "reasoning_content" in token:
            yield from self._begin_item("reasoning", {"summary": []})
            yield self._delta("reasoning_summary_text", token["reasoning_content"], summary_index=0)
        else:
            for piece in token["tool_calls"]:
                function = piece["function"]
                call = {"call_id": piece.get("id"), "name": function.get("name"), "arguments": ""}
                yield from self._begin_item(f"function_call {piece['index']}", call)
                if arguments := function["arguments"]:
                    yield self._delta("function_call_arguments", arguments)

    def _delta(self, channel: str, text: str, **place: int) -> bytes:
        self._said.append(text)
        return self._at_item(f"{channel}.delta", delta=text, **place)

    def _at_item(self, kind: str, **fields: Any) -> bytes:
        index = len(self._output) - 1
        return self._event(f"response.{kind}", output_index=index, item_id=self._output[index]["id"], **fields)

    def _begin_item(self, kind: str, fields: Mapping[str, Any]) -> Iterator[bytes]:
        if kind == self._kind:
            return
        yield from self._end_item()
        self._kind, self._said = kind, []
        item_type, place = kind.split(maxsplit=1)[0], len(self._output)
        item = {"id": f"{item_type}_{place}", "type": item_type, "status": "in_progress", **fields}
        self._output.append(item)
        yield self._event("response.output_item.added", output_index=place, item=item)
        if item_type == "message":
            yield self._at_item("content_part.added", content_index=0, part={"type": "output_text", "text": ""})
        elif item_type == "reasoning":
            part = {"type": "summary_text", "text": ""}
            yield self._at_item("reasoning_summary_part.added", summary_index=0, part=part)

    def _end_item(self) -> Iterator[bytes]:
        if not self._kind:
            return
        item, said = self._output[-1], "".join(self._said)
        if item["type"] == "message":
            part = {"type": "output_text", "text": said, "annotations": []}
            item["content"] = [part]
            yield self._at_item("output_text.done", content_index=0, text=said)
            yield self._at_item("content_part.done", content_index=0, part=part)
        elif item["type"] == "reasoning":
            part = {"type": "summary_text", "text": said}
            item["summary"] = [part]
            yield self._at_item("reasoning_summary_text.done", summary_index=0, text=said)
            yield self._at_item("reasoning_summary_part.done", summary_index=0, part=part)
        else:
            item["arguments"] = said
            yield self._at_item("function_call_arguments.done", arguments=said, name=item["name"])
        item["status"] = "completed"
        yield self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)


class Kept:
    """An answer in the background: made at its pace, whoever listens."""

    def __init__(self, answer: ResponsesAnswer, call: Call) -> None:
        self.answer = answer
        self.began = time.monotonic()
        self.status = "in_progress"
        self.over = False
        """Nothing more comes."""
        self._call = call
        self._news = asyncio.Event()
        self._making = asyncio.get_running_loop().create_task(self._make())

    def response(self) -> dict[str, Any]:
        return self.answer.response(self.status)

    async def news(self, seen: int) -> list[bytes]:
        """The events from that number on, once there are some; none when nothing more comes."""
        while len(self.answer.events) <= seen and not self.over:
            await self._news.wait()
        return self.answer.events[seen:]

    def cancel(self) -> None:
        """Also one that says nothing more and has not ended."""
        if self.status == "in_progress":
            self.status = "cancelled"
            if not self.over:
                self._making.cancel()
                self._call.end("cancelled", self.answer.sent)
                self._tell(over=True)

    async def _make(self) -> None:
        answer, script = self.answer, self.answer.script
        await asyncio.sleep(script.header_seconds)
        answer.begin()
        self._tell()
        await asyncio.sleep(script.first_seconds)
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number, _ in enumerate(answer.chunks()):
            self._tell()
            due = start + (number + 1) / script.per_second if script.per_second else 0
            if due or number % _BURST == _BURST - 1:
                await asyncio.sleep(due - loop.time())
        if script.ending == "finish":
            answer.tail()
            self.status = "incomplete" if answer.reason == "length" else "completed"
        elif script.ending == "error":
            answer.failed()
            self.status = "failed"
        if script.ending != "hang":
            self._call.end(script.ending, answer.sent)
            self._tell(over=True)

    def _tell(self, *, over: bool = False) -> None:
        self.over = over
        news, self._news = self._news, asyncio.Event()
        news.set()


class KeptAnswers:
    """The last 10,000 of them, by id."""

    def __init__(self) -> None:
        self.streamed_for = 300.0
        """Seconds from its beginning on that an answer is streamed; then it can still be looked at."""
        self._kept: dict[str, Kept] = {}

    def keep(self, answer: ResponsesAnswer, call: Call) -> Kept:
        kept = self._kept[answer.id] = Kept(answer, call)
        if len(self._kept) > _KEPT:
            self._kept.pop(next(iter(self._kept))).cancel()
        return kept

    def get(self, name: str) -> Kept | None:
        return self._kept.get(name)

    def is_streamed(self, kept: Kept) -> bool:
        return time.monotonic() - kept.began < self.streamed_for

    def forget(self) -> None:
        for kept in self._kept.values():
            kept.cancel()
        self._kept.clear()


def _check(body: Mapping[str, Any]) -> None:
    for field in sorted(set(body) - _FIELDS):
        raise ValueError(f"Unknown parameter: '{field}'.")
    if body.get("background") and not body.get("store", True):
        raise ValueError("Background responses have to be stored.")
    for item in body["input"]:
        kind = item.get("type", "message")
        if kind == "message":
            parts = content if isinstance(content := item["content"], list) else []
            if any(part.get("type") not in _PARTS for part in parts):
                raise ValueError("Invalid value for a part of 'input'.")
        elif kind not in {"function_call", "function_call_output"} or not isinstance(item.get("call_id"), str):
            raise ValueError("Invalid value for an item of 'input'.")
    for tool in body.get("tools") or ():
        if not tool.get("name"):
            raise ValueError("Missing required parameter: 'tools[0].name'.")
    form = (body.get("text") or {}).get("format") or {}
    if form.get("type") == "json_schema" and not ("name" in form and "schema" in form):
        raise ValueError("Missing required parameter: 'text.format.name'.")


def _text(item: Mapping[str, Any]) -> str:
    content = item.get("content") or item.get("output") or ""
    return content if isinstance(content, str) else "\n".join(part.get("text") or "" for part in content)
