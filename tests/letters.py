"""An attempt as letters, one for each position: a character of what the model says, or another event."""

from __future__ import annotations

import json
from typing import Any

from redis.asyncio import Redis

from runstream.domain.events import DELTA, REASONING, TOOL_CALL
from runstream.stream.log import key

Letters = list[str]


def letters_of(type_: str, data: dict[str, Any]) -> Letters:
    """Text as it is, reasoning and arguments behind a mark and the call's index, anything else as JSON."""
    if type_ == DELTA:
        return list(data["text"])
    if type_ == REASONING:
        return [f"~{letter}" for letter in data["text"]]
    if type_ == TOOL_CALL and "arguments" in data:
        return [f"{data['index']}{letter}" for letter in data["arguments"]]
    return [json.dumps((type_, data), sort_keys=True)]


def event_of(letter: str) -> list[Any]:
    match list(letter):
        case [text]:
            return [DELTA, {"text": text}]
        case ["~", text]:
            return [REASONING, {"text": text}]
        case [index, text]:
            return [TOOL_CALL, {"index": int(index), "arguments": text}]
    return json.loads(letter)


async def held_letters(redis: Redis, run_id: str) -> tuple[int, Letters] | None:
    """What the log holds, read without the product: one attempt's letters, from the first on."""
    attempts: set[int] = set()
    letters: Letters = []
    for entry_id, fields in await redis.xrange(key(run_id)):
        attempt, end = map(int, entry_id.split(b"-"))
        start, type_, data = fields[b"e"].split(b" ", 2)
        assert int(start) == len(letters)
        letters += letters_of(type_.decode(), json.loads(data))
        assert end == len(letters)
        attempts.add(attempt)
    assert len(attempts) <= 1
    return (attempts.pop(), letters) if attempts else None
