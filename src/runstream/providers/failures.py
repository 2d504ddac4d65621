"""What a provider's refusals and broken answers become in the one error tree."""

import math
import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from runstream.domain.errors import ProviderError, ProviderRateLimited, ProviderRefused, ProviderUnavailable
from runstream.providers.text import clean

_MAX_MESSAGE = 500
_MAX_READ = 100_000
_MIN_PROMPT = 12
"""Shorter texts are words that any message may contain."""

_RATE_LIMITED = ("rate_limit", "rate limit", "ratelimit", "quota", "too_many_requests", "throttl")
_REFUSED = (
    "invalid",
    "authentication",
    "permission",
    "not_found",
    "notfound",
    "badrequest",
    "bad_request",
    "context_length",
    "content_filter",
    "content_policy",
    "unsupported",
    "too_large",
    "billing",
)
_TOO_MANY_REQUESTS = 429
_SERVER_ERRORS = 500
_TIMED_OUT = frozenset({408, 425})


class Scrubber:
    """Cuts a provider's message to what may be shown: no key, no prompt, at most 500 characters."""

    def __init__(self, api_keys: Iterable[str]) -> None:
        keys = "|".join(re.escape(key) for key in sorted(api_keys, key=len, reverse=True) if key)
        known = rf"|(?<![\w-])(?:{keys})(?![\w-])" if keys else ""
        self._secret = re.compile(rf"\bsk-[\w*.…-]{{4,}}|(?i:\bbearer)\s+(?=\S*\d)\S{{8,}}{known}")

    def __call__(self, message: str, prompts: Iterable[str] = ()) -> str:
        message = message[:_MAX_READ]
        for prompt in sorted(prompts, key=len, reverse=True):
            if len(prompt) >= _MIN_PROMPT:
                message = message.replace(prompt, "[prompt]").replace(repr(prompt)[1:-1], "[prompt]")
        message = self._secret.sub("[key]", clean(" ".join(message.split())))
        return message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + "…"


def failure_of_status(status: int, message: str, retry_after: float | None) -> ProviderError:
    """The error for an answer with this HTTP status; `message` is already scrubbed."""
    said = f"The provider answered {status}" + (f": {message}" if message else ".")
    if status == _TOO_MANY_REQUESTS:
        return ProviderRateLimited(said, retry_after=retry_after)
    if status in _TIMED_OUT or status >= _SERVER_ERRORS:
        return ProviderUnavailable(said, retry_after=retry_after)
    return ProviderRefused(said)


def failure_in_stream(error: object, message: str) -> ProviderError:
    """The error for an error object within an answer of status 200; `message` is already scrubbed.

    Its `code` is a number that means what an HTTP status does, or a word; servers do not agree on the words, so
    they are recognised by their stems. What is not recognised may pass if tried again.
    """
    said = f"The provider broke off with an error: {message}" if message else "The provider broke off with an error."
    fields = error if isinstance(error, Mapping) else {}
    for name in ("code", "status", "status_code"):
        if (status := _status(fields.get(name))) is not None:
            return failure_of_status(status, message, None)
    words = " ".join(str(fields[name]) for name in ("code", "type", "status") if fields.get(name)).lower()
    if any(stem in words for stem in _RATE_LIMITED):
        return ProviderRateLimited(said)
    if any(stem in words for stem in _REFUSED):
        return ProviderRefused(said)
    return ProviderUnavailable(said)


def message_of(body: object, depth: int = 4) -> str:
    """The sentence in an error body, in the shapes that servers give it: OpenAI's, vLLM's, Ollama's, FastAPI's.

    Only fields that hold a message are read: validation errors also repeat the input.
    """
    if isinstance(body, str):
        return body
    if isinstance(body, Mapping) and depth:
        messages = (message_of(body.get(name), depth - 1) for name in ("error", "message", "detail", "msg"))
        return next(filter(None, messages), "")
    if isinstance(body, list) and depth:
        return "; ".join(filter(None, (message_of(item, depth - 1) for item in body[:3])))
    return ""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait, from `Retry-After-Ms` or `Retry-After` (seconds or a date); None where there is neither.

    `now` is in seconds since the epoch.
    """
    if (in_ms := _seconds(headers.get("retry-after-ms"))) is not None:
        return in_ms / 1000
    value = headers.get("retry-after")
    if value is None:
        return None
    if (seconds := _seconds(value)) is not None:
        return seconds
    try:
        date: float = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, date - now)


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _status(value: Any) -> int | None:
    lowest, highest = 400, 599
    try:
        status = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return status if lowest <= status <= highest else None
