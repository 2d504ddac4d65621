"""Patterns by RE2, which searches in time that grows with the text alone, whatever the pattern is."""

from collections.abc import Iterable
from typing import Any

import re2

_MEMORY = 32 * 2**20
"""Bytes that a search for all patterns at once may take at most; for those that there always are 2 MB are enough."""


class Search:
    def __init__(self, expression: str) -> None:
        """Raises ValueError, with a reason, where RE2 does not take it."""
        try:
            self._pattern = re2.compile(expression, _options())
        except re2.error as error:
            said = error.args[0]
            raise ValueError(said.decode(errors="replace") if isinstance(said, bytes) else str(said)) from None

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in self._pattern.finditer(text)]


class SearchForAll:
    """One search for any number of patterns, which takes hardly longer than one for a single pattern."""

    def __init__(self, expressions: Iterable[str], memory: int = _MEMORY) -> None:
        """Each has to be one that `Search` takes. Raises ValueError where they are too large together."""
        options = _options()
        options.max_mem = memory
        self._set = re2.Set.SearchSet(options)
        for expression in expressions:
            self._set.Add(expression)
        try:
            self._set.Compile()
        except re2.error:
            raise ValueError("they are too large together") from None

    def found(self, text: str) -> set[int]:
        """Which of the expressions the text has, by their places."""
        return set(self._set.Match(text) or ())


def _options() -> Any:
    options = re2.Options()
    options.log_errors = False
    return options
