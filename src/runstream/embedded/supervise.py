from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

POLL = 0.1
STEADY = 10.0
LONGEST_PAUSE = 10.0


class Part(Protocol):
    """A process of ours that is to run until it is stopped."""

    @property
    def name(self) -> str: ...
    @property
    def running(self) -> bool: ...
    @property
    def pid(self) -> int: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def ending(self) -> str: ...


class StopAsked(Exception):
    """Somebody wants an end before everything was started."""


class StopRequest:
    """Whether Ctrl-C, SIGTERM or the terminal's end asked us to stop: a plain flag, for a handler may take no lock."""

    def __init__(self) -> None:
        self.made = False

    def check(self) -> None:
        """Raise StopAsked if it was made: between two steps, so that no step is left half done."""
        if self.made:
            raise StopAsked

    def _make(self, number: int, frame: FrameType | None) -> None:
        self.made = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals instead of their usual effect; one that is ignored (`nohup`) goes on being ignored."""
        before = {
            number: signal.signal(number, self._make)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class _Watch:
    part: Part
    started: float
    pause: float = 0.0
    ended: float | None = None


def supervise(parts: Sequence[Part], stop: StopRequest, say: Callable[[str], None]) -> None:
    """Start whatever ends again, at once the first time and after growing pauses if it does not hold, until `stop`."""
    watches = [_Watch(part, time.monotonic()) for part in parts]
    while not stop.made:
        for watch in watches:
            if not watch.part.running:
                _restart_when_due(watch, say)
        time.sleep(POLL)


def _restart_when_due(watch: _Watch, say: Callable[[str], None]) -> None:
    now = time.monotonic()
    if watch.ended is None:
        watch.ended = now
        watch.pause = 0.0 if now - watch.started > STEADY else min(watch.pause * 2 or POLL, LONGEST_PAUSE)
    if now - watch.ended < watch.pause:
        return
    part = watch.part
    old, ending = part.pid, part.ending()
    part.start()
    watch.started, watch.ended = time.monotonic(), None
    say(f"{part.name} (process {old}) {ending}: started again as process {part.pid}.")
