"""A model's judgement of texts, which has to be there before they go any further."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from functools import partial

import structlog

from runstream.domain.errors import ProviderError
from runstream.domain.findings import Action
from runstream.metrics import UNMODERATED
from runstream.providers.moderations import Moderations

UNAVAILABLE = "moderation_unavailable"
"""The category of what could not be judged."""

_PIECE = 8_000
"""Characters that are judged as one text: some 2,000 tokens, which models of moderation take."""
_OVERLAP = 200
"""Characters that two pieces of one text share, so that what stands where it was cut is seen whole."""
_TOGETHER = 32
"""Texts of one call."""
_PAUSES = (0.2, 0.5)
"""Seconds before the second try and the third, or longer where the server asks for it."""

_Answer = Sequence[Sequence[str]]
_UNKNOWN: _Answer = ((UNAVAILABLE,),)

log = structlog.get_logger(__name__)


def action_on(category: str, *, required: bool) -> Action:
    """What is done about a text that falls under it: what could not be judged passes where it is not `required`."""
    return Action.FLAG if category == UNAVAILABLE and not required else Action.REFUSE


class Moderation:
    """Asks once for many texts, and again while there is time where the server fails. Connections are shared."""

    def __init__(self, server: Moderations, *, timeout: float) -> None:
        """`timeout`, in seconds, is for each call with all its tries."""
        self._server = server
        self._timeout = timeout

    async def of_texts(self, texts: Sequence[str]) -> list[Collection[str]]:
        """What each falls under: nothing where it is clean, UNAVAILABLE where nobody could tell."""
        pieces = [(number, piece) for number, text in enumerate(texts) for piece in _pieces(text)]
        categories: list[set[str]] = [set() for _ in texts]
        for first in range(0, len(pieces), _TOGETHER):
            batch = pieces[first : first + _TOGETHER]
            asked = [piece for _, piece in batch]
            ask = partial(self._server.categories, asked, connect=self._timeout)
            for (number, _), under in zip(batch, await self._answer(ask) or [*_UNKNOWN] * len(batch), strict=True):
                categories[number].update(under)
        return [sorted(under) for under in categories]

    async def of_image(self, url: str) -> Collection[str]:
        """As `of_texts`."""
        ask = partial(self._server.categories_of_image, url, connect=self._timeout)
        return (await self._answer(ask) or _UNKNOWN)[0]

    async def aclose(self) -> None:
        await self._server.aclose()

    async def _answer(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer | None:
        try:
            async with asyncio.timeout(self._timeout):
                return await _tried(ask)
        except ProviderError as error:
            reason = error.code  # what it says may hold the text
        except TimeoutError:
            reason = "timeout"
        UNMODERATED.labels(reason).inc()
        log.warning("moderation_unavailable", reason=reason)
        return None


async def _tried(ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
    for pause in _PAUSES:
        try:
            return await ask()
        except ProviderError as error:
            if not error.retryable:
                raise
            await asyncio.sleep(max(pause, error.retry_after or 0))
    return await ask()


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, max(1, len(text) - _OVERLAP), _PIECE - _OVERLAP):
        if piece := text[start : start + _PIECE]:
            yield piece
