"""Server-sent events, read in blocks: what a provider's stream costs is decided here.

There is no line iterator. A read is searched for its last blank line and split there, so a read of one event or of
three hundred costs a handful of calls to `bytes` methods. Only `data` is looked at: no provider's protocol needs
`event`, `id` or `retry` to be understood.
"""

from typing import NoReturn

from runstream.domain.errors import ProviderProtocolError

_BOM = b"\xef\xbb\xbf"


class EventReader:
    """Bytes in, the data of finished events out; the same data for every way to cut the stream into reads.

    Lines may end in LF, CRLF or CR, as the standard has it.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max = max_event_bytes
        self._rest = bytearray()
        self._after_cr = False
        self._at_start = True

    def feed(self, read: bytes) -> list[bytes]:
        """The data of each event that this read finishes, in order.

        Raises `ProviderProtocolError` when the event that was left unfinished had passed the bound, or passes it as it
        is finished: what was finished before it has been given out, and memory holds no more than the bound and one
        read.
        """
        if self._after_cr or b"\r" in read:
            self._check_bound()
            read = self._with_lf_only(read)
        if not self._rest and read.endswith(b"\n\n"):
            return self._data_of(read[:-2])  # whole events, as nearly every read has them
        self._check_bound()
        if self._rest:
            searched = len(self._rest) - 1
            self._rest += read
            end = self._rest.rfind(b"\n\n", searched)
            if end > self._max and self._rest.find(b"\n\n", searched) > self._max:
                self._refuse()  # a busy process reads so much at once that the event ends before it is looked at
            finished = bytes(self._rest[: max(end, 0)])
            if end >= 0:
                del self._rest[: end + 2]
        else:
            end = read.rfind(b"\n\n")
            finished = read[: max(end, 0)]
            self._rest += read[end + 2 :] if end >= 0 else read
        return self._data_of(finished) if finished else []

    def close(self) -> list[bytes]:
        """The data of an event that the end of the stream finished in place of a blank line."""
        self._check_bound()
        rest = bytes(self._rest)
        self._rest.clear()
        return self._data_of(rest) if rest else []

    def _check_bound(self) -> None:
        if len(self._rest) > self._max:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise ProviderProtocolError(f"The provider sent an event larger than {self._max} bytes.")

    def _with_lf_only(self, read: bytes) -> bytes:
        second_half = self._after_cr and read.startswith(b"\n")
        if read:
            self._after_cr = read.endswith(b"\r")
        return read[second_half:].replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _data_of(self, finished: bytes) -> list[bytes]:
        if self._at_start:
            self._at_start = False
            finished = finished.removeprefix(_BOM)
        if finished.startswith(b"data: ") and b"\n" not in finished:
            return [finished[6:]]
        found = []
        for event in finished.split(b"\n\n"):
            if event.startswith(b"data: ") and b"\n" not in event:
                found.append(event[6:])
            elif event and (data := _data_lines(event)) is not None:
                found.append(data)
        return found


def _data_lines(event: bytes) -> bytes | None:
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:") or line == b"data"]
    return b"\n".join(lines) if lines else None
