"""The tokens a script sends: each source gives the i-th token without knowing the ones before it."""

import time
from collections.abc import Mapping
from typing import Any

Token = str | Mapping[str, Any]
"""Text, or a delta of another kind in the protocol's form."""

_SCRIPTS = (
    "plain ",
    "naïve ",
    "日本語",
    "e\u0301 ",  # a letter and its combining accent
    "🙂",
    "👩\u200d👩\u200d👧 ",  # one family of five code points
    "שלום ",
    "مرحبا ",
    "🇪🇺",
    "𝒳\n",  # beyond the basic plane
    'quote" \\ slash ',
    "\u2028",
)


def word(index: int) -> str:
    return f"w{index} "


def clock(index: int) -> str:
    return f"{time.monotonic_ns() // 1000} "


def unicode_token(index: int) -> str:
    return _SCRIPTS[index % len(_SCRIPTS)]


def thought(index: int) -> Token:
    return {"reasoning_content": f"r{index} "}


SENTENCE = ("This ", "is ", "s{}. ")


def sentence(index: int) -> str:
    number, part = divmod(index, len(SENTENCE))
    return SENTENCE[part].format(number)


def call_id(index: int) -> str:
    return f"call_{index}"


def signed(token: Token, number: int) -> Token:
    """The same, where it is a word, with the number of the call that says it."""
    if isinstance(token, str):
        return f"{token[:-1]}@{number} " if token.endswith(" ") else token
    if "reasoning_content" in token:
        return {"reasoning_content": signed(token["reasoning_content"], number)}
    (piece,) = token["tool_calls"]
    function = piece["function"]
    return {"tool_calls": [{**piece, "function": {**function, "arguments": signed(function["arguments"], number)}}]}


CALLED = ("look_up", "write_down")
"""The functions that are called, in turn."""


def call_length(words: int) -> int:
    """How many pieces a tool call with that many words comes in."""
    return words + 3


def call_piece(index: int, words: int) -> Token:
    """Of two tool calls in turn, as servers stream them: id and name, then the arguments, JSON cut before each word."""
    call, at = divmod(index, call_length(words))
    if at == 0:
        opening = {"index": call, "id": call_id(call), "type": "function"}
        return {"tool_calls": [{**opening, "function": {"name": CALLED[call], "arguments": ""}}]}
    text = '{"text":"' if at == 1 else word(at - 2) if at < words + 2 else '"}'
    return {"tool_calls": [{"index": call, "function": {"arguments": text}}]}
