"""An answer is shown sentence by sentence, each once it was found clean."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import replace

from runstream.domain.errors import ContentBlocked
from runstream.domain.findings import Finding, Where, refusing
from runstream.gateway.guards.input import Found
from runstream.gateway.guards.moderation import Moderation, action_on
from runstream.gateway.guards.sentences import LONGEST, Sentences
from runstream.providers.base import Finished, Piece, ReasoningDelta, TextDelta, ToolCallDelta

_AHEAD = 100_000
"""Characters that are read ahead of what was found clean: then the provider waits."""
_TOGETHER = 32
"""Sentences that are judged at once."""

_Source = tuple[type[Piece], int]
"""What a piece is of: text, reasoning, or the tool call with this index."""


class Screen:
    """One answer's. While sentences are judged others are read on, and judged together next.

    All that a reader could see is judged, and pieces keep their order: text, reasoning, names and arguments of tool
    calls. A sentence that is longer than `LONGEST`, or broken by another kind of piece, is judged up to there, and
    then its rest together with that.
    """

    def __init__(self, moderation: Moderation, *, required: bool, found: Found) -> None:
        self.withheld = 0
        """Characters that the model has said and that were not passed on."""
        self.finished: Finished | None = None
        """What the provider said at its end, whether or not that was passed on."""
        self._moderation = moderation
        self._required = required
        self._found = found
        self._whole: list[list[Piece]] = []
        """Sentences, each in its pieces."""
        self._begun: list[Piece] = []
        """Of one that has not ended, or nothing; so many characters:"""
        self._length = 0
        self._read_of: dict[_Source, Sentences] = {}
        self._shown_of: dict[_Source, Sentences] = {}
        self._news, self._room = asyncio.Event(), asyncio.Event()

    async def pieces(self, head: Sequence[Piece], rest: AsyncIterator[Piece]) -> AsyncGenerator[Piece, None]:
        """The pieces up to the first sentence that is not clean. Whoever leaves them closes this.

        Raises ContentBlocked; and what reading `rest` raises, after all that came before.
        """
        reading = asyncio.create_task(self._read(head, rest))
        try:
            while self._whole or not reading.done():
                if not self._whole:
                    self._news.clear()
                    await self._news.wait()
                sentences, self._whole = self._whole[:_TOGETHER], self._whole[_TOGETHER:]
                judged = await self._judged(sentences)
                for sentence, categories in zip(sentences, judged, strict=True):
                    self._let_pass(categories)
                    for piece in sentence:
                        self.withheld -= len(_said(piece))
                        yield piece
                self._room.set()
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, head: Sequence[Piece], rest: AsyncIterator[Piece]) -> None:
        try:
            for piece in head:
                self._take(piece)
            async for piece in rest:
                self._take(piece)
                while self.withheld > _AHEAD and self._whole:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._end()
            self._news.set()

    def _take(self, piece: Piece) -> None:
        if isinstance(piece, Finished):
            self.finished = piece
        if self._begun and type(self._begun[-1]) is not type(piece):
            self._end()
        said = _said(piece)
        self.withheld += len(said)
        start = 0
        for end in self._read_of.setdefault(_source(piece), Sentences()).ends(said):
            self._begin(_part(piece, start, end), end - start)
            self._end()
            start = end
        if start < len(said) or not said:
            self._begin(_part(piece, start, len(said)), len(said) - start)
        if self._length >= LONGEST or not isinstance(piece, TextDelta | ReasoningDelta | ToolCallDelta):
            self._end()

    def _begin(self, piece: Piece, length: int) -> None:
        self._begun.append(piece)
        self._length += length

    def _end(self) -> None:
        if self._begun:
            self._whole.append(self._begun)
            self._begun, self._length = [], 0
            self._news.set()

    async def _judged(self, sentences: Sequence[Sequence[Piece]]) -> list[list[str]]:
        """The categories that each falls under."""
        texts = [(number, text) for number, sentence in enumerate(sentences) for text in self._texts(sentence)]
        categories: list[list[str]] = [[] for _ in sentences]
        if texts:
            answers = await self._moderation.of_texts([text for _, text in texts])
            for (number, _), under in zip(texts, answers, strict=True):
                categories[number] += under
        return categories

    def _texts(self, pieces: Sequence[Piece]) -> Iterator[str]:
        """What is to be judged of them: of each source, with what was shown of a sentence that goes on."""
        by_source: dict[_Source, list[Piece]] = {}
        for piece in pieces:
            by_source.setdefault(_source(piece), []).append(piece)
        for source, of_source in by_source.items():
            said = "".join(map(_said, of_source))
            names = [piece.name for piece in of_source if isinstance(piece, ToolCallDelta) and piece.name]
            shown = self._shown_of.setdefault(source, Sentences())
            text = "\n".join((*names, shown.open + said))
            shown.ends(said)
            if text and (said or names):
                yield text

    def _let_pass(self, categories: Sequence[str]) -> None:
        """Raises ContentBlocked where they are not to pass."""
        findings = [
            Finding(category, action_on(category, required=self._required), Where.OUTPUT) for category in categories
        ]
        for finding in findings:
            self._found(finding)
        if blocked := refusing(findings):
            raise ContentBlocked("What the model said was refused.", categories=blocked)


def _source(piece: Piece) -> _Source:
    return type(piece), piece.index if isinstance(piece, ToolCallDelta) else 0


def _said(piece: Piece) -> str:
    match piece:
        case TextDelta(text) | ReasoningDelta(text):
            return text
        case ToolCallDelta():
            return piece.arguments
    return ""


def _part(piece: Piece, start: int, end: int) -> Piece:
    """A part of what it says; the first one carries all else."""
    match piece:
        case TextDelta(text) | ReasoningDelta(text):
            return piece._replace(text=text[start:end])
        case ToolCallDelta() if start:
            return ToolCallDelta(piece.index, None, None, piece.arguments[start:end])
        case ToolCallDelta():
            return replace(piece, arguments=piece.arguments[:end])
    return piece
