"""The loads that every system is put under."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Streams:
    """Runs read to their end by one reader each; `ramp` is the seconds over which they begin.

    With `sequential`, one run at a time, each after a pause that keeps step with nobody's polling.
    """

    name: str
    title: str
    streams: int
    tokens: int
    per_second: int
    ramp: float = 1.0
    sequential: bool = False

    @property
    def model(self) -> str:
        return f"sim:{self.tokens}:{self.per_second}"


@dataclass(frozen=True)
class IdleReaders:
    """One reader each of runs that have gone quiet after their first token."""

    name: str
    title: str
    readers: int
    model: str = "sim:1:0:hold"


Scenario = Streams | IdleReaders

FULL: tuple[Scenario, ...] = (
    Streams("s1", "1 stream, one after another", 20, 20, 50, sequential=True),
    Streams("s10", "10 streams x 50 tokens/s", 10, 400, 50),
    Streams("s100", "100 streams x 50 tokens/s", 100, 400, 50),
    Streams("s300", "300 streams x 50 tokens/s", 300, 400, 50),
    Streams("unpaced", "50 streams x 2,000 tokens, unpaced", 50, 2000, 0, ramp=0.0),
    IdleReaders("idle", "500 readers of 500 quiet runs", 500),
)
NAMES = tuple(scenario.name for scenario in FULL)


def shortened(scenario: Scenario) -> Scenario:
    """The same load for half as long, for a quick look: every paced stream brings 200 tokens."""
    if isinstance(scenario, IdleReaders) or not scenario.per_second:
        return scenario
    if scenario.sequential:
        return replace(scenario, streams=10)
    return replace(scenario, tokens=200)
