"""How long a call waits for its provider."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from runstream.domain.errors import ProviderTimeout
from runstream.providers.base import Timeouts

T = TypeVar("T")


class Patience:
    """Ends a wait for the provider when the call's first-token, idle or total time has run out.

    One timer serves a whole call: it is set anew when it fires, not at every read, so a read costs a look at the
    clock. Silence counts only while somebody waits for it: a slow consumer does not make its provider look idle. The
    total time counts from the start, whoever takes it.

    Like `asyncio.timeout`, it cancels the waiting task and turns that one cancellation into `ProviderTimeout`; any
    other cancellation is let through.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeouts = timeouts
        self._idle = timeouts.idle
        self._started = self._since = self._loop.time()
        self._apart = 0.0
        self._waiting: asyncio.Task[object] | None = None
        self._first_token_came = False
        self._ran_out: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, read: Callable[[], Awaitable[T]]) -> T:
        self._since = self._loop.time()
        if self._since >= self._started + self._timeouts.total:
            raise ProviderTimeout(self._due()[1])
        task = asyncio.current_task(self._loop)  # without the loop, finding it is a system call
        cancelling = task.cancelling() if task else 0
        self._waiting = task
        if self._timer is None:
            self._set_timer()
        try:
            return await read()
        except asyncio.CancelledError:
            if self._ran_out is None or task is None or task.uncancel() > cancelling:
                raise
            raise ProviderTimeout(self._ran_out) from None
        finally:
            self._waiting = None

    async def apart(self, wait: Callable[[], Awaitable[T]]) -> T:
        """Wait, within `wait`, for what is not the provider's to give: that counts to the total time alone."""
        began = self._loop.time()
        self.close()
        try:
            return await wait()
        finally:
            self._apart += self._loop.time() - began
            self._set_timer()

    def first_token_came(self) -> None:
        if not self._first_token_came:
            self._first_token_came = True
            self._set_timer()

    def expect_end(self, seconds: float) -> None:
        """All that matters has come: from now on silence may last no longer than this."""
        self._idle = min(self._idle, seconds)
        self._set_timer()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        due, message = self._due()
        if self._waiting is None:
            self._timer = None
        elif due > self._loop.time():
            self._set_timer()
        else:
            self._ran_out = message
            self._waiting.cancel()

    def _set_timer(self) -> None:
        self.close()
        self._timer = self._loop.call_at(self._due()[0], self._look)

    def _due(self) -> tuple[float, str]:
        limits = self._timeouts
        total = (self._started + limits.total, f"The provider did not finish within {limits.total:g} s.")
        if not self._first_token_came:
            first = (
                self._started + self._apart + limits.first_token,
                f"No first token came within {limits.first_token:g} s.",
            )
            return min(first, total)
        silent_since = self._since if self._waiting else self._loop.time()
        idle = (silent_since + self._idle, f"The provider was silent for {self._idle:g} s.")
        return min(idle, total)
