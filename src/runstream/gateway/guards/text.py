"""Unicode: text in its normal form, and as a reader takes it, whatever it is written with."""

import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from runstream.gateway.guards.search import Search

FLOOD = r"\p{M}{31,}"
"""More combining marks in a row than any language has (UAX #15, Stream-Safe Text Format: 30)."""

_flood = Search(FLOOD)
_UNSEEN = frozenset({"Cc", "Cf", "Mn", "Mc", "Me"})
"""Categories of what changes no letter for another: controls, formats, marks."""
_FILLERS = frozenset("\u115f\u1160")
"""Letters of Hangul that are not seen; its other two are compatible forms of these."""
_TAGS = range(0xE0020, 0xE007F)
"""An invisible copy of ASCII, which models read all the same."""
_KEPT = frozenset("\t\n\r")
_LOOKALIKES: Mapping[str, str] = MappingProxyType(
    dict(
        zip(
            "аеорсухіјѕԁһԛԝɡʟᴍАВЕКМНОРСТУХІЈЅԌԚԜЗαεικνορτυχωϲΑΒΕΖΗΙΚΜΝΟΡΤΥΧ\u2028\u2029",
            "aeopcyxijsdhqwglmABEKMHOPCTYXIJSGQW3aeikvoptuxwcABEZHIKMNOPTYX\n\n",
            strict=True,
        )
    )
)
"""Cyrillic and Greek letters that pass for Latin ones; of Unicode's confusables.txt (UTS #39), those of whole words."""


def normalized(text: str) -> str:
    """NFC, but for floods of combining marks, which stay: to order them takes time that grows with their square."""
    if text.isascii():
        return text
    parts: list[str] = []
    end = 0
    for start, after in _flood.spans(text):
        parts += (unicodedata.normalize("NFC", text[end:start]), text[start:after])
        end = after
    return "".join((*parts, unicodedata.normalize("NFC", text[end:])))


class Folded:
    """A text as a reader takes it, to be searched: without what is not seen, in plain letters.

    Compatible forms (NFKD) stand for what they mean, so do lookalikes and tags; marks, formats and controls are left
    out. Character by character, so that time grows with length alone, and each place leads back to the text's own.
    """

    def __init__(self, text: str) -> None:
        self._original = text
        self._table = _ASCII
        if not text.isascii():
            self._table = _ASCII | {ord(letter): _seen(letter) for letter in set(text)}
        self.text = text.translate(self._table)

    def original(self, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """The places in the text itself that these are in the folded one."""
        table = self._table
        origins = [place for place, letter in enumerate(self._original) for _ in table.get(ord(letter), letter)]
        return [(origins[start], origins[end - 1] + 1) for start, end in spans if start < end]


@lru_cache(4096)
def _seen(letter: str) -> str:
    if letter in _KEPT:
        return letter
    if ord(letter) in _TAGS:
        return chr(ord(letter) - _TAGS.start + 0x20)
    plain = unicodedata.normalize("NFKD", letter)
    seen = (part for part in plain if unicodedata.category(part) not in _UNSEEN and part not in _FILLERS)
    return "".join(_LOOKALIKES.get(part, part) for part in seen)


_ASCII = {number: _seen(chr(number)) for number in (*range(0x20), 0x7F)}
"""The controls among ASCII; all else in it is what it looks like."""
