"""Lengths of time, as a person writes them."""

import re

from runstream.domain.errors import InvalidField

_WRITTEN = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def in_seconds(text: str, *, param: str) -> int:
    """Of a number and s, m, h or d. Raises InvalidField."""
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise InvalidField("A time is a number and s, m, h or d, such as 90m.", param=param)
    return int(match[1]) * _SECONDS[match[2]]
