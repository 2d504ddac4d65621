"""What a person is told when everything runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from runstream.embedded.supervise import Part

PROMPT = "Tell me a story about a river."


def welcome(*, url: str, key: str, provider: str, data: Path, kept: Sequence[Path], parts: Sequence[Part]) -> str:
    """Return the text; `kept` are the places where the servers' files really are."""
    elsewhere = [str(path) for path in kept if not path.is_relative_to(data)]
    facts = {
        "page": f"{url}/",
        "key": key,
        "provider": provider,
        "data": f"{data}, linked to {' and '.join(elsewhere)}" if elsewhere else str(data),
        "logs": f"{data}/*.log",
        "settings": f"{data}/env",
        "processes": ", ".join(f"{part.name} {part.pid}" for part in parts),
    }
    lines = ["Runstream runs.", ""]
    lines += [f"  {name:<10} {fact}" for name, fact in facts.items()]
    lines += [
        "",
        "Stream a generation:",
        "",
        f"  {curl_line(url, key)}",
        "",
        "Or watch one in the page, and kill -9 the worker in the middle of it: it is taken up again.",
        f"For other commands, such as runstream doctor and runs list, say first: . {shlex.quote(f'{data}/env')}",
        "Ctrl-C stops everything and keeps the data.",
    ]
    return "\n".join(lines)


def curl_line(url: str, key: str) -> str:
    body = json.dumps({"feature": "chat", "input": {"messages": [{"role": "user", "content": PROMPT}]}})
    headers = (f"Authorization: Bearer {key}", "Content-Type: application/json", "Accept: text/event-stream")
    return shlex.join(
        ["curl", "-N", f"{url}/v1/runs", *(part for header in headers for part in ("-H", header)), "-d", body]
    )
