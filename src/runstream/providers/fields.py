"""What a provider's JSON holds, taken for what it is: objects, counts, names."""

import json
from typing import Any

import orjson

from runstream.domain.errors import ProviderProtocolError
from runstream.providers.text import clean

_MAX_COUNT = 2**31 - 1
"""What a run's row can hold: an end that does not fit could not be written."""


def object_of(data: bytes) -> dict[str, Any]:
    """The object in an event's data; an empty one for none. Raises `ProviderProtocolError`."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        value = _in_bad_unicode(data)
    if not isinstance(value, dict):
        raise ProviderProtocolError("The provider sent a chunk that is not a JSON object.")
    return value


def count_of(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else None


def name_of(value: object, longest: int) -> str | None:
    return clean(value)[:longest] if isinstance(value, str) else None


def _in_bad_unicode(data: bytes) -> object:
    """Servers that cut a token's bytes or a surrogate pair in two send what strict JSON parsers refuse."""
    if not data.strip():
        return {}
    try:
        return json.loads(data.decode(errors="replace"))
    except (ValueError, RecursionError):
        raise ProviderProtocolError("The provider sent a chunk that is not JSON.") from None
