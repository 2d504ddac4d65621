"""Moderation, made up: what a text falls under stands in it, or in the model's name."""

import asyncio
import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

from runstream.providers.simulated.http import Refused

_CATEGORIES = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
_MARK = re.compile(r"unsafe:([a-z-]+(?:/[a-z-]+)?)")
_MOST_KEPT = 10_000


class Judge:
    """Acts as the model's name says; see the package."""

    def __init__(self) -> None:
        self.asked: deque[Sequence[Any]] = deque(maxlen=_MOST_KEPT)
        """The inputs of each call."""
        self._failed: Counter[str] = Counter()

    async def answer(self, body: Mapping[str, Any]) -> Any:
        """What the server answers, to a list of texts or of one image. Raises Refused."""
        model, inputs = str(body.get("model", "")), body["input"]
        self.asked.append(inputs)
        kind, _, argument = model.partition(":")
        words, _, milliseconds = argument.partition(":")
        match kind:
            case "hang":
                await asyncio.get_running_loop().create_future()
            case "malformed":
                return {"results": "none"}
            case "status":
                raise Refused(int(words), f"simulated status {words}")
            case "flaky":
                self._failed[model] += 1
                if self._failed[model] <= int(words):
                    raise Refused(503, "simulated failure", "overloaded")
            case "flags":
                await asyncio.sleep(float(milliseconds or 0) / 1000)
        named = words.split(",") if kind == "flags" else ()
        results = [_result(str(one), named) for one in inputs]
        return {"id": f"modr-{len(self.asked)}", "model": model, "results": results}


def _result(text: str, words: Sequence[str]) -> dict[str, Any]:
    under = {*_MARK.findall(text), *(["violence"] if any(word in text for word in words) else [])}
    categories = {category: category in under for category in sorted({*_CATEGORIES, *under})}
    scores = {category: 0.98 if holds else 0.01 for category, holds in categories.items()}
    return {"flagged": bool(under), "categories": categories, "category_scores": scores}
