"""The HTTP of a person's client."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import uuid4

import httpx
from httpx_sse import EventSource

from runstream.client.access import is_local
from runstream.client.patience import Patience
from runstream.domain.errors import InvalidRequest, NotFound, RunstreamError, Unauthenticated, Unavailable
from runstream.domain.events import TERMINAL
from runstream.providers.failures import retry_after

_TIMEOUT = httpx.Timeout(connect=5, read=30, write=30, pool=5)
_SILENCE = httpx.Timeout(connect=5, read=60, write=30, pool=5)
"""For events: a stream sends a comment every 15 s, so a silent one is dead."""
_PASSING = frozenset({408, 429, 502, 503, 504})
"""Statuses of a server, or of a proxy before it, that soon may answer otherwise."""
_NO_CONTENT, _UNAUTHORIZED, _NOT_FOUND = 204, 401, 404


class Event(NamedTuple):
    type: str
    data: dict[str, Any]


class Server:
    """Asks again where that may help, and says so through `say`. Raises RunstreamError where it does not help."""

    def __init__(self, url: str, key: str, say: Callable[[str], None]) -> None:
        self._url = url
        self._patience = Patience(say)
        self._client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=_TIMEOUT,
            trust_env=not is_local(url),  # no proxy leads to this machine
        )

    def create(self, prompt: str, model: str | None) -> str:
        """The new run's id. However often it is asked for, under its idempotency key there is one run."""
        body: dict[str, Any] = {"feature": "chat", "input": {"messages": [{"role": "user", "content": prompt}]}}
        if model is not None:
            body["model"] = model
        return str(self._call("/v1/runs", {"Idempotency-Key": str(uuid4())}, body)["id"])

    def cancel(self, run_id: str) -> str:
        """The run's status after it."""
        with _naming(run_id):
            return str(self._call(f"{_path(run_id)}/cancel", {}, None)["status"])

    def follow(self, run_id: str) -> Iterator[Event]:
        """Every event from the first to the terminal one, once and in order, over as many connections as it takes."""
        cursor = ""
        while True:
            failure: RunstreamError = Unavailable("The stream was closed before the run's end.")
            try:
                with self._answering(), _naming(run_id), self._events(run_id, cursor) as source:
                    if source.response.status_code == _NO_CONTENT:
                        return
                    self._patience.succeeded()
                    for message in source.iter_sse():
                        if message.retry is not None:
                            self._patience.told_to_retry_in(message.retry)
                        if message.data:
                            cursor = message.id
                            yield Event(message.event, message.json())
                        if message.event in TERMINAL:
                            return
            except RunstreamError as error:
                failure = error
            self._patience.wait(failure)

    @contextmanager
    def _events(self, run_id: str, cursor: str) -> Iterator[EventSource]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": cursor} if cursor else {})}
        with self._client.stream("GET", f"{_path(run_id)}/events", headers=headers, timeout=_SILENCE) as response:
            self._check(response)
            kind = response.headers.get("content-type", "")
            if response.status_code != _NO_CONTENT and not kind.startswith("text/event-stream"):
                raise self._stranger(response)
            yield EventSource(response)

    def _call(self, path: str, headers: dict[str, str], body: dict[str, Any] | None) -> dict[str, Any]:
        while True:
            try:
                with self._answering():
                    response = self._client.post(path, headers=headers, json=body)
                    self._check(response)
                    self._patience.succeeded()
                    return self._run(response)
            except RunstreamError as error:
                self._patience.wait(error)

    def _run(self, response: httpx.Response) -> dict[str, Any]:
        run = response.json()
        if not isinstance(run, dict) or not {"id", "status"} <= run.keys():
            raise self._stranger(response)
        return run

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except httpx.RequestError as error:
            raise Unavailable(f"{self._url} does not answer ({_reason(error)}): is Runstream running there?") from error
        except ValueError as error:
            raise InvalidRequest(f"{self._url} did not send JSON: is it Runstream's address?") from error

    def _check(self, response: httpx.Response) -> None:
        self._patience.reached()
        if response.is_success:
            return
        response.read()
        status, message = response.status_code, _message(response)
        if status in _PASSING:
            raise Unavailable(
                f"{self._url} answered {status}{': ' + message if message else '.'}",
                retry_after=retry_after(response.headers, time.time()),
            )
        if message is None:
            raise self._stranger(response)
        if status == _UNAUTHORIZED:
            raise Unauthenticated(f"{self._url} does not accept this API key: set RUNSTREAM_KEY to one of its own.")
        raise NotFound if status == _NOT_FOUND else InvalidRequest(message)

    def _stranger(self, response: httpx.Response) -> RunstreamError:
        return InvalidRequest(
            f"{self._url} answered {response.status_code}, but not as Runstream does: check RUNSTREAM_URL, or --url."
        )


@contextmanager
def _naming(run_id: str) -> Iterator[None]:
    try:
        yield
    except NotFound:
        raise NotFound(f"There is no run {run_id!r} that this key may see.") from None


def _path(run_id: str) -> str:
    return f"/v1/runs/{quote(run_id, safe='')}"


def _reason(error: BaseException) -> str:
    """The system's words where it is the system that failed, else httpx'."""
    said = str(error) or type(error).__name__
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return (isinstance(error, OSError) and error.strerror) or said


def _message(response: httpx.Response) -> str | None:
    """What Runstream says of a refusal; None where it is not Runstream's: others have `error.message`, too."""
    try:
        error = response.json()["error"]
        return str(error["message"]) if "request_id" in error else None
    except (ValueError, KeyError, TypeError):
        return None
