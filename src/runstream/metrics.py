"""What Prometheus is told. The API and the worker each show what they count themselves."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_FEW_SECONDS = (0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300)


class Tally:
    """A counter of what happens with every token: adding to `count` costs next to nothing, and takes no lock."""

    def __init__(self, name: str, documentation: str) -> None:
        self.count = 0
        self._name = name
        self._documentation = documentation
        REGISTRY.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._documentation, value=self.count)


class ByTenant:
    """A histogram of each tenant's, for `most` tenants at a time; all others share the one of the empty name.

    A tenant keeps its own while it comes again within `idle` seconds: then its series may end, for another's to begin.
    So no tenant's figures are lost while they move, and no number of tenants makes more than `most` + 1 series.
    """

    def __init__(
        self, histogram: Histogram, *, most: int = 100, idle: float = 3600, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`histogram` has one label."""
        self._histogram = histogram
        self._most = most
        self._idle = idle
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()
        """When each was seen last, the longest ago first."""

    def observe(self, tenant: str, amount: float) -> None:
        if tenant in self._seen or self._has_room():
            self._seen[tenant] = self._clock()
            self._seen.move_to_end(tenant)
        else:
            tenant = ""
        self._histogram.labels(tenant).observe(amount)

    def _has_room(self) -> bool:
        if len(self._seen) < self._most:
            return True
        first, seen = next(iter(self._seen.items()))
        if self._clock() - seen < self._idle:
            return False
        del self._seen[first]
        self._histogram.remove(first)
        return True


RUNS = Gauge("runstream_runs", "Runs under way, as Postgres has them.", ["status"])
QUEUE_DEPTH = Gauge("runstream_queue_depth", "Jobs in Redis, waiting or being run.", ["queue"])
ACCEPTED = Counter("runstream_runs_accepted_total", "Runs answered with 202 for the first time.", ["feature"])
ENDED = Counter("runstream_runs_ended_total", "Runs that reached their end.", ["status"])
QUEUE_WAIT = Histogram("runstream_queue_wait_seconds", "From available to claimed.", buckets=_SECONDS)
TENANT_QUEUE_WAIT = ByTenant(
    Histogram(
        "runstream_tenant_queue_wait_seconds",
        "The same by tenant; without a name, of all tenants beyond the first hundred of late.",
        ["tenant"],
        buckets=_FEW_SECONDS,
    )
)
FIRST_TOKEN = Histogram("runstream_first_token_seconds", "From claimed to the model's first token.", buckets=_SECONDS)
RUNNING = Gauge("runstream_running", "Generations that this worker writes.")
REQUESTS_REFUSED = Counter(
    "runstream_requests_refused_total", "Requests that were refused before any route was asked.", ["code"]
)
READERS = Gauge("runstream_readers", "Open event streams.")
APPENDED_EVENTS = Tally("runstream_events_appended_total", "Entries added to token logs.")
RELAYED_EVENTS = Tally("runstream_events_relayed_total", "Events sent to readers.")
DROPPED_BUFFERS = Counter("runstream_buffers_dropped_total", "Reader buffers that overflowed: read on from history.")
PUT_BACK = Counter("runstream_transcripts_put_back_total", "Transcripts put back after Redis lost them.")
FENCED = Counter("runstream_attempts_fenced_total", "Attempts stopped because a newer one writes the run.")
LAPSED = Counter("runstream_leases_lapsed_total", "Runs taken from a worker whose lease ran out.")
STRANDED = Counter("runstream_runs_enqueued_again_total", "Queued runs that the sweep enqueued again.")
SWEEPS_FOUND = Counter("runstream_sweeps_found_total", "Sweeps that mended something.", ["as"])
ENDS_HELD = Counter("runstream_ends_held_total", "Ends that were held because Postgres did not take them at once.")
NOT_ENQUEUED = Counter("runstream_jobs_not_enqueued_total", "Jobs that Redis did not take: the sweep enqueues them.")
ANSWERS_LOOKED_UP = Counter(
    "runstream_answers_looked_up_total", "Answers that runs looked for in the cache, by what they found.", ["as"]
)
TRIED_AGAIN = Counter("runstream_runs_tried_again_total", "Ended runs that were queued again as somebody asked.")
CIRCUITS_OPEN = Gauge(
    "runstream_circuit_open", "Targets that calls go past, as they have been failing.", ["provider", "model"]
)
TARGET_CALLS = Counter(
    "runstream_target_calls_total",
    "Calls to each target as it is configured: answered, stopped from outside, or failed, by the error's code.",
    ["provider", "model", "outcome"],
)
TARGET_FIRST_TOKEN = Histogram(
    "runstream_target_first_token_seconds",
    "From a target's being called to its first token.",
    ["provider", "model"],
    buckets=_SECONDS,
)
COSTLY_CALLS = Counter("runstream_costly_calls_total", "Calls that cost more than RUNSTREAM_WARN_CALL_COST.")
SPEND_AHEAD = Counter(
    "runstream_spend_ahead_total", "Tenants whose spend of a day ran ahead of its usual, each once a day."
)
KEYS_RESTED = Counter(
    "runstream_provider_keys_rested_total",
    "Times that a key was refused, or limited, and rested.",
    ["provider", "as"],
)
CALLS_WAITING = Gauge("runstream_provider_calls_waiting", "Calls that wait for a turn at a key.", ["provider"])
CALL_WAIT = Histogram(
    "runstream_provider_wait_seconds",
    "What calls waited for a turn at a key, those that gave up included.",
    ["provider"],
    buckets=_SECONDS,
)
KEY_SETS_READ = Counter(
    "runstream_key_sets_read_total",
    "Times that an identity provider was asked for its keys: read, or failed.",
    ["outcome"],
)
RETRIED = Counter("runstream_attempts_retried_total", "Attempts given up for another one.", ["reason"])
FOUND = Counter("runstream_guard_findings_total", "What guards found in runs.", ["where", "action"])
UNMODERATED = Counter("runstream_moderation_unavailable_total", "Calls for moderation that had no answer.", ["reason"])
WEBHOOK_ATTEMPTS = Counter(
    "runstream_webhook_attempts_total",
    "Attempts to deliver a webhook: delivered, failed, or given up with the last one.",
    ["outcome"],
)
WEBHOOKS_SWITCHED_OFF = Counter(
    "runstream_webhooks_switched_off_total", "Webhooks switched off, as they were gone or kept failing.", ["reason"]
)
