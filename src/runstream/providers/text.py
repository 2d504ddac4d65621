"""A model's text, made fit to be kept: Postgres can hold neither a NUL nor a lone surrogate."""

_REPLACEMENT = "\ufffd"


def clean(text: str) -> str:
    """NUL and lone surrogates become U+FFFD; two halves of a surrogate pair become the character that they mean."""
    if "\0" in text:
        text = text.replace("\0", _REPLACEMENT)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class TextJoiner:
    """Cleans text that comes in pieces: the first half of a surrogate pair waits for its second."""

    def __init__(self) -> None:
        self._half = ""

    def feed(self, text: str) -> str:
        if text.isascii() and not self._half and "\0" not in text:
            return text
        if self._half:
            text, self._half = self._half + text, ""
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return clean(text)

    def close(self) -> str:
        half, self._half = self._half, ""
        return clean(half)
