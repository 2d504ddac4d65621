"""An attempt as letters, one for each position: a character of the model's text, or an event that is not text."""

from __future__ import annotations

import json
from typing import Any

from redis.asyncio import Redis

from runstream.domain.events import DELTA
from runstream.stream.log import key

Letters = list[str]


def letters_of(type_: str, data: dict[str, Any]) -> Letters:
    return list(data["text"]) if type_ == DELTA else [json.dumps((type_, data), sort_keys=True)]


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
