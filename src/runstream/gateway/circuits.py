"""Which targets have been failing, so that calls go elsewhere while they do."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from runstream.gateway.routes import Target
from runstream.metrics import CIRCUITS_OPEN

_FAILURES = 5
"""In a row: fewer may be chance."""
_OPEN = (10.0, 60.0)
"""Seconds that a circuit stays open: the first time, and at most, doubled each time that the trial fails."""
_MOST = 1000
"""Targets that are remembered: names of models may be anything that clients ask for."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    opened: int = 0
    open_until: float | None = None
    on_trial: bool = False


class Circuits:
    """One for each target. It opens after five failures in a row; then one call at a time tries whether it is back."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        """`now` is in seconds."""
        self._now = now
        self._failing: dict[Target, _Circuit] = {}

    def admits(self, target: Target) -> bool:
        """Whether to call it. Who is admitted says afterwards that it answered, failed, or was left."""
        circuit = self._failing.get(target)
        if circuit is None or circuit.open_until is None:
            return True
        if circuit.on_trial or self._now() < circuit.open_until:
            return False
        circuit.on_trial = True
        return True

    def answered(self, target: Target) -> None:
        circuit = self._failing.pop(target, None)
        if circuit is not None and circuit.open_until is not None:
            CIRCUITS_OPEN.remove(target.provider, target.model)
            log.info("circuit_closed", provider=target.provider, model=target.model)

    def failed(self, target: Target) -> None:
        circuit = self._failing.get(target)
        if circuit is None:
            if len(self._failing) >= _MOST:
                self.answered(next(iter(self._failing)))
            circuit = self._failing[target] = _Circuit()
        circuit.failures += 1
        if circuit.failures >= _FAILURES and (circuit.on_trial or circuit.open_until is None):
            self._open(target, circuit)
        circuit.on_trial = False

    def left(self, target: Target) -> None:
        """The call was given up before it showed anything."""
        if circuit := self._failing.get(target):
            circuit.on_trial = False

    def _open(self, target: Target, circuit: _Circuit) -> None:
        seconds = min(_OPEN[0] * 2**circuit.opened, _OPEN[1])
        circuit.opened += 1
        circuit.open_until = self._now() + seconds
        CIRCUITS_OPEN.labels(target.provider, target.model).set(1)
        log.warning("circuit_opened", provider=target.provider, model=target.model, seconds=seconds)
