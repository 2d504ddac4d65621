"""Where a sentence ends, in text that comes in pieces."""

import re
from collections.abc import Sequence

LONGEST = 400
"""Characters after which what has no end is one."""

_END = re.compile(r"""[.!?…]["'”’»)\]]{0,4}\s|[\n。！？]""")
_BEFORE = 5
"""Characters that an end may have in the pieces before."""


class Sentences:
    """Of one text. An end is where white space follows the mark: the point in 3.14 ends nothing."""

    def __init__(self) -> None:
        self.open = ""
        """What has come since the last end, as far as `LONGEST` reaches."""

    def ends(self, piece: str) -> Sequence[int]:
        """Where in the next piece of the text sentences end, in characters from its beginning."""
        before = self.open[-_BEFORE:]
        ends = [match.end() - len(before) for match in _END.finditer(before + piece)]
        self.open = (piece[ends[-1] :] if ends else self.open + piece)[-LONGEST:]
        return ends
