"""What the simulated provider says to a model's name, said anew: nothing of the simulator is used here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from tests.viewer import Said

NEVER = 10_000
"""Milliseconds: nobody waits for it as long as that."""
FUNCTIONS = ("look_up", "write_down")
SILENT = {"status", "page"}


def tokens(script: str, limit: int | None = None) -> list[tuple[str, str]]:
    """Each token that comes, in order: `reasoning`, `text`, `call` or `arguments`, and what it says."""
    name, _, ending = script.partition("+")
    kind, *numbers = name.split(":")
    if kind in SILENT:
        return []
    said = list(_said(kind, [int(number) for number in numbers]))
    if ending:
        said = said[: int(ending.split(":")[1])]
    return said[:limit]


def _said(kind: str, numbers: list[int]) -> Iterator[tuple[str, str]]:
    if kind == "reasoning":
        thoughts, count = numbers[:2]
        yield from (("reasoning", f"r{number} ") for number in range(thoughts))
        yield from (("text", f"w{number} ") for number in range(count))
    elif kind == "tools":
        words, count = numbers[:2]
        yield from (("text", f"w{number} ") for number in range(count))
        for name in FUNCTIONS:
            yield "call", name
            arguments = json.dumps({"text": "".join(f"w{number} " for number in range(words))}, separators=(",", ":"))
            yield from (("arguments", piece) for piece in _pieces(arguments))
    elif kind == "big":
        yield "text", "x" * numbers[0]
    else:
        count = numbers[1] if kind in {"flaky", "slow-headers"} else numbers[0]
        if max(numbers[-1:], default=0) < NEVER and numbers[0] < NEVER:
            yield from (("text", f"w{number} ") for number in range(count))


def _pieces(arguments: str) -> list[str]:
    """The opening, each word, and the end."""
    return [arguments[:9], *re.findall(r"w\d+ ", arguments), arguments[-2:]]


def said(script: str, number: int, limit: int | None = None) -> Said:
    """All that the provider's call of this number says."""
    reasoning, text, calls = "", "", list[tuple[str, str, str]]()
    for kind, token in tokens(script, limit):
        word = f"{token[:-1]}@{number} " if token.endswith(" ") else token
        if kind == "reasoning":
            reasoning += word
        elif kind == "text":
            text += word
        elif kind == "call":
            calls.append((f"call_{len(calls)}", word, ""))
        else:
            calls[-1] = (*calls[-1][:2], calls[-1][2] + word)
    return Said(reasoning, text, tuple(calls))
