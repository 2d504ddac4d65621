"""How many calls are under way at each target, and what became of each call."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from runstream.domain.errors import ProviderError
from runstream.gateway.routes import Target
from runstream.metrics import TARGET_CALLS, TARGET_FIRST_TOKEN


class CallUnderWay:
    """One call. `began_to_answer` is told of its first token."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._since = time.monotonic()

    def began_to_answer(self) -> None:
        waited = time.monotonic() - self._since
        TARGET_FIRST_TOKEN.labels(self._target.provider, self._target.label).observe(waited)


class Load:
    """Of one worker. Metrics go by what a target is configured as: names of models may be anything clients ask for."""

    def __init__(self) -> None:
        self._calls: Counter[Target] = Counter()

    def full(self, target: Target) -> bool:
        return target.concurrent_calls is not None and self._calls[target] >= target.concurrent_calls

    @contextmanager
    def call(self, target: Target) -> Iterator[CallUnderWay]:
        """Counts a call for as long as it lasts, and its end: the error's code, or that it was answered or stopped."""
        self._calls[target] += 1
        outcome = "stopped"
        try:
            yield CallUnderWay(target)
            outcome = "answered"
        except ProviderError as error:
            outcome = error.code
            raise
        finally:
            self._calls[target] -= 1
            if not self._calls[target]:
                del self._calls[target]
            TARGET_CALLS.labels(target.provider, target.label, outcome).inc()
