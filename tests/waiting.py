"""Waiting for what is to come, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

DEADLINE = 60
POLL = 0.02


async def until(holds: Callable[[], Any], what: str = "what is waited for") -> None:
    """Ask a function, or a coroutine function, again and again until it says yes. Fails with `what` after a minute."""
    try:
        async with asyncio.timeout(DEADLINE):
            while True:
                answer = holds()
                if await answer if asyncio.iscoroutine(answer) else answer:
                    return
                await asyncio.sleep(POLL)
    except TimeoutError as error:
        raise AssertionError(f"not after {DEADLINE} s: {what}") from error
