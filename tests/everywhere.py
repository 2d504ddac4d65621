"""Search all that Postgres and Redis hold for words, without knowing what is kept where."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import redis

from reliability import rows
from stack import Stack

TABLES = """
    SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'm') ORDER BY 1
"""


async def found(stack: Stack, words: Iterable[str]) -> set[tuple[str, str]]:
    """Each of the words that is found, with the place: a table, or the kind of a key of Redis."""
    words = list(words)
    return await in_postgres(stack, words) | in_redis(stack, words)


async def in_postgres(stack: Stack, words: list[str]) -> set[tuple[str, str]]:
    """In every table of the catalogue, all columns of a row cast to text together; bytes are searched as bytes, too."""
    hits = set()
    for (table,) in await rows(stack, TABLES):
        query = f"""
            SELECT DISTINCT word FROM "{table}" AS row, unnest($1::text[]) AS word
            WHERE position(word IN lower(row::text)) > 0
                OR position(encode(convert_to(word, 'UTF8'), 'hex') IN lower(row::text)) > 0
        """
        hits |= {(word, table) for (word,) in await rows(stack, query, [word.lower() for word in words])}
    return hits


def in_redis(stack: Stack, words: list[str]) -> set[tuple[str, str]]:
    """In every key's name and value, of every type; what is compressed or encoded is read."""
    hits = set()
    with redis.Redis.from_url(stack.redis_url, socket_timeout=60) as client:
        for name in client.scan_iter(count=1000):
            held = b"\n".join(form for value in [name, *values(client, name)] for form in forms(value)).lower()
            kind = name.decode(errors="replace").split(":")[1]
            hits |= {(word.lower(), f"redis {kind}") for word in words if word.lower().encode() in held}
    return hits


def values(client: Any, name: bytes) -> Iterator[bytes]:
    """All that stands there. Fails where it cannot be read."""
    kind = client.type(name).decode()
    match kind:
        case "string":
            yield client.get(name) or b""
        case "hash":
            for pair in client.hgetall(name).items():
                yield from pair
        case "list":
            yield from client.lrange(name, 0, -1)
        case "set":
            yield from client.smembers(name)
        case "zset":
            yield from client.zrange(name, 0, -1)
        case "stream":
            for _, fields in client.xrange(name):
                for pair in fields.items():
                    yield from pair
        case "none":
            return  # it has expired meanwhile
        case _:
            raise AssertionError(f"{name!r} is of a kind that cannot be searched: {kind}")


def forms(value: bytes) -> Iterator[bytes]:
    """What it is, and what it may stand for."""
    yield value
    for read in (lambda: zlib.decompress(value, 47), lambda: base64.b64decode(value, validate=True)):
        try:
            yield read()
        except (ValueError, zlib.error):
            continue
