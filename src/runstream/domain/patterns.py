"""Names and patterns that configuration gives things to."""

import re
from collections.abc import Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Patterns(Generic[T]):
    """Finds what a name stands for: an exact name first, then the longest pattern that fits.

    A `*` in a pattern fits any text.
    """

    def __init__(self, given: Mapping[str, T]) -> None:
        self.exact: Mapping[str, T] = {name: value for name, value in given.items() if "*" not in name}
        patterns = sorted((name for name in given if "*" in name), key=len, reverse=True)
        self._patterns = [(_expression(name), given[name]) for name in patterns]

    def find(self, name: str) -> T | None:
        if name in self.exact:
            return self.exact[name]
        return next((value for expression, value in self._patterns if expression.fullmatch(name)), None)


def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)
