"""OpenAI's moderations: which categories does a text fall under?

    POST {base_url}/moderations  {"model": ..., "input": [text, ...]}
    {"results": [{"flagged": true, "categories": {"violence": true, "hate": false, ...}, ...}, ...]}, one for each text

An image is asked about as [{"type": "image_url", "image_url": {"url": ...}}], where the model takes images.
https://platform.openai.com/docs/api-reference/moderations. Which categories there are is the server's to say.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from runstream.domain.errors import ProviderProtocolError
from runstream.providers.base import ProviderConfig
from runstream.providers.fields import name_of
from runstream.providers.http_provider import HttpProvider

_NAMELESS = "flagged"
"""The category of what is flagged under none."""
_MOST = 20
"""Categories that are told of one text."""


class Moderations(HttpProvider):
    """Its connections are pooled, and kept between calls."""

    def __init__(self, config: ProviderConfig, model: str) -> None:
        """Raises `ConfigurationError`."""
        super().__init__(config)
        self._model = model

    async def categories(self, texts: Sequence[str], *, connect: float) -> list[Sequence[str]]:
        """Those that each text is flagged under, none where it is clean. Raises a `ProviderError`.

        The wait for the answer is the caller's to bound; `connect`, in seconds, bounds only connecting.
        """
        return await self._ask(list(texts), len(texts), connect)

    async def categories_of_image(self, url: str, *, connect: float) -> list[Sequence[str]]:
        """The same for an image, alone: a server judges the parts of one input together. The URL may be its data."""
        return await self._ask([{"type": "image_url", "image_url": {"url": url}}], 1, connect)

    async def _ask(self, input: Sequence[object], count: int, connect: float) -> list[Sequence[str]]:
        account = self._account
        asked = {"model": self._model, "input": input}
        body = await account.whole(await account.ask(account.url("/moderations"), asked, connect))
        results = body.get("results") if isinstance(body, Mapping) else None
        if not isinstance(results, list) or len(results) != count:
            raise ProviderProtocolError("The answer is not a result of moderation for each input.")
        return [_categories(result) for result in results]


def _categories(result: Any) -> Sequence[str]:
    if not isinstance(result, Mapping) or not isinstance(result.get("flagged"), bool):
        raise ProviderProtocolError("A result of moderation does not say whether its text is flagged.")
    if not result["flagged"]:
        return ()
    categories = result.get("categories")
    under = categories.items() if isinstance(categories, Mapping) else ()
    names = [name_of(name) for name, holds in under if holds is True]
    return sorted(filter(None, names))[:_MOST] or [_NAMELESS]
