"""What stands in a provider's JSON, read with distrust: each protocol takes what it needs from it this way."""

import json
from collections.abc import Mapping
from typing import Any

import orjson

from runstream.domain.errors import ProviderProtocolError
from runstream.providers.text import clean

_MAX_NAME = 200
_MAX_COUNT = 2**31 - 1
"""What a run's row can hold: an end that does not fit could not be written."""


def object_of(data: bytes) -> dict[str, Any]:
    """The JSON object that an event's data is; an empty one for no data. Raises `ProviderProtocolError`."""
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        chunk = _in_bad_unicode(data)
    if not isinstance(chunk, dict):
        raise ProviderProtocolError("The provider sent a chunk that is not a JSON object.")
    return chunk


def text_of(content: object) -> str:
    """The text of content that is a string, or a list of parts of which some are text."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def name_of(value: object) -> str | None:
    """A name that can be kept; none, where it is no text."""
    return clean(value)[:_MAX_NAME] if isinstance(value, str) else None


def count_of(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= _MAX_COUNT else None


def cached_of(details: object, read: int) -> int:
    """The cached ones among the `read` tokens: some servers count them apart, and then there may be more of them."""
    cached = count_of(details.get("cached_tokens")) if isinstance(details, Mapping) else None
    return min(cached or 0, read)


def _in_bad_unicode(data: bytes) -> object:
    """Servers that cut a token's bytes or a surrogate pair in two send what strict JSON parsers refuse."""
    if not data.strip():
        return {}
    try:
        return json.loads(data.decode(errors="replace"))
    except (ValueError, RecursionError):
        raise ProviderProtocolError("The provider sent a chunk that is not JSON.") from None
