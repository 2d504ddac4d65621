"""What one call gets: read from the model's name and the request."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from runstream.providers.simulated import demo, tokens
from runstream.providers.simulated.tokens import Token

Ending = Literal["finish", "cut", "hang", "error", "malformed", "nofinish", "page"]


@dataclass(frozen=True, slots=True)
class Script:
    tokens: Callable[[int], Token] = tokens.word
    reason: str = "stop"
    count: int = 0
    per_second: float = 0.0
    first_seconds: float = 0.0
    header_seconds: float = 0.0
    ending: Ending = "finish"
    status: int = 200
    retry_after: int | None = None
    failures: int = 0
    signed: bool = False
    counted: bool = True
    stop: tuple[str, ...] = ()
    limit: int | None = None

    def answer(self, number: int) -> tuple[Iterator[Token], str]:
        """The tokens in order, within the limit and before the first stop sequence; and the finish reason.

        `number` is that of the call, by which it signs its words where it does.
        """
        count = self.count if self.limit is None else min(self.count, self.limit)
        sent: Iterator[Token] = map(self.tokens, range(count))
        if self.signed:
            sent = (tokens.signed(token, number) for token in sent)
        reason = self.reason if count == self.count else "length"
        return _before_stop(list(sent), self.stop, reason) if self.stop else (sent, reason)


def script_for(request: Mapping[str, Any]) -> Script:
    """Raises ValueError, with a sentence, when the model's name or `stop` cannot be understood."""
    model = str(request.get("model", ""))
    name, signed, _ = model.partition("@")
    name, _, ending = name.partition("+")
    if name.split(":", 1)[0] in _KINDS:
        try:
            script = _script(name)
            if ending:
                end = _script(ending)
                script = replace(script, count=min(script.count, end.count), ending=end.ending)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ValueError(f"The model name '{model}' is not one the simulator knows how to act out.") from None
    else:
        script = _demo(last_text(request))
    return replace(script, stop=_stop(request), limit=_limit(request), signed=bool(signed))


def _script(name: str) -> Script:
    kind, *arguments = name.split(":")
    return _KINDS[kind](*(float(argument) for argument in arguments))


def _sim(count: float, rate: float = 0, first_ms: float = 0) -> Script:
    return Script(count=int(count), per_second=rate, first_seconds=first_ms / 1000)


def _clock(count: float, rate: float = 0, first_ms: float = 0) -> Script:
    return replace(_sim(count, rate, first_ms), tokens=tokens.clock)


def _unicode(count: float, rate: float = 0) -> Script:
    return replace(_sim(count, rate), tokens=tokens.unicode_token)


def _reasoning(thoughts: float, count: float = 10, rate: float = 0) -> Script:
    first = int(thoughts)

    def token(index: int) -> Token:
        return tokens.thought(index) if index < first else tokens.word(index - first)

    return replace(_sim(first + count, rate), tokens=token)


def _sentences(count: float, rate: float = 0) -> Script:
    return replace(_sim(count * len(tokens.SENTENCE), rate), tokens=tokens.sentence)


def _tools(words: float, count: float = 0, rate: float = 0) -> Script:
    before, size = int(count), int(words)

    def token(index: int) -> Token:
        return tokens.word(index) if index < before else tokens.call_piece(index - before, size)

    every = before + len(tokens.CALLED) * tokens.call_length(size)
    return replace(_sim(every, rate), tokens=token, reason="tool_calls")


def _big(size: float) -> Script:
    return Script(tokens=lambda _: "x" * int(size), count=1)


def _slow_headers(wait_ms: float, count: float = 10, rate: float = 0) -> Script:
    return replace(_sim(count, rate), header_seconds=wait_ms / 1000)


def _flaky(failures: float, count: float = 10, rate: float = 0) -> Script:
    return replace(_sim(count, rate), failures=int(failures))


def _status(code: float, retry_after: float | None = None) -> Script:
    return Script(status=int(code), retry_after=None if retry_after is None else int(retry_after))


def _uncounted(count: float, rate: float = 0) -> Script:
    return replace(_sim(count, rate), counted=False)


def _page() -> Script:
    return Script(ending="page")


def _ending(ending: Ending) -> Callable[..., Script]:
    def script(count: float, rate: float = 0) -> Script:
        return replace(_sim(count, rate), ending=ending)

    return script


def _demo(prompt: str) -> Script:
    answer = demo.answer(prompt)
    return Script(tokens=answer.__getitem__, count=len(answer), per_second=demo.PER_SECOND, first_seconds=0.2)


_KINDS: dict[str, Callable[..., Script]] = {
    "sim": _sim,
    "clock": _clock,
    "unicode": _unicode,
    "reasoning": _reasoning,
    "tools": _tools,
    "sentences": _sentences,
    "big": _big,
    "cut": _ending("cut"),
    "hang": _ending("hang"),
    "error": _ending("error"),
    "malformed": _ending("malformed"),
    "nofinish": _ending("nofinish"),
    "page": _page,
    "uncounted": _uncounted,
    "slow-headers": _slow_headers,
    "status": _status,
    "flaky": _flaky,
}


def _before_stop(sent: list[Token], stop: tuple[str, ...], reason: str) -> tuple[Iterator[Token], str]:
    text = "".join(token for token in sent if isinstance(token, str))
    found = [at for at in map(text.find, stop) if at >= 0]
    return (_cut(sent, min(found)), "stop") if found else (iter(sent), reason)


def _cut(sent: list[Token], characters: int) -> Iterator[Token]:
    for token in sent:
        if isinstance(token, str):
            if characters <= 0:
                return
            yield token[:characters]
            characters -= len(token)
        else:
            yield token


def _stop(request: Mapping[str, Any]) -> tuple[str, ...]:
    stop = request.get("stop") or ()
    sequences = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(text, str) and text for text in sequences):
        raise ValueError("stop takes a text or a list of texts.")
    return sequences


def _limit(request: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        if isinstance(limit := request.get(name), int):
            return limit
    return None


def last_text(request: Mapping[str, Any]) -> str:
    messages = request.get("messages")
    if not isinstance(messages, list):
        return ""
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            return content if isinstance(content, str) else json.dumps(content)
    return ""
