"""What a person sees: the model's text on one stream, all else on another, its reasoning too."""

from typing import TextIO

_HARMLESS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"}
_HARMLESS |= dict.fromkeys(range(0x7F, 0xA0), 0xFFFD)
"""Control characters to pictures of them: a model's text must not steer a person's terminal."""
_DIM, _NOT_DIM = "\x1b[2m", "\x1b[22m"


class Screen:
    """Writes at once. Where `out` is no terminal, it gets the text exactly, and nothing else but what `void` says."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err
        self._terminal = out.isatty()
        self._dims = err.isatty()
        self._one_terminal = self._terminal and self._dims
        self._wrote = False
        self._within_line = False
        self._thought = False
        self._within_thought = False
        if reconfigure := getattr(out, "reconfigure", None):
            reconfigure(errors="replace")

    def write(self, text: str) -> None:
        """A piece of the model's text."""
        if self._one_terminal:
            self._end_thought()
        self._out.write(text.translate(_HARMLESS) if self._terminal else text)
        self._out.flush()
        self._wrote = True
        self._within_line = not text.endswith("\n")

    def think(self, text: str) -> None:
        """A piece of the model's reasoning, which is not its text: dim on a terminal."""
        if self._one_terminal:
            self._end_line()
        harmless = text.translate(_HARMLESS)
        self._err.write(f"{_DIM}{harmless}{_NOT_DIM}" if self._dims else harmless)
        self._err.flush()
        self._thought = True
        self._within_thought = not text.endswith("\n")

    def say(self, sentence: str) -> None:
        """Something about the run."""
        if self._one_terminal:
            self._end_line()
        self._end_thought()
        self._err.write(f"{sentence.translate(_HARMLESS)}\n")
        self._err.flush()

    def void(self, why: str) -> None:
        """What was said so far does not count. It cannot be taken back, so this is said wherever it stands."""
        told = f"{why}: the text before this line is void."
        self.say(told if self._wrote or self._thought else f"{why}.")
        if self._wrote and not self._one_terminal:
            self._end_line()
            self._out.write(f"[{told}]\n")
            self._out.flush()
        self._wrote = self._within_line = self._thought = False

    def close(self) -> None:
        """End the line that a prompt would otherwise stand in."""
        if self._terminal:
            self._end_line()
        self._end_thought()

    def _end_thought(self) -> None:
        if self._within_thought:
            self._err.write("\n")
            self._err.flush()
            self._within_thought = False

    def _end_line(self) -> None:
        if self._within_line:
            self._out.write("\n")
            self._out.flush()
            self._within_line = False
