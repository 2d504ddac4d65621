"""A call's turn at its provider's keys: waited for in the provider's line, where there is one, and settled."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from runstream.counters.key_turns import Grant
from runstream.domain.prompt import Prompt
from runstream.domain.usage import Usage, estimate
from runstream.gateway.line import Line
from runstream.providers.base import Timeouts


class TimeInLine:
    """What a call may still wait in lines, at all of its targets together; in seconds."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self._spent = 0.0

    def waited(self, seconds: float) -> None:
        self.left = max(0.0, self.left - seconds)
        self._spent += seconds

    def rest_of(self, timeouts: Timeouts) -> Timeouts:
        """The total time counts what was waited in line; no other does."""
        return replace(timeouts, total=timeouts.total - self._spent) if self._spent else timeouts


class Turn:
    """A call's turns at the keys of one provider: one for each request that asks for its answer.

    Without a line there is nothing to wait for, and nothing to settle.
    """

    def __init__(self, line: Line | None, tenant: str, tokens: int, time_in_line: TimeInLine) -> None:
        self._line = line
        self._tenant = tenant
        self._tokens = tokens
        self._time_in_line = time_in_line
        self._grant: Grant | None = None
        self._used = False

    @property
    def take_key(self) -> Callable[[], Awaitable[str]] | None:
        """See `Call.take_key`. Raises ProviderBusy."""
        return self._key if self._line else None

    async def wait(self) -> None:
        """Raises ProviderBusy."""
        if self._line is None:
            return
        self._used = False
        began = time.monotonic()
        try:
            self._grant = await self._line.turn(self._tenant, self._tokens, self._time_in_line.left)
        finally:
            self._time_in_line.waited(time.monotonic() - began)

    def settle(self, took: int | None) -> None:
        """Count so many tokens, once, as what the call took; none where it was never made.

        With None, for nobody knows, it counts as it was reserved.
        """
        grant, self._grant = self._grant, None
        if self._line is not None and grant is not None and not (self._used and took is None):
            self._line.settle(grant, made=self._used, tokens=took or 0)

    async def _key(self) -> str:
        """Another one each time: whoever asks for it again was refused with the one before."""
        if self._used:
            self.settle(0)
            await self.wait()
        self._used = True
        if self._grant is None:
            return self._line.keys.next() if self._line else ""
        return self._grant.key


class Lines:
    """The line of each provider whose keys have a rate. The others have none, and their calls wait for nobody."""

    def __init__(self, lines: Mapping[str, Line], *, wait: float, reserved_output: int) -> None:
        """`wait` is in seconds; `reserved_output` are tokens, where a prompt does not say how many it may take."""
        self._lines = lines
        self._wait = wait
        self._reserved_output = reserved_output

    def time_for(self, timeouts: Timeouts) -> TimeInLine:
        return TimeInLine(min(self._wait, timeouts.total))

    def turn(self, provider: str | None, tenant: str, prompt: Prompt, time_in_line: TimeInLine) -> Turn:
        """Without a `provider` it is none's: an answer that was asked for before is read without a turn."""
        line = self._lines.get(provider) if provider else None
        return Turn(line, tenant, self._tokens(prompt) if line and line.rate.tokens else 0, time_in_line)

    def _tokens(self, prompt: Prompt) -> int:
        """What a call reserves: its input, estimated, and as much output as it may have."""
        output = self._reserved_output if prompt.max_output_tokens is None else prompt.max_output_tokens
        read = {"messages": prompt.messages, "tools": prompt.tools, "response_format": prompt.response_format}
        return estimate(read, 0).input_tokens + output

    async def aclose(self) -> None:
        for line in self._lines.values():
            await line.aclose()


def taken(usage: Usage | None) -> int | None:
    """Tokens, of input and output together; None where they are not known."""
    return None if usage is None else usage.input_tokens + usage.output_tokens
